"""Origin, Host, routes, X-Forwarded-For and PROXY: tricks that must not get in."""

import time
from lib import *


def origin_cases():
    # (origin, host, allowed)
    return [
        ("https://example.org", "example.org", True),
        ("https://example.org", "example.org:443", True),
        ("http://example.org", "example.org", True),
        ("https://example.org:444", "example.org", False),
        ("https://evil.com", "example.org", False),
        ("null", "example.org", False),
        ("NULL", "example.org", False),
        ("https://example.org.", "example.org", True),
        ("https://EXAMPLE.org", "example.org", True),
        ("https://example.org@evil.com", "example.org", False),
        ("https://evil.com#example.org", "example.org", False),
        ("https://evil.com/example.org", "example.org", False),
        ("https://evil.com?example.org", "example.org", False),
        ("https://example.org.evil.com", "example.org", False),
        ("https://evilexample.org", "example.org", False),
        ("https://example.org:", "example.org", False),
        ("https://example.org:443:444", "example.org", False),
        ("https://[::1]", "[::1]:8000", True),
        ("https://[::1]", "[0:0:0:0:0:0:0:1]", True),
        ("http://localhost:3000", "127.0.0.1:8000", True),
        ("http://evil.localhost", "127.0.0.1:8000", True),
        ("http://localhost.evil.com", "127.0.0.1:8000", False),
        ("http://127.0.0.1.evil.com", "127.0.0.1", False),
        ("http://2130706433", "127.0.0.1", False),
        ("http://0x7f000001", "127.0.0.1", False),
        ("http://127.1", "127.0.0.1", False),
        ("http://[::ffff:127.0.0.1]", "127.0.0.1", True),
        ("file://", "example.org", False),
        ("", "example.org", False),
        ("chrome-extension://abc", "example.org", False),
        ("https://xn--e1afmkfd.org", "xn--e1afmkfd.org", True),
        ("https://\xfcber.org", "\xfcber.org", False),
        ("https://example.org, https://evil.com", "example.org", False),
        ("https://evil.com, https://example.org", "example.org", False),
        ("https://*.example.org", "*.example.org", False),
        ("https://*", "*", False),
        ("https://a", "a", True),
        ("https://a b", "a b", False),
        ("javascript://example.org", "example.org", True),
        ("https:example.org", "example.org", False),
        ("https:///example.org", "example.org", False),
        ("https://example.org\\.evil.com", "example.org", False),
        ("http://0.0.0.0:8000", "127.0.0.1:8000", False),
        ("http://localhost", "evil.com", False),
        ("https://example.org", "evil.com", False),
        ("https://example.org", "", False),
        ("https://example.org:0", "example.org:0", False),
        ("https://example.org:99999", "example.org:99999", False),
        ("https://example.org:00443", "example.org", True),
    ]


ROUTES = [  # target, allowed to reach pool admin (path /admin/{x}) — anything else goes to 404
    ("/admin/x", True),
    ("//admin/x", False),
    ("/admin//x", False),
    ("/./admin/x", False),
    ("/%2e/admin/x", False),
    ("/a/../admin/x", False),
    ("/a/%2e%2e/admin/x", False),
    ("/admin%2fx", False),
    ("/Admin/x", False),
    ("/%61dmin/x", True),
    ("/admin/x;y", True),
    ("/admin;v=1/x", False),
    ("/admin/x?y", True),
    ("/admin/x%3Fy", True),
    ("/admin/x#y", True),
    ("/admin/x/", False),
    ("/admin/%", False),
    ("/admin/%ff", False),
    ("/admin/%00", False),
    ("/admin/%0a", False),
    ("/admin/..", False),
    ("/admin/%2e%2e", False),
    ("/admin/..;", True),
    ("/admin/%252e%252e", True),
    ("\\admin\\x", False),
    ("/admin\\x", False),
    ("http://h/admin/x", False),
    ("/admin/" + "x" * 7000, True),
    ("/" + "a/" * 300, False),
    ("/admin/%c0%ae%c0%ae", False),
    ("/admin/\xe9", False),
]


def case():
    bad = []
    run = Run(ECHO, workers=1)
    for origin, host, want in origin_cases():
        try:
            c = WS(run.port, hosthdr=host, headers=[f"Origin: {origin}"], timeout=3)
            got = c.status == 101
            c.close()
        except Exception as e:
            got = False
            print(origin, host, repr(e)[:80])
        if got != want:
            bad.append(("origin", origin, host, "let in" if got else "refused"))
            print(bad[-1])
    run.close()
    run = Run(
        None,
        "--pool",
        "admin=DIR/a.py",
        "--route",
        "/admin/{x}=admin",
        workers=0,
        extra_files={"a.py": "def on_connect(inf, con):\n    con.send(con.params['x'])\n"},
        ready=True,
    )
    for target, want in ROUTES:
        try:
            c = WS(run.port, path=target, timeout=3)
            got = c.status == 101
            par = c.recv()[:40] if got else b""
            c.close()
        except Exception as e:
            got = False
            par = repr(e)[:60]
        if got != want:
            bad.append(("route", target[:50], "let in" if got else "refused", par))
            print(bad[-1])
        elif got:
            print("  ", target[:40], par)
    run.close()
    P = "def on_connect(inf, con):\n    con.send(repr((con.peer, con.proxy, con.scheme)))\n"
    # untrusted peers
    run = Run(P, "--trusted-proxies", "10.0.0.0/8", workers=1)
    c = WS(
        run.port,
        headers=["X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https", "Forwarded: for=6.6.6.6"],
    )
    print("untrusted XFF:", c.text())
    c.close()
    s = socket.create_connection(("127.0.0.1", run.port))
    s.sendall(b"PROXY TCP4 6.6.6.6 1.1.1.1 1 2\r\nhello")
    s.settimeout(1)
    print("untrusted PROXY, protocol off:", s.recv(200))
    run.close()
    run = Run(P, "--trusted-proxies", "10.0.0.0/8", "--proxy-protocol", "optional", workers=1)
    s = socket.create_connection(("127.0.0.1", run.port))
    s.settimeout(1)
    s.sendall(b"PROXY TCP4 6.6.6.6 1.1.1.1 1 2\r\nhello")
    try:
        got = s.recv(200)
    except OSError as e:
        got = repr(e)
    print("untrusted PROXY, optional:", got)
    if b"6.6.6.6" in (got if isinstance(got, bytes) else b""):
        bad.append("PROXY believed")
    run.close()
    run = Run(P, "--trusted-proxies", "127.0.0.1", workers=1)
    for xff, want in [
        ("6.6.6.6", "'6.6.6.6'"),
        ("1.1.1.1, 6.6.6.6", "'6.6.6.6'"),
        ("6.6.6.6, 127.0.0.1", "'6.6.6.6'"),
        ('evil", 6.6.6.6', "'6.6.6.6'"),
        ("garbage", "127.0.0.1"),
        ("6.6.6.6, garbage", "127.0.0.1"),
        ("::ffff:6.6.6.6", "6.6.6.6"),
        ("6.6.6.6:99999", "127.0.0.1"),
        ("06.06.06.06", "127.0.0.1"),
        ("unknown", "'unknown'"),
        ("_\x1b[31m", "127.0.0.1"),
    ]:
        c = WS(run.port, headers=[f"X-Forwarded-For: {xff}"]) if "\x1b" not in xff else None
        if c is None:
            continue
        got = c.text()
        c.close()
        if want not in got:
            bad.append(("xff", xff, got))
            print(bad[-1])
    run.close()
    verdict(bool(bad), str(bad))


main(case)
