"""haproxy #1009, em-websocket #145, libwebsockets #1645: health checks by HTTP that are no GET.

Input: `plain_http=health`, and HEAD (uptime monitors), OPTIONS (HAProxy's `option httpchk`), and GET at ws://…?plain_http=health.
Right: 200. (The docs promise it for a GET at a mixed port only; an option that has no effect should be refused.)
"""

from lib import *

HANDLERS = """
def on_message(msg, con):
    print("a handler got", msg["data"][:30], flush=True)
"""
results = {}
for listen in ("127.0.0.1:0?plain_http=health", "ws://127.0.0.1:0?plain_http=health"):
    run = Run(HANDLERS, listen=listen)
    for request in (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS / HTTP/1.0\r\n\r\n",
    ):
        s = run.tcp(request)
        s.settimeout(2)
        try:
            said = s.recv(4096).split(b"\r\n")[0].decode() or "closed"
        except OSError as error:
            said = error.strerror or "nothing in 2 s"
        results[f"{listen.partition('127')[0] or 'mixed'} {request.split()[0].decode()}"] = said
    print("\n".join(l for l in run.log().splitlines() if "a handler got" in l))
print(json.dumps(results, indent=1))
bad = [f"{k}: {v}" for k, v in results.items() if "200" not in v]
verdict(not bad, "; ".join(bad))
