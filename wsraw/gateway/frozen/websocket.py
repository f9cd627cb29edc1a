"""Sans-I/O. A WebSocket to a record and back.

Its limits and thresholds become those of the new gateway's settings; only an incomplete message
keeps the limit that it began with. Compression with a context continues: a peer accepts blocks
without references at any time, so our compressor starts again, and the data that the peer's
messages refer to can be read out (inflating.py).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Final

from wsraw.config.settings import Settings
from wsraw.gateway.frozen.copying import Plan
from wsraw.gateway.frozen.inflating import BROKEN, history, primed, stored
from wsraw.gateway.frozen.records import (
    CodecState,
    HandshakeState,
    InflationState,
    MessagesState,
    ReaderState,
    WebSocketState,
    WriterState,
)
from wsraw.gateway.websocket.deflate import Codec, Deflation, Terms, TooBigError, _Inflation
from wsraw.gateway.websocket.frames import FINAL, FrameReader, ViolationError
from wsraw.gateway.websocket.handshake import ServerHandshake
from wsraw.gateway.websocket.messages import MessageReader, MessageWriter
from wsraw.gateway.websocket.websocket import WebSocket

NOT_FLUSHED: Final = "a compressed message comes to it in fragments that were not flushed"

_STEP: Final = 64 * 1024

READER: Final = Plan(
    FrameReader,
    ReaderState,
    copied="_at needed _payload_at _checked more special",
    translated="_rest error",
    left_out={
        "_limit": "the setting max_message_size",
        "_limits": "the same",
        "_mask_bit": "WebSocket.is_client",
        "may_compress": "there is a codec",
    },
)
MESSAGES: Final = Plan(
    MessageReader,
    MessagesState,
    copied="under_way _inflates inflating _final _size checked _tail _carried",
    translated="_whole",
    left_out={"_codec": "WebSocket", "_limit": "the setting max_message_size"},
)
WRITER: Final = Plan(
    MessageWriter,
    WriterState,
    copied="under_way _tail _compresses _first_byte",
    translated="_deflation",
    left_out={
        "_codec": "WebSocket",
        "_framing_key": "the codec, and the setting deflate_from",
        "_masks": "WebSocket.is_client",
        "_plain_below": "the setting deflate_from",
    },
)
CODEC: Final = Plan(
    Codec,
    CodecState,
    translated="terms _inflater _inflation",
    left_out={
        "_deflater": "it begins anew: nothing refers to what it remembers",
        "compresses": "terms",
        "threshold": "the setting deflate_from",
    },
)
INFLATION: Final = Plan(
    _Inflation,
    InflationState,
    copied="final limit",
    translated="chunks inflater piece rest size",
    left_out={"blocks": "what is left is inflated ahead"},
)
DEFLATION: Final = Plan(
    Deflation,
    WriterState,
    translated="data",
    left_out=dict.fromkeys(
        ("_chunks", "_compressor", "_final", "_rest", "_size"), "it is begun anew"
    ),
)
HANDSHAKE: Final = Plan(
    ServerHandshake,
    HandshakeState,
    copied="_answer offered repeated",
    translated="terms",
    left_out={"inf": "WebSocket"},
)
WEBSOCKET: Final = Plan(
    WebSocket,
    WebSocketState,
    copied="is_client opened ended _is_plain _close_sent _close_received _skips_data busy parsed"
    " hold_pongs _held_pong subprotocol error close_code close_reason output",
    translated="inf reader _messages writer _codec handshake",
    left_out={"_settings": "the connection"},
)


class UnmovableError(Exception):
    """A WebSocket cannot be frozen now; the text says why."""


# --- to a record ---


def freeze_websocket(ws: WebSocket, inf: Mapping[str, str]) -> WebSocketState:
    """The record of a WebSocket. `inf`: the head that the connection has. Raises UnmovableError."""
    reader, messages, writer = ws.reader, ws._messages, ws.writer
    handshake = ws.handshake
    return WEBSOCKET.freeze(
        ws,
        inf=None if ws.inf == inf else ws.inf,
        limit=reader._limit,
        reader=_freeze_reader(reader) if _is_used(reader) else None,
        messages=_freeze_messages(messages) if _is_begun(messages) else None,
        writer=_freeze_writer(writer) if writer.under_way or writer.is_making else None,
        codec=_freeze_codec(ws._codec) if ws._codec is not None else None,
        handshake=HANDSHAKE.freeze(handshake, terms=handshake.terms)
        if isinstance(handshake, ServerHandshake)
        else None,
    )


def check_codec(ws: WebSocket) -> None:
    """Raises UnmovableError for a WebSocket that cannot be frozen now. Between messages, all
    can."""
    messages = ws._messages
    if ws._codec is not None and (messages.under_way or messages.inflating):
        _freeze_codec(ws._codec)


def _is_used(reader: FrameReader) -> bool:
    return bool(reader._rest or reader.special or reader.more or reader.error is not None)


def _is_begun(messages: MessageReader) -> bool:
    return bool(messages.under_way or messages.checked or messages._tail or messages._whole)


def _freeze_reader(reader: FrameReader) -> ReaderState:
    error = reader.error
    return READER.freeze(
        reader,
        rest=bytes(reader._rest),
        error=(error.code, error.reason) if error is not None else None,
    )


def _freeze_messages(messages: MessageReader) -> MessagesState:
    whole = messages._whole
    return MESSAGES.freeze(messages, whole=bytes(whole) if whole is not None else None)


def _freeze_writer(writer: MessageWriter) -> WriterState:
    making = writer._deflation
    return WRITER.freeze(writer, making=making.data if making is not None else None)


def _freeze_codec(codec: Codec) -> CodecState:
    inflater, inflation = codec._inflater, codec._inflation
    if inflation is not None:
        window, state = _freeze_inflation(codec, inflation)
        return CodecState(codec.terms, window, state)
    return CodecState(codec.terms, _window(codec, inflater), None)


def _window(codec: Codec, inflater: zlib._Decompress | None) -> bytes | None:
    if inflater is None:
        return None
    window = history(inflater, codec.terms.receive_bits)
    if window is None:
        raise UnmovableError(NOT_FLUSHED)
    return window


def _freeze_inflation(codec: Codec, job: _Inflation) -> tuple[bytes | None, InflationState]:
    """Inflate the rest of the frame with a copy of the decompressor. The new one gets this data as
    it is, so that it only needs the data that precedes it in the window after the frame."""
    ahead = Codec(codec.terms, Settings())
    ahead._inflation = copy = _Inflation(job.inflater.copy(), b"", job.final, job.limit)
    copy.piece, copy.rest, copy.size, copy.blocks = job.piece, job.rest, job.size, job.blocks
    window: bytes | None = b""
    is_broken = False
    left = b""
    try:
        while True:
            _, data = ahead.inflate(_STEP)
            if data is not None:
                left = data
                break
    except TooBigError:
        left = b"".join(copy.chunks)
        left += bytes(job.limit + 1 - job.size - len(left))
    except zlib.error:
        left = b"".join(copy.chunks)
        is_broken = True
    else:
        window = _window(codec, ahead._inflater)
        if window is not None and left:
            window = window[: -len(left)]
    state = INFLATION.freeze(job, done=b"".join(job.chunks), left=left, is_broken=is_broken)
    return window, state


# --- out of a record ---


def thaw_websocket(
    state: WebSocketState, settings: Settings, inf: dict[str, str], taken: list[bytes]
) -> WebSocket:
    """Restore a WebSocket. `inf`: the head that the connection has. The data of a large frame that
    is being made is appended to `taken`, because the data that is sent again must be the same
    object."""
    ws = WebSocket(settings, state.is_client)
    WEBSOCKET.thaw(state, ws)
    ws.inf = inf if state.inf is None else state.inf
    if state.codec is not None:
        codec = ws._codec = Codec(Terms(*state.codec.terms), settings)
        ws._messages.use(codec)
        ws.writer.use(codec)
        ws.reader.allow_compressed()
        _thaw_codec(state.codec, codec)
    if state.reader is not None or state.messages is not None:
        _thaw_received(ws, state, settings)
    if ws.ended or ws._skips_data:
        ws._messages._whole = None
    if state.writer is not None:
        _thaw_writer(state.writer, ws.writer, taken)
    if state.handshake is not None:
        ws.handshake = _thaw_handshake(state.handshake, ws.inf)
    return ws


def _thaw_received(ws: WebSocket, state: WebSocketState, settings: Settings) -> None:
    limit = max(settings.max_message_size, state.limit)
    if limit != settings.max_message_size:
        ws.reader = FrameReader(not state.is_client, limit)
        ws._messages._limit = limit
        if ws._codec is not None:
            ws.reader.allow_compressed()
    if state.reader is not None:
        reader = ws.reader
        READER.thaw(state.reader, reader)
        reader._rest = state.reader.rest
        if state.reader.error is not None:
            reader.error = ViolationError(*state.reader.error)
    if state.messages is not None:
        messages = ws._messages
        MESSAGES.thaw(state.messages, messages)
        whole = state.messages.whole
        messages._whole = bytearray(whole) if whole is not None else None


def _thaw_codec(state: CodecState, codec: Codec) -> None:
    bits = codec.terms.receive_bits
    job = state.inflation
    if job is None:
        codec._inflater = primed(bits, state.window) if state.window is not None else None
        return
    left = stored(job.left) + (BROKEN if job.is_broken else b"")
    codec._inflation = inflation = _Inflation(
        primed(bits, state.window or b""), left, job.final, job.limit
    )
    inflation.chunks = [job.done] if job.done else []
    inflation.size = len(job.done)


def _thaw_writer(state: WriterState, writer: MessageWriter, taken: list[bytes]) -> None:
    WRITER.thaw(state, writer)
    data, codec = state.making, writer._codec
    if data is not None and codec is not None:
        first = state.first_byte
        writer._deflation = codec.deflation(data, first & 0x0F > 0, first >= FINAL)
        taken.append(data)


def _thaw_handshake(state: HandshakeState, inf: dict[str, str]) -> ServerHandshake:
    handshake = ServerHandshake.__new__(ServerHandshake)
    HANDSHAKE.thaw(state, handshake)
    handshake.inf = inf
    handshake.terms = Terms(*state.terms) if state.terms is not None else None
    return handshake
