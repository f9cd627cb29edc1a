"""Sans-I/O. Messages, received and sent: the order of their frames, size, UTF-8, compression.

Text that is not UTF-8 is found when the first wrong byte arrives, even in an incomplete frame.

The number of fragments in a message is not limited. Their bytes are limited: here if messages are
joined, and by the connection's account if they are not.
"""

from __future__ import annotations

import math
import zlib
from codecs import utf_8_decode
from typing import Final

from wsraw.config.settings import Settings
from wsraw.gateway.websocket.deflate import (
    DEFLATED_AT_ONCE,
    PLAIN_KEY,
    Codec,
    Deflation,
    FramingKey,
    TooBigError,
)
from wsraw.gateway.websocket.frames import (
    BINARY,
    COMPRESSED,
    CONTINUATION,
    FINAL,
    TEXT,
    FrameReader,
    ViolationError,
    too_big,
    write_frame,
    write_head,
    write_masked_frame,
)
from wsraw.gateway.websocket.heads import Head

NOT_COPIED_FROM: Final = 64 * 1024
"""Bytes from which a payload is not copied behind its head, but written separately."""

_TEXT_HEADS: Final = tuple(bytes((FINAL | TEXT, size)) for size in range(126))
_BINARY_HEADS: Final = tuple(bytes((FINAL | BINARY, size)) for size in range(126))

DataFrame = tuple[bytes, str, bool]
"""Data, type of the message (`text` or `binary`), and whether it is the message's last frame."""

_UNCOMPRESSED: Final = {"compressed text": "text", "compressed binary": "binary"}


class MessageReader:
    """Turns data frames of one peer into parts of messages, or joins them into whole messages."""

    __slots__ = (
        "_carried",
        "_codec",
        "_final",
        "_inflates",
        "_limit",
        "_size",
        "_tail",
        "_whole",
        "checked",
        "inflating",
        "under_way",
    )

    def __init__(self, settings: Settings) -> None:
        self._limit = settings.max_message_size
        self._codec: Codec | None = None
        self.under_way = ""
        """The type of the incomplete message; empty between messages."""
        self.inflating = False
        """A frame is being inflated: `take` no other before `inflate` has finished it."""
        self._inflates = False
        """The message under way is compressed."""
        self._final = False
        """Whether the frame that is being inflated is the last of its message."""
        self._size = 0
        """Bytes in the complete frames of the message under way."""
        self.checked = 0
        """Bytes of the incomplete frame that were checked; all except `_tail` are UTF-8."""
        self._tail = b""
        """The first bytes of an incomplete code point."""
        self._carried = b""
        """The bytes of an incomplete code point at the end of the last frame. They are delivered
        with the next frame."""
        self._whole: bytearray | None = bytearray() if settings.messages == "whole" else None

    def use(self, codec: Codec) -> None:
        self._codec = codec

    def take(self, data: bytes, kind: str, final: bool, received: list[DataFrame]) -> None:
        """Take a complete data frame, and append to `received` what it completes. Raises
        ViolationError."""
        self._check_order(kind)
        first = kind != "continuation"
        if first:
            self._inflates = kind in _UNCOMPRESSED
            self.under_way = kind = _UNCOMPRESSED.get(kind, kind)
        if self._inflates and self._codec is not None:
            self.inflating = True
            self._final = final
            self._codec.begin(data, first, final, self._limit - self._size)
        else:
            self._add(data, final, received)

    def check_begun(self, frames: FrameReader) -> None:
        """Check what has arrived of an incomplete frame. Raises ViolationError."""
        kind, size = frames.begun_head
        if kind in ("close", "ping", "pong"):
            return
        self._check_order(kind)
        if kind in _UNCOMPRESSED or (self._inflates and self.under_way):
            return
        self._check_size(size)
        if kind == "text" or self.under_way == "text":
            text = frames.begun(self.checked)
            self._check_text(text, False)
            self.checked += len(text)

    def _check_order(self, kind: str) -> None:
        if kind == "continuation":
            if not self.under_way:
                raise ViolationError(1002, "unexpected continuation frame")
        elif self.under_way:
            raise ViolationError(1002, "expected a continuation frame")

    def _check_size(self, size: int) -> None:
        if self._size + size > self._limit:
            raise too_big(self._limit)

    def _check_text(self, data: bytes, final: bool) -> None:
        """Check the next bytes of a text; `final`: the message ends with them."""
        tail = self._tail
        if not tail and data.isascii():
            return
        data = tail + data
        try:
            used = utf_8_decode(data, "strict", final)[1]
        except UnicodeDecodeError as error:
            at = self._size + self.checked - len(tail) + error.start
            raise ViolationError(1007, f"{error.reason} at position {at}") from error
        self._tail = data[used:]

    def _add(self, data: bytes, final: bool, received: list[DataFrame]) -> None:
        """Take the inflated data of a complete frame."""
        size = len(data)
        self._check_size(size)
        kind = self.under_way
        if kind == "text":
            self._check_text(data[self.checked :], final)
            self.checked = 0
            data = self._carried + data
            self._carried = tail = self._tail
            if tail:
                data = data[: -len(tail)]
        if final:
            self.under_way = ""
            self._size = 0
        else:
            self._size += size
        whole = self._whole
        if whole is None or (final and not whole):
            received.append((data, kind, final))
            return
        whole += data
        if final:
            received.append((bytes(whole), kind, True))
            whole.clear()

    def inflate(self, most: int, received: list[DataFrame]) -> int:
        """Inflate about `most` more bytes of the frame that is `inflating`. Returns how many there
        were. Raises ViolationError."""
        assert self._codec is not None
        try:
            size, data = self._codec.inflate(most)
        except TooBigError as error:
            raise too_big(self._limit) from error
        except zlib.error as error:
            raise ViolationError(1002, "decompression failed") from error
        if data is not None:
            self.inflating = False
            self._add(data, self._final, received)
        return size

    def clear(self) -> None:
        """Free what is kept: no more frames will be taken."""
        self.inflating = False
        self._whole = None
        if self._codec is not None:
            self._codec.forget()

    @property
    def unfinished(self) -> int:
        """Bytes of a message to be joined, or of a frame that is being inflated."""
        codec = self._codec
        return len(self._whole or b"") + (codec.unfinished if codec is not None else 0)


# --- sending ---

UNFINISHED: Final = "unfinished"
"""Stands for a reason why a frame cannot be sent: the frame is large and made in steps. Send the
same data again in a later turn."""

_BROKEN: Final = "refused"


class RefusedError(ValueError):
    """A mistake of our side: the data cannot be sent, and nothing was queued."""


class MessageWriter:
    """Makes frames of messages or their parts: checks order (RFC 6455, section 5.4) and UTF-8,
    masks and compresses."""

    __slots__ = (
        "_codec",
        "_compresses",
        "_deflation",
        "_first_byte",
        "_framing_key",
        "_masks",
        "_plain_below",
        "_tail",
        "under_way",
    )

    def __init__(self, masks: bool) -> None:
        self._masks = masks
        self._codec: Codec | None = None
        self._framing_key: FramingKey | None = None if masks else PLAIN_KEY
        self._plain_below: float = 0 if masks else math.inf
        """Messages with fewer bytes are sent plain: neither masked nor compressed."""
        self.under_way = ""
        """The type of the incomplete message; empty between messages."""
        self._tail = b""
        """The first bytes of an incomplete code point."""
        self._compresses = False
        """The message under way is compressed."""
        self._deflation: Deflation | None = None
        """The compression of the large frame that is being made."""
        self._first_byte = 0
        """The first byte of the large frame."""

    def use(self, codec: Codec) -> None:
        self._codec = codec
        if not self._masks and codec.compresses:
            self._framing_key = codec.packing
            self._plain_below = float(codec.threshold)

    def plain_frame(self, data: bytes, type_: str) -> bytes | None:
        """The frame of a whole message that needs no `check`, or the Head of a large one; else
        None."""
        if self.under_way or len(data) >= self._plain_below or self._deflation is not None:
            return None
        return write_plain_frame(data, type_)

    def check(self, data: bytes, type_: str, final: bool) -> int:
        """Return the opcode of the next data frame.

        Raises RefusedError. In the middle of a message this means that the message cannot be
        finished, and everything after it is refused: the connection must be closed.
        """
        unfinished = self.under_way
        if unfinished:
            opcode = CONTINUATION
            if type_ != unfinished:
                self.under_way = _BROKEN
                raise RefusedError(f"the {unfinished} message before it is not finished")
        elif type_ == "text":
            opcode = TEXT
        elif type_ == "binary":
            opcode = BINARY
        else:
            raise RefusedError(f"type {type_!r} is neither text nor binary")
        if type_ == "text" and not (data.isascii() and not self._tail):
            data = self._tail + data
            try:
                used = utf_8_decode(data, "strict", final)[1]
            except UnicodeDecodeError as error:
                if unfinished:
                    self.under_way = _BROKEN
                raise RefusedError(
                    f"text that is not UTF-8: {error.reason} at byte {error.start}"
                ) from error
            self._tail = data[used:]
        self.under_way = "" if final else type_
        return opcode

    def frame(self, opcode: int, data: bytes, final: bool) -> bytes | None:
        """The bytes of a data frame, in the order of the calls of `check`. None for a large frame,
        which is made in steps: `go_on`."""
        codec = self._codec
        first = opcode | FINAL if final else opcode
        if codec is not None:
            if opcode:
                self._compresses = codec.compresses and (not final or len(data) >= codec.threshold)
            if self._compresses:
                if opcode:
                    first |= COMPRESSED
                self._deflation = codec.deflation(data, opcode > 0, final)
                self._first_byte = first
                return self.go_on(data) if len(data) <= DEFLATED_AT_ONCE else None
        return self._write(first, data)

    def _write(self, first: int, data: bytes) -> bytes:
        return write_masked_frame(first, data) if self._masks else write_frame(first, data)

    def frame_at_once(self, opcode: int, data: bytes, final: bool) -> bytes:
        """The frame in one step, however large it is."""
        frame = self.frame(opcode, data, final)
        while frame is None:
            frame = self.go_on(data)
        return frame

    @property
    def is_making(self) -> bool:
        """Whether a large frame is being made: no other frame can be made until it is done."""
        return self._deflation is not None

    def go_on(self, data: bytes) -> bytes | None:
        """If the frame that is being made has this data, take the next step. Returns the frame
        after the last step, else None."""
        deflation = self._deflation
        packed = deflation.step() if deflation is not None and deflation.data is data else None
        if packed is None:
            return None
        self._deflation = None
        return self._write(self._first_byte, packed)

    @property
    def framing_key(self) -> FramingKey | None:
        """Connections with the same key can share a `frame_message`; None: it cannot be shared."""
        return None if self.under_way or self._deflation is not None else self._framing_key

    def control(self, opcode: int, data: bytes) -> bytes:
        return self._write(FINAL | opcode, data)

    def clear(self) -> None:
        self._deflation = None


def write_plain_frame(data: bytes, type_: str) -> bytes | None:
    """A server's frame of a whole message, or the Head of a large one; None if the message has to
    be checked first."""
    # On the hot path: checking the order of frames costs twice as much as this.
    if type_ == "text":
        if not data.isascii():
            return None
        heads = _TEXT_HEADS
    elif type_ == "binary":
        heads = _BINARY_HEADS
    else:
        return None
    size = len(data)
    if size < 126:
        return heads[size] + data
    if size >= NOT_COPIED_FROM:
        return Head(write_head(heads[0][0], size))
    return write_frame(heads[0][0], data)
