"""Sans-I/O. One connection to a record and back: neither its peer nor a handler notices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from wsraw.gateway.connection.connection import _NOT_ENDED, Connection, Ending, Phase
from wsraw.gateway.connection.intake import Intake
from wsraw.gateway.connection.keepalive import Keepalive
from wsraw.gateway.connection.output import Output
from wsraw.gateway.connection.rate_limit import Bucket, RateLimit
from wsraw.gateway.connection.requests.phases import _Again
from wsraw.gateway.connection.states import ConnectionState as LifeState
from wsraw.gateway.frozen.copying import Clock, Plan
from wsraw.gateway.frozen.phases import (
    BETWEEN_POOLS,
    Place,
    freeze_phase,
    freeze_successor,
    thaw_phase,
    thaw_successor,
)
from wsraw.gateway.frozen.records import (
    HEAD,
    AcceptingState,
    ConnectionState,
    DialingState,
    EndingState,
    FrozenError,
    IntakeState,
    KeepaliveState,
    OutputState,
    OverLimitState,
    RateState,
)
from wsraw.gateway.frozen.websocket import (
    UnmovableError,
    check_codec,
    freeze_websocket,
    thaw_websocket,
)
from wsraw.gateway.websocket.heads import Head
from wsraw.gateway.websocket.shared import Framed
from wsraw.gateway.websocket.websocket import WebSocket

OUTPUT: Final = Plan(
    Output,
    OutputState,
    copied="early ends_with_reset reset",
    translated="chunks _sent _headed",
    left_out={
        "early_size": "early",
        "encrypted": "what is encrypted stays with the TLS that has encrypted it",
        "shared_size": "chunks",
        "size": "chunks",
    },
)
INTAKE: Final = Plan(Intake, IntakeState, copied="unparsed has_more parsed paused eof half_closed")
KEEPALIVE: Final = Plan(
    Keepalive,
    KeepaliveState,
    copied="timeout holds_pongs _ahead _delivered_then",
    translated="deadline heard opened_at _ping_sent ping_unwritten",
    left_out=dict.fromkeys(("delivered", "undelivered"), "asked of the kernel"),
)
BUCKET: Final = Plan(
    Bucket,
    RateState,
    translated="_at _level",
    left_out={"_capacity": "the settings of its limit", "_rate": "the settings of its limit"},
)
RATE_LIMIT: Final = Plan(
    RateLimit, RateState, copied="setting owes", translated="_bytes _messages overdrawn"
)
ENDING: Final = Plan(
    Ending,
    EndingState,
    copied="code reason cause limit is_told is_answered status",
    translated="successor",
)
CONNECTION: Final = Plan(
    Connection,
    ConnectionState,
    copied="id opened pool about inf announced undecided address_key kept",
    translated="state phase keepalive websocket output intake rate_limit ending",
    left_out={
        "endpoint": "sockets",
        "entry": "entries",
        "settings": "those of its pool, where it goes on",
    },
)

_STATES: Final = {state.value: state for state in LifeState}


class Frames:
    """Published messages in the output of several connections: each is written once."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def number(self, frame: Framed) -> tuple[int, bool]:
        """The number of a frame, and whether it was written before. While this object lives, no
        frame is freed."""
        known = self._numbers.get(id(frame))
        if known is not None:
            return known, True
        number = self._numbers[id(frame)] = len(self._numbers)
        return number, False


# --- to a record ---


def freeze_connection(con: Connection, clock: Clock, frames: Frames) -> ConnectionState:
    """The record of a connection, which is not changed. Raises UnmovableError for a connection that
    cannot be frozen now."""
    output, ending, ws = con.output, con.ending, con.websocket
    phase = freeze_phase(con)
    is_dialing = type(phase) is DialingState
    encrypted = output.encrypted
    return CONNECTION.freeze(
        con,
        state=con.state.value,
        phase=phase,
        keepalive=_freeze_keepalive(con.keepalive, encrypted, clock),
        websocket=freeze_websocket(ws, con.inf) if ws is not None and not is_dialing else None,
        output=_freeze_output(output, frames, is_dialing and ws is not None),
        intake=_freeze_intake(con.intake),
        rate_limit=_freeze_rate_limit(con.rate_limit, con.id, clock),
        ending=ENDING.freeze(ending, successor=freeze_successor(ending))
        if ending is not _NOT_ENDED
        else None,
    )


def check_connection(con: Connection) -> None:
    """Raises UnmovableError for a connection that cannot be frozen now; takes almost no time."""
    if isinstance(con.phase, _Again):
        raise UnmovableError(BETWEEN_POOLS)
    if con.websocket is not None:
        check_codec(con.websocket)


def _freeze_keepalive(keepalive: Keepalive, encrypted: int, clock: Clock) -> KeepaliveState:
    return KeepaliveState(
        clock.since(keepalive.deadline),
        keepalive.timeout,
        clock.past(keepalive.heard),
        clock.since(keepalive.opened_at),
        clock.since(keepalive._ping_sent),
        max(0, keepalive.ping_unwritten - encrypted),
        keepalive.holds_pongs,
        keepalive._ahead,
        keepalive._delivered_then,
    )


def _freeze_output(output: Output, frames: Frames, without_chunks: bool) -> OutputState | None:
    """`without_chunks`: the chunks are the request of a WebSocket that is dialled again."""
    if not (output.chunks or output.early or output.ends_with_reset or output.reset):
        return None
    if output.encrypted and not without_chunks:
        output = _behind_encrypted(output)
    chunks: list[Any] = [] if without_chunks else list(output.chunks)
    kinds: list[tuple[int, int]] = []
    for place, chunk in enumerate(chunks):
        if type(chunk) is Head:
            kinds.append((place, HEAD))
            chunks[place] = memoryview(chunk)
        elif type(chunk) is Framed:
            number, is_told = frames.number(chunk)
            kinds.append((place, number))
            # msgspec does not encode subclasses of bytes.
            chunks[place] = b"" if is_told else memoryview(chunk)
    return OUTPUT.freeze(
        output,
        chunks=chunks,
        kinds=kinds,
        sent=output._sent if chunks else 0,
        headed=bool(chunks) and output._headed,
    )


def _behind_encrypted(output: Output) -> Output:
    """What is left of the output once all encrypted bytes are written."""
    left = Output()
    left.chunks = list(output.chunks)
    left.size, left._sent, left._headed = output.size, output._sent, output._headed
    left.early, left.ends_with_reset, left.reset = (
        output.early,
        output.ends_with_reset,
        output.reset,
    )
    left.take_written(output.encrypted)
    return left


def _freeze_intake(intake: Intake) -> IntakeState | None:
    if (
        intake.unparsed
        or intake.has_more
        or intake.parsed
        or intake.paused
        or intake.eof
        or intake.half_closed
    ):
        return INTAKE.freeze(intake)
    return None


def _freeze_rate_limit(limit: RateLimit | None, con_id: int, clock: Clock) -> RateState | None:
    if limit is None:
        return None
    return RATE_LIMIT.freeze(
        limit,
        messages=_freeze_bucket(limit._messages, clock),
        bytes=_freeze_bucket(limit._bytes, clock),
        overdrawn=con_id in limit.overdrawn,
    )


def _freeze_bucket(bucket: Bucket | None, clock: Clock) -> tuple[float, float] | None:
    return (bucket._level, clock.since(bucket._at)) if bucket is not None else None


# --- out of a record ---


class Thaw:
    """Makes connections from records, all of one gateway."""

    def __init__(
        self,
        place: Place,
        clock: Clock,
        overdrawn: dict[int, None],
        share: Callable[[Framed], object] = lambda frame: None,
    ) -> None:
        """`overdrawn`: the ids of connections with a debt. `share` is called with each published
        message once."""
        self._place = place
        self._clock = clock
        self._overdrawn = overdrawn
        self._share = share
        self._frames: dict[int, Framed] = {}
        self.making: list[bytes] = []
        """The data of a large frame that the last connection was making."""

    def connection(self, state: ConnectionState) -> Connection:
        """Raises FrozenError."""
        place = self._place
        unknown = isinstance(state.phase, AcceptingState | OverLimitState)
        is_base = state.opened or unknown
        settings = place.settings if is_base else place.settings_of(state.pool)
        con = Connection(state.id, settings, state.about, Phase(), state.opened)
        CONNECTION.thaw(state, con)
        found = _STATES.get(state.state)
        if found is None:
            raise FrozenError(f"connection {state.id} is in an unknown state: {state.state}")
        con.state = found
        con.phase = thaw_phase(state.phase, con, place)
        self.making = []
        if state.websocket is not None:
            con.websocket = thaw_websocket(state.websocket, place.settings, con.inf, self.making)
        elif isinstance(state.phase, DialingState) and state.phase.opening.kind == "websocket":
            con.websocket = WebSocket.client(settings, state.phase.opening)
        self._thaw_keepalive(state.keepalive, con.keepalive)
        if state.output is not None:
            self._thaw_output(state.output, con.output)
        if state.intake is not None:
            INTAKE.thaw(state.intake, con.intake)
        if state.rate_limit is not None:
            con.rate_limit = self._thaw_rate_limit(state.rate_limit, con)
        if state.ending is not None:
            con.ending = ending = Ending()
            ENDING.thaw(state.ending, ending)
            if state.ending.successor is not None:
                ending.successor = thaw_successor(state.ending.successor, con, place)
        return con

    def _thaw_keepalive(self, state: KeepaliveState, keepalive: Keepalive) -> None:
        clock = self._clock
        keepalive.deadline = clock.at(state.deadline)
        keepalive.timeout = state.timeout
        keepalive.heard = clock.when(state.heard)
        keepalive.opened_at = clock.at(state.opened_at)
        keepalive._ping_sent = clock.at(state.ping_sent)
        keepalive.ping_unwritten = state.ping_unwritten
        keepalive.holds_pongs = state.holds_pongs
        keepalive._ahead = state.ahead
        keepalive._delivered_then = state.delivered_then

    def _thaw_output(self, state: OutputState, output: Output) -> None:
        OUTPUT.thaw(state, output)
        chunks = state.chunks
        shared = 0
        for place, kind in state.kinds:
            if kind == HEAD:
                chunks[place] = Head(chunks[place])
            else:
                chunks[place] = frame = self._frame(kind, chunks[place])
                shared += len(frame)
        output.chunks = chunks
        output._sent, output._headed = state.sent, state.headed
        output.size = sum(map(len, chunks)) - state.sent
        output.shared_size = shared
        output.early_size = sum([len(data) for _, data, _ in output.early or ()])
        if output.size < 0:
            raise FrozenError("more of an output is written than there is")

    def _frame(self, number: int, data: bytes) -> Framed:
        frame = self._frames.get(number)
        if frame is None:
            frame = self._frames[number] = Framed(data)
            self._share(frame)
        return frame

    def _thaw_rate_limit(self, state: RateState, con: Connection) -> RateLimit | None:
        settings = self._place.settings
        if not (settings.message_rate or settings.byte_rate):
            return None
        limit = RateLimit(settings, self._overdrawn, self._clock.now)
        RATE_LIMIT.thaw(state, limit)
        for bucket, known in ((limit._messages, state.messages), (limit._bytes, state.bytes)):
            if bucket is not None and known is not None:
                level, at = known
                bucket._level = min(level, bucket._capacity)
                bucket._at = self._clock.at(at)
        if state.overdrawn:
            self._overdrawn[con.id] = None
        return limit

    def forget_frames(self) -> None:
        """All connections are thawed: from now on a published message lives as long as one of them
        has it."""
        self._frames.clear()
