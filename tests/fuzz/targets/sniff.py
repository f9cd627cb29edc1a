"""The first bytes, against the rules in sniff.py's docstring said in another way."""

from __future__ import annotations

from collections.abc import Hashable

from corpus import CASES
from fuzz.oracles import pieces

from wsraw.gateway.sniff import MAX_HEAD, MAX_HEADERS, MAX_LINE, Sniffer, Verdict

GET = b"GET / HTTP/1.1\r\n"
SEEDS = [case.data[:2000] for case in CASES] + [
    GET + b"Upgrade: h2c, WebSocket\r\n\r\n",
    GET + b"A: b\n\n\x81\x80",
    b"GET /" + b"a" * (MAX_LINE - 20) + b" HTTP/1.1\r\n\r\n",
    GET + b"A: " + b"a" * (MAX_HEAD - 30) + b"\r\n\r\n",
    GET + b"Upgrade: websocket\r\nA: " + b"a" * MAX_LINE + b"\r\n\r\n",
]
WORDS = [
    b"GET ",
    b" HTTP/1.1",
    b"HTTP/1.0",
    b"\n\n",
    b"\r\n\r\n",
    b"\nUpgrade: websocket",
    b"\nupgrade:",
    b"websocket",
    b",",
    b"a" * MAX_LINE,
    b"\nA: b" * 60,
]
LARGEST = MAX_HEAD + 100


def expected(data: bytes) -> tuple[Verdict, int]:
    start = data[:4]
    if start != b"GET "[: len(start)]:
        return Verdict.RAW, 0
    line, newline, _ = data[:MAX_LINE].partition(b"\n")
    if not newline:
        return (Verdict.RAW if len(data) >= MAX_LINE else Verdict.UNKNOWN), 0
    words = line.removesuffix(b"\r").split(b" ")
    if (
        len(words) != 3
        or not words[1]
        or any(byte <= 0x20 or byte == 0x7F for byte in words[1])
        or words[2][:-1] != b"HTTP/1."
        or words[2][-1:] not in b"0123456789"
    ):
        return Verdict.RAW, 0
    lines = data[:MAX_HEAD].split(b"\n")
    size = 0
    found = Verdict.PLAIN_HTTP
    for i, text in enumerate(lines[:-1]):
        size += len(text) + 1
        if i and text in (b"", b"\r"):
            # Lines, without the first one and this one.
            if i - 1 > MAX_HEADERS:
                return Verdict.TOO_MANY, size
            longest = max(len(each.rstrip(b"\r")) + 2 for each in lines[:i])
            is_long = found is Verdict.WEBSOCKET and longest > MAX_LINE
            return (Verdict.TOO_BIG if is_long else found), size
        name, colon, value = text.partition(b":")
        if i and colon and name.lower() == b"upgrade":
            tokens = [token.strip().lower() for token in value.split(b",")]
            if b"websocket" in tokens:
                found = Verdict.WEBSOCKET
    return (Verdict.TOO_BIG if len(data) >= MAX_HEAD else Verdict.HTTP), 0


def run(data: bytes) -> Hashable:
    whole = Sniffer()
    verdict = whole.receive_data(data) if data else whole.verdict
    assert (verdict, whole.head_size) == expected(data)
    cut = Sniffer()
    known = Verdict.UNKNOWN
    for piece in pieces(data):
        known = cut.receive_data(piece)
        if known is not Verdict.UNKNOWN and known is not Verdict.HTTP:
            break
    assert (known, cut.head_size) == (verdict, whole.head_size)
    assert whole.buffer == data
    return verdict, len(data).bit_length(), whole.head_size.bit_length()
