"""Pushpin, with a handler behind it that speaks ZHTTP over ZeroMQ and echoes: of all servers
here the one most like wsraw.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zmq

CREDITS = 1 << 18
"""Bytes that a connection may send ahead of our echo."""

NAME = b"echo"

CONFIG = """
[global]
include={{libdir}}/internal.conf
rundir={folder}
ipc_prefix=bench-
port_offset=0
stats_connection_ttl=120

[runner]
services=condure,pushpin-proxy,pushpin-handler
http_port={port}
logdir={folder}
log_level=1
client_buffer_size=131072
client_maxconn=50000

[proxy]
routesfile={folder}/routes
sig_key=none

[handler]
ipc_file_mode=777
push_in_spec=ipc://{{rundir}}/{{ipc_prefix}}push
push_in_sub_specs=ipc://{{rundir}}/{{ipc_prefix}}sub
push_in_http_addr=127.0.0.1
push_in_http_port={push_port}
command_spec=ipc://{{rundir}}/{{ipc_prefix}}command
message_rate=100000
message_hwm=100000
"""


def dumps(value: Any) -> bytes:
    """A value as tnetstring (tnetstrings.info)."""
    if isinstance(value, bytes):
        return b"%d:%b," % (len(value), value)
    if isinstance(value, bool):
        return b"4:true!" if value else b"5:false!"
    if isinstance(value, int):
        text = b"%d" % value
        return b"%d:%b#" % (len(text), text)
    if isinstance(value, list):
        text = b"".join(map(dumps, value))
        return b"%d:%b]" % (len(text), text)
    if isinstance(value, dict):
        text = b"".join(dumps(part) for pair in value.items() for part in pair)
        return b"%d:%b}" % (len(text), text)
    raise TypeError(type(value))


def loads(data: bytes, at: int = 0) -> tuple[Any, int]:
    """The value at the offset `at`, and the offset of its end."""
    colon = data.index(b":", at)
    start = colon + 1
    end = start + int(data[at:colon])
    kind, body = data[end : end + 1], data[start:end]
    if kind == b",":
        return body, end + 1
    if kind == b"#":
        return int(body), end + 1
    if kind == b"!":
        return body == b"true", end + 1
    if kind == b"^":
        return float(body), end + 1
    if kind == b"~":
        return None, end + 1
    parts = []
    place = 0
    while place < len(body):
        part, place = loads(body, place)
        parts.append(part)
    if kind == b"}":
        return dict(zip(parts[::2], parts[1::2], strict=True)), end + 1
    return parts, end + 1


class Handler:
    """A handler that speaks ZHTTP: it reads the requests of Pushpin, and answers on their
    connections.
    """

    def __init__(self, base: str) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        begin = self.context.socket(zmq.PULL)
        stream = self.context.socket(zmq.ROUTER)
        stream.setsockopt(zmq.IDENTITY, NAME)
        self._out = self.context.socket(zmq.PUB)
        for socket, end in ((begin, "-out"), (stream, "-out-stream"), (self._out, "-in")):
            socket.setsockopt(zmq.RCVHWM, 0)
            socket.setsockopt(zmq.SNDHWM, 0)
            socket.connect(base + end)
        self._numbers: dict[bytes, int] = {}
        self._poller = zmq.Poller()
        self._poller.register(begin, zmq.POLLIN)
        self._poller.register(stream, zmq.POLLIN)

    def say(self, request: dict[bytes, Any], **fields: Any) -> None:
        """Answer on the connection of a request."""
        con = request[b"id"]
        number = self._numbers.get(con, 0)
        self._numbers[con] = number + 1
        reply = {b"from": NAME, b"id": con, b"seq": number}
        reply |= {name.replace("_", "-").encode(): value for name, value in fields.items()}
        self._out.send(request[b"from"] + b" T" + dumps(reply))

    def requests(self) -> Iterator[dict[bytes, Any]]:
        """Requests that open a connection or bring data; keep-alives are answered here."""
        while True:
            for socket, _ in self._poller.poll():
                request, _end = loads(socket.recv_multipart()[-1], 1)
                kind = request.get(b"type", b"")
                if b"uri" in request or kind == b"":
                    yield request
                elif kind == b"close":
                    self.say(request, type=b"close")
                    self._numbers.pop(request[b"id"], None)
                elif kind in (b"cancel", b"error"):
                    self._numbers.pop(request[b"id"], None)
                elif kind in (b"ping", b"keep-alive"):
                    self.say(request, type=b"pong" if kind == b"ping" else kind)


def echo(base: str, push: str) -> None:
    """Echo until this process is killed."""
    handler = Handler(base)
    for request in handler.requests():
        if b"uri" in request:
            handler.say(request, code=101, reason=b"Switching Protocols", credits=CREDITS)
            continue
        body = request.get(b"body", b"")
        fields: dict[str, Any] = {"body": body}
        if b"content-type" in request:
            fields["content_type"] = request[b"content-type"]
        if request.get(b"more"):
            fields["more"] = True
        if body:
            fields["credits"] = len(body)
        handler.say(request, **fields)


def run(name: str, push_port: int, serve: Callable[[str, str], None]) -> None:
    """Start Pushpin, which ends with this process, and serve it. `serve` gets the prefix of the
    socket names, and the name of the socket for published messages.
    """
    port = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        base = f"ipc://{folder}/{name}"
        (folder / "routes").write_text(f"* zhttp/{base}\n")
        config = CONFIG.format(folder=folder, port=port, push_port=port + push_port)
        (folder / "pushpin.conf").write_text(config)
        child = subprocess.Popen(["pushpin", f"--config={folder}/pushpin.conf"])
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            # A subscriber that is not connected yet gets nothing.
            time.sleep(0.5)
            serve(base, f"ipc://{folder}/bench-push")
        finally:
            child.terminate()
            child.wait()


if __name__ == "__main__":
    run("echo", 1000, echo)
