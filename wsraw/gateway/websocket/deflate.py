"""Sans-I/O. permessage-deflate (RFC 7692): what is agreed on, and both directions of it.

The library has this extension too. This one is our own for four reasons. A window of 8 bits, which
zlib cannot make, ends no negotiation: we agree and leave our side uncompressed, as everybody may
for any message (section 6). A message that is as long as the limit is not too long. What follows a
final DEFLATE block (section 7.2.3.4) is read, not dropped. And a connection that has agreed on
contexts holds none before it uses them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from wsraw.config.settings import Settings

NAME: Final = "permessage-deflate"

Parameters = Sequence[tuple[str, str | None]]
"""Names and values, in order; a parameter without a value has None."""

Data = bytes | bytearray | memoryview

_TAIL: Final = b"\x00\x00\xff\xff"
"""What a sender takes off the end of a message, and a receiver puts back (section 7.2.1)."""

DEFLATE_OBJECT: Final = 6 * 1024
INFLATE_OBJECT: Final = 7 * 1024
"""Bytes that zlib takes beside the window and, to compress, tables as large as that again."""

STEP: Final = 16 * 1024
"""Bytes inflated of one connection in a turn, 0.05 ms of it: a megabyte, which a kilobyte can
become, would hold up everybody for 3."""

DEFLATED_AT_ONCE: Final = 32 * 1024
"""Bytes of the longest message that is compressed in one go."""

DEFLATED: Final = 12 * 1024
"""Bytes of a longer one that are compressed at a time, and in a turn: a millisecond of work."""

PIECE: Final = 4 * 1024
"""Compressed bytes given to zlib at a time: what it leaves of them it copies, at every step."""

MAX_FINAL_BLOCKS: Final = 8
"""Final blocks within a frame. Each costs a new decompressor and a copy of the rest; a peer that
must use them makes one for each message."""

_BITS: Final = {str(bits): bits for bits in range(8, 16)}
_FLAGS: Final = ("server_no_context_takeover", "client_no_context_takeover")
_WINDOWS: Final = ("server_max_window_bits", "client_max_window_bits")


class InflateError(ValueError):
    """The peer's bytes are no DEFLATE data."""


class TooBigError(ValueError):
    """Inflated, they are more than the limit."""


# --- negotiation ---


class Terms(NamedTuple):
    """What both sides have agreed on, as this side sees it."""

    send_bits: int
    """Our window. 8: we send uncompressed."""
    receive_bits: int
    send_takeover: bool
    receive_takeover: bool


class _Asked(NamedTuple):
    server_no_takeover: bool
    client_no_takeover: bool
    server_bits: int | None
    client_bits: int | None
    """15 also where a client only says that it would take a limit."""


def _read(parameters: Parameters, in_offer: bool) -> _Asked:
    """Raises ValueError for an unknown, doubled or wrong parameter (section 7)."""
    found: dict[str, int] = {}
    for name, value in parameters:
        if name in found:
            raise ValueError(f"{NAME}: {name} comes twice")
        if name in _FLAGS and value is None:
            found[name] = 1
        elif name == _WINDOWS[1] and value is None and in_offer:
            found[name] = 15
        elif name in _WINDOWS and value in _BITS:
            found[name] = _BITS[value]
        else:
            shown = name if value is None else f"{name}={value}"
            raise ValueError(f"{NAME}: {shown} is no parameter of it")
    server, client = _FLAGS
    return _Asked(server in found, client in found, found.get(_WINDOWS[0]), found.get(_WINDOWS[1]))


def answer(offer: Parameters, settings: Settings) -> tuple[list[tuple[str, str | None]], Terms]:
    """The server's answer to one offer. Raises ValueError if the offer must be declined."""
    asked = _read(offer, in_offer=True)
    takeover, bits = settings.deflate_context_takeover, settings.deflate_window_bits
    send_takeover = takeover and not asked.server_no_takeover
    receive_takeover = takeover and not asked.client_no_takeover
    send_bits = min(bits, asked.server_bits or 15)
    # Only a client that has named it can be limited (section 7.1.2.2).
    receive_bits = 15 if asked.client_bits is None else min(bits, asked.client_bits)
    said: list[tuple[str, str | None]] = []
    if not send_takeover:
        said.append((_FLAGS[0], None))
    if not receive_takeover:
        said.append((_FLAGS[1], None))
    if send_bits < 15 or asked.server_bits is not None:
        said.append((_WINDOWS[0], str(send_bits)))
    if receive_bits < 15:
        said.append((_WINDOWS[1], str(receive_bits)))
    return said, Terms(send_bits, receive_bits, send_takeover, receive_takeover)


def offers(settings: Settings) -> list[list[tuple[str, str | None]]]:
    """A client's offers, best first. The last one asks for no window of the server's, for servers
    that cannot limit theirs."""
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
    if not takeover and not said.server_no_takeover:
        raise ValueError(f"{NAME}: the answer lacks {_FLAGS[0]}")
    return Terms(
        send_bits=min(settings.deflate_window_bits, said.client_bits or 15),
        receive_bits=said.server_bits or 15,
        send_takeover=takeover and not said.client_no_takeover,
        receive_takeover=not said.server_no_takeover,
    )


# --- the bytes ---


def _memory_level(bits: int) -> int:
    """zlib's memLevel, so that its tables are as large as its window: 2 ** (bits + 3) bytes."""
    return bits - 7


def _compressor(level: int, bits: int) -> zlib._Compress:
    return zlib.compressobj(level, zlib.DEFLATED, -bits, _memory_level(bits))


class Deflation:
    """A payload that is compressed piece by piece."""

    __slots__ = ("_chunks", "_compressor", "_final", "_rest", "data")

    def __init__(self, compressor: zlib._Compress, data: bytes, final: bool) -> None:
        self.data = data
        self._compressor = compressor
        self._rest = memoryview(data)
        self._final = final
        self._chunks: list[bytes] = []

    def step(self) -> bytes | None:
        """Compress a piece; the whole payload once that was the last one."""
        self._chunks.append(self._compressor.compress(self._rest[:DEFLATED]))
        self._rest = self._rest[DEFLATED:]
        if self._rest:
            return None
        self._chunks.append(_flush(self._compressor, b"", self._final))
        return b"".join(self._chunks)


def _flush(compressor: zlib._Compress, data: bytes, final: bool) -> bytes:
    data = compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
    if not final:
        return data
    # Nothing since the last flush is an empty block all the same (section 7.2.3.6).
    return data[:-4] or b"\x00"


class Packing:
    """A way to compress messages that stand for themselves."""

    __slots__ = ("_bits", "_level", "threshold")

    def __init__(self, level: int, bits: int, threshold: int) -> None:
        self._level = level
        self._bits = bits
        self.threshold = threshold
        """Shorter messages go out as they are; without context they hardly shrink."""

    def deflation(self, data: bytes) -> Deflation:
        """A whole message, piece by piece."""
        return Deflation(_compressor(self._level, self._bits), data, True)

    def compress(self, data: bytes) -> bytes:
        """A whole message."""
        return _flush(_compressor(self._level, self._bits), data, True)


packing = cache(Packing)
"""One for each way of compressing, so that connections that share it share the object."""


class _Inflation:
    """A frame that is being inflated."""

    __slots__ = ("blocks", "chunks", "final", "inflater", "limit", "piece", "rest", "size")

    def __init__(self, inflater: zlib._Decompress, data: Data, final: bool, limit: int) -> None:
        self.inflater = inflater
        self.piece: Data = data
        self.rest: Data = b""
        """What is still to be inflated, behind `piece`."""
        if len(data) > PIECE:
            self.piece, self.rest = b"", memoryview(data)
        self.final = final
        self.limit = limit
        self.chunks: list[bytes] = []
        self.size = 0
        self.blocks = 0


class Codec:
    """One connection's compression, both ways."""

    __slots__ = (
        "_deflater",
        "_inflater",
        "_inflation",
        "_level",
        "compresses",
        "terms",
        "threshold",
    )

    def __init__(self, terms: Terms, settings: Settings) -> None:
        self.terms = terms
        self._level = settings.deflate_level
        self.threshold = settings.deflate_from
        self.compresses = terms.send_bits > 8
        """Whether we compress at all."""
        self._deflater: zlib._Compress | None = None
        self._inflater: zlib._Decompress | None = None
        self._inflation: _Inflation | None = None

    @property
    def packing(self) -> Packing | None:
        """For messages that many connections take; None where each has its own context."""
        if not self.compresses or self.terms.send_takeover:
            return None
        return packing(self._level, self.terms.send_bits, self.threshold)

    def compress(self, data: bytes, first: bool, final: bool) -> bytes:
        """The payload of our next compressed frame; `first` and `final` of its message."""
        return _flush(self._deflater_of(first, final), data, final)

    def deflation(self, data: bytes, first: bool, final: bool) -> Deflation:
        """The same piece by piece. Nothing else may be compressed before that is done."""
        return Deflation(self._deflater_of(first, final), data, final)

    def _deflater_of(self, first: bool, final: bool) -> zlib._Compress:
        deflater = self._deflater
        if deflater is None or (first and not self.terms.send_takeover):
            deflater = self._deflater = _compressor(self._level, self.terms.send_bits)
        if final and not self.terms.send_takeover:
            self._deflater = None
        return deflater

    def begin(self, data: Data, first: bool, final: bool, limit: int) -> None:
        """The peer's next compressed frame, of at most `limit` bytes when it is inflated."""
        inflater = self._inflater
        if inflater is None or (first and not self.terms.receive_takeover):
            inflater = zlib.decompressobj(-self.terms.receive_bits)
        if final:
            data = bytes(data) + _TAIL
        self._inflation = _Inflation(inflater, data, final, limit)

    def inflate(self, most: int) -> tuple[int, bytes | None]:
        """Inflate at most `most` bytes of the frame that was begun: how many it were, and all of
        the frame's data once they are complete.

        Raises TooBigError above the limit, before more than that is inflated, and InflateError.
        """
        job = self._inflation
        assert job is not None
        before = job.size
        while True:
            # One more than is allowed tells that it is too much. (0 would mean: without limit.)
            room = min(before + most, job.limit + 1) - job.size
            if room <= 0:
                return job.size - before, None
            if not job.piece:
                job.piece, job.rest = job.rest[:PIECE], job.rest[PIECE:]
            try:
                out = job.inflater.decompress(job.piece, room)
            except zlib.error as error:
                raise InflateError("decompression failed") from error
            job.size += len(out)
            if job.size > job.limit:
                raise TooBigError(job.limit)
            job.chunks.append(out)
            if job.inflater.eof:
                # Behind a final block a new stream begins; what its sender knew of the old one is
                # gone (zlib's own deflate forgets it there, too).
                job.blocks += 1
                if job.blocks > MAX_FINAL_BLOCKS:
                    raise InflateError("too many final blocks in a frame")
                job.piece = job.inflater.unused_data
                job.inflater = zlib.decompressobj(-self.terms.receive_bits)
                if not job.piece and not job.rest:
                    break
                continue
            job.piece = job.inflater.unconsumed_tail
            # With no room left it may have all of its input, and still have something to say.
            if not job.piece and not job.rest and len(out) < room:
                break
        keeps = not job.final or self.terms.receive_takeover
        self._inflater = job.inflater if keeps else None
        self._inflation = None
        return job.size - before, job.chunks[0] if len(job.chunks) == 1 else b"".join(job.chunks)

    def skip(self) -> None:
        """Nobody wants the data of the frame that was begun."""
        self._inflation = None

    @property
    def unfinished(self) -> int:
        """Bytes of a frame that is being inflated."""
        job = self._inflation
        return job.size + len(job.piece) + len(job.rest) if job is not None else 0

    @property
    def memory(self) -> int:
        """Bytes that the contexts take, as zlib's documentation has it (zconf.h)."""
        size = 0
        if self._deflater is not None:
            size += DEFLATE_OBJECT + (2 << self.terms.send_bits + 2)
        if self._inflater is not None:
            size += INFLATE_OBJECT + (1 << self.terms.receive_bits)
        return size

    def forget(self) -> None:
        """Free both contexts."""
        self._deflater = self._inflater = self._inflation = None
