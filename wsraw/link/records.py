"""Sans-I/O. Every record that crosses a process border, as msgspec structs.

One ZeroMQ message is one frame is one MessagePack array. On the worker link it is
``[session, record, record, …]``, on the control link ``[token, record, record, …]``; the records
are applied in order. A record is an array: its tag, then its fields. It grows by appending fields
only: msgspec ignores trailing items it does not know and fills missing ones with their default.

docs/generate.py makes the tables of docs/worker-protocol.md from this file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any, Final, TypeAlias

import msgspec

PROTOCOL_VERSION: Final = 1
"""Spoken by hello and welcome; raised only when an old peer would misunderstand a new one."""

DEFAULT_POOL: Final = "default"
"""The pool of the setting `workers`."""

STATIC_POOL: Final = "static"
"""The pool of the setting `static`."""

PUSHING_POOL: Final = "push"
"""The pool of workers without handlers: in another one they would be given events."""

AGENT: Final = -1
"""The number of the agent of a cluster, among those that the supervisor gives to workers."""

ID_EPOCH_SHIFT: Final = 36
"""A connection id is ``epoch << 36 | n``; below 2**53, so that every language can hold it."""

STATE_LIMIT: Final = 64 * 1024
"""The most bytes of ``con.state`` that the gateway keeps for a connection."""

GROUP_LIMIT: Final = 1024
"""The most characters in the name of a group."""

STATS_EVERY: Final = 1
"""Seconds between two `stats` of a worker."""

HANDLERS: Final = (
    "on_connect",
    "on_message",
    "on_request",
    "on_error",
    "on_close",
    "on_join",
    "on_leave",
    "on_start",
    "on_stop",
    "every",
    "call_soon",
)
"""The handlers of which `stats` report calls."""

HANDLER_BOUNDS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
"""Upper bounds in seconds by which `stats` count the time of handlers."""


class Lean(msgspec.Struct, gc=False):
    """Facts inside a process: making one takes a quarter of the time of a usual class, and the
    module dataclasses would take a tenth of the time of a start."""


class Record(msgspec.Struct, array_like=True, tag_field="tag", gc=False):
    """The base of all records: an array on the wire, and no cycles for the garbage collector."""


# --- gateway → worker: events. They carry a seq, and are acked when their handler has returned. ---


class OnConnect(Record, tag="on_connect"):
    """Event: a connection is open, or with `verdict` waits for a decision. `inf` is what the peer
    sent, `about` what the gateway knows."""

    seq: int
    con: int
    inf: dict[str, str]
    verdict: bool = False
    delivery: int = 1
    about: dict[str, Any] = {}


class OnMessage(Record, tag="on_message"):
    """Event: data has arrived; of a WebSocket one frame. `type` is `text`, `binary` or `raw`."""

    seq: int
    con: int
    data: bytes
    type: str
    final: bool = True
    delivery: int = 1


class OnRequest(Record, tag="on_request"):
    """Event: an HTTP request, with `plain_http = handlers`. It is the only event of its connection,
    apart from on_close. `inf` and `about` as in on_connect."""

    seq: int
    con: int
    inf: dict[str, str]
    body: bytes = b""
    delivery: int = 1
    about: dict[str, Any] = {}


class OnError(Record, tag="on_error"):
    """Event: something went wrong; on_close follows. `about` is filled if no on_connect came
    before, for an opened connection that has failed."""

    seq: int
    con: int
    message: str
    delivery: int = 1
    about: dict[str, Any] = {}


class OnClose(Record, tag="on_close"):
    """Event: the last of a connection. `cause` says what ended it. `about` as in on_error."""

    seq: int
    con: int
    code: int
    reason: str
    cause: str
    delivery: int = 1
    about: dict[str, Any] = {}


class OnJoin(Record, tag="on_join"):
    """Event: the connection has joined a group that the setting `presence` names. Only for workers
    whose hello has it in `events`."""

    seq: int
    con: int
    group: str
    delivery: int = 1


class OnLeave(Record, tag="on_leave"):
    """Event: the connection has left such a group: by command, or because it has closed; then its
    on_close follows. As on_join."""

    seq: int
    con: int
    group: str
    delivery: int = 1


Event: TypeAlias = OnConnect | OnMessage | OnRequest | OnError | OnClose | OnJoin | OnLeave

PRESENCE: Final = frozenset((OnJoin, OnLeave))
"""Events that a worker gets only if it asks for them."""

# --- gateway → worker: notices. No seq, no ack; a worker ignores those it does not know. ---


class Who(Record, tag="who"):
    """Notice: say hello. Sent once to an identity that the gateway does not know."""


class Welcome(Record, tag="welcome"):
    """Notice: the session begins. `first`..`last` are the connection ids that `open` may use;
    `window` is the most events that will ever be in flight, as agreed with hello. `node` is the
    gateway's name in its cluster."""

    version: int
    session: int
    epoch: int
    first: int
    last: int
    window: int
    limits: dict[str, int] = {}
    node: str = ""


class Attach(Record, tag="attach"):
    """Notice: what you must know of a connection before its next event."""

    con: int
    inf: dict[str, str] | None
    state: bytes
    version: int
    about: dict[str, Any] = {}


class Detach(Record, tag="detach"):
    """Notice: forget that connection; it closed, or it moved to another worker."""

    con: int


class Drain(Record, tag="drain"):
    """Notice: no more events come; finish, ack, say bye. `deadline` is seconds from now."""

    deadline: float


class Refused(Record, tag="refused"):
    """Notice: record `index` (from 0) of your batch number `batch` (from 1) was left out. `ref` is
    that of the record, if it has one: what it asks is not answered."""

    batch: int
    index: int
    why: str
    ref: int = 0


class Reached(Record, tag="reached"):
    """Notice: the output that waited for `con` at your `mark` has been written; or, if `written`
    is false, the connection is closed, and some of it never will be."""

    con: int
    ref: int
    written: bool = True


class Answer(Record, tag="answer"):
    """Notice: the answer to your `query` with the same `ref`. If `next` is not 0 there is more: ask
    again, with it as `number`."""

    ref: int
    value: Any = None
    next: int = 0


class Opened(Record, tag="opened"):
    """Notice: the name in your `open` of `asked` belongs to `con`, which exists; use that."""

    asked: int
    con: int


class Hung(Record, tag="hung"):
    """Notice: the handler of `event` (its seq) of `con` takes too long. Log where it is, and cancel
    it if you can: otherwise your process, or your session, is ended soon."""

    con: int
    event: int


class Watch(Record, tag="watch"):
    """Notice, only for the agent of a cluster: the group or user of that name has connections here
    now, or, if `on` is false, has none any more. `kind` is `group` or `user`."""

    name: str
    on: bool = True
    kind: str = "group"


class Relay(Record, tag="relay"):
    """Only between a gateway and the agent of its cluster, in both directions: what another node
    must do, or what this node must do for another one. `kind` is `publish`, `user`, `send`,
    `close`, `ask` or `answer`; about who is in a group, it is `presence`, `gone` or `back`. `name`
    is a group, a user, or the reference of a connection."""

    kind: str
    name: str
    data: bytes = b""
    type: str = "binary"
    options: dict[str, Any] = {}


Notice: TypeAlias = (
    Who
    | Welcome
    | Attach
    | Detach
    | Drain
    | Refused
    | Reached
    | Answer
    | Opened
    | Hung
    | Watch
    | Relay
)

# --- worker → gateway ---


class Hello(Record, tag="hello"):
    """Answer to `who`. `held` lists the connections that this worker still holds. With `starting`,
    events come only after you have sent a batch after `welcome` (an empty one will do). `events`
    lists those that come only on request: `on_join`, `on_leave`."""

    version: int
    pool: str
    instance: str
    language: str
    token: str
    window: int
    concurrency: int
    held: list[int] = []
    starting: bool = False
    events: list[str] = []


class Ack(Record, tag="ack"):
    """The handlers of events `first`..`last` have returned; their commands come before this."""

    first: int
    last: int


class Part(Record, tag="part"):
    """The commands before it in this batch belong to event `seq`, whose ack comes in a later batch:
    they take effect with that one."""

    seq: int


class GiveBack(Record, tag="give_back"):
    """The handler of event `seq` has failed, and none of its commands was sent: another version
    must handle it, and the later events of its connection. Only with the limit `shield`."""

    seq: int


class Accept(Record, tag="accept"):
    """Before the 101: let the client in. `subprotocol` is one that the client offers, "" for none,
    nil for the gateway's choice. `headers` are added to the 101."""

    con: int
    subprotocol: str | None = None
    headers: dict[str, str] = {}


class Reject(Record, tag="reject"):
    """Before the 101: answer with this HTTP status instead, 300 to 599, and close."""

    con: int
    status: int
    reason: str = ""
    headers: dict[str, str] = {}
    body: bytes = b""


class Respond(Record, tag="respond"):
    """Answer an HTTP request. `headers` are pairs of name and value. Without `final` the rest of
    the body follows in `send`, the last of which is final. An ack without it passes the request
    on."""

    con: int
    status: int = 200
    headers: list[tuple[str, str]] = []
    body: bytes = b""
    final: bool = True
    reason: str = ""


class Send(Record, tag="send"):
    """Send data. `type` is `text` or `binary`; a raw connection takes both as bytes."""

    con: int
    data: bytes
    type: str = "binary"
    final: bool = True


class Open(Record, tag="open"):
    """Open a connection under an id of your range. Option `during`: the connection whose event is
    being handled."""

    con: int
    target: str
    protocol: str = "raw"
    url: str = "/"
    host: str = ""
    orig: str = ""
    options: dict[str, Any] = {}


class Close(Record, tag="close"):
    """Close with a code (RFC 6455, section 7.4) and a reason of at most 123 bytes."""

    con: int
    code: int = 1000
    reason: str = ""


class State(Record, tag="state"):
    """Keep these bytes for the connection; `attach` brings them to its next worker."""

    con: int
    data: bytes


class Join(Record, tag="join"):
    """Put a connection into a group. With `since`, first send it what was published to the group
    since that position. With `ref`, ask for an `answer` with the same."""

    con: int
    group: str
    since: str | None = None
    ref: int = 0


class Leave(Record, tag="leave"):
    """Take a connection out of a group."""

    con: int
    group: str


class Publish(Record, tag="publish"):
    """Send to all members of a group. Option `except`: ids that do not get it."""

    group: str
    data: bytes
    type: str = "binary"
    options: dict[str, Any] = {}


class User(Record, tag="user"):
    """Bind a connection to a user, in place of an earlier one. "": to no user."""

    con: int
    user: str


class SendToUser(Record, tag="send_to_user"):
    """Send to all connections of a user. Options as in publish."""

    user: str
    data: bytes
    type: str = "binary"
    options: dict[str, Any] = {}


class Couple(Record, tag="couple"):
    """Share flow control: while one connection's output is full, the other is not read from."""

    con: int
    other: int


class Splice(Record, tag="splice"):
    """Join two connections: the gateway forwards between them. Options: `framing`, `type`."""

    con: int
    other: int
    last: int = 0
    other_last: int = 0
    options: dict[str, Any] = {}


class Mark(Record, tag="mark"):
    """Ask for `reached` when the output that waits for this connection now has been written."""

    con: int
    ref: int


class Query(Record, tag="query"):
    """Ask the gateway for `ids`, `members`, `count`, `buffered`, `turn`, `user_connections` or
    `users`; see below."""

    ref: int
    what: str
    arg: str = ""
    number: int = 0


class Stats(Record, tag="stats"):
    """Calls of a handler since your last `stats` of it, and the seconds that they took together.
    `slower` counts those above each bound, up to the next one; see below."""

    handler: str
    calls: int
    seconds: float
    exceptions: int = 0
    slower: list[int] = []


class Bye(Record, tag="bye"):
    """The last record of a session; what is not acked by then goes to other workers."""


class SendRef(Record, tag="send_ref"):
    """Send a whole message to the connection of that reference, `node/id`, at any gateway of the
    cluster."""

    ref: str
    data: bytes
    type: str = "binary"


class CloseRef(Record, tag="close_ref"):
    """Close the connection of that reference, at any gateway of the cluster; otherwise like
    `close`."""

    ref: str
    code: int = 1000
    reason: str = ""


class Figures(Record, tag="figures"):
    """Only from the agent of a cluster, once a second: its counters, and what it is connected
    to."""

    data: dict[str, Any]


Command: TypeAlias = (
    Hello
    | Ack
    | Part
    | GiveBack
    | Accept
    | Reject
    | Respond
    | Send
    | Open
    | Close
    | State
    | Join
    | Leave
    | Publish
    | Couple
    | Splice
    | Mark
    | Query
    | User
    | SendToUser
    | Stats
    | Bye
    | SendRef
    | CloseRef
    | Relay
    | Figures
)

# --- supervisor → gateway ---


class Spawned(Record, tag="spawned"):
    """A worker process was started; its hello will carry this token."""

    n: int
    token: str
    pid: int


class Exited(Record, tag="exited"):
    """A worker process has ended; `reason` says why in words."""

    n: int
    reason: str


class DrainWorker(Record, tag="drain"):
    """Let that worker finish and leave, and give it no new events."""

    n: int
    deadline: float


class Canary(Record, tag="canary"):
    """Let these workers, and no others, serve a share of the pool's connections, from 0 to 1.
    Without workers: let them and their connections be like the others of the pool again. With
    `shield` they give back events whose handlers fail, for the other workers."""

    pool: str
    workers: list[int]
    share: float = 0.0
    shield: bool = False


class Status(Record, tag="status"):
    """Ask for a `report` with the same `ref`. `samples`: with the percentiles of service times."""

    ref: int
    samples: bool = True


class Stop(Record, tag="stop"):
    """Accept no connections, let handlers finish, close the clients with 1001, then end."""

    deadline: float


class Reload(Record, tag="reload"):
    """Read the certificates again, for new connections. The answer is `reloaded`."""


class Relink(Record, tag="relink"):
    """Make the socket file of the workers' link again, in that folder, and answer `listening`."""

    folder: str


class Check(Record, tag="check"):
    """Ask whether the gateway is alive. The answer is `alive`, or any other record."""


class Ask(Record, tag="ask"):
    """Ask about connections, or act on them, for the command line: `connections`, `kick`, …
    Answered by one `page` or more."""

    ref: int
    what: str
    options: dict[str, Any] = {}


class More(Record, tag="more"):
    """Ask for the next `page` with the same `ref`."""

    ref: int


class Enough(Record, tag="enough"):
    """Send no more pages with this `ref`: the process that asked has gone."""

    ref: int


# --- gateway → supervisor ---


class Listening(Record, tag="listening"):
    """The gateway is up: where clients connect, and where workers do."""

    addresses: list[str]
    endpoint: str
    epoch: int
    pid: int


class Ready(Record, tag="ready"):
    """Worker `n` has said hello and takes events."""

    n: int


class Left(Record, tag="left"):
    """The session of worker `n` is over: it said bye, or its death is certain. `acked` events were
    handled in it, and `unfinished` were in flight."""

    n: int
    acked: int = 0
    unfinished: int = 0


class Kill(Record, tag="kill"):
    """End that worker process; `why` is for the log. With `abort` it is asked to log its stack
    first."""

    n: int
    why: str
    abort: bool = False


class Raised(Record, tag="raised"):
    """Handlers of a canary have raised: compare it with the other workers now."""


class Recycle(Record, tag="recycle"):
    """Replace that worker without losing an event; `why` is for the log."""

    n: int
    why: str


class Report(Record, tag="report"):
    """The answer to `status`: connections, workers, accounts."""

    ref: int
    data: dict[str, Any]


class Stopped(Record, tag="stopped"):
    """The answer to `stop`: every client is gone, and every worker has acked what it had."""


class Reloaded(Record, tag="reloaded"):
    """The answer to `reload`; if `why` says what is wrong, the old certificates stay in use."""

    why: str = ""


class Upgraded(Record, tag="upgraded"):
    """This gateway has taken over what the one before it had: how many connections, how long the
    pause was, and more."""

    data: dict[str, Any]


class Kept(Record, tag="kept"):
    """The gateway continues: its successor has not taken over, and `why` says why not; "" if the
    successor has ended."""

    why: str


FromSupervisor: TypeAlias = (
    Spawned
    | Exited
    | DrainWorker
    | Status
    | Stop
    | Reload
    | Check
    | Relink
    | Ask
    | More
    | Enough
    | Canary
)


class Alive(Record, tag="alive"):
    """The answer to `check`."""


class Page(Record, tag="page"):
    """An answer to `ask`: see `done`. While there is `more`, the next one comes on request only."""

    ref: int
    ok: bool
    text: str = ""
    data: Any = None
    more: bool = False


FromGateway: TypeAlias = (
    Listening
    | Ready
    | Left
    | Kill
    | Raised
    | Recycle
    | Report
    | Stopped
    | Reloaded
    | Alive
    | Page
    | Upgraded
    | Kept
)

# --- node ↔ node of a cluster, over NATS (wsraw/cluster/) ---


class Envelope(Record, tag="wsraw1"):
    """A message of one node of a cluster to others. `instance` distinguishes one process of the
    node from the next. `seq` is its number, from 1, in the stream `stream`: the messages of that
    process on one subject; 0: it is not counted. The other fields are those of `relay`."""

    node: str
    instance: str
    kind: str
    stream: int = 0
    seq: int = 0
    name: str = ""
    data: bytes = b""
    type: str = "binary"
    options: dict[str, Any] = {}


_envelope_decoder = msgspec.msgpack.Decoder(Envelope)


def decode_envelope(data: bytes) -> Envelope:
    """The envelope in these bytes. Raises LinkError for anything else."""
    try:
        return _envelope_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise LinkError(f"not an envelope: {error}") from error


# --- command line ↔ supervisor ---


class Do(Record, tag="do"):
    """Run a command of the command line: `status`, `reload`, `scale`, … `more` asks for the next
    answer to an earlier one with the same `ref`."""

    ref: int
    what: str
    args: list[str] = []
    options: dict[str, Any] = {}


class Done(Record, tag="done"):
    """The answer to `do`: whether it worked, a text for people, data for programs. While there is
    `more`, the next one comes on request only, so that nothing fills up in between. `unanswered`:
    the request was not wrong, but the gateway has not answered it, and may have carried it out."""

    ref: int
    ok: bool
    text: str = ""
    data: Any = None
    more: bool = False
    unanswered: bool = False


# --- bytes ---


def value_encoder(substitute: Callable[[Any], Any]) -> Callable[[Any], bytes]:
    """An encoder of plain values (`con.state`); `substitute` gives what stands for another object,
    or raises TypeError."""
    return msgspec.msgpack.Encoder(enc_hook=substitute).encode


decode_value: Final[Callable[[bytes], Any]] = msgspec.msgpack.Decoder().decode
"""The value that such bytes hold. Raises ValueError."""


MOST_RECORDS: Final = 1 << 18
"""Records in one batch of a worker: a megabyte of single bytes must not become a gigabyte of
objects."""

MOST_WRONG: Final = 1000
"""Wrong records in a batch; with more, it does not count as a batch."""


class LinkError(Exception):
    """Data from the other end of a link is not a batch: it is not an array, or has no session
    number."""


_ARRAYS: Final = {0xDC: 3, 0xDD: 5} | dict.fromkeys(range(0x91, 0xA0), 1)
_INTEGERS: Final = {0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}
"""By first byte, the length of the head of an array, and the length of an integer (MessagePack)."""


def session_of(data: bytes | memoryview) -> int | None:
    """The number at the beginning of a batch, whatever follows; None if there is none. Looks only
    at the first 14 bytes, and never raises."""
    start = bytes(data[:14])
    try:
        number = start[_ARRAYS.get(start[0], len(start)) :]
        return msgspec.msgpack.decode(number[: _INTEGERS.get(number[0], 1)], type=int)
    except (msgspec.MsgspecError, IndexError):
        return None


_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
"""Encode one batch: a list of the session (or token) and its records. Raises msgspec errors only
when our own side hands in what cannot be encoded."""


class Decoder:
    """Decode batches of one direction. Raises LinkError for what is not a batch.

    The whole batch is decoded at once; msgspec then fails all of it for one wrong field, so only
    after a failure it is decoded record by record, and what is wrong is named by its index.
    """

    def __init__(self, head: type, records: Any, most: int = 1 << 32) -> None:
        self._head = head
        self._most = most + 1
        self._batch: Any = msgspec.msgpack.Decoder(list[head | records])  # type: ignore[valid-type]
        self._raws = msgspec.msgpack.Decoder(list[msgspec.Raw])
        self._one = msgspec.msgpack.Decoder(records)

    def decode(self, data: bytes | memoryview) -> tuple[Any, list[Any], list[tuple[int, str]]]:
        """Head, records, and (index, why) of each one left out; None takes its place."""
        # Only the longest encoding of an array can hold more (array 32, MessagePack).
        if data[:1] == b"\xdd" and int.from_bytes(data[1:5], "big") > self._most:
            raise LinkError(f"more than {self._most - 1} records")
        try:
            batch = self._batch.decode(data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return self._decode_one_by_one(data)
        # A head among the records, or a record as head: the slow path says which.
        if not batch or type(batch[0]) is not self._head:
            raise LinkError("a batch begins with its session")
        head: Any = batch.pop(0)
        if self._head in set(map(type, batch)):
            return self._decode_one_by_one(data)
        return head, batch, []

    def _decode_one_by_one(
        self, data: bytes | memoryview
    ) -> tuple[Any, list[Any], list[tuple[int, str]]]:
        try:
            raws = self._raws.decode(data)
            head: Any = msgspec.msgpack.decode(raws[0], type=self._head)
        except (msgspec.MsgspecError, UnicodeError, RecursionError, IndexError) as error:
            raise LinkError(f"not an array of records: {error}") from error
        records: list[Any] = []
        wrong: list[tuple[int, str]] = []
        for index, raw in enumerate(raws[1:]):
            try:
                records.append(self._one.decode(raw))
            except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                try:
                    records.append(self._one.decode(_with_binary_data(raw)))
                except (msgspec.MsgspecError, UnicodeError, RecursionError, LookupError):
                    records.append(None)
                    wrong.append((index, f"{_name_of(raw)}: {error}"))
                    if len(wrong) > MOST_WRONG:
                        raise LinkError(f"more than {MOST_WRONG} wrong records") from error
        return head, records, wrong


def tag_of(kind: type[Record]) -> str:
    """The tag of a kind of records."""
    return str(kind.__struct_config__.tag)


def asked_for(tags: Collection[str]) -> frozenset[type]:
    """The kinds in PRESENCE whose tags are among these."""
    return frozenset([kind for kind in PRESENCE if tag_of(kind) in tags])


def call_of(record: Record) -> str:
    """A command in words, for the reader of a refusal."""
    return _in_words(record.__struct_config__.tag, getattr(record, "con", None))


def _name_of(raw: msgspec.Raw) -> str:
    """The name of a record that could not be read, as far as it can be found."""
    try:
        tag, con, *_ = [*msgspec.msgpack.decode(raw, type=list[msgspec.Raw]), b""]
        name = msgspec.msgpack.decode(tag, type=str)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError):
        return "a record"
    try:
        return _in_words(name[:20], msgspec.msgpack.decode(con, type=int))
    except (msgspec.MsgspecError, UnicodeError):
        return name[:20]


def _in_words(tag: Any, con: int | None) -> str:
    return str(tag) if con is None else f"{tag} of connection {con}"


_DATA_FIELD: Final = {
    "send": 2,
    "state": 2,
    "publish": 2,
    "send_to_user": 2,
    "reject": 5,
    "respond": 4,
    "send_ref": 2,
}


def _with_binary_data(raw: msgspec.Raw) -> bytes:
    """A record with its data as MessagePack ``bin``, if it came as ``str``.

    PHP, Lua and others have one string type and write it as ``str``, whether it is UTF-8 or not;
    msgspec refuses ``str | bytes`` in one field, and invalid UTF-8 in a ``str``. Raises LookupError
    where the record has no such field.
    """
    parts: list[Any] = msgspec.msgpack.decode(raw, type=list[msgspec.Raw])
    field = _DATA_FIELD[msgspec.msgpack.decode(parts[0], type=str)]
    part = bytes(parts[field])
    first = part[0]
    # The four ways to write a str: fixstr, str 8, str 16, str 32 (MessagePack specification).
    skip = 1 if 0xA0 <= first <= 0xBF else {0xD9: 2, 0xDA: 3, 0xDB: 5}[first]
    parts[field] = part[skip:]
    return encode(parts)


@functools.cache
def worker_decoder() -> Decoder:
    """Decodes records of the gateway, for a worker. There is one, because it keeps nothing between
    batches."""
    return Decoder(int, Event | Notice)


@functools.cache
def gateway_decoder() -> Decoder:
    """Decodes records of a worker, for the gateway. There is one."""
    return Decoder(int, Command, MOST_RECORDS)
