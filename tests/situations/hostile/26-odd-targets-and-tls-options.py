"""Targets and TLS options of open_client_connection that are odd (as a handler takes them from what a client says):
the gateway must live, and names must be resolved afterwards as before."""

import time, threading
from lib import *

H = """
import json
from wsraw import open_client_connection
def on_message(msg, con):
    d = json.loads(msg["data"])
    c = open_client_connection(d.pop("target"), couple=None, **d)
    return str(c.id)
def on_error(m, con): print("on_error", con.target[:60], m[:160])
def on_connect(inf, con): pass
"""
CERT = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
ODD = [
    {"target": "localhost\0x:80"},
    {"target": "\0:80"},
    {"target": "a\0.b.c:80"},
    {"target": "unix:a\0b"},
    {"target": "unix:\0abc"},
    {"target": "unix:" + "x" * 200},
    {"target": "unix:/tmp/\u20ac"},
    {"target": "x" * 70 + ":80"},
    {"target": ".:80"},
    {"target": "..a:80"},
    {"target": "a..b:80"},
    {"target": "[::1%lo]:80"},
    {"target": "[fe80::1%nope]:80"},
    {"target": "\u00fc\u0308\u2028:80"},
    {"target": "tls://127.0.0.1:1", "server_name": "a\0b"},
    {"target": "tls://127.0.0.1:1", "server_name": "x" * 300},
    {"target": "tls://127.0.0.1:1", "server_name": "..."},
    {"target": "tls://127.0.0.1:1", "server_name": ""},
    {"target": "tls://127.0.0.1:1", "server_name": "\u00fc" * 70},
    {"target": "tls://127.0.0.1:1", "server_name": ".example"},
    {"target": "tls://TLSPORT", "server_name": "a\0b"},
    {"target": "tls://TLSPORT", "server_name": ".x"},
    {"target": "tls://TLSPORT", "server_name": "a b"},
    {"target": "tls://TLSPORT", "server_name": "x" * 260},
    {"target": "tls://TLSPORT", "server_name": "1.2.3"},
    {"target": "tls://TLSPORT", "server_name": "\u00fc.de"},
    {"target": "tls://TLSPORT", "ca": "-----BEGIN CERTIFICATE-----\u00fc"},
    {"target": "tls://TLSPORT", "ca": "-----BEGIN\0"},
    {"target": "tls://TLSPORT", "ca": CERT},
    {"target": "tls://TLSPORT", "cert": CERT},
    {"target": "tls://TLSPORT", "cert": "-----BEGIN\u00fc"},
    {"target": "tls://TLSPORT", "cert": "-----BEGIN CERTIFICATE", "key": "-----BEGIN \0"},
    {"target": "tls://TLSPORT", "ca": "-----BEGIN CERTIFICATE-----\u20ac1"},
    {"target": "tls://TLSPORT", "ca": "-----BEGIN CERTIFICATE-----\u20ac2"},
    {"target": "tls://TLSPORT", "ca": "-----BEGIN CERTIFICATE-----\u20ac3"},
    {"target": "tls://TLSPORT", "ca": "-----BEGIN CERTIFICATE-----\u20ac4"},
    {"target": "ws://127.0.0.1:1/\u00fc"},
    {"target": "ws://127.0.0.1:1", "subprotocols": ["a b"]},
    {"target": "ws://127.0.0.1:1", "headers": {"a": "b\r\nc: d"}},
    {"target": "ws://127.0.0.1:1", "url": "/\0"},
    {"target": "ws://127.0.0.1:1", "host": "\u00fc"},
    {"target": "ws://127.0.0.1:1", "orig": "\u00fc\r\n"},
    {"target": "ws://[::1"},
    {"target": "ws://127.0.0.1:1", "connect_timeout": 1e308},
    {"target": "127.0.0.1:1", "connect_timeout": 1e300},
    {"target": "127.0.0.1:1", "name": "x" * 100000},
    {"target": "255.255.255.255:1"},
    {"target": "0.0.0.0:1"},
    {"target": "224.0.0.1:1"},
    {"target": "::1:80"},
    {"target": "0x7f.1:1"},
]


def case():
    lst = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            c, _ = lst.accept()
            try:
                c.recv(4000)
                c.sendall(b"\x15\x03\x01\x00\x02\x02\x28")
            except OSError:
                pass
            c.close()

    threading.Thread(target=serve, daemon=True).start()
    port = lst.getsockname()[1]
    run = Run(H, workers=2)
    gw = run.gateway_pid()
    bad = []
    c = WS(run.port, timeout=5)
    for o in ODD:
        o = json.loads(json.dumps(o).replace("TLSPORT", f"127.0.0.1:{port}"))
        n = len(run.lines)
        try:
            c.send(json.dumps(o))
            got = c.recv()
        except OSError as e:
            got = repr(e)
        time.sleep(0.15)
        if isinstance(got, tuple):
            c = WS(run.port, timeout=5)
        if not alive(gw):
            print("DIED OF", str(o)[:100], [l for l in run.lines[n:]][-2:])
            bad.append(("gateway died", str(o)[:100]))
            time.sleep(1)
            gw = run.gateway_pid()
            c = WS(run.port, timeout=5)
        else:
            more = [l.partition("on_error ")[2] or l for l in run.lines[n:]]
            print(
                str(o)[:90],
                "->",
                got if not isinstance(got, bytes) else "",
                more[:1] if not any("Traceback" in m for m in more) else more[-1:],
                flush=True,
            )
    n = len(run.lines)
    c.send(json.dumps({"target": "localhost:1", "connect_timeout": 5}))
    c.recv()
    time.sleep(1.5)
    after = [l for l in run.lines[n:] if "on_error localhost:1" in l]
    print("resolving after all that:", after)
    if not after or "timed out" in str(after):
        bad.append(("names are not resolved any more", after))
    tb = [l for l in run.lines if "Traceback" in l]
    print("tracebacks:", len(tb))
    print("\n".join(l for l in run.lines if "gateway" in l)[-1200:])
    verdict(bool(bad), str(bad))


main(case)
