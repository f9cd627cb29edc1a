"""reactphp/socket #196 and #232, ws-rs #72, libdatachannel #1556: the first address of a name does not answer.

Input: a name with two addresses, the first of which drops packets (as broken IPv6 does), the second one listens.
Right: the connection stands within connect_timeout. (The name is made by a sitecustomize; the first address is a
socket with a full backlog.)
"""

from lib import *

site = tempfile.mkdtemp(prefix="wsb-site-")
hole = socket.socket()
hole.bind(("127.0.0.2", 0))
hole.listen(0)
port = hole.getsockname()[1]
full = []
for _ in range(8):
    f = socket.socket()
    f.setblocking(False)
    f.connect_ex(("127.0.0.2", port))
    full.append(f)
good = socket.socket()
good.bind(("127.0.0.1", port))
good.listen(5)
accepted = []


def serve():
    while True:
        s, _ = good.accept()
        accepted.append(time.monotonic())
        s.recv(100)
        s.sendall(b"welcome\n")


threading.Thread(target=serve, daemon=True).start()
open(f"{site}/sitecustomize.py", "w").write(
    textwrap.dedent("""
    import socket
    real = socket.getaddrinfo
    def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
        if host == "two.test":
            if flags & socket.AI_NUMERICHOST:
                raise socket.gaierror(socket.EAI_NONAME, "no number")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in ("127.0.0.2", "127.0.0.1")]
        return real(host, port, family, type, proto, flags)
    socket.getaddrinfo = getaddrinfo
""")
)
run = Run(
    f"""
from wsraw import open_client_connection, send_message
def on_message(msg, con):
    if con.target:
        send_message(b"upstream: " + msg["data"], con.state)
        return
    upstream = open_client_connection("two.test:{port}", connect_timeout=6)
    upstream.state = con
    upstream.send("hello")
def on_error(error_message, con):
    if con.target:
        send_message("on_error: " + error_message + "\\n", con.state)
""",
    env={"PYTHONPATH": site},
)
began = time.monotonic()
said = run.ask(b"go", 10).decode()
print(
    f"after {time.monotonic() - began:.1f} s: {said!r}; the second address was tried: {bool(accepted)}"
)
verdict(said.startswith("upstream"), said)
