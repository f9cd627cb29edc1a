"""ZMTP at both ends: any cut gives the same result, also where large messages are read in place;
a second implementation of the rules agrees; and the other end of ours understands the answers.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path

from tests.fuzz.oracles import pieces
from wsraw.link.batches import NO_BATCH, READ_IN_PLACE
from wsraw.link.zmtp import COMMAND_LIMIT, FIRST_PART, GREETING, GROWTH, SIGNATURE, ZmtpPeer

CLIENT, READY, TIGHT = 1, 2, 4
"""Bits of the first byte: which end is fuzzed, whether from the start or after its handshake,
and whether with a small limit.
"""

FILLER = b"\xf7\xf7"
"""A short sequence that is replaced by many bytes the first few times, so that short inputs have
long messages.
"""
FILLED = b"x" * (READ_IN_PLACE * 2 + 1)
MOST_FILLED = 12

# A peer that sends this many bytes at once has fewer frames than it would be refused for.
LARGEST = 1900

TYPES = (b"ROUTER", b"DEALER")
CAPTURED = tomllib.loads(
    (Path(__file__).parents[2] / "link" / "zmtp.toml").read_text(encoding="ascii")
)


def _ready(name: bytes) -> bytes:
    data = b"\5READY\x0bSocket-Type" + len(name).to_bytes(4, "big") + name
    return bytes((4, len(data))) + data


def _large(size: int, flags: int = 2) -> bytes:
    return bytes((flags,)) + size.to_bytes(8, "big")


TRAFFIC = (
    b"\0\0\0\5hello" + _large(300) + b"x" * 300,
    b"\1\1a\0\1b\0\1c",
    b"\1\0" * 20,
    b"\4\7\4PING\0\0\4\x17\4PING\xff\xff0123456789abcdef\0\1x\4\5\4PONG",
    b"\4\x0c\5ERROR\5sorry\0\1x",
    b"\4\x0f\x09SUBSCRIBEtopic\6\0\0\0\0\0\0\0\7\4PING\0\0",
    _large(len(FILLED)) + FILLER + b"\0\1x",
    _large(5 * len(FILLED) - 10) + FILLER * 5 + _large(len(FILLED)) + FILLER,
    _large(len(FILLED), 3) + FILLER + b"\0\1x\0\1y",
    _large(COMMAND_LIMIT + 1, 6),
    _large(1 << 63) + b"\x08",
)
SEEDS = [
    *(bytes((bits,)) + data for bits in (READY, READY | CLIENT, READY | TIGHT) for data in TRAFFIC),
    *(
        bytes((CLIENT if case["to"] == "client" else 0,)) + bytes.fromhex(case["bytes"])
        for case in CAPTURED.values()
    ),
    b"\0GET / HTTP/1.1\r\n",
    b"\0\x16\x03\x01\x02\x00",
    b"\0" + GREETING + _ready(b"DEALER") + TRAFFIC[0],
    bytes((CLIENT,)) + GREETING + _ready(b"ROUTER") + TRAFFIC[3],
]
WORDS = [
    GREETING,
    SIGNATURE,
    _ready(b"DEALER"),
    _ready(b"ROUTER"),
    FILLER,
    _large(len(FILLED)),
    _large(len(FILLED) * 3),
    *TRAFFIC[:6],
]


class WrongError(Exception):
    """What the reference considers wrong."""


def run(data: bytes) -> Hashable:
    bits = data[0] if data else 0
    data = data[1:].replace(FILLER, FILLED, MOST_FILLED)
    limit = 1000 if bits & TIGHT else 1 << 20
    whole = _peer(bits, limit)
    heard = [bytes(each) for each in whole.receive_data(data)]
    said = whole.data_to_send()
    for in_place in (False, True):
        cut = _peer(bits, limit)
        assert _in_pieces(cut, pieces(data), in_place=in_place) == (heard, said)
        assert (cut.why, cut.is_ready) == (whole.why, whole.is_ready)
    _check_reference(whole, bits, data, limit, heard, said)
    _check_answers(bits, said)
    assert whole.why.isprintable()
    return (
        bits & 7,
        tuple(len(each).bit_length() for each in heard[:5]),
        re.sub(r"[^a-zA-Z ]", "", whole.why.partition(":")[0])[:40],
        whole.is_ready,
        len(said).bit_length(),
    )


def _peer(bits: int, limit: int) -> ZmtpPeer:
    end = bits & CLIENT
    peer = ZmtpPeer(TYPES[end].decode(), {TYPES[1 - end].decode()}, limit, as_server=not end)
    if bits & READY:
        assert peer.receive_data(GREETING + _ready(TYPES[1 - end])) == []
        peer.data_to_send()
        assert peer.is_ready
    return peer


def _in_pieces(
    peer: ZmtpPeer, parts: Iterable[bytes], *, in_place: bool
) -> tuple[list[bytes], bytes]:
    heard: list[bytes] = []
    said = b"" if peer.is_ready else peer.data_to_send()
    received = 0
    for piece in parts:
        received += len(piece)
        at = 0
        while at < len(piece):
            view = peer.rest()
            # The bytes received limit the room, and not the announced length.
            assert view is None or len(view) <= GROWTH * received + FIRST_PART
            if view is None or not in_place:
                view = None
                heard += map(bytes, peer.receive_data(piece[at:]))
                break
            count = min(len(view), len(piece) - at)
            view[:count] = piece[at : at + count]
            view = None
            at += count
            message = peer.received(count)
            heard += [] if message is None else [bytes(message)]
        said += peer.data_to_send()
    return heard, said


def _check_reference(
    peer: ZmtpPeer, bits: int, data: bytes, limit: int, heard: list[bytes], said: bytes
) -> None:
    expected: list[bytes] = []
    answers = bytearray()
    wrong = False
    try:
        for kind, body in _reference(bits, data, limit):
            if kind == "message":
                expected.append(body)
            else:
                answers += body
    except WrongError:
        wrong = True
    assert heard == expected
    assert bool(peer.why) is wrong
    assert said.startswith(answers)
    error = said[len(answers) :]
    if not wrong or peer.why.startswith("refused by the peer") or not said.startswith(GREETING):
        assert bits & READY or not error
    if error:
        reason = peer.why[:255].encode("ascii", "replace")
        size = 7 + len(reason)
        head = bytes((4, size)) if size < 256 else b"\6" + size.to_bytes(8, "big")
        assert error == head + b"\5ERROR" + bytes((len(reason),)) + reason


def _reference(bits: int, data: bytes, limit: int) -> Iterator[tuple[str, bytes]]:
    """The result of RFC 37's rules: the messages, and the answers."""
    own, other = TYPES if not bits & CLIENT else TYPES[::-1]
    ready = bool(bits & READY)
    if not ready:
        yield "answer", SIGNATURE
        _reference_signature(data)
        if len(data) < 11:
            return
        yield "answer", GREETING[11:]
        if len(data) >= 32 and data[12:32] != b"NULL".ljust(20, b"\0"):
            raise WrongError
        if len(data) < 64:
            return
        data = data[64:]
        if bits & CLIENT:
            yield "answer", _ready(own)
    inside = False
    while data:
        flags = data[0]
        if flags & ~7 or flags & 5 == 5:
            raise WrongError
        wide = 8 if flags & 2 else 1
        if len(data) < 1 + wide:
            return
        size = int.from_bytes(data[1 : 1 + wide], "big")
        body = data[1 + wide : 1 + wide + size]
        if size > (COMMAND_LIMIT if flags & 4 else limit) or not (ready or flags & 4):
            raise WrongError
        if not flags & 4:
            if flags & 1 and not inside:
                yield "message", NO_BATCH
            if len(body) == size and not inside and not flags & 1:
                yield "message", body
            inside = bool(flags & 1)
        elif len(body) == size:
            name, rest = (
                body[1 : 1 + body[0]] if body else b"",
                body[1 + body[0] :] if body else b"",
            )
            if not name or len(name) < body[0] or name == b"ERROR" or ready is (name == b"READY"):
                raise WrongError
            if name == b"READY":
                if _reference_type(rest) != other:
                    raise WrongError
                ready = True
                if not bits & CLIENT:
                    yield "answer", _ready(own)
            elif name == b"PING":
                if not 2 <= len(rest) <= 18:
                    raise WrongError
                yield "answer", bytes((4, 3 + len(rest))) + b"\4PONG" + rest[2:]
        data = data[1 + wide + size :]


def _reference_signature(data: bytes) -> None:
    if data and data[0] != 0xFF:
        known = re.match(rb"[^\0]\0|[\x15\x16]\x03|....", data, re.DOTALL)
        if known:
            raise WrongError
    elif (len(data) > 9 and not data[9] % 2) or (len(data) > 10 and data[10] < 3):
        raise WrongError


def _reference_type(metadata: bytes) -> bytes:
    found = b""
    while metadata:
        name, rest = metadata[1 : 1 + metadata[0]], metadata[1 + metadata[0] :]
        size = int.from_bytes(rest[:4], "big")
        if not name or len(rest) < 4 + size:
            raise WrongError
        if name.lower() == b"socket-type":
            found = rest[4 : 4 + size]
        metadata = rest[4 + size :]
    return found


def _check_answers(bits: int, said: bytes) -> None:
    """Check that our other end accepts the answers."""
    other = ZmtpPeer("DEALER", {"ROUTER"}, 1000, as_server=False)
    if bits & CLIENT:
        other = ZmtpPeer("ROUTER", {"DEALER"}, 1000, as_server=True)
    if bits & READY:
        said = GREETING + _ready(TYPES[bits & CLIENT]) + said
    assert other.receive_data(said) == []
    assert other.why == "" or other.why.startswith("refused by the peer: ")
