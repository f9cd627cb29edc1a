"""A local client of a `unix:` listener binds its own socket to a path whose bytes are no UTF-8. The gateway takes that
path as the peer's name; it cannot be encoded for the worker, and the gateway dies with all its connections."""

import time
from lib import *


def case():
    run = Run(ECHO, listen=["127.0.0.1:PORT", "unix:DIR/app.sock"], workers=2)
    v = WS(run.port)
    v.send("hi")
    assert v.text() == "hi"
    gw = run.gateway_pid()
    s = socket.socket(socket.AF_UNIX)
    s.bind(os.fsencode(str(run.dir)) + b"/\xff\xfe")
    s.connect(str(run.dir / "app.sock"))
    s.sendall(b"hello")
    time.sleep(2)
    dead = not alive(gw)
    try:
        v.send("still?")
        got = v.text()
    except OSError as e:
        got = repr(e)
    print("\n".join(run.lines[-12:]))
    verdict(dead, f"gateway {'died' if dead else 'lives'}; the bystander got {got}")


main(case)
