"""java-android-websocket-client #25 (reconnects whose handshake fails cannot be dealt with).

Input: `reconnect` to a port where nobody listens; on_error and on_close print con.target and con.kind.
Right: each time the target (docs/handlers.md, `con.target`).
"""

from lib import *

run = Run("""
from wsraw import open_client_connection
def on_start():
    open_client_connection("127.0.0.1:1", name="up", reconnect=True)
def on_error(error_message, con):
    print("on_error of", repr(con.target), repr(con.kind), flush=True)
def on_close(con):
    print("on_close of", repr(con.target), repr(con.kind), con.close_cause, flush=True)
""")
time.sleep(4)
told = [l.partition("worker 1: ")[2] for l in run.log().splitlines() if "worker 1: on_" in l]
print("\n".join(told))
bad = [l for l in told if "of ''" in l]
verdict(
    not bad and len(told) > 2,
    f"{len(bad)} of {len(told)} events do not say of what connection they are",
)
