"""aio-libs/aiohttp#7342, #4451: of a name with two addresses the first one does not answer at all (broken
IPv6, a dead machine); the second one is tried before connect_timeout is over.
127.0.0.2 plays the silent one: a listener there whose queue is full. sitecustomize gives the name."""

from lib import *

folder = tempfile.mkdtemp()
open(folder + "/sitecustomize.py", "w").write("""
import socket
real = socket.getaddrinfo
def fake(host, port, *a, **k):
    if host == "two.example":
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, int(port))) for ip in ("127.0.0.2", "127.0.0.1")]
    return real(host, port, *a, **k)
socket.getaddrinfo = fake
""")
good = socket.socket()
good.bind(("127.0.0.1", 0))
good.listen(5)
port = good.getsockname()[1]
dead = socket.socket()
dead.bind(("127.0.0.2", port))
dead.listen(0)
full = []
for _ in range(3):
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex(("127.0.0.2", port))
    full.append(s)
time.sleep(0.3)


def serve():
    while True:
        k, _ = good.accept()
        k.sendall(b"hello from the second")
        time.sleep(1)
        k.close()


threading.Thread(target=serve, daemon=True).start()
with Run(
    f"""
import wsraw
def on_message(msg, con):
    if con.target: print("GOT", msg["data"])
    else: wsraw.open_client_connection("two.example:{port}")
def on_error(error, con): print("ERROR", error)
""",
    "--connect-timeout",
    "6s",
    env={"PYTHONPATH": folder},
) as r:
    c = ws(r.port)
    t = time.monotonic()
    c.send(frame(1, b"x"))
    line = r.wait_log("GOT|ERROR", 9) or "nothing"
    took = time.monotonic() - t
    c.close()
verdict("GOT" in line, f"{line.partition('worker 1: ')[2]} after {took:.1f} s")
