"""Odd request heads: smuggling-ish bodies, bare LF, NUL, obs-fold, duplicates, huge counts; prints what is answered."""

import time
from lib import *

BASE = [
    "Host: a.example",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
]


def req(line="GET / HTTP/1.1", extra=(), base=BASE, eol="\r\n", body=b""):
    return (line + eol + "".join(h + eol for h in [*base, *extra]) + eol).encode("latin-1") + body


CASES = {
    "plain": (req(), 101),
    "content-length 0": (req(extra=["Content-Length: 0"]), None),
    "content-length 5": (req(extra=["Content-Length: 5"], body=b"hello"), 400),
    "transfer-encoding": (req(extra=["Transfer-Encoding: chunked"], body=b"0\r\n\r\n"), 400),
    "te identity": (req(extra=["Transfer-Encoding: identity"]), 400),
    "bare LF": (req(eol="\n"), None),
    "mixed eol": (req().replace(b"\r\nUpgrade", b"\nUpgrade"), None),
    "bare CR in value": (req(extra=["X: a\rUpgrade: b"]), 400),
    "NUL in value": (req(extra=["X: a\0b"]), 400),
    "NUL in name": (req(extra=["X\0: a"]), 400),
    "obs-fold": (req(extra=["X: a", " b"]), 400),
    "obs-fold tab": (req(extra=["X: a", "\tb"]), 400),
    "space before colon": (req(extra=["X : a"]), 400),
    "no colon": (req(extra=["Xa"]), 400),
    "leading space first": (req(base=[" Host: a", *BASE[1:]]), 400),
    "two hosts": (req(extra=["Host: b.example"]), 400),
    "two hosts same": (req(extra=["Host: a.example"]), 400),
    "host twice other case": (req(extra=["hOsT: b"]), 400),
    "no host": (req(base=BASE[1:]), 400),
    "empty host": (req(base=["Host:", *BASE[1:]]), None),
    "host with space": (req(base=["Host: a b", *BASE[1:]]), None),
    "host list": (req(base=["Host: a, b", *BASE[1:]]), None),
    "absolute target": (req("GET http://b.example/x HTTP/1.1"), None),
    "target *": (req("GET * HTTP/1.1"), None),
    "target no slash": (req("GET foo HTTP/1.1"), None),
    "target fragment": (req("GET /#x HTTP/1.1"), None),
    "authority target": (req("GET a:80 HTTP/1.1"), None),
    "http/1.0": (req("GET / HTTP/1.0"), None),
    "http/1.2": (req("GET / HTTP/1.2"), None),
    "http/2.0": (req("GET / HTTP/2.0"), None),
    "http/9.9": (req("GET / HTTP/9.9"), None),
    "two spaces": (req("GET  / HTTP/1.1"), None),
    "tab": (req("GET\t/ HTTP/1.1"), None),
    "trailing space": (req("GET / HTTP/1.1 "), None),
    "POST": (req("POST / HTTP/1.1"), None),
    "HEAD": (req("HEAD / HTTP/1.1"), None),
    "get lower": (req("get / HTTP/1.1"), None),
    "100 headers": (req(extra=[f"X{i}: y" for i in range(95)]), 101),
    "101 headers": (req(extra=[f"X{i}: y" for i in range(96)]), 431),
    "5000 headers": (req(extra=[f"X{i}: y" for i in range(5000)]), 431),
    "upgrade list": (req(base=["Host: a", "Upgrade: h2c, websocket", *BASE[2:]]), None),
    "upgrade twice": (req(extra=["Upgrade: h2c"]), None),
    "upgrade websocket/13": (req(base=["Host: a", "Upgrade: websocket/13", *BASE[2:]]), None),
    "connection close, upgrade": (
        req(base=[BASE[0], BASE[1], "Connection: close, Upgrade", *BASE[3:]]),
        None,
    ),
    "connection: keep-alive": (
        req(base=[BASE[0], BASE[1], "Connection: keep-alive", *BASE[3:]]),
        426,
    ),
    "key twice": (req(extra=[BASE[3]]), 400),
    "key short": (req(base=[*BASE[:3], "Sec-WebSocket-Key: abc", BASE[4]]), 400),
    "version 13 twice": (req(extra=[BASE[4]]), None),
    "version 14": (req(base=[*BASE[:4], "Sec-WebSocket-Version: 14"]), 426),
    "expect 100": (req(extra=["Expect: 100-continue"]), None),
    "h2c settings": (req(extra=["HTTP2-Settings: AAMAAABkAAQAAP__"]), None),
    "method in header": (req(extra=["method: POST", "url: /admin", "Protocol: raw"]), 101),
    "smuggle second request": (req(body=req("GET /second HTTP/1.1")), None),
}
H = """
def on_connect(inf, con):
    con.send(repr((inf.get("method"), inf.get("url"), inf.get("Protocol"), [k for k in inf if k.lower() in ("method","url","protocol")])))
"""


def case():
    run = Run(H, "--plain-http", "health", workers=1)
    bad = []
    for name, (data, want) in CASES.items():
        s = socket.create_connection(("127.0.0.1", run.port))
        s.settimeout(0.6)
        s.sendall(data)
        got = b""
        try:
            while True:
                d = s.recv(65536)
                if not d:
                    got += b"<EOF>"
                    break
                got += d
        except socket.timeout:
            pass
        except OSError as e:
            got += repr(e).encode()
        s.close()
        m = re.match(rb"HTTP/1.1 (\d+)", got)
        code = int(m[1]) if m else None
        tail = got.partition(b"\r\n\r\n")[2][:90]
        print(
            f"{name:28} {code} {tail!r}"
            + ("" if want is None or code == want else f"   WANTED {want}")
        )
        if want is not None and code != want:
            bad.append(name)
    verdict(bool(bad), str(bad))


main(case)
