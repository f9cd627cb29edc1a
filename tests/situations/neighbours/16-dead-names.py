"""node #8436 (four threads for getaddrinfo), sniffnet #1257: names that do not resolve hold up all others.

Input: 12 connections with `reconnect` to names whose name server does not answer (10 s each, as resolv.conf has it);
a handler opens localhost. Right: localhost stands ("a slow name server holds up no more than its own", resolver.py).
"""

from lib import *

site = tempfile.mkdtemp(prefix="wsb-site-")
open(f"{site}/sitecustomize.py", "w").write(
    textwrap.dedent("""
    import socket, time
    real = socket.getaddrinfo
    def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
        if isinstance(host, str) and host.endswith(".dead.test"):
            if flags & socket.AI_NUMERICHOST:
                raise socket.gaierror(socket.EAI_NONAME, "no number")
            time.sleep(10)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(host, port, family, type, proto, flags)
    socket.getaddrinfo = getaddrinfo
""")
)
good = socket.socket()
good.bind(("127.0.0.1", 0))
good.listen(50)


def serve():
    while True:
        s, _ = good.accept()
        s.recv(100)
        s.sendall(b"welcome\n")


threading.Thread(target=serve, daemon=True).start()
run = Run(
    f"""
from wsraw import open_client_connection, send_message
def on_start():
    for n in range(12):
        open_client_connection(f"s{{n}}.dead.test:7000", name=f"s{{n}}", reconnect=True)
def on_message(msg, con):
    if con.target:
        send_message(b"upstream: " + msg["data"], con.state)
        return
    upstream = open_client_connection(msg["data"].decode().strip() + ":{good.getsockname()[1]}")
    upstream.state = con
    upstream.send("hello")
def on_error(error_message, con):
    if con.target and con.state:
        send_message("on_error: " + error_message + "\\n", con.state)
""",
    env={"PYTHONPATH": site},
)
time.sleep(1)
failed = 0
for n in range(4):
    began = time.monotonic()
    said = run.ask(b"localhost", 14).decode()
    print(
        f"open localhost: {said!r} after {time.monotonic() - began:.1f} s;  127.0.0.1:",
        run.ask(b"127.0.0.1", 5).decode(),
    )
    failed += not said.startswith("upstream")
verdict(not failed, f"{failed} of 4 opens of localhost failed")
