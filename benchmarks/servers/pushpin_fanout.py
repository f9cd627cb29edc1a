"""Pushpin with a handler that subscribes its clients to a channel (GRIP), and publishes what comes
from /pub there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import zmq
from pushpin import CONFIG, CREDITS, NAME, dumps, loads

SUBSCRIBE = b'c:{"type":"subscribe","channel":"room"}'


def serve(base: str, push: str) -> None:
    """Until we are killed."""
    context: zmq.Context[Any] = zmq.Context()
    begin, stream = context.socket(zmq.PULL), context.socket(zmq.ROUTER)
    stream.setsockopt(zmq.IDENTITY, NAME)
    out, published = context.socket(zmq.PUB), context.socket(zmq.PUSH)
    for sock, end in ((begin, "-out"), (stream, "-out-stream"), (out, "-in")):
        sock.setsockopt(zmq.RCVHWM, 0)
        sock.setsockopt(zmq.SNDHWM, 0)
        sock.connect(base + end)
    published.setsockopt(zmq.SNDHWM, 0)
    published.connect(push)
    numbers: dict[bytes, int] = {}
    poller = zmq.Poller()
    poller.register(begin, zmq.POLLIN)
    poller.register(stream, zmq.POLLIN)

    def say(request: dict[bytes, Any], **fields: Any) -> None:
        con = request[b"id"]
        number = numbers.get(con, 0)
        numbers[con] = number + 1
        reply = {b"from": NAME, b"id": con, b"seq": number}
        reply |= {name.replace("_", "-").encode(): value for name, value in fields.items()}
        out.send(request[b"from"] + b" T" + dumps(reply))

    while True:
        for sock, _ in poller.poll():
            request, _end = loads(sock.recv_multipart()[-1], 1)
            kind = request.get(b"type", b"")
            if b"uri" in request and request[b"uri"].endswith(b"/pub"):
                say(request, code=101, reason=b"Switching Protocols", credits=CREDITS)
            elif b"uri" in request:
                grip = [[b"Sec-WebSocket-Extensions", b'grip; message-prefix=""']]
                fields: dict[str, Any] = {"headers": grip, "credits": CREDITS}
                say(request, code=101, reason=b"Switching Protocols", **fields)
                say(request, body=SUBSCRIBE, content_type=b"text")
            elif kind == b"" and request.get(b"body"):
                text = request[b"body"].decode()
                item = {"channel": "room", "formats": {"ws-message": {"content": text}}}
                published.send(b"J" + json.dumps(item).encode())
                say(request, type=b"credit", credits=len(text))
            elif kind == b"close":
                say(request, type=b"close")
                numbers.pop(request[b"id"], None)
            elif kind in (b"cancel", b"error"):
                numbers.pop(request[b"id"], None)
            elif kind in (b"ping", b"keep-alive"):
                say(request, type=b"pong" if kind == b"ping" else kind)


def main() -> None:
    """Pushpin dies with us."""
    port = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "routes").write_text(f"* zhttp/ipc://{folder}/fan\n")
        config = CONFIG.format(folder=folder, port=port, push_port=port + 1)
        (folder / "pushpin.conf").write_text(config)
        child = subprocess.Popen(["pushpin", f"--config={folder}/pushpin.conf"])
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            # A subscriber that is not there yet hears nothing.
            time.sleep(0.5)
            serve(f"ipc://{folder}/fan", f"ipc://{folder}/bench-push")
        finally:
            child.terminate()
            child.wait()


if __name__ == "__main__":
    main()
