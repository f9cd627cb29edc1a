"""benoitc/gunicorn#476, #1523, libuv/libuv#1332: a stop removes the socket file that the run has bound
itself, and not the one that its successor has put in its place."""

from lib import *

path = os.path.join(tempfile.mkdtemp(prefix="u-"), "app.sock")
ECHO = "def on_message(msg, con): return msg\n"
old = Run(ECHO, listen=f"unix:{path}")
os.unlink(path)  # as a deploy script does before it starts the next one
new = Run(ECHO, listen=f"unix:{path}")
ino = os.stat(path).st_ino
old.stop()
there = os.path.exists(path) and os.stat(path).st_ino == ino
said = "nobody can connect"
if there:
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    s.sendall(b"hi")
    s.settimeout(3)
    said = repr(s.recv(9))
    s.close()
new.stop()
verdict(
    there and said == "b'hi'",
    f"after the old run has stopped the new one's file is there: {there}; {said}",
)
