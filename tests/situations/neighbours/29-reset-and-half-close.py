"""GPS trackers and the like (mosn #1499, websocketd #137): data and then a reset; data and then FIN (`nc -N`).

Input: n bytes and at once a RST, for several n; `nc -N` with a question. Right: the handler gets all n bytes and
on_close; the answer to the half-closed client arrives whole.
"""

from lib import *

run = Run("""
def on_connect(inf, con):
    con.state = 0
def on_message(msg, con):
    con.state += len(msg["data"])
    if msg["data"].endswith(b"?"):
        con.send("z" * 300000 + f" {con.state}\\n")
def on_close(con):
    print("closed", con.state, con.close_cause, flush=True)
""")
bad = []
for size in (1, 5000, 60000, 200000):
    s = run.tcp(b"x" * size)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if size > 60000:
        time.sleep(0.3)
    s.close()
    time.sleep(0.5)
    said = [l for l in run.log().splitlines() if "closed" in l][-1].partition("worker 1: ")[2]
    print(f"{size} bytes and RST: {said}")
    if said != f"closed {size} lost":
        bad.append(f"{size}: {said}")
answer = subprocess.run(
    ["nc", "-N", "127.0.0.1", str(run.port)], input=b"abc?", capture_output=True, timeout=10
).stdout
print("nc -N:", len(answer), "bytes, end", answer[-5:])
if len(answer) != 300003:
    bad.append("nc")
verdict(not bad, f"{bad or 'all was heard and answered'}")
