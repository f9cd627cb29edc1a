"""python-websockets/websockets#1113: opening again and again what cannot be opened (refused, silent) leaks no
descriptors."""

from lib import *

dead = socket.socket()
dead.bind(("127.0.0.2", 0))
dead.listen(0)
port = dead.getsockname()[1]
full = []
for _ in range(3):
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex(("127.0.0.2", port))
    full.append(s)
refused = socket.socket()
refused.bind(("127.0.0.1", 0))
closed = refused.getsockname()[1]
refused.close()
with Run(f"""
import wsraw
def on_message(msg, con):
    for _ in range(20):
        wsraw.open_client_connection("ws://127.0.0.2:{port}/", connect_timeout=0.3)
        wsraw.open_client_connection("ws://127.0.0.1:{closed}/")
    return "asked"
n = 0
def on_close(con):
    global n
    if con.target: n += 1
    else: print("ENDED", n)
""") as r:
    g = r.gateway_pid()
    fds = len(os.listdir(f"/proc/{g}/fd"))
    c = ws(r.port)
    for _ in range(5):
        c.send(frame(1, b"x"))
        c.message()
        time.sleep(0.5)
    time.sleep(1)
    c.close()
    time.sleep(0.5)
    after = len(os.listdir(f"/proc/{g}/fd"))
    ended = next((l.rsplit()[-1] for l in r.lines if "ENDED" in l), "?")
verdict(
    after <= fds + 1 and ended == "200",
    f"200 opened, {ended} on_close; descriptors {fds} -> {after}",
)
