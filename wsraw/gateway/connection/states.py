"""Sans-I/O. The states of a connection, what moves it between them, and how it ends.

::

    SNIFFING ──raw───────────────▶ OPEN ──close sent, half-closed──▶ CLOSING
        │                            ▲  │                               │
        └─upgrade─▶ CONNECTING ─stands┘ └──────────▶ CLOSED ◀───────────┘

1. An accepted connection begins in SNIFFING, one that we open in CONNECTING.
2. CONNECTING lasts until the connection can carry data: TCP for an opened raw one, the 101 for a
   WebSocket. There handlers may be asked whether a client comes in.
3. CLOSING waits for something: a WebSocket for the close frame that answers ours, a raw connection
   that the peer has half-closed for its events to be handled and for its output to be written.
4. CLOSED is entered once, from anywhere, and on_close comes with it. Output may be left; the shell
   sees to that, or cuts it off where `reset` is set.

on_connect comes first and on_close last, each at most once. An accepted connection that ends before
its on_connect gives no event at all; an opened one is known to its handler from the beginning, so
its end is always told.

Nothing that a peer does raises. A step that the table does not have is our own mistake, and does.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Any, Final, Protocol

from wsraw.config.addresses import Address
from wsraw.config.settings import Settings
from wsraw.gateway.connection.output import Output
from wsraw.gateway.counters import FAULT
from wsraw.gateway.websocket.websocket import WebSocket
from wsraw.link.records import DEFAULT_POOL, Event, OnClose, OnConnect, OnError
from wsraw.runtime.printable import without_secrets


class ConnectionState(Enum):
    """Where a connection is in its life."""

    SNIFFING = "sniffing"
    CONNECTING = "connecting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Step(Enum):
    """What moves a connection from one state to another."""

    RAW = "raw"
    UPGRADE = "upgrade"
    STANDS = "stands"
    CLOSE_SENT = "close sent"
    HALF_CLOSED = "half-closed"
    END = "end"


# The members of an Enum class cost a look-up each; these are asked for each message.
SNIFFING: Final = ConnectionState.SNIFFING
CONNECTING: Final = ConnectionState.CONNECTING
OPEN: Final = ConnectionState.OPEN
CLOSING: Final = ConnectionState.CLOSING
CLOSED: Final = ConnectionState.CLOSED

TRANSITIONS: Final[dict[tuple[ConnectionState, Step], ConnectionState]] = {
    (SNIFFING, Step.RAW): OPEN,
    (SNIFFING, Step.UPGRADE): CONNECTING,
    (SNIFFING, Step.END): CLOSED,
    (CONNECTING, Step.STANDS): OPEN,
    (CONNECTING, Step.END): CLOSED,
    (OPEN, Step.CLOSE_SENT): CLOSING,
    (OPEN, Step.HALF_CLOSED): CLOSING,
    (OPEN, Step.END): CLOSED,
    (CLOSING, Step.END): CLOSED,
}


class Beginning(Protocol):
    """What a connection does until it stands; accepting.py, verdict.py, over_limit.py and
    dialing.py.

    It is thrown away when the connection stands or ends.
    """

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Bytes of the peer."""

    def receive_eof(self, now: float) -> list[Event]:
        """The peer has shut its side."""

    def handle_timeout(self, now: float) -> list[Event]:
        """The connection's deadline has come."""

    def close(self, code: int, reason: str, cause: str, now: float) -> list[Event]:
        """We end it before it stands."""


class SocketEnd(Protocol):
    """Whoever reads and writes the socket of a connection: the `Endpoint` of gateway/sockets/, or
    what stands in for it where there is no network."""

    reading: bool


class Place(Protocol):
    """The bookkeeping of a connection: the `Entry` of gateway/delivery/."""

    gone: bool
    pauses: int


class Life:
    """What all of a connection's life shares: who it is, where it is, how it ends."""

    __slots__ = (
        "_held",
        "about",
        "address",
        "announced",
        "beginning",
        "close_cause",
        "close_code",
        "close_reason",
        "counted",
        "deadline",
        "endpoint",
        "ends_with_reset",
        "entry",
        "has_more",
        "id",
        "inf",
        "kept",
        "kind",
        "limit",
        "opened",
        "output",
        "pool",
        "reset",
        "settings",
        "state",
        "target",
        "timeout",
        "undecided",
        "websocket",
    )

    def __init__(
        self, con_id: int, settings: Settings, about: dict[str, Any], opened: bool
    ) -> None:
        super().__init__()
        self.id = con_id
        self.output = Output()
        self.settings = settings
        self.about = about
        """What we know of it: peer, proxy, scheme, listener, target, subprotocol, params."""
        self.address: Address | str | None = None
        """The client's, the one place that knows it: an IP address, `unix`, or None for one that a
        proxy hides. Known when it is accepted; `met` says what a trusted proxy knows better."""
        self.opened = opened
        self.pool = DEFAULT_POOL
        """Of an accepted one: whose workers serve it."""
        self.kind = ""
        """`raw` or `websocket`, once it is known."""
        self.inf: dict[str, str] = {}
        self.target = ""
        self.close_code = 0
        self.close_reason = ""
        self.close_cause = ""
        self.deadline = math.inf
        """When `handle_timeout` is due. Messages do not move it; it is found out of date then."""
        self.ends_with_reset = False
        """To be reset once all is written: a raw peer has no other way to hear of a fault."""
        self.reset = False
        """To be cut off at once: no more is written, and the peer gets a reset."""
        self.limit = ""
        """The setting whose bound has ended it, for the shell to count."""
        self.kept = 0
        """Bytes that it takes beside its events and its output, as the flow has counted them. Of
        one that has lost its place its output is in there."""
        self.counted: bytes | None = None
        """What it counts as for max_connections_per_address; None: not at all."""
        self.endpoint: SocketEnd | None = None
        """Whoever has its socket now."""
        self.entry: Place | None = None
        """None until the first event."""
        self.state = CONNECTING if opened else SNIFFING
        self.beginning: Beginning | None = None
        self.websocket: WebSocket | None = None
        self.announced = opened
        """A handler has heard of it, or has opened it: its end is to be told."""
        self.undecided = False
        """Its on_connect may still accept or reject it."""
        self.timeout = 0.0
        self._held = b""
        self.has_more = False
        """What has come is not all parsed, and that is not for a pause: `resume` it next turn."""

    @property
    def who(self) -> str:
        """How the log calls it."""
        peer = self.about.get("peer") or without_secrets(self.target)
        return f"connection {self.id} ({peer})" if peer else f"connection {self.id}"

    def arm(self, timeout: float, now: float) -> None:
        """Set the deadline; 0 seconds switch it off."""
        self.timeout = timeout
        self.deadline = now + timeout if timeout else math.inf

    def met(self, address: Address | None, peer: str) -> None:
        """A proxy that we trust says who the client behind it is."""
        self.address = address
        self.about.setdefault("proxy", self.about.get("peer", ""))
        self.about["peer"] = peer

    @property
    def asks(self) -> bool:
        """Whether handlers decide on it: the setting `verdict`, for those who come to us."""
        return self.settings.verdict == "handlers" and not self.opened

    def announce(self) -> list[Event]:
        """The on_connect."""
        self.announced = True
        self.undecided = self.asks
        return [OnConnect(0, self.id, self.inf, self.undecided, about=self.about)]

    def collect(self, ws: WebSocket) -> None:
        """What the WebSocket has to say is our output."""
        for chunk in ws.output:
            self.output.append(chunk)
        ws.output.clear()

    def cut(self) -> None:
        """End with a reset; nothing more is written."""
        self.reset = True
        self.output.drop()

    def end(self, code: int, reason: str, cause: str, message: str = "") -> list[Event]:
        """It is over: on_close, with an on_error before it where there is a message."""
        # Whoever gets its end without an on_connect before must learn here what it was.
        about = self.about if self.opened and self.state is CONNECTING else {}
        self.step(Step.END)
        self.deadline = math.inf
        self.close_code, self.close_reason, self.close_cause = code, reason, cause
        self.beginning = None
        self.undecided = False
        self._held = b""
        self.has_more = False
        self.output.take_early()
        if self.websocket is not None:
            self.websocket.release()
        if not self.announced:
            return []
        end: list[Event] = [OnClose(0, self.id, code, reason, cause, about=about)]
        return [OnError(0, self.id, message, about=about), *end] if message else end

    def wreck(self) -> None:
        """End without the steps of an end, as those have failed: a fault of our own."""
        self.state = CLOSED
        self.deadline = math.inf
        self.close_code, self.close_reason, self.close_cause = 1011, "", FAULT
        self.reset = True
        self.output = Output()
        self.beginning = None
        self.undecided = self.has_more = False
        self._held = b""

    def step(self, step: Step) -> None:
        """Move on. Raises RuntimeError for a step that the table does not have."""
        try:
            self.state = TRANSITIONS[self.state, step]
        except KeyError:
            raise RuntimeError(
                f"connection {self.id}: {step.value} in state {self.state.value}"
            ) from None
