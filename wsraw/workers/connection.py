"""Sans-I/O. The connection object of handlers: con.send, con.close, con.state.

A `Connection` only makes commands. Its owner, the runtime, knows which event is being handled and
puts each command into the outbox of that event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import EllipsisType
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, TypedDict, overload

from wsraw.link.records import (
    ID_EPOCH_SHIFT,
    STATE_LIMIT,
    Accept,
    Close,
    CloseRef,
    Couple,
    Event,
    Join,
    Leave,
    Record,
    Reject,
    Send,
    SendRef,
    decode_value,
    value_encoder,
)
from wsraw.link.rules import framing_problem, is_close_code
from wsraw.runtime.printable import printable
from wsraw.workers import responses, values
from wsraw.workers.questions import Asked, Joined
from wsraw.workers.request import Inf, Request

Message: TypeAlias = str | bytes | bytearray | memoryview | Mapping[str, Any]
"""A message to send: `str` is text, bytes are binary; or a mapping with data, type and final."""


class TextMsg(TypedDict):
    """A text frame of a WebSocket, as on_message gets it."""

    type: Literal["text"]
    data: str
    final: bool
    """False while more frames of the same message follow."""


class BinaryMsg(TypedDict):
    """A binary frame of a WebSocket, as on_message gets it."""

    type: Literal["binary"]
    data: bytes
    final: bool
    """False while more frames of the same message follow."""


class RawMsg(TypedDict):
    """Bytes of a raw connection, as on_message gets them."""

    data: bytes


Msg: TypeAlias = TextMsg | BinaryMsg | RawMsg
"""The `msg` of on_message."""

# Unusual states of a connection, as bits, so that the hot path tests all of them at once.
CLOSING: Final = 1
"""A handler has closed it: further events except on_close are acked without a handler."""
ATTACHED: Final = 2
"""It has moved here from another worker: on_attach is called before its next event."""
CLOSED: Final = 4
"""Its on_close has come."""
UNDECIDED: Final = 8
"""Its on_connect is running and may accept or reject it."""
RESPONDED: Final = 16
"""It is a request, and has got a response."""
SPLICED: Final = 32
"""A handler has spliced it: further messages are acked without a handler."""
GIVEN_BACK: Final = 64
"""The handlers of another version serve it: its remaining events are theirs."""


FORKED: Final = (
    "this process was forked from a wsraw worker and cannot do this for it: "
    "give the result back to the worker's process, and do it there"
)


class _Unread:
    """Marks a state that is not decoded yet; None is a valid state."""


UNREAD: Final = _Unread()


class RuntimeView(Protocol):
    """The part of the runtime that a connection needs."""

    @property
    def epoch(self) -> int: ...
    @property
    def node(self) -> str: ...
    def command(self, record: Record, size: int = 0) -> None: ...
    def serves(self, con: Connection) -> bool: ...
    def reads_state(self, con: Connection) -> None: ...
    def sets_state(self, con: Connection, data: bytes) -> None: ...
    def sets_user(self, con: Connection, user: str) -> None: ...
    def drained(self, con: Connection) -> Asked[bool]: ...
    def buffered(self, con: Connection) -> Asked[int]: ...
    def splice(self, con: Connection, other_id: int, options: dict[str, Any]) -> None: ...
    def joins(self, con: Connection, group: str, since: str | None) -> Asked[Joined]: ...


class Response(NamedTuple):
    """The HTTP answer of a server that refused a WebSocket handshake."""

    status: int
    """HTTP status, such as 401 or 503."""
    headers: dict[str, str]
    """Header fields as the server spelled them; repeated ones are joined."""
    body: bytes
    """The first 64 KiB of the body."""


class Connection:
    """One connection, accepted or opened, WebSocket or raw; equal to any other of the same id.

    Its methods also work for connections that other workers serve. Of such a connection `inf` is
    empty here, and `state` raises.
    """

    __slots__ = (
        "__weakref__",
        "_flags",
        "_handling",
        "_kept",
        "_opened_in",
        "_owner",
        "_request",
        "_saved",
        "_state",
        "_waiting",
        "about",
        "close_cause",
        "close_code",
        "close_reason",
        "delivery",
        "id",
        "inf",
    )

    def __init__(self, owner: RuntimeView, con: int) -> None:
        self.id = con
        """A unique integer that is never reused; it may be stored and sent anywhere."""
        self.inf = Inf()
        """The handshake of the peer, as on_connect gets it."""
        self.about: dict[str, Any] = {}
        """More about the connection: peer, listener, target, subprotocol, params, …"""
        self.delivery = 1
        """Delivery count of the current event: above 1 if a worker died while handling it."""
        self.close_code = 0
        """In on_close: the close code (RFC 6455, section 7.4); 1006 if no close frame came."""
        self.close_reason = ""
        """In on_close: the close reason."""
        self.close_cause = ""
        """In on_close: what ended the connection, in one word (docs/handlers.md)."""
        self._owner = owner
        self._flags = 0
        self._opened_in = 0
        self._request: Request | None = None
        self._kept = b""
        self._saved = b""
        self._state: Any = UNREAD
        self._waiting: deque[Event] | None = None
        self._handling: Any = None
        """The awaitable of the running handler."""

    # --- properties ---

    @property
    def kind(self) -> str:
        """`websocket` or `raw`; empty if not known here."""
        known = self.inf.get("Protocol") or str(self.about.get("kind", ""))
        return known.partition(" ")[0]

    @property
    def request(self) -> Request | None:
        """The HTTP request of a WebSocket client, or the one to answer: method, path, query,
        headers, cookies. None for raw connections, for opened ones, and if not known here."""
        request, inf = self._request, self.inf
        if inf.get("Protocol") not in ("websocket server", "http"):
            return None
        if request is None or request.inf is not inf:
            request = self._request = Request(inf, self.about)
        return request

    @property
    def peer(self) -> str:
        """Address of the peer; empty if not known here."""
        return str(self.about.get("peer", ""))

    @property
    def proxy(self) -> str:
        """Address of the trusted proxy in front of the peer; empty without one."""
        return str(self.about.get("proxy", ""))

    @property
    def scheme(self) -> str:
        """`ws` or `wss`, `tcp` or `tls`: how the peer connected to us, or to the proxy in front."""
        plain, safe = ("ws", "wss") if self.kind == "websocket" else ("tcp", "tls")
        return str(self.about.get("scheme") or (safe if self.about.get("tls") else plain))

    @property
    def listener(self) -> str:
        """The listener that accepted it, as written in the settings; empty if it was opened."""
        return str(self.about.get("listener", ""))

    @property
    def target(self) -> str:
        """The target of an opened connection without `user:password@`; empty for accepted ones."""
        return str(self.about.get("target", ""))

    @property
    def response(self) -> Response | None:
        """The server's answer, in on_error and on_close of an opened WebSocket whose handshake was
        refused; else None."""
        value = self.about.get("response")
        if not isinstance(value, dict):
            return None
        return Response(value["status"], value["headers"], value["body"])

    @property
    def tls(self) -> dict[str, Any] | None:
        """TLS version, cipher, server_name and, if the client sent a verified certificate,
        `client`; None without TLS."""
        value = self.about.get("tls")
        return value if isinstance(value, dict) else None

    @property
    def subprotocol(self) -> str | None:
        """The negotiated WebSocket subprotocol, or None."""
        value = self.about.get("subprotocol")
        return None if value is None else str(value)

    @property
    def params(self) -> dict[str, str]:
        """Values of the route's path parameters, such as ``room`` of ``/rooms/{room}``: decoded,
        and chosen by the client. Empty without any."""
        value = self.about.get("params")
        return value if isinstance(value, dict) else {}

    @property
    def ref(self) -> str:
        """The reference of the connection in a cluster, ``node/id``: other than `id` it is unique
        among all gateways. ``wsraw.connection(ref)`` gives what can be sent to, at any of them."""
        return str(self.about.get("ref") or f"{self._owner.node}/{self.id}")

    @property
    def closed(self) -> bool:
        """Whether a handler here has closed it, its on_close was delivered here, or its gateway is
        gone."""
        epoch = self._owner.epoch
        return bool(self._flags & (CLOSING | CLOSED)) or (
            epoch != 0 and self.id >> ID_EPOCH_SHIFT != epoch
        )

    # --- commands ---

    def send(self, msg: Message, type: str | None = None, final: bool | None = None) -> None:
        """Send text (`str`), binary (bytes) or a mapping with `data`, `type` and `final`.

        `type` is `text` or `binary`; a raw connection sends both as bytes. ``final=False`` sends a
        fragment of a WebSocket message, which the next call continues. Messages to a connection
        that is closed already are dropped. Raises TypeError or ValueError for anything that is not
        a message, and RuntimeError in a thread: see `wsraw.call_soon`.
        """
        if type is None and final is None:
            kind = msg.__class__
            if kind is bytes:
                self._owner.command(Send(self.id, msg), len(msg))  # type: ignore[arg-type]
                return
            if kind is str:
                try:
                    text = msg.encode()  # type: ignore[union-attr]
                except UnicodeEncodeError:
                    pass  # parse_message raises.
                else:
                    self._owner.command(Send(self.id, text, "text"), len(text))
                    return
        data, type, final = parse_message(msg, type, final)
        self._owner.command(Send(self.id, data, type, final), len(data))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection after everything sent before. Only on_close is called after that.

        Raises ValueError for a code that may not be sent (RFC 6455, section 7.4), and TypeError
        if the code is not an int or the reason not a str.
        """
        command = close_command(self.id, code, reason)
        self._owner.command(command, values.size(command.reason))
        self._flags |= CLOSING

    def accept(
        self, subprotocol: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """Accept the client in its on_connect, with the setting ``verdict = handlers``.

        An on_connect that does not call `reject` accepts anyway. This call chooses a `subprotocol`
        (one that the client offers; "" for none) and adds `headers` to the 101. Raises RuntimeError
        if there is nothing to decide, and ValueError for an invalid subprotocol or header. If the
        client does not offer the subprotocol, it gets 500.
        """
        self._may_decide("accept")
        if subprotocol is not None:
            subprotocol = values.text(subprotocol, "the subprotocol")
        if subprotocol:
            values.token(subprotocol, "the subprotocol")
        fields = values.answer_headers(headers)
        size = values.size_of_headers(fields) + len(subprotocol or "")
        self._owner.command(Accept(self.id, subprotocol, fields), size)
        self._flags &= ~UNDECIDED

    def reject(
        self,
        status: int = 403,
        reason: str = "",
        headers: Mapping[str, str] | None = None,
        body: str | bytes = b"",
    ) -> None:
        """Reject the client in its on_connect, with the setting ``verdict = handlers``.

        A WebSocket client gets this HTTP answer (status 300 to 599) instead of the 101; the body
        is the reason by default. A raw client gets the body, or a reset without one. on_close
        follows with cause `rejected`. Raises RuntimeError if there is nothing to decide, and
        ValueError for an invalid answer.
        """
        self._may_decide("reject")
        number = values.whole(status, "the status")
        if not 300 <= number <= 599:
            raise ValueError(f"status {number}: write one from 300 to 599, as 401 or 403")
        line = values.line(reason, "the reason")
        data = values.binary(body, "the body")
        if len(data) > values.ANSWER_LIMIT:
            raise ValueError(f"a body of {len(data)} bytes; at most {values.ANSWER_LIMIT} are sent")
        fields = values.answer_headers(headers)
        size = values.size_of_headers(fields) + values.size(line) + len(data)
        self._owner.command(Reject(self.id, number, line, fields, data), size)
        self._flags = self._flags & ~UNDECIDED | CLOSING

    def respond(
        self,
        status: int = 200,
        headers: Mapping[str, str | list[str]] | None = None,
        body: str | bytes | dict[str, Any] | list[Any] = b"",
        final: bool = True,
    ) -> None:
        """Answer the request of on_request.

        `status` is from 200 to 599. A `str` is sent as UTF-8 text, a dict or list as JSON, and
        bytes as they are, unless `headers` have another Content-Type. A header that comes several
        times has a list of values. With ``final=False`` the rest of the body follows:
        ``con.send(piece, final=False)``, and at last ``con.send(piece)``. Raises RuntimeError if
        this connection is not a request or has a response, TypeError or ValueError for a response
        that cannot be sent.
        """
        if self.kind != "http" and self._owner.serves(self):
            raise RuntimeError(f"{self!r} is not an HTTP request; respond() is for on_request")
        if self._flags & RESPONDED:
            raise RuntimeError(f"{self!r} has a response already")
        record, size = responses.respond(self.id, status, headers, body, final)
        self._owner.command(record, size)
        self._flags |= RESPONDED

    def _answer(self, value: object) -> None:
        """Respond with the value that on_request has returned."""
        if self._flags & RESPONDED:
            raise RuntimeError(f"{self!r}: on_request has called respond() and returned a value")
        self._owner.command(*responses.from_value(self.id, value))
        self._flags |= RESPONDED

    def _may_decide(self, what: str) -> None:
        # If another worker serves the connection, only the gateway knows this.
        if not self._flags & UNDECIDED and self._owner.serves(self):
            raise RuntimeError(
                f"nothing to {what}: {what}() is for on_connect of a client, with the setting "
                "verdict = handlers; to end a connection that is open, use close()"
            )

    @overload
    def join(self, group: str) -> None: ...
    @overload
    def join(self, group: str, *, since: str | None) -> Asked[Joined]: ...

    def join(self, group: str, *, since: str | EllipsisType | None = ...) -> Asked[Joined] | None:
        """Add the connection to a group; it gets everything published to the group.

        With `since`, which needs the setting `history`, it is first sent what was published since
        that position: the `position` of an earlier answer, with the number of messages that have
        come since added to its offset; "" for all that is kept, None for nothing. Then this returns
        a question, as `drained` does: its answer says whether that was everything. A wait for it
        first sends the commands of the handler so far. The answer raises ValueError if the group
        has no history, and ConnectionError if the gateway is lost.
        """
        name = values.group(group)
        if isinstance(since, EllipsisType):
            self._owner.command(Join(self.id, name), values.size(name))
            return None
        return self._owner.joins(self, name, None if since is None else values.position(since))

    def leave(self, group: str) -> None:
        """Remove the connection from a group. A closed connection leaves all groups
        automatically."""
        name = values.group(group)
        self._owner.command(Leave(self.id, name), values.size(name))

    def couple(self, other: Connection | int) -> None:
        """Couple the flow control of two connections: while one cannot write, the other is not
        read.

        Connections opened in a handler are coupled with the connection of its event by default.
        """
        self._owner.command(Couple(self.id, to_id(other)))

    def splice(
        self,
        other: Connection | int,
        framing: Literal["chunk", "line", "length"] = "chunk",
        type: Literal["text", "binary"] | None = None,
    ) -> None:
        """Let the gateway forward between two connections from now on, both ways.

        on_message is not called for them any more; on_error and on_close are. Data that has come
        and was not handled yet is forwarded first. When one of them ends, the other one is closed,
        with cause `spliced`. Between a raw connection and a WebSocket, `framing` says what is a
        message in the raw bytes: whatever comes at once (chunk), up to a line feed (line), or four
        bytes with the length in front (length). `type` is that of the messages to the WebSocket:
        text for lines, else binary. If the gateway cannot splice them, because one is spliced with
        a third one, those that are not spliced are closed (1011). Raises ValueError for other
        values, for type text with chunk, and for a connection with itself or an HTTP request.
        """
        words = {"framing": framing, "type": type or ""}
        why = framing_problem(framing, type)
        if why:
            raise ValueError(why)
        self._owner.splice(self, to_id(other), {k: word for k, word in words.items() if word})

    # --- flow control ---

    def drained(self) -> Asked[bool]:
        """Wait until everything that was sent to the connection is written: ``await
        con.drained()`` in an async handler, ``con.drained().result()`` in a plain one.

        True once the system has taken it (the peer may not have it yet), False once the connection
        is closed. The commands of the handler so far are sent before, as by `wsraw.flush`. While it
        waits, `handler_timeout` does not count. Raises ConnectionError if the gateway is lost.
        """
        return self._owner.drained(self)

    def buffered(self) -> Asked[int]:
        """Ask how many bytes of output wait at the gateway for the peer; 0 if it is closed.

        ``await con.buffered()``, or ``con.buffered().result()`` in a plain handler. Raises
        ConnectionError if the gateway is lost.
        """
        return self._owner.buffered(self)

    # --- state ---

    @property
    def state(self) -> Any:
        """A value that stays with the connection, whichever worker serves it; None at first.

        It may be anything that MessagePack can encode, at most 64 KiB; a connection inside becomes
        its id (``wsraw.connection(id)`` reverses that). Set it or change it in place in a handler
        of this connection, or in the worker that opened it; it is saved when the handler returns.
        Raises LookupError if another worker serves the connection; setting raises RuntimeError
        where the value cannot be kept, and TypeError or ValueError if it cannot be encoded.
        """
        self._owner.reads_state(self)
        value = self._state
        if value is UNREAD:
            value = self._state = decode_state(self._saved)
        return value

    @state.setter
    def state(self, value: Any) -> None:
        # Encoded now, so that errors are raised at the assignment; decoded on demand, so that
        # handlers see the same value whether or not the connection has moved.
        self._owner.sets_state(self, encode_state(value))

    @property
    def user(self) -> str | None:
        """The user that handlers have bound the connection to; None at first, and if not known
        here.

        Set it in a handler of this connection, or in the worker that opened it: the connection then
        gets what is sent by `wsraw.send_to_user`. A user may have many connections. Set it to None
        to bind the connection to nobody. Raises TypeError or ValueError for anything that is not a
        name, and RuntimeError where it cannot be set.
        """
        return self.about.get("user")

    @user.setter
    def user(self, user: str | None) -> None:
        self._owner.sets_user(self, "" if user is None else values.user(user))

    # --- identity ---

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, Connection) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __dir__(self) -> list[str]:
        # For completion in an interpreter: only documented names.
        return [name for name in object.__dir__(self) if not name.startswith("_")]

    def __repr__(self) -> str:
        known = filter(None, ("Connection", str(self.id), self.kind, printable(self.peer)))
        return f"<{' '.join(known)}>"


class RemoteConnection:
    """A connection of another gateway of the cluster; equal to any other of the same reference.

    It can be sent to and closed, like any other. It is not known here whether it is still open:
    data for a closed connection, or for a gateway that is gone, is dropped.
    """

    __slots__ = ("_owner", "ref")

    def __init__(self, owner: RuntimeView, ref: str) -> None:
        self._owner = owner
        self.ref = ref
        """Its reference, ``node/id``."""

    @property
    def id(self) -> str:
        """The same as `ref`: the number alone would mean a connection of this gateway."""
        return self.ref

    def send(self, msg: Message, type: str | None = None) -> None:
        """Send a whole message; otherwise like `Connection.send`."""
        data, kind, final = parse_message(msg, type)
        if not final:
            raise ValueError("only a whole message can be sent there; this one has final=False")
        self._owner.command(SendRef(self.ref, data, kind), len(data) + len(self.ref))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection; otherwise like `Connection.close`."""
        made = close_command(0, code, reason)
        size = values.size(made.reason) + len(self.ref)
        self._owner.command(CloseRef(self.ref, made.code, made.reason), size)

    def __eq__(self, other: object) -> bool:
        return self.ref == other.ref if isinstance(other, RemoteConnection) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.ref)

    def __repr__(self) -> str:
        return f"<RemoteConnection {self.ref}>"


AnyConnection: TypeAlias = Connection | RemoteConnection


class Connections(Sequence[AnyConnection]):
    """The connections of a list of ids and references. Each object is made when it is used: of a
    large group, only a few may be used at a time."""

    def __init__(
        self, ids: Sequence[int | str], connection: Callable[[int | str], AnyConnection]
    ) -> None:
        self._ids = ids
        self._connection = connection

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> AnyConnection: ...
    @overload
    def __getitem__(self, index: slice) -> Connections: ...

    def __getitem__(self, index: int | slice) -> AnyConnection | Connections:
        if isinstance(index, slice):
            return Connections(self._ids[index], self._connection)
        return self._connection(self._ids[index])

    def __iter__(self) -> Iterator[AnyConnection]:
        return map(self._connection, self._ids)

    def __repr__(self) -> str:
        return f"<{len(self._ids)} connections>"


def close_command(con: int, code: int, reason: str) -> Close:
    """The command of `Connection.close`."""
    number = values.whole(code, "the close code")
    if not is_close_code(number):
        raise ValueError(
            f"{values.brief(number)} is not a close code that may be sent; 1000 is a normal close"
        )
    return Close(con, number, values.text(reason, "the reason"))


def parse_message(
    msg: Message, type: str | None = None, final: bool | None = None
) -> tuple[bytes, str, bool]:
    """A message as (data, type, final). Raises TypeError or ValueError."""
    data: Any = msg
    if msg.__class__ is dict and len(msg) == 3 and type is None is final:
        # The usual case: the msg of on_message, unchanged.
        whole: Any = msg
        try:
            data, type, final = whole["data"], whole["type"], whole["final"]
        except KeyError:
            raise _other_names(whole) from None
    elif isinstance(msg, (dict, Mapping)):  # dict first: checking an abstract class is slow.
        known = 0
        if "data" in msg:
            data = msg["data"]
            known = 1
        if "type" in msg:
            type = msg["type"] if type is None else type
            known += 1
        if "final" in msg:
            final = msg["final"] if final is None else final
            known += 1
        if data is msg or known != len(msg):
            raise _other_names(msg)
    # Exact types first, which nearly all messages have.
    if data.__class__ is bytes:
        encoded, natural = data, "binary"
    elif data.__class__ is str and data.isascii():
        encoded, natural = data.encode(), "text"
    elif isinstance(data, (str, bytes, bytearray, memoryview)):
        encoded = values.binary(data, "the message")
        natural = "text" if isinstance(data, str) else "binary"
    elif hasattr(data, "__await__"):
        raise TypeError("a coroutine is not a message: is an await or an async def missing?")
    else:
        raise TypeError(
            f"cannot send {values.kind_of(data)}: give str, bytes or a mapping with data"
        )
    if type == natural or type is None or type == "raw":
        kind = natural
    elif not isinstance(type, str):
        raise TypeError(f"type must be 'text' or 'binary', not {values.kind_of(type)}")
    elif type in ("text", "binary"):
        kind = str.__str__(type)
    else:
        raise ValueError(f"type {values.brief(type)} is neither 'text' nor 'binary'")
    if final is None or final is True:
        return encoded, kind, True
    return encoded, kind, values.flag(final, "final")


def _other_names(msg: Mapping[str, Any]) -> ValueError:
    names = values.brief(sorted(map(str, msg)))
    return ValueError(f"a message has data, type and final, not {names}")


def to_id(con: Connection | int) -> int:
    """The id of a connection or of an id. Raises TypeError or ValueError."""
    return con.id if isinstance(con, Connection) else values.connection_id(con)


def to_place(con: AnyConnection | int | str) -> int | str:
    """The id of a connection, or its reference. Raises TypeError or ValueError."""
    if isinstance(con, str | RemoteConnection):
        return values.reference(con if isinstance(con, str) else con.ref)
    return to_id(con)


def to_ids(cons: Connection | int | Iterable[Connection | int]) -> list[int]:
    """The ids of a connection, or of several. Raises TypeError or ValueError."""
    if isinstance(cons, Connection | int):
        return [to_id(cons)]
    what = "exclude must be a connection, or a list of connections"
    return [to_id(con) for con in values.many(cons, what)]


def _substitute(value: Any) -> Any:
    """What replaces an object in a state that MessagePack does not support."""
    if isinstance(value, Connection):
        return value.id
    # msgspec encodes subclasses of list and dict only.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes):
        return memoryview(value).tobytes()
    if isinstance(value, int):
        return int.__index__(value)
    if isinstance(value, float):
        return float.__float__(value)
    raise TypeError(f"con.state cannot hold {values.kind_of(value)}")


_encode_value = value_encoder(_substitute)


def encode_state(value: Any) -> bytes:
    """Encode a state. Raises TypeError or ValueError."""
    if value is None:
        return b""
    try:
        data = _encode_value(value)
    except RecursionError:
        raise ValueError("con.state contains itself, or is nested too deeply") from None
    except OverflowError:
        raise ValueError("con.state cannot hold an int below -2**63 or above 2**64 - 1") from None
    except UnicodeEncodeError as error:
        values.encoded(error.object, "a text in con.state")
        raise
    if len(data) > STATE_LIMIT:
        size = len(data)
        raise ValueError(f"con.state would have {size} bytes; at most {STATE_LIMIT} are kept")
    return data


def decode_state(data: bytes) -> Any:
    """Decode a state; None without bytes."""
    return decode_value(data) if data else None
