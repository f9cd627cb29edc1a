"""Sans-I/O. Frames that stand whole in what was read: a message each, which is nearly all there is.

The library's parser is a generator that asks for a few bytes at a time; it takes 6 µs a frame, this
takes 1, and that was the largest part of what a message cost the gateway. So the plain case is read
here: FIN set, nothing reserved, text or binary, masked as it must be, no longer than a read. And a
pong that comes alone, which is all that an idle client ever says. All else goes to the library,
from its first byte on: fragments, other control frames, compression, what is long, and all that is
wrong. It alone judges; here nothing is refused.
"""

from __future__ import annotations

from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

MAX_CONTROL: Final = 125
"""Bytes of a control frame's payload at most (RFC 6455, section 5.5)."""

LONGEST: Final = 0xFFFF
"""Bytes of data in a frame whose length takes two bytes (RFC 6455, section 5.2)."""

COPIED_BELOW: Final = 8 * 1024
"""Bytes of data from which on a view of them costs less than a copy."""

MOST: Final = 64
"""Frames taken at a time. A read of 64 KiB can be 10,900 of them, which is 15 ms."""

_TEXT: Final = 0x81
_BINARY: Final = 0x82
_PONG: Final = 0x8A
_TURNS: Final = range(MOST)


def take_whole(data: bytes, mask: int, limit: int, frames: list[tuple[bytes, str, bool]]) -> int:
    """Append the plain frames at the beginning of `data`, MOST of them at most, as (data, type,
    True); where what is left begins. `mask`: 0x80 for frames of clients, 0 for those of servers."""
    at = 0
    end = len(data)
    for _ in _TURNS:
        if end - at < 2:
            break
        first = data[at]
        if first != _TEXT and first != _BINARY:
            break
        size = data[at + 1] ^ mask
        start = at + 2
        if size > 125:
            # With the wrong mask bit it is that, too.
            if size != 126 or end - at < 4:
                break
            size = data[at + 2] << 8 | data[at + 3]
            start = at + 4
        if size > limit:
            break
        if mask:
            body = start + 4
            after = body + size
            if after > end:
                break
            if size < COPIED_BELOW:
                payload = apply_mask(data[body:after], data[start:body])
            else:
                payload = apply_mask(memoryview(data)[body:after], data[start:body])
        else:
            after = start + size
            if after > end:
                break
            payload = data[start:after]
        if first == _BINARY:
            frames.append((payload, "binary", True))
        else:
            if not payload.isascii():
                try:
                    payload.decode()
                except UnicodeDecodeError:
                    break
            frames.append((payload, "text", True))
        at = after
    return at


def is_pong(data: bytes, at: int, mask: int) -> bool:
    """Whether `data` is one pong from `at` on, and nothing else. It says no more than any byte
    does: that the peer is there (RFC 6455, section 5.5.3)."""
    left = len(data) - at - (6 if mask else 2)
    return data[at] == _PONG and 0 <= left <= MAX_CONTROL and data[at + 1] ^ mask == left


def may_become_whole(data: bytes, at: int, mask: int, limit: int) -> bool:
    """Whether `data` holds from `at` on the beginning of such a frame, but not yet all of it."""
    left = len(data) - at
    if data[at] != _TEXT and data[at] != _BINARY:
        return False
    if left < 2:
        return True
    size = data[at + 1] ^ mask
    if size < 126:
        head = 2
    elif size == 126:
        if left < 4:
            return True
        size = data[at + 2] << 8 | data[at + 3]
        head = 4
    else:
        return False
    return size <= limit and left < head + (4 if mask else 0) + size
