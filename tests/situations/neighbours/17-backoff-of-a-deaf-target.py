"""massive-com/client-go #587, lark-coding-agent-bridge #57: the pauses between tries must grow.

Input: `reconnect` to a target that accepts and never answers the handshake. Right: the pause between two tries grows
from 0.5 s to 30 s (docs/handlers.md, "reconnect") whatever connect_timeout is (default 10 s).
"""

from lib import *

deaf = socket.socket()
deaf.bind(("127.0.0.1", 0))
deaf.listen(50)
times, kept = [], []


def serve():
    while True:
        s, _ = deaf.accept()
        times.append(time.monotonic())
        kept.append(s)


threading.Thread(target=serve, daemon=True).start()


def pauses(timeout, seconds):
    times.clear()
    run = Run(f"""
from wsraw import open_client_connection
def on_start():
    open_client_connection("ws://127.0.0.1:{deaf.getsockname()[1]}/", name="up", reconnect=True, connect_timeout={timeout})
""")
    time.sleep(seconds)
    run.stop()
    return [round(b - a - timeout, 2) for a, b in zip(times, times[1:])]


short = pauses(1, 12)
print("connect_timeout 1 s: pauses between the end of a try and the next one:", short)
long = pauses(10, 56)
print("connect_timeout 10 s (the default):", long)
grows = len(long) >= 3 and long[-1] > 1.2
verdict(grows, f"pauses with the default connect_timeout: {long}")
