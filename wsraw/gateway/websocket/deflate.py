"""Sans-I/O. permessage-deflate (RFC 7692): negotiation, compressing and inflating.

Four details differ from other implementations. A window of 8 bits, which zlib cannot make, does not
end the negotiation: we agree and send uncompressed, which is allowed for any message (section 6). A
message as long as the limit is not too long. Data behind a final DEFLATE block (section 7.2.3.4) is
read, not dropped. A connection that has agreed on contexts allocates them when it first uses them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from wsraw.config.settings import Settings

NAME: Final = "permessage-deflate"

Parameters = Sequence[tuple[str, str | None]]
"""Names and values, in order; the value is None for a parameter without one."""

Data = bytes | bytearray | memoryview

_TAIL: Final = b"\x00\x00\xff\xff"
"""A sender removes this from the end of a message, and a receiver appends it (section 7.2.1)."""

DEFLATE_OBJECT: Final = 6 * 1024
INFLATE_OBJECT: Final = 7 * 1024
"""Bytes that zlib allocates, not counting the window and, to compress, tables of the same size."""

STEP: Final = 16 * 1024
"""Bytes inflated for one connection in a turn, which takes 0.05 ms. A kilobyte can inflate to a
megabyte, which would delay all other connections by 3 ms."""

DEFLATED_AT_ONCE: Final = 32 * 1024
"""Bytes of the longest message that is compressed in one step."""

DEFLATED: Final = 12 * 1024
"""Bytes of a longer message that are compressed in a step, and in a turn: 1 ms of work."""

PIECE: Final = 4 * 1024
"""Compressed bytes given to zlib at a time, because zlib copies the unused ones at each step."""

MAX_FINAL_BLOCKS: Final = 8
"""Final blocks that a frame may have. Each costs a new decompressor and a copy of the rest; a peer
that has to use them makes one for each message."""

_BITS: Final = {str(bits): bits for bits in range(8, 16)}
_FLAGS: Final = ("server_no_context_takeover", "client_no_context_takeover")
_WINDOWS: Final = ("server_max_window_bits", "client_max_window_bits")


class TooBigError(ValueError):
    """The inflated data exceeds the limit."""


# --- negotiation ---


class Terms(NamedTuple):
    """The agreed parameters, from this side's view."""

    send_bits: int
    """Bits of our window; 8: we send uncompressed."""
    receive_bits: int
    send_takeover: bool
    receive_takeover: bool


def _read(parameters: Parameters, in_offer: bool) -> dict[str, int]:
    """The bits of each window (also 15 for a client that only says that it accepts a limit), and
    flags.

    Raises ValueError for an unknown, repeated or invalid parameter (section 7).
    """
    found: dict[str, int] = {}
    for name, value in parameters:
        if name in found:
            raise ValueError(f"{NAME}: {name} is repeated")
        if name in _FLAGS and value is None:
            found[name] = 1
        elif name == _WINDOWS[1] and value is None and in_offer:
            found[name] = 15
        elif name in _WINDOWS and value in _BITS:
            found[name] = _BITS[value]
        else:
            shown = name if value is None else f"{name}={value}"
            raise ValueError(f"{NAME}: {shown} is not a valid parameter")
    return found


def answer(offer: Parameters, settings: Settings) -> tuple[list[tuple[str, str | None]], Terms]:
    """The server's answer to one offer. Raises ValueError if the offer must be declined."""
    asked = _read(offer, in_offer=True)
    takeover, bits = settings.deflate_context_takeover, settings.deflate_window_bits
    send_takeover = takeover and _FLAGS[0] not in asked
    receive_takeover = takeover and _FLAGS[1] not in asked
    send_bits = min(bits, asked.get(_WINDOWS[0], 15))
    # Only a client that sent this parameter can be limited (section 7.1.2.2).
    receive_bits = min(bits, asked[_WINDOWS[1]]) if _WINDOWS[1] in asked else 15
    said: list[tuple[str, str | None]] = []
    if not send_takeover:
        said.append((_FLAGS[0], None))
    if not receive_takeover:
        said.append((_FLAGS[1], None))
    if send_bits < 15 or _WINDOWS[0] in asked:
        said.append((_WINDOWS[0], str(send_bits)))
    if receive_bits < 15:
        said.append((_WINDOWS[1], str(receive_bits)))
    return said, Terms(send_bits, receive_bits, send_takeover, receive_takeover)


def offers(settings: Settings) -> list[list[tuple[str, str | None]]]:
    """A client's offers, best first. The last one does not limit the server's window, for servers
    that cannot."""
    bits = str(settings.deflate_window_bits)
    flags: list[tuple[str, str | None]] = []
    if not settings.deflate_context_takeover:
        flags = [(name, None) for name in _FLAGS]
    last: list[tuple[str, str | None]] = [*flags, (_WINDOWS[1], None)]
    if settings.deflate_window_bits == 15:
        return [last]
    return [[*flags, *((name, bits) for name in _WINDOWS)], last]


def accept(answered: Parameters, settings: Settings) -> Terms:
    """The terms in a server's answer to our `offers`.

    Raises ValueError for an answer to something else: the connection must fail (section 7.1).
    """
    said = _read(answered, in_offer=False)
    takeover = settings.deflate_context_takeover
    if not takeover and _FLAGS[0] not in said:
        raise ValueError(f"{NAME}: the answer lacks {_FLAGS[0]}")
    return Terms(
        send_bits=min(settings.deflate_window_bits, said.get(_WINDOWS[1], 15)),
        receive_bits=said.get(_WINDOWS[0], 15),
        send_takeover=takeover and _FLAGS[1] not in said,
        receive_takeover=_FLAGS[0] not in said,
    )


# --- the bytes ---


def _compressor(bits: int) -> zlib._Compress:
    # With this memLevel, zlib's tables are as large as its window: 2 ** (bits + 3) bytes.
    return zlib.compressobj(wbits=-bits, memLevel=bits - 7)


class Deflation:
    """A payload that is being compressed, in steps if it is longer than DEFLATED_AT_ONCE."""

    __slots__ = ("_chunks", "_compressor", "_final", "_rest", "_size", "data")

    def __init__(self, compressor: zlib._Compress, data: bytes, final: bool) -> None:
        self.data = data
        self._compressor = compressor
        is_long = len(data) > DEFLATED_AT_ONCE
        self._rest: Data = memoryview(data) if is_long else data
        self._size = DEFLATED if is_long else DEFLATED_AT_ONCE
        self._final = final
        self._chunks: list[bytes] = []

    def step(self) -> bytes | None:
        """Compress the next piece. Returns the whole payload after the last one, else None."""
        self._chunks.append(self._compressor.compress(self._rest[: self._size]))
        self._rest = self._rest[self._size :]
        if self._rest:
            return None
        self._chunks.append(self._compressor.flush(zlib.Z_SYNC_FLUSH))
        packed = b"".join(self._chunks)
        if not self._final:
            return packed
        # No data since the last flush must still become an empty block (section 7.2.3.6).
        return packed[:-4] or b"\x00"


class Packing:
    """A way to compress messages without context."""

    __slots__ = ("_bits", "threshold")

    def __init__(self, bits: int, threshold: int) -> None:
        self._bits = bits
        self.threshold = threshold
        """Shorter messages are sent uncompressed: without context they hardly shrink."""

    def deflation(self, data: bytes) -> Deflation:
        return Deflation(_compressor(self._bits), data, True)


packing = cache(Packing)
"""One object for all connections with the same parameters."""

FramingKey = int | Packing
"""Connections with the same key get the same bytes for the same message."""

PLAIN_KEY: Final = 0
"""The framing key for uncompressed frames of a server."""


class _Inflation:
    """A frame that is being inflated."""

    __slots__ = ("blocks", "chunks", "final", "inflater", "limit", "piece", "rest", "size")

    def __init__(self, inflater: zlib._Decompress, data: Data, final: bool, limit: int) -> None:
        self.inflater = inflater
        self.piece: Data = b""
        self.rest = memoryview(data)
        """Compressed bytes behind `piece`."""
        self.final = final
        self.limit = limit
        self.chunks: list[bytes] = []
        self.size = 0
        self.blocks = 0


class Codec:
    """Compression of one connection, both directions."""

    __slots__ = ("_deflater", "_inflater", "_inflation", "compresses", "terms", "threshold")

    def __init__(self, terms: Terms, settings: Settings) -> None:
        self.terms = terms
        self.threshold = settings.deflate_from
        self.compresses = terms.send_bits > 8
        """Whether this side compresses at all."""
        self._deflater: zlib._Compress | None = None
        self._inflater: zlib._Decompress | None = None
        self._inflation: _Inflation | None = None

    @property
    def packing(self) -> Packing | None:
        """The way to compress messages that are shared with other connections; None if each
        connection has its own context."""
        if not self.compresses or self.terms.send_takeover:
            return None
        return packing(self.terms.send_bits, self.threshold)

    def deflation(self, data: bytes, first: bool, final: bool) -> Deflation:
        """Begin to compress the payload of our next compressed frame; `first` and `final` give its
        place in the message. Nothing else may be compressed before the last step."""
        deflater = self._deflater
        if deflater is None or (first and not self.terms.send_takeover):
            deflater = self._deflater = _compressor(self.terms.send_bits)
        if final and not self.terms.send_takeover:
            self._deflater = None
        return Deflation(deflater, data, final)

    def begin(self, data: Data, first: bool, final: bool, limit: int) -> None:
        """Begin to inflate the peer's next compressed frame, to at most `limit` bytes."""
        inflater = self._inflater
        if inflater is None or (first and not self.terms.receive_takeover):
            inflater = zlib.decompressobj(-self.terms.receive_bits)
        if final:
            data = bytes(data) + _TAIL
        self._inflation = _Inflation(inflater, data, final, limit)

    def inflate(self, most: int) -> tuple[int, bytes | None]:
        """Inflate at most `most` more bytes of the frame. Returns how many there were, and the
        data of the whole frame once it is complete.

        Raises TooBigError before more than the limit and one byte is inflated, and zlib.error.
        """
        job = self._inflation
        assert job is not None
        before = job.size
        while True:
            # One byte more than allowed shows that the data is too long. (0 would mean: no limit.)
            room = min(before + most, job.limit + 1) - job.size
            if room <= 0:
                return job.size - before, None
            if not job.piece:
                job.piece, job.rest = job.rest[:PIECE], job.rest[PIECE:]
            out = job.inflater.decompress(job.piece, room)
            job.size += len(out)
            if job.size > job.limit:
                raise TooBigError
            job.chunks.append(out)
            if job.inflater.eof:
                # A new stream begins behind a final block: the sender has dropped the context of
                # the old one, as zlib's own deflate does.
                job.blocks += 1
                if job.blocks > MAX_FINAL_BLOCKS:
                    raise zlib.error("too many final blocks in a frame")
                job.piece = job.inflater.unused_data
                job.inflater = zlib.decompressobj(-self.terms.receive_bits)
                if not job.piece and not job.rest:
                    break
                continue
            job.piece = job.inflater.unconsumed_tail
            # If the output has filled the room, there may be more without more input.
            if not job.piece and not job.rest and len(out) < room:
                break
        keeps = not job.final or self.terms.receive_takeover
        self._inflater = job.inflater if keeps else None
        self._inflation = None
        return job.size - before, job.chunks[0] if len(job.chunks) == 1 else b"".join(job.chunks)

    @property
    def unfinished(self) -> int:
        """Bytes kept for a frame that is being inflated."""
        job = self._inflation
        return job.size + len(job.piece) + len(job.rest) if job is not None else 0

    @property
    def memory(self) -> int:
        """Bytes allocated for the contexts, according to zlib's documentation (zconf.h)."""
        size = 0
        if self._deflater is not None:
            size += DEFLATE_OBJECT + (2 << self.terms.send_bits + 2)
        if self._inflater is not None:
            size += INFLATE_OBJECT + (1 << self.terms.receive_bits)
        return size

    def forget(self) -> None:
        """Free both contexts; a message that we send later gets a new one."""
        self._deflater = self._inflater = self._inflation = None
