"""Pushpin with a handler that subscribes its clients to a channel (GRIP), and publishes messages
from /pub in it.
"""

from __future__ import annotations

import json
from typing import Any

import zmq
from pushpin import CREDITS, Handler, run

SUBSCRIBE = b'c:{"type":"subscribe","channel":"room"}'


def serve(base: str, push: str) -> None:
    """Serve until this process is killed."""
    handler = Handler(base)
    published = handler.context.socket(zmq.PUSH)
    published.setsockopt(zmq.SNDHWM, 0)
    published.connect(push)
    for request in handler.requests():
        if b"uri" in request and request[b"uri"].endswith(b"/pub"):
            handler.say(request, code=101, reason=b"Switching Protocols", credits=CREDITS)
        elif b"uri" in request:
            grip = [[b"Sec-WebSocket-Extensions", b'grip; message-prefix=""']]
            fields: dict[str, Any] = {"headers": grip, "credits": CREDITS}
            handler.say(request, code=101, reason=b"Switching Protocols", **fields)
            handler.say(request, body=SUBSCRIBE, content_type=b"text")
        elif request.get(b"body"):
            text = request[b"body"].decode()
            item = {"channel": "room", "formats": {"ws-message": {"content": text}}}
            published.send(b"J" + json.dumps(item).encode())
            handler.say(request, type=b"credit", credits=len(text))


if __name__ == "__main__":
    run("fan", 1, serve)
