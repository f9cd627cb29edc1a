"""`ca` may be any PEM file; a comment in it may hold any letter (`openssl x509 -text` in front of it, names of authorities).
Python wants ASCII text: TypeError, in
the resolver's thread, which ends. After four such opens nothing is resolved or dialled by name any more, for everybody,
until the gateway dies."""

import time
from lib import *

CA = str(Path(tempfile.mkdtemp()) / "ca-with-comment.pem")
Path(CA).write_text("# Root of M\u00fcller GmbH\n" + Path(certificate()[0]).read_text())
H = f'''
from wsraw import open_client_connection
def on_message(msg, con):
    d = msg["data"]
    open_client_connection("tls://localhost:1" if d == "tls" else "localhost:1", couple=None, connect_timeout=3, **(dict(ca="{CA}") if d == "tls" else {{}}))
    return "opened"
def on_error(m, con): print("on_error", con.target, m)
'''


def case():
    run = Run(H, workers=1)
    c = WS(run.port)
    c.send("plain")
    c.recv()
    time.sleep(0.5)
    for _ in range(5):
        c.send("tls")
        c.recv()
        time.sleep(0.3)
    n = len(run.lines)
    c.send("plain")
    c.recv()
    time.sleep(4)
    print("\n".join(l for l in run.lines if "on_error" in l or "TypeError" in l))
    after = [l for l in run.lines[n:] if "on_error localhost:1" in l]
    verdict("refused" not in str(after), str(after))


main(case)
