"""Sans-I/O. What a handler holds: con.send, con.close, con.state.

A `Connection` does nothing itself. It writes commands for its owner, the runtime, which knows whose
event is being handled and therefore in which outbox a command belongs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from wsraw.link.records import (
    ID_EPOCH_SHIFT,
    STATE_LIMIT,
    Accept,
    Close,
    Couple,
    Event,
    Join,
    Leave,
    Record,
    Reject,
    Send,
    decode_value,
    value_encoder,
)
from wsraw.runtime.printable import printable
from wsraw.workers import values
from wsraw.workers.handshake_info import Inf

Data: TypeAlias = str | bytes | bytearray | memoryview
Message: TypeAlias = Data | Mapping[str, Any]
"""What can be sent: `str` is text, bytes are binary; or a mapping with data, type and final."""

CLOSE_CODES: Final = frozenset((1000, 1001, 1002, 1003, *range(1007, 1015)))
"""The codes below 3000 that may stand in a close frame (RFC 6455, section 7.4.1, and its registry).
3000 to 4999 are free for libraries and applications."""

# What is unusual about a connection, as bits: the hot path asks once whether there is anything.
DEAF: Final = 1
"""A handler ended it: its further messages are acked unseen, only on_close is heard."""
ATTACHED: Final = 2
"""It came from another worker: on_attach is due before its next event."""
CLOSED: Final = 4
"""Its on_close has come."""
UNDECIDED: Final = 8
"""Its on_connect is being handled, and may say whether it comes in."""


FORKED: Final = (
    "this process was forked from a wsraw worker and cannot do this for it: "
    "give the result back to the worker's process, and do it there"
)


class _Unread:
    """Stands for a state that was not yet decoded. None is a state like any other."""


UNREAD: Final = _Unread()


class Owner(Protocol):
    """What a connection needs of the runtime."""

    @property
    def epoch(self) -> int:
        """The epoch of the gateway that we talk to; 0 before the first."""

    def command(self, record: Record, size: int = 0) -> None:
        """Put a command into the outbox of the current event, or send it at once. `size`: bytes of
        its data. Raises ValueError for more than a batch carries."""

    def reads_state(self, con: Connection) -> None:
        """Look at the state again when the current event is done. Raises LookupError."""

    def sets_state(self, con: Connection) -> None:
        """The state was set. Raises RuntimeError when that cannot be kept."""


class Response(NamedTuple):
    """What a server answered in place of the 101."""

    status: int
    """Of HTTP, as 401 or 503."""
    headers: dict[str, str]
    """As the server spelled them; those that came several times are joined."""
    body: bytes
    """Its first 64 KiB."""


class Connection:
    """One connection, accepted or opened, WebSocket or raw; equal to any other of the same id.

    Its methods may be called for connections that other workers serve, too; what is not known here
    of such a one (its `inf`, its `state`) is empty or raises.
    """

    __slots__ = (
        "__weakref__",
        "_flags",
        "_handling",
        "_held",
        "_kept",
        "_kind",
        "_opened_in",
        "_owner",
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

    def __init__(self, owner: Owner, con: int) -> None:
        self.id = con
        """An integer that no other connection ever gets; it may be stored and sent anywhere."""
        self.inf = Inf()
        """What the peer sent at the handshake, as on_connect shows it."""
        self.about: dict[str, Any] = {}
        """What the gateway knows beside that: peer, listener, target, subprotocol, params, …"""
        self.delivery = 1
        """Of the current event: above 1 when a worker died while it handled that event before."""
        self.close_code = 0
        """In on_close: the code of RFC 6455, section 7.4; 1006 when no close frame came."""
        self.close_reason = ""
        """In on_close: the text that came with the code."""
        self.close_cause = ""
        """In on_close: who or what ended the connection, in one word (docs/handlers.md)."""
        self._owner = owner
        self._flags = 0
        self._held = False
        self._kind = ""
        self._opened_in = 0
        self._kept = b""
        self._saved = b""
        self._state: Any = UNREAD
        self._waiting: deque[Event] | None = None
        self._handling: Any = None
        """What the handler that runs for it has returned, while that is awaited."""

    # --- what is known of it ---

    @property
    def kind(self) -> str:
        """`websocket` or `raw`; empty when not known here."""
        if not self._kind:
            known = self.inf.get("Protocol") or str(self.about.get("kind", ""))
            self._kind = known.partition(" ")[0]
        return self._kind

    @property
    def peer(self) -> str:
        """The address of the other end; empty when not known here."""
        return str(self.about.get("peer", ""))

    @property
    def proxy(self) -> str:
        """The address of the trusted proxy that it came through; empty without one."""
        return str(self.about.get("proxy", ""))

    @property
    def scheme(self) -> str:
        """`ws` or `wss`, `tcp` or `tls`: how the peer came to us, or to the proxy before us."""
        plain, safe = ("ws", "wss") if self.kind == "websocket" else ("tcp", "tls")
        return str(self.about.get("scheme") or (safe if self.about.get("tls") else plain))

    @property
    def listener(self) -> str:
        """The listener that accepted it, as the user wrote it; empty for an opened one."""
        return str(self.about.get("listener", ""))

    @property
    def target(self) -> str:
        """What was opened, as the handler wrote it, without `user:password@`; empty for an accepted
        connection."""
        return str(self.about.get("target", ""))

    @property
    def response(self) -> Response | None:
        """In on_error and on_close of a WebSocket that we have opened, and that the server has
        refused: its answer. None for all others."""
        value = self.about.get("response")
        if not isinstance(value, dict):
            return None
        return Response(value["status"], value["headers"], value["body"])

    @property
    def tls(self) -> dict[str, Any] | None:
        """What TLS it has: version, cipher, server_name and, where a client gave one that was
        verified, `client`, its certificate; None without TLS."""
        value = self.about.get("tls")
        return value if isinstance(value, dict) else None

    @property
    def subprotocol(self) -> str | None:
        """The WebSocket subprotocol that was agreed on, if any."""
        value = self.about.get("subprotocol")
        return None if value is None else str(value)

    @property
    def params(self) -> dict[str, str]:
        """What the names of the route's path stand for, as ``room`` of ``/rooms/{room}``; decoded,
        and whatever the client wrote. Empty without any."""
        value = self.about.get("params")
        return value if isinstance(value, dict) else {}

    @property
    def closed(self) -> bool:
        """A handler here has closed it, its on_close has come here, or its gateway is gone."""
        epoch = self._owner.epoch
        return bool(self._flags & (DEAF | CLOSED)) or (
            epoch != 0 and self.id >> ID_EPOCH_SHIFT != epoch
        )

    # --- commands ---

    def send(self, msg: Message, type: str | None = None, final: bool | None = None) -> None:
        """Send text (`str`), binary (bytes) or a mapping with `data`, `type` and `final`.

        `type` is `text` or `binary`; a raw connection sends both as bytes. ``final=False`` sends a
        fragment of a WebSocket message; the next one continues it. A connection that is closed
        already drops it in silence: that race cannot be avoided. Raises TypeError or ValueError for
        what is no message, and RuntimeError in a thread: see `wsraw.call_soon`.
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
                    pass  # Told below.
                else:
                    self._owner.command(Send(self.id, text, "text"), len(text))
                    return
        data, type, final = parse_message(msg, type, final)
        self._owner.command(Send(self.id, data, type, final), len(data))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it, after what was sent before. Of its events only on_close is heard from now on.

        Raises ValueError for a code that may not be sent (RFC 6455, section 7.4), and TypeError
        where the code is no int or the reason no str.
        """
        command = close_command(self.id, code, reason)
        self._owner.command(command, values.size(command.reason))
        self._flags |= DEAF

    def accept(
        self, subprotocol: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """Let it in, from its on_connect, with the setting ``verdict = handlers``.

        An on_connect that does not say `reject` accepts; so this is for a `subprotocol` of its own
        choice (one that the client offers; "" for none), and for `headers` of the 101. Raises
        RuntimeError where there is nothing to decide, and ValueError for what cannot be answered.
        """
        self._may_decide("accept")
        if subprotocol is not None:
            subprotocol = values.text(subprotocol, "the subprotocol")
        if subprotocol:
            values.token(subprotocol, "the subprotocol")
            if self.inf and subprotocol not in self._offered():
                raise ValueError(
                    f"subprotocol {subprotocol!r}: the client offers {self._offered() or 'none'}"
                )
        fields = values.answer_headers(headers)
        size = values.size_of_headers(fields) + len(subprotocol or "")
        self._owner.command(Accept(self.id, subprotocol, fields), size)

    def reject(
        self,
        status: int = 403,
        reason: str = "",
        headers: Mapping[str, str] | None = None,
        body: str | bytes = b"",
    ) -> None:
        """Send it away, from its on_connect, with the setting ``verdict = handlers``.

        A WebSocket client gets this HTTP answer (status 300 to 599) instead of the 101; without a
        body that is the reason. A raw client gets the body, or a reset. on_close follows, cause
        `rejected`. Raises RuntimeError where there is nothing to decide, and ValueError for what
        cannot be answered: whoever is not rejected would be let in.
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
        self._flags |= DEAF

    def _may_decide(self, what: str) -> None:
        # Of a connection that another worker serves only the gateway knows.
        if self._held and not self._flags & UNDECIDED:
            raise RuntimeError(
                f"nothing to {what}: it is for on_connect of a client that comes in, while the "
                "setting verdict is handlers; later there is close()"
            )

    def _offered(self) -> list[str]:
        offered = self.inf.get("Sec-WebSocket-Protocol", "").split(",")
        return [name.strip() for name in offered if name.strip()]

    def join(self, group: str) -> None:
        """Put it into a group: it gets what is published to that."""
        name = values.group(group)
        self._owner.command(Join(self.id, name), values.size(name))

    def leave(self, group: str) -> None:
        """Take it out of a group. A connection that closes leaves by itself."""
        name = values.group(group)
        self._owner.command(Leave(self.id, name), values.size(name))

    def couple(self, other: Connection | int) -> None:
        """Join the flow control of two connections: while one cannot write, the other is not read.

        This is the default between a connection and those opened while its event is handled.
        """
        self._owner.command(Couple(self.id, to_id(other)))

    # --- state ---

    @property
    def state(self) -> Any:
        """A value that stays with the connection wherever it is served; None at first.

        Anything that MessagePack can hold, at most 64 KiB; a connection inside it becomes its id
        (``wsraw.connection(id)`` gives it back). Set it or change it in place while handling an
        event of this connection, or in the worker that opened it; it is kept when the event is
        done. Raises LookupError when another worker serves the connection; setting raises
        RuntimeError where the value could not be kept, TypeError or ValueError when it cannot be
        encoded or is too long.
        """
        self._owner.reads_state(self)
        value = self._state
        if value is UNREAD:
            value = self._state = decode_state(self._saved)
        return value

    @state.setter
    def state(self, value: Any) -> None:
        data = encode_state(value)
        before = self._saved, self._state
        # Encoded at once, so that the error stands where the mistake is, and read back on demand,
        # so that a handler sees the same (ids, lists) whether or not the connection has moved.
        self._saved, self._state = data, UNREAD
        try:
            self._owner.sets_state(self)
        except RuntimeError:
            self._saved, self._state = before
            raise

    # --- identity ---

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, Connection) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        known = filter(None, ("Connection", str(self.id), self.kind, printable(self.peer)))
        return f"<{' '.join(known)}>"


def close_command(con: int, code: int, reason: str) -> Close:
    """What `Connection.close` commands."""
    number = values.whole(code, "the close code")
    if number not in CLOSE_CODES and not 3000 <= number <= 4999:
        raise ValueError(
            f"{values.brief(number)} is not a close code that may be sent; 1000 is a normal close"
        )
    return Close(con, number, values.text(reason, "the reason"))


def parse_message(
    msg: Message, type: str | None = None, final: bool | None = None
) -> tuple[bytes, str, bool]:
    """A message as (data, type, final). Raises TypeError or ValueError, with what is expected."""
    data: Any = msg
    if msg.__class__ is dict and len(msg) == 3 and type is None is final:
        # Nearly always what on_message was called with, as it came.
        whole: Any = msg
        try:
            data, type, final = whole["data"], whole["type"], whole["final"]
        except KeyError:
            raise _other_names(whole) from None
    elif isinstance(msg, (dict, Mapping)):  # dict first: an abstract class is slow to ask.
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
    # The exact types first: nearly all messages have them.
    if data.__class__ is bytes:
        encoded, natural = data, "binary"
    elif data.__class__ is str and data.isascii():
        encoded, natural = data.encode(), "text"
    elif isinstance(data, str):
        encoded, natural = values.binary(data, "the message"), "text"
    elif isinstance(data, (bytes, bytearray, memoryview)):
        encoded, natural = values.binary(data, "the message"), "binary"
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
    """The id of a connection that is given as such or by its id. Raises TypeError or ValueError."""
    return con.id if isinstance(con, Connection) else values.connection_id(con)


def to_ids(cons: Iterable[Connection | int]) -> list[int]:
    """The ids of many. Raises TypeError or ValueError."""
    if isinstance(cons, Connection):
        return [cons.id]
    return [to_id(con) for con in values.many(cons, "exclude must be a list of connections")]


def _substitute(value: Any) -> Any:
    """What stands in a state for an object that MessagePack does not know."""
    if isinstance(value, Connection):
        return value.id
    # Subclasses, of which msgspec takes those of list and dict alone.
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
    """The bytes of a state. Raises TypeError or ValueError for what cannot be kept."""
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
    """The state of those bytes; None when there are none."""
    return decode_value(data) if data else None
