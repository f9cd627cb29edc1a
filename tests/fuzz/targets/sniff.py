"""The first bytes, compared with a second implementation of the rules in sniffer.py's docstring."""

from __future__ import annotations

from collections.abc import Hashable

from tests.corpus import CASES
from tests.fuzz.oracles import pieces
from wsraw.gateway.admission.sniffer import MAX_HEAD, MAX_HEADERS, MAX_LINE, Finding, Sniffer

GET = b"GET / HTTP/1.1\r\n"
SEEDS = [case.data[:2000] for case in CASES] + [
    GET + b"Upgrade: h2c, WebSocket\r\n\r\n",
    GET + b"A: b\n\n\x81\x80",
    b"GET /" + b"a" * (MAX_LINE - 20) + b" HTTP/1.1\r\n\r\n",
    b"GET /" + b"a" * (MAX_LINE - 10) + b" HTTP/1.1\r\n\r\n",
    b"GET /" + b"a" * (MAX_LINE - 10) + b" HTTQ/1.1\r\n\r\n",
    b"GET /" + b"a" * (MAX_LINE - 6) + b" ",
    GET + b"A: " + b"a" * (MAX_HEAD - 30) + b"\r\n\r\n",
    GET + b"Upgrade: websocket\r\nA: " + b"a" * MAX_LINE + b"\r\n\r\n",
    b"OPTIONS * HTTP/1.0\r\n\r\n",
    b"PROPFIND / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
    b"CONNECT a:443 HTTP/1.1\r\n\r\n",
]
METHODS = [b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PATCH", b"CONNECT", b"TRACE"]
WORDS = [
    *(method + b" " for method in METHODS),
    b"VERSION-CONTROL ",
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


def can_begin(data: bytes, any_method: bool) -> bool:
    word, space, _ = data[:33].partition(b" ")
    if any_method:
        long = len(word) > 32
        return not data or (word[:1].isalpha() and not long and word.isascii()
            and all(byte == b"-"[0] or b"A"[0] <= byte <= b"Z"[0] for byte in word))  # fmt: skip
    if space:
        return word in METHODS
    return any(method.startswith(word) for method in METHODS)


def is_request(line: bytes) -> bool:
    words = line.removesuffix(b"\r").split(b" ")
    return (
        len(words) == 3
        and words[1] != b""
        and not any(byte <= 0x20 or byte == 0x7F for byte in words[1])
        and words[2][:-1] == b"HTTP/1."
        and words[2][-1:].isdigit()
    )


def expected(data: bytes, any_method: bool) -> tuple[Finding, int]:
    if not can_begin(data, any_method):
        return Finding.RAW, 0
    line, newline, _ = data[:MAX_LINE].partition(b"\n")
    if not newline:
        if len(data) < MAX_LINE:
            return Finding.UNKNOWN, 0
        ends = ("HTTP/1.1\r\n"[:n].encode() for n in range(10))
        can_become = any(is_request(line + end) for end in (b"", b" HTTP/1.1", b"/ HTTP/1.1"))
        can_become = can_become or any(
            line.endswith(b" " + end) and is_request(line.removesuffix(end) + b"HTTP/1.1")
            for end in ends
        )
        return (Finding.TOO_BIG if can_become else Finding.RAW), 0
    if not is_request(line):
        return Finding.RAW, 0
    words = line.split(b" ")
    lines = data[:MAX_HEAD].split(b"\n")
    size = 0
    found = Finding.PLAIN_HTTP
    for i, text in enumerate(lines[:-1]):
        size += len(text) + 1
        if i and text in (b"", b"\r"):
            # The lines between the first one and this one.
            if i - 1 > MAX_HEADERS:
                return Finding.TOO_BIG, size
            longest = max(len(each.rstrip(b"\r")) + 2 for each in lines[:i])
            is_long = found is Finding.WEBSOCKET and longest > MAX_LINE
            return (Finding.TOO_BIG if is_long else found), size
        name, colon, value = text.partition(b":")
        if i and colon and name.lower() == b"upgrade" and words[0] == b"GET":
            tokens = [token.strip().lower() for token in value.split(b",")]
            if b"websocket" in tokens:
                found = Finding.WEBSOCKET
    return (Finding.TOO_BIG if len(data) >= MAX_HEAD else Finding.HTTP), 0


def run(data: bytes) -> Hashable:
    return check(data, False), check(data, True)


def check(data: bytes, any_method: bool) -> Hashable:
    whole = Sniffer(any_method=any_method)
    finding = whole.receive_data(data) if data else whole.finding
    assert (finding, whole.head_size) == expected(data, any_method)
    cut = Sniffer(any_method=any_method)
    known = Finding.UNKNOWN
    for piece in pieces(data):
        known = cut.receive_data(piece)
        if known is not Finding.UNKNOWN and known is not Finding.HTTP:
            break
    assert (known, cut.head_size) == (finding, whole.head_size)
    assert whole.buffer == data
    return finding, len(data).bit_length(), whole.head_size.bit_length()
