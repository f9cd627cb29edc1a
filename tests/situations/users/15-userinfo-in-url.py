"""python-websockets/websockets#373 (and WebSocket-Node#448): ws://user:password@host/ logs in with Basic, or is
refused as such; the password does not come to the log as part of a name that cannot be resolved."""

from lib import *

s = socket.socket()
s.bind(("127.0.0.1", 0))
s.listen()
seen = []


def serve():
    while True:
        k, _ = s.accept()
        seen.append(k.recv(65536))
        k.close()


threading.Thread(target=serve, daemon=True).start()
with Run("""
import wsraw
def on_message(msg, con):
    try: wsraw.open_client_connection(msg["data"])
    except ValueError as why: print("REFUSED", why)
def on_error(error, con): print("ERROR", error)
""") as r:
    c = ws(r.port)
    c.send(frame(1, b"ws://ann:secret@127.0.0.1:%d/" % s.getsockname()[1]))
    line = r.wait_log("REFUSED|ERROR", 4) or ""
    c.close()
login = any(b"Authorization: Basic" in d for d in seen)
verdict(
    login or ("REFUSED" in line and "secret" not in line),
    f"Authorization sent: {login}; log: {line.partition('worker 1: ')[2]}",
)
