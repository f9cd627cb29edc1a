"""Sans-I/O. The state of a gateway as plain data: one record for each class that has some.

A record is a MessagePack array, and grows only by appended fields with a default: so a gateway
understands the records of an older one. Fields that a newer gateway has appended cannot be ignored
without loss, so its records are refused. FORMAT is raised only when an old record would be
misunderstood.

Fields are named like the attributes that they hold, without a leading underscore. A `Time` counts
seconds from the moment of freezing; None stands for 0.0 where that means never. A `WorkerRef` is
the place of a worker among those of its gateway.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, TypeAlias

import msgspec

from wsraw.config.addresses import Listen
from wsraw.link.open_options import Opening
from wsraw.link.records import Answer, Close, Command, Event, Notice, OnMessage, Query, Send

FORMAT: Final = 1

Time: TypeAlias = float | None
WorkerRef: TypeAlias = int

COMPRESSOR: Final = -1
"""The `WorkerRef` of the compressor of long messages."""
FORWARDER: Final = -2
"""The `WorkerRef` of the forwarder between spliced connections."""

HEAD: Final = -1
"""In place of the number of a shared frame: the chunk is the head of a frame."""


class FrozenError(ValueError):
    """The records of another gateway cannot be understood here, or are incomplete."""


class State(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """The base of all records."""


# --- websocket/ ---


class ReaderState(State):
    """The state of a FrameReader."""

    rest: bytes
    at: int
    needed: int
    payload_at: int
    checked: int
    more: bool
    special: bool
    error: tuple[int, str] | None


class MessagesState(State):
    """The state of a MessageReader."""

    under_way: str
    inflates: bool
    inflating: bool
    final: bool
    size: int
    checked: int
    tail: bytes
    carried: bytes
    whole: bytes | None


class WriterState(State):
    """The state of a MessageWriter."""

    under_way: str
    tail: bytes
    compresses: bool
    first_byte: int
    making: bytes | None
    """The data of the large frame that is being made; the frame is started again."""


class InflationState(State):
    """A frame that is being inflated: what was inflated, and what is still to come, inflated
    ahead."""

    done: bytes
    left: bytes
    final: bool
    limit: int
    is_broken: bool
    """The data behind `left` cannot be inflated."""


class CodecState(State):
    """Compression. Ours starts again; the data that the peer refers to is in `window`."""

    terms: tuple[int, int, bool, bool]
    window: bytes | None
    inflation: InflationState | None


class HandshakeState(State):
    """A ServerHandshake whose answer is not sent yet."""

    answer: list[tuple[str, str]]
    offered: list[str]
    repeated: dict[str, list[str]]
    terms: tuple[int, int, bool, bool] | None


class WebSocketState(State):
    """The state of a WebSocket. Parts are None where they are as at the beginning."""

    is_client: bool
    opened: bool
    ended: bool
    is_plain: bool
    close_sent: bool
    close_received: bool
    skips_data: bool
    busy: bool
    parsed: int
    hold_pongs: bool
    held_pong: bytes | None
    inf: dict[str, str] | None
    """The head of the handshake; None: the connection has it."""
    subprotocol: str | None
    error: str
    close_code: int
    close_reason: str
    output: list[bytes]
    limit: int
    """Bytes of the longest message; it holds for the message that is being received."""
    reader: ReaderState | None
    messages: MessagesState | None
    writer: WriterState | None
    codec: CodecState | None
    handshake: HandshakeState | None


# --- connection/ ---


class OutputState(State):
    """The state of an Output. `kinds` names the chunks that are not plain bytes: by their place,
    HEAD or the number of a shared frame, whose bytes are at its first place."""

    chunks: list[bytes]
    kinds: list[tuple[int, int]]
    sent: int
    headed: bool
    early: list[tuple[int, bytes, bool]] | None
    ends_with_reset: bool
    reset: bool


class IntakeState(State):
    """The state of an Intake."""

    unparsed: bytes
    has_more: bool
    parsed: int
    paused: bool
    eof: bool
    half_closed: bool


class KeepaliveState(State):
    """The state of a Keepalive."""

    deadline: float
    timeout: float
    heard: Time
    opened_at: float
    ping_sent: float
    ping_unwritten: int
    holds_pongs: bool
    ahead: int = 0
    delivered_then: int = 0


class RateState(State):
    """The state of a RateLimit: the level of each bucket, and the time at which it was so full."""

    setting: str
    owes: float
    messages: tuple[float, float] | None
    bytes: tuple[float, float] | None
    overdrawn: bool


class ClientState(State):
    """The state of a Client; `about` is None if it is that of the connection."""

    about: dict[str, Any] | None
    address: str | None
    address_key: bytes | None


class AcceptingState(State, tag="accepting"):
    """A client of unknown protocol: its bytes so far, to be parsed again."""

    listen: Listen
    client: ClientState
    seen: bytes
    proxy: bytes | None
    """The bytes so far of a PROXY header; None: no header is expected any more."""
    awaits_tls: bool
    in_tls: bool
    begun: bytes | None
    """For a connection behind a request: the bytes of it at the beginning; None: it is the
    first."""


class OverLimitState(State, tag="over limit"):
    """A client above a limit."""

    answer: bytes
    seen: bytes


class FollowingState(State):
    """What follows a request on its connection."""

    listen: Listen
    client: ClientState


class FoundState(State):
    """A pool that may answer a request."""

    pool: str
    params: dict[str, str]
    subprotocol: str


class ResponseState(State):
    """The head of a response that has begun, and how many bytes of its body were sent."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    sent: int


class ExchangeState(State):
    """The state of an Exchange: its `Progress`."""

    head: bytes
    max_body: int
    front: bytes
    body: bytes
    back: bytes
    rest: bytes
    is_complete: bool
    has_more: bool
    waits: bool
    response: ResponseState | None


class ReceivingState(State, tag="receiving"):
    """An incomplete request."""

    exchange: ExchangeState
    pools: list[FoundState]
    following: FollowingState


class AnsweringState(State, tag="answering"):
    """A request that handlers have."""

    exchange: ExchangeState
    pools: list[FoundState]
    following: FollowingState
    body: bytes
    is_begun: bool


class VerdictState(State, tag="verdict"):
    """A handshake that waits for the verdict of on_connect."""

    close_wanted: tuple[int, str, str] | None


class DialingState(State, tag="dialing"):
    """An opened connection that is not open yet: it is dialled again."""

    opening: Opening
    close_wanted: tuple[int, str, str] | None


class HalfClosedState(State, tag="half closed"):
    """A raw connection whose peer has shut its side."""

    drained: bool


class OpenState(State, tag="open"):
    """An open connection."""


class ShutState(State, tag="shut"):
    """An open raw connection whose peer was told that nothing more comes."""


class ClosingState(State, tag="closing"):
    """A WebSocket that waits for the answer to its close frame."""


class ViolatedState(State, tag="violated"):
    """A WebSocket whose peer has broken the protocol."""


class ClosedState(State, tag="closed"):
    """A connection that has ended."""


PhaseState: TypeAlias = (
    AcceptingState
    | OverLimitState
    | ReceivingState
    | AnsweringState
    | VerdictState
    | DialingState
    | HalfClosedState
    | OpenState
    | ShutState
    | ClosingState
    | ViolatedState
    | ClosedState
)


class NextState(State, tag="next"):
    """A successor that is the next request of the same peer, with the bytes of it so far."""

    following: FollowingState
    rest: bytes


class PassedState(State, tag="passed"):
    """A successor that is the same request for the next pool."""

    phase: AnsweringState
    inf: dict[str, str]
    about: dict[str, Any]
    rest: bytes


class EndingState(State):
    """The state of an Ending."""

    code: int
    reason: str
    cause: str
    limit: str
    is_told: bool
    is_answered: bool
    successor: NextState | PassedState | None
    status: int = 0


class ConnectionState(State):
    """The state of a Connection. Parts are None where they are as at the beginning."""

    id: int
    opened: bool
    pool: str
    state: str
    about: dict[str, Any]
    inf: dict[str, str]
    announced: bool
    undecided: bool
    address_key: bytes | None
    kept: int
    phase: PhaseState
    keepalive: KeepaliveState
    websocket: WebSocketState | None
    output: OutputState | None
    intake: IntakeState | None
    rate_limit: RateState | None
    ending: EndingState | None


# --- delivery/ ---


class EventState(State):
    """An event that waits or is in flight, with its account."""

    event: Event
    size: int
    since: float
    deaths: int | None
    losses: int | None
    lost: int | None
    """Its number among the events of lost links."""
    shares: int
    """1: its `inf` is that of the connection, 2: its `about` is, 3: both."""


class BurstState(State):
    """The state of a Burst."""

    until: float
    batch: tuple[int, int] | None
    allowance: int


class SpliceState(State):
    """The state of a SplicedSide."""

    other: int
    framing: str
    type: str
    begun: list[int]
    """The seqs of its events in flight; its other messages are parked."""
    waiting: list[OnMessage]
    flows: bool
    buffer: bytes
    has_passed_fin: bool


class EntryState(State):
    """The state of an Entry, with its places in the tables of the delivery."""

    pool: str
    totals: int
    """The place of its totals."""
    is_open: bool
    gone: bool
    heard: bool
    inherited: bool
    closed_by_handler: bool
    over: bool
    since: float
    received_at: Time
    sent_at: Time
    idle_since: float
    slow_at: float
    paused_since: Time
    dial_at: Time
    fragment_since: Time
    left_behind: int
    output_counted: int
    output_memory: int
    kept: int
    unfinished: int
    pauses: int
    written: int
    skipped: int
    version: int
    state: bytes
    parked: list[EventState]
    name: str | None
    burst: BurstState | None
    reopening: tuple[Opening, int] | None
    opener: WorkerRef | None
    owner: WorkerRef | None
    fragment: WorkerRef | None
    held_back: list[tuple[WorkerRef | None, Send | Close]] | None
    marks: list[tuple[int, WorkerRef, int]] | None
    couples: list[int]
    splice: SpliceState | None
    is_changed: bool
    """The sockets must look at its pauses."""
    is_unfinished: bool
    """Its last read did not complete a message."""
    unwritten: tuple[int, float] | None
    unanswered: tuple[int, float] | None


class TotalsState(State):
    """The ConnectionTotals of a kind, pool and listener."""

    kind: str
    pool: str
    listener: str
    opened: bool
    open: int
    total: int
    closed: dict[str, int]
    events: int
    notices: int
    sent: float
    received_bytes: int
    sent_bytes: int
    responses: dict[str, int] = {}


class HandlerState(State):
    """The HandlerTotals of a handler in a pool."""

    calls: int
    seconds: float
    exceptions: int
    slower: list[int]


class PoolState(State):
    """The state of a Pool: connections by their ids, in order."""

    name: str
    acked: int
    redelivered: int
    dead_letters: int
    workers: list[WorkerRef]
    isolated: list[WorkerRef]
    waiting: list[int]
    unheard: list[int]
    unheard_left: list[int]
    suspects: list[int]
    orphaned: list[int]
    is_unheard_turn: bool
    is_behind: bool
    reassigning: bool
    expected_workers: int
    killed_at: float
    closed: dict[str, int] = {}
    handlers: dict[str, HandlerState] = {}
    hears: list[str] = []
    given_back: int = 0


class BroadcastState(State):
    """The state of a Broadcast, and the members that have not got it. Frames are made again."""

    data: bytes
    kind: str
    size: int
    members: list[int]


class TableState(State):
    """The state of a Table: its members by name, each with its number."""

    members: list[tuple[str, list[tuple[int, int]]]]
    added: int


class DeliveryState(State):
    """What connections share."""

    next_id: int
    unknown_ids: int
    counts: dict[str, int]
    crowded: bool
    crowded_since: Time
    full: bool
    paused: list[int]
    groups: TableState
    users: TableState
    names: list[tuple[str, str, int]]
    aliases: list[tuple[int, int]]
    over_limit: list[int]
    compressing: list[tuple[int, WorkerRef | None, Send]]
    broadcasts: list[BroadcastState]
    work: int
    dropped: int
    turn: int
    """Index of the broadcast whose turn was last."""
    ended: list[int]
    look_at: Time


# --- link/ and sessions/ ---


class WindowState(State):
    """The state of a Window, without what is in flight."""

    limit: int
    byte_limit: int
    largest: int
    concurrency: int
    choked: bool
    next_seq: int
    acked_events: int
    service_time: float
    samples: list[float]
    round_trip: float
    last_round_trip: float
    round_trips: list[float]
    round_trip_sent_at: Time
    busy_since: Time
    last_ack: Time
    acked: int
    sample_since: Time
    was_empty: bool
    last_acked_seq: int
    grow_after: int


class PartsState(State):
    """The state of the Parts of a session."""

    kept: list[tuple[int, int, list[Command | None], int]]
    joined_by: int
    joined_size: int
    joined: list[tuple[int, int]]


class FlightState(State):
    """An event in flight, and the id of its connection."""

    con: int
    event: EventState
    left: bool


class BacklogState(State):
    """What a worker has sent that is not applied yet."""

    records: list[Command | None]
    at: int
    size: int
    batches: list[bytes]
    place: int
    """Its turn among those of all workers."""


class SessionState(State):
    """The state of a GatewayEnd."""

    state: str
    number: int
    pool: str
    instance: str
    language: str
    batches: int
    batch_acks: int
    dropped: int
    owed: int
    has_large: bool
    unsent_from: float
    parts: PartsState | None
    out: list[int | Event | Notice]
    """What is to be sent; events in flight by their seqs."""


class WorkerState(State):
    """The state of a Worker, and its session."""

    identity: bytes
    session: SessionState
    window: WindowState
    remote: tuple[str, str, list[str] | None] | None
    number: int
    since: float
    asked: bool
    starting: bool
    quota: float
    fresh_acks: bool
    slow_at: float
    unread_batch: int
    is_withdrawn: bool
    is_agent: bool
    overdue: list[int]
    hung: bool
    kill_reason: str
    ids: list[tuple[int, bytes, int]]
    in_flight: list[FlightState]
    connections: list[int]
    bound: list[int]
    is_pending: bool
    has_output: bool
    backlog: BacklogState | None
    dying: str | None
    """What was wrong with its link, if the link has ended."""
    skips: list[str] = []
    is_shielded: bool = False


class LossState(State):
    """The state of a Loss, by the instance of its worker; events by their numbers."""

    instance: str
    number: int
    until: float
    events: list[int]
    is_counted: bool


class ClusterState(State):
    """This gateway's part in a cluster: the agent, and questions to other nodes, each with its
    number, the worker that asks, and its deadline."""

    node: str
    agent: WorkerRef | None
    questions: list[tuple[int, WorkerRef, Query, Answer, float]]
    next: int
    figures: dict[str, Any]
    before: dict[str, int]
    not_sent: int
    heard_at: Time
    is_killed: bool
    absent: list[int]
    """Connections that stand in for members whose gateway is gone."""
    dropped: int


class SessionsState(State):
    """What sessions share."""

    last_session: int
    tokens: list[tuple[str, int]]
    gone_tokens: list[tuple[str, int]]
    banned: list[bytes]
    lost: list[LossState]
    orphaned: list[int]
    timers: list[tuple[str, str, float, WorkerRef | None]]
    gone: list[tuple[WorkerRef, int]]
    """Workers that have left and are still referred to, with the numbers of their sessions."""
    cluster: ClusterState | None


class FrameState(State):
    """A frame of a link that is not completely sent."""

    data: bytes
    is_batch: bool
    sent: int


class PeerState(State):
    """The state of a ZMTP peer."""

    limit: int
    is_ready: bool
    why: str
    output: bytes
    greeted: bool
    head: bytes
    part: bytes | None
    """The bytes so far of a frame of `size` bytes."""
    size: int
    is_command: bool
    longest: int
    frames: int
    skip: int
    between: bool


class LinkState(State):
    """The state of a Link; its socket comes with it."""

    identity: bytes
    pid: int
    has_spoken: bool
    left: list[bytes]
    out: list[FrameState]
    portion: int
    has_more: bool
    ended: bool
    why: str
    broken: str
    peer: PeerState


class EndpointState(State):
    """The state of an Endpoint; its connection and entry come with it."""

    eof: bool
    lingering: bool
    linger_until: float
    portion: int
    is_busy: bool
    is_queued: bool
    """It has more bytes to parse, or to read than others."""
    is_ended: bool
    """It is to be closed."""
    pumped: bool
    """Its socket leads to the gateway before this one, which has its TLS."""
    is_silent: bool = False
    """It may begin with TLS, and has received nothing."""


# --- the stream ---


class Header(State, tag="header"):
    """The first record."""

    format: int
    version: str
    """The version of wsraw, for people."""
    epoch: int


class Totals(State, tag="totals"):
    """All ConnectionTotals."""

    totals: list[TotalsState]


class Carried(State):
    """A connection with all that belongs to it."""

    con: ConnectionState
    entry: EntryState | None
    endpoint: EndpointState | None


class Connections(State, tag="connections"):
    """Some connections. Each endpoint has a socket."""

    items: list[Carried]


class Workers(State, tag="workers"):
    """Some workers. Each link has a socket."""

    items: list[tuple[WorkerState | None, LinkState | None]]


class StreamState(State):
    """A Stream, or a piece of it: further pieces have more of its messages, in order."""

    group: str
    epoch: str
    offset: int
    touched: float
    kept: list[tuple[float, bytes, str]]


class Streams(State, tag="streams"):
    """The last messages of some groups."""

    items: list[StreamState]


class Shared(State, tag="shared"):
    """The state that belongs to no single connection or worker."""

    pools: list[PoolState]
    delivery: DeliveryState
    sessions: SessionsState
    links: int
    """Links of workers so far, which their identities count."""
    accepted: int
    """Connections so far."""


class End(State, tag="end"):
    """The last record: how many connections and workers there were."""

    connections: int
    workers: int


Record: TypeAlias = Header | Totals | Connections | Workers | Streams | Shared | End

_encoder: Final = msgspec.msgpack.Encoder()


@cache
def decoder() -> msgspec.msgpack.Decoder[Record]:
    """The decoder, made only by a gateway that takes over: others do not spend 20 ms and 2 MiB on
    it."""
    return msgspec.msgpack.Decoder(Record)


def encode(record: Record | Carried) -> bytes:
    """One record as bytes."""
    return _encoder.encode(record)


def decode(data: bytes) -> Record:
    """The record in these bytes. Raises FrozenError, with the record and the place in it, for
    anything else."""
    try:
        found = decoder().decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise FrozenError(
            f"cannot read {_name_of(data)} of the running gateway: {error}"
        ) from error
    return found


def _name_of(data: bytes) -> str:
    """The name of a record that cannot be read, as it gives it."""
    try:
        name = msgspec.msgpack.decode(data, type=list[msgspec.Raw])[0]
        return f"the record {msgspec.msgpack.decode(name, type=str)[:20]!r}"
    except (msgspec.MsgspecError, UnicodeError, IndexError):
        return "a record"
