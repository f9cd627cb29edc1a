"""Writes zmtp.toml: the bytes of real libzmq on the wire, recorded by a plain socket.

    python tests/link/capture_zmtp.py 4.0.10=/path/libzmq.so 3.2.6=… 2.2.1=…

pyzmq brings its libzmq; older ones are built from zeromq4-x, zeromq3-x and zeromq2-x. Cases of
versions that are not given stay unchanged in the file.
"""

from __future__ import annotations

import ctypes
import re
import socket
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import zmq

FILE = Path(__file__).with_name("zmtp.toml")
TYPES = ("PAIR", "PUB", "SUB", "REQ", "REP", "DEALER", "ROUTER", "PULL", "PUSH")
OPTIONS = {"ROUTING_ID": 5, "SUBSCRIBE": 6}
SILENCE = 0.4
"""Seconds of silence after which a peer has sent everything."""

GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f\3\1NULL".ljust(64, b"\0")
KEYS = {
    "CURVE_PUBLICKEY": b"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID",
    "CURVE_SECRETKEY": b"D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs",
    "CURVE_SERVERKEY": b"rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7",
}
"""Keys from the manual of libzmq, zmq_curve(7)."""
HEARTBEATS = {"HEARTBEAT_IVL": 50, "HEARTBEAT_TTL": 2000, "HEARTBEAT_TIMEOUT": 2000}


class Case(NamedTuple):
    type: str
    options: Mapping[str, Any] = MappingProxyType({})
    sends: tuple[bytes, ...] = ()
    """Messages; a line break separates frames."""
    why: str = ""
    """The error that must be reported; empty if the peer is served."""
    version: str = zmq.zmq_version()
    seconds: float = SILENCE


MESSAGES = (b"", b"hello", b"x" * 255, b"x" * 256)
TYPE = "Socket-Type is {}, and must be "
CONNECTS = {
    "dealer": Case("DEALER", sends=MESSAGES),
    "dealer_that_probes": Case("DEALER", {"PROBE_ROUTER": 1}, (b"hello",)),
    "dealer_with_an_identity": Case("DEALER", {"ROUTING_ID": b"me"}, (b"hello",)),
    "dealer_with_the_longest_identity": Case("DEALER", {"ROUTING_ID": b"i" * 255}, (b"hello",)),
    "dealer_of_several_frames": Case("DEALER", sends=(b"one\ntwo\n\nfour", b"hello")),
    "dealer_with_heartbeats": Case("DEALER", dict(HEARTBEATS), (b"hello",), seconds=0.25),
    "req": Case("REQ", why=TYPE.format("REQ")),
    "router": Case("ROUTER", why=TYPE.format("ROUTER")),
    "rep": Case("REP", why=TYPE.format("REP")),
    "push": Case("PUSH", why=TYPE.format("PUSH")),
    "pull": Case("PULL", why=TYPE.format("PULL")),
    "pair": Case("PAIR", why=TYPE.format("PAIR")),
    "pub": Case("PUB", why=TYPE.format("PUB")),
    "sub": Case("SUB", {"SUBSCRIBE": b"topic"}, why=TYPE.format("SUB")),
    "curve": Case("DEALER", dict(KEYS), why="mechanism CURVE"),
    "plain": Case(
        "DEALER", {"PLAIN_USERNAME": b"me", "PLAIN_PASSWORD": b"secret"}, why="mechanism PLAIN"
    ),
    "dealer_of_4_0": Case("DEALER", sends=MESSAGES, version="4.0.10"),
    "dealer_of_4_0_with_an_identity": Case(
        "DEALER", {"ROUTING_ID": b"me"}, (b"hello",), version="4.0.10"
    ),
    "push_of_4_0": Case("PUSH", why=TYPE.format("PUSH"), version="4.0.10"),
    "dealer_of_3_2": Case("DEALER", sends=(b"hello",), why="speaks ZMTP 2.0", version="3.2.6"),
    "dealer_of_2_2": Case("DEALER", sends=(b"hello",), why="speaks ZMTP 1.0", version="2.2.1"),
    "dealer_of_2_2_with_an_identity": Case(
        "DEALER", {"ROUTING_ID": b"me"}, why="speaks ZMTP 1.0", version="2.2.1"
    ),
    "dealer_of_2_2_with_the_longest_identity": Case(
        "DEALER", {"ROUTING_ID": b"i" * 255}, why="speaks ZMTP 1.0", version="2.2.1"
    ),
}
"""The peers that connect to a server of ours."""

BINDS = {
    "to_router": Case("ROUTER", sends=MESSAGES),
    "to_router_with_heartbeats": Case("ROUTER", dict(HEARTBEATS), (b"hello",), seconds=0.25),
    "to_dealer": Case("DEALER", why=TYPE.format("DEALER")),
    "to_rep": Case("REP", why=TYPE.format("REP")),
    "to_pull": Case("PULL", why=TYPE.format("PULL")),
    "to_router_that_refuses": Case(
        "ROUTER", {"ZAP_DOMAIN": b"global"}, why="refused by the peer: 400"
    ),
    "to_curve": Case(
        "ROUTER",
        {"CURVE_SERVER": 1, "CURVE_SECRETKEY": KEYS["CURVE_SECRETKEY"]},
        why="mechanism CURVE",
    ),
    "to_router_of_4_0": Case("ROUTER", sends=MESSAGES, version="4.0.10"),
    "to_router_of_3_2": Case("ROUTER", why="speaks ZMTP 2.0", version="3.2.6"),
    "to_router_of_2_2": Case("ROUTER", why="speaks ZMTP 1.0", version="2.2.1"),
}
"""The peers that a client of ours connects to. A ROUTER sends its messages to a client that has
sent it one.
"""


class Old:
    """A socket of an older libzmq."""

    def __init__(self, library: str, case: Case) -> None:
        self._zmq = lib = ctypes.CDLL(library)
        for name in ("zmq_init", "zmq_socket", "zmq_msg_data"):
            getattr(lib, name).restype = ctypes.c_void_p
        self._version = int(case.version[0])
        self._context = ctypes.c_void_p(lib.zmq_init(1))
        self._socket = ctypes.c_void_p(lib.zmq_socket(self._context, TYPES.index(case.type)))
        for name, value in case.options.items():
            assert not lib.zmq_setsockopt(self._socket, OPTIONS[name], value, len(value))

    def connect(self, endpoint: str) -> None:
        assert not self._zmq.zmq_connect(self._socket, endpoint.encode())

    def bind(self, endpoint: str) -> None:
        assert not self._zmq.zmq_bind(self._socket, endpoint.encode())

    def send(self, data: bytes, flags: int = 0) -> None:
        if self._version > 2:
            assert self._zmq.zmq_send(self._socket, data, len(data), flags) == len(data)
            return
        message = ctypes.create_string_buffer(64)
        self._zmq.zmq_msg_init_size(message, len(data))
        ctypes.memmove(self._zmq.zmq_msg_data(message), data, len(data))
        assert not self._zmq.zmq_send(self._socket, message, flags)

    def recv(self) -> bytes:
        assert self._version > 2
        data = ctypes.create_string_buffer(256)
        size = self._zmq.zmq_recv(self._socket, data, 256, 0)
        return data.raw[:size]

    def close(self) -> None:
        linger = ctypes.c_int(0)
        self._zmq.zmq_setsockopt(self._socket, 17, ctypes.byref(linger), 4)
        self._zmq.zmq_close(self._socket)
        self._zmq.zmq_term(self._context)


@contextmanager
def speaker(case: Case, libraries: dict[str, str]) -> Iterator[Any]:
    if case.version != zmq.zmq_version():
        old = Old(libraries[case.version], case)
        yield old
        old.close()
        return
    with zmq.Context() as context:
        if "ZAP_DOMAIN" in case.options:
            refuse_all(context)
        with context.socket(getattr(zmq, case.type)) as socket:
            socket.linger = 0
            for name, value in case.options.items():
                socket.set(getattr(zmq, name), value)
            yield socket


def refuse_all(context: zmq.Context[Any]) -> None:
    """Answer one request of ZAP (ZeroMQ RFC 27)."""
    handler = context.socket(zmq.REP)
    handler.bind("inproc://zeromq.zap.01")

    def answer() -> None:
        request = handler.recv_multipart()
        handler.send_multipart([*request[:2], b"400", b"no", b"", b""])
        handler.close(1000)

    threading.Thread(target=answer).start()


def ready(name: bytes) -> bytes:
    data = b"\5READY\x0bSocket-Type" + len(name).to_bytes(4, "big") + name
    return bytes((4, len(data))) + data


def listen_to(sock: socket.socket, case: Case, own_type: bytes) -> bytes:
    """Record everything that the peer sends: exchange greetings, answer READY with READY, until
    it is silent.
    """
    said = b""
    sock.sendall(GREETING[:11])
    answers = [(11, GREETING[11:]), (64, ready(own_type))]
    if own_type == b"DEALER":
        answers.append((70, b"\0\1?"))
    sock.settimeout(max(SILENCE, case.seconds))
    until = time.monotonic() + case.seconds
    while True:
        while answers and len(said) >= answers[0][0]:
            sock.sendall(answers.pop(0)[1])
        try:
            more = sock.recv(4096)
        except (TimeoutError, ConnectionResetError):
            return said
        said += more
        if not more or (time.monotonic() > until and case.seconds < SILENCE):
            return said


def connects(case: Case, libraries: dict[str, str]) -> bytes:
    with socket.create_server(("127.0.0.1", 0)) as server, speaker(case, libraries) as peer:
        peer.connect(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        send(peer, case.sends)
        with server.accept()[0] as sock:
            return listen_to(sock, case, b"ROUTER")


def binds(case: Case, libraries: dict[str, str]) -> bytes:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    with speaker(case, libraries) as peer:
        peer.bind(f"tcp://127.0.0.1:{port}")
        with socket.create_connection(("127.0.0.1", port)) as sock:
            if case.sends:
                threading.Thread(target=answer, args=(peer, case)).start()
            return listen_to(sock, case, b"DEALER")


def answer(router: Any, case: Case) -> None:
    identity = router.recv()
    assert router.recv() == b"?"
    for data in case.sends:
        router.send(identity, zmq.SNDMORE)
        router.send(data)


def send(peer: Any, messages: tuple[bytes, ...]) -> None:
    for message in messages:
        *frames, last = message.split(b"\n")
        for frame in frames:
            peer.send(frame, int(zmq.SNDMORE))
        peer.send(last)


def entry(name: str, case: Case, end: str, data: bytes) -> str:
    options = "".join(
        f", {key} {value if isinstance(value, int) else f'of {len(value)} bytes'}"
        for key, value in case.options.items()
    )
    messages = [message.hex() for message in case.sends if not case.why]
    if "PROBE_ROUTER" in case.options:
        messages.insert(0, "")
    lines = re.findall(".{1,96}", data.hex())
    return "\n".join(
        (
            f"[{name}]",
            f'origin = "{case.type} of libzmq {case.version}{options}"',
            f'to = "{end}"',
            f"messages = {messages}".replace("'", '"').replace("6f6e650a74776f0a0a666f7572", "c1"),
            f'why = "{case.why}"',
            'bytes = """',
            *lines,
            '"""',
            "",
            "",
        )
    )


def main() -> None:
    libraries = dict(each.split("=", 1) for each in sys.argv[1:])
    known = tomllib.loads(FILE.read_text()) if FILE.exists() else {}
    text = "# Written by capture_zmtp.py.\n\n"
    for cases, end, take in ((CONNECTS, "server", connects), (BINDS, "client", binds)):
        for name, case in cases.items():
            if case.version == zmq.zmq_version() or case.version in libraries:
                data = take(case, libraries)
            else:
                data = bytes.fromhex(known[name]["bytes"])
            text += entry(name, case, end, data)
            print(name, len(data))
    FILE.write_text(text.rstrip("\n") + "\n")


if __name__ == "__main__":
    main()
