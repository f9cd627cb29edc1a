"""python-websockets/websockets#1677, haproxy/haproxy#989, patroni/patroni#2021: monitors ask with HEAD (uptime
services, curl -I) or OPTIONS (HAProxy). With plain_http=health they get 200 without a body; a listener for
WebSockets alone answers other HTTP, as docs/deploy.md says, 426."""

from lib import *

REQUESTS = {
    "HEAD": b"HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "OPTIONS": b"OPTIONS / HTTP/1.0\r\n\r\n",
    "POST": b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n",
}
said, right = [], True
for listen, wanted in (
    ("127.0.0.1:0?plain_http=health", b"200"),
    ("127.0.0.1:0?plain_http=reject", b"4"),
    ("ws://127.0.0.1:0", b"4"),
):
    with Run("def on_message(msg, con): return msg\n", listen=listen) as r:
        for name, data in REQUESTS.items():
            c = Client(r.port)
            c.send(data)
            got, how = c.all(0.5)
            c.close()
            said.append(f"{listen.replace('127.0.0.1:0', '*')} {name}: {got[:24]!r} {how};")
            right &= got.startswith(b"HTTP/1.1 " + wanted)
verdict(right, *said)
