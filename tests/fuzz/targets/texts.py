"""Texts that users write: addresses to listen on and to open, handlers; and the settings from a
parent process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable
from typing import Any

from wsraw.config.addresses import parse_listen
from wsraw.config.programs import parse as parse_workers
from wsraw.config.settings import Settings, from_json, to_json
from wsraw.link.open_options import parse_target

PARSERS: list[tuple[Callable[[str], Any], str]] = [
    (parse_listen, "listen: "),
    (parse_target, "cannot open "),
    (parse_workers, "workers: "),
    (from_json, "not settings: "),
]
SEEDS = [
    bytes((number,)) + text.encode()
    for number, texts in enumerate(
        (
            (
                "127.0.0.1:8000",
                "raw://[::1]:9000?first_byte_timeout=0.2&plain_http=reject",
                "ws://localhost:0",
                "unix:/tmp/a.sock?plain_http=health",
                "unix:/tmp/a.sock?mode=660&group=www-data",
            ),
            ("host:80", "tcp://[::1]:1", "ws://example.com/path?a=b", "unix:/a", "ws://[::1]/"),
            ("handlers.py:4", "C:\\handlers.py", "a.py", "node 'a b.mjs' -x:2"),
            (to_json(Settings()),),
        )
    )
    for text in texts
]
WORDS = [
    b"://", b"unix:", b"raw", b"ws", b"tls", b"wss", b":", b"[", b"]", b"?", b"&", b"=", b"/",
    b"first_byte_timeout=", b"plain_http=", b"nan", b"inf", b"-1", b"1e400", b"65536", b"0",
    "²".encode(), "٣".encode(), b"9" * 4400, b"null", b"{", b"\xff", b"%00", b"\x00", b"\n",
]  # fmt: skip
LARGEST = 6000


def run(data: bytes) -> Hashable:
    parse, start = PARSERS[data[0] % len(PARSERS) if data else 0]
    # The text as arguments come from the system.
    text = os.fsdecode(data[1:])
    try:
        value = parse(text)
    except ValueError as error:
        message = str(error)
        assert message.startswith(start), message
        assert "\n" not in message, message
        # A quoted word in a message is a part of the input.
        for written in (repr(text), repr(f"{text.partition('://')[0]}://")):
            message = message.replace(written, "")
        return parse, re.sub(r"[^a-z ]+", "", message.removeprefix(start))[:24]
    if parse is parse_listen:
        assert bool(value.path) != bool(value.host)
        assert 0 <= value.port < 65536
        assert 0 <= value.first_byte_timeout < float("inf")
    elif parse is parse_target:
        assert bool(value.path) != bool(value.host)
        assert 0 < value.port < 65536 or value.path
    elif parse is parse_workers:
        assert bool(value.program.file) != bool(value.program.words)
        assert value.program.label
        assert 1 <= value.number <= 1000
    else:
        assert from_json(to_json(value)) == value
    return parse, type(value)
