"""circus #732 (its supervisor grows to gigabytes), and collectors of logs that stand still.

Input: stderr is a pipe that nobody reads; a handler prints lines of 60,000 characters. Right: the supervisor's memory
has a bound in bytes, as all other queues have (docs: "Every queue is counted in bytes"). Here: 10,000 lines of 64 KiB.
"""

from lib import *

folder = tempfile.mkdtemp(prefix="wsb-")
open(f"{folder}/handlers.py", "w").write(
    'def on_message(msg, con):\n    for _ in range(400):\n        print("x" * 60000)\n    con.send("ok\\n")\n'
)
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
read, write = os.pipe()
p = subprocess.Popen(
    [
        WSRAW,
        "run",
        "--workers",
        f"{folder}/handlers.py",
        "--listen",
        f"127.0.0.1:{port}",
        "--run-dir",
        f"{folder}/run",
    ],
    stdout=write,
    stderr=write,
    stdin=subprocess.DEVNULL,
)
os.close(write)
for _ in range(100):
    time.sleep(0.1)
    try:
        s = socket.create_connection(("127.0.0.1", port), 5)
        break
    except OSError:
        pass


def rss():
    return int(open(f"/proc/{p.pid}/statm").read().split()[1]) * 4 // 1024


before = rss()
for n in range(1, 13):
    s.sendall(b"x\n")
    line(s, 20)
    if n % 4 == 0:
        print(
            f"{400 * n} lines of 60,000 characters printed: the supervisor holds {rss()} MiB (before: {before})"
        )
grown = rss() - before
p.terminate()
p.wait(20)
os.close(read)
shutil.rmtree(folder, ignore_errors=True)
verdict(grown < 100, f"{grown} MiB more for 4,800 lines; the bound is 10,000 lines")
