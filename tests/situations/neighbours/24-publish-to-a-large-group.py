"""Ratchet #966, ws #617, workerman #852: a message to thousands must not hold up those whom it is not for.

Input: one publish to a group of 0 or 5,000; 4 ms later a client that is in no group sends a line and waits for its echo.
Right: about the same time in both cases ("those who get it must not hold up those who do not", sockets.py).
"""

from lib import *

import resource

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
HANDLERS = """
from wsraw import publish
def on_connect(inf, con):
    con.join("all")
def on_message(msg, con):
    if msg["data"].startswith(b"publish"):
        publish("all", b"p" * 200)
    elif msg["data"].startswith(b"echo"):
        con.leave("all")
        con.send(msg["data"])
"""
MEMBERS = """
import socket, select, sys, time
port, count = int(sys.argv[1]), int(sys.argv[2])
members = {}
watch = select.epoll()
for n in range(count):
    s = socket.create_connection(("127.0.0.1", port))
    s.sendall(b"j")
    s.setblocking(False)
    members[s.fileno()] = s
    watch.register(s.fileno(), select.EPOLLIN)
print("up", flush=True)
while True:
    time.sleep(0.4)
    for fd, _ in watch.poll(0):
        members[fd].recv(65536)
"""
median = {}
for count in (0, 2500, 5000):
    run = Run(HANDLERS, "--max-connections", "12000", count=2)
    crowd = subprocess.Popen(
        [sys.executable, "-c", MEMBERS, str(run.port), str(count)], stdout=subprocess.PIPE
    )
    crowd.stdout.readline()
    time.sleep(1.5)
    echo, publisher = run.tcp(b"echo\n"), run.tcp(b"echo\n")
    line(echo), line(publisher)
    times = []
    for _ in range(9):
        publisher.sendall(b"publish\n")
        time.sleep(0.004)
        began = time.monotonic()
        echo.sendall(b"echo\n")
        line(echo)
        times.append((time.monotonic() - began) * 1000)
        time.sleep(0.8)
    median[count] = sorted(times)[4]
    print(
        f"{count} members: an echo behind a publish takes {median[count]:.1f} ms (median of 9), at most {max(times):.1f}"
    )
    crowd.kill()
    crowd.wait()
    run.stop(20)
slow = median[5000] > 40 and median[5000] > 8 * median[0]
verdict(not slow, ", ".join(f"{count} members: {ms:.1f} ms" for count, ms in median.items()))
