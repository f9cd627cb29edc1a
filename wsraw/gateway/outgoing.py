"""Sans-I/O. Data on its way to connections: fragments, groups framed once, the output's bound.

An unfinished fragmented message belongs to the session that began it; other data for that
connection waits behind it, in the connection's account, and a message that is not finished in time
ends the connection (1011). Output has a bound: past it a slow reader is closed (1008), unless what
overflows was published and the setting `overflow` allows to drop that; a message is never written
in part. Slow is who does not take what is sent, not for whom a handler queues much at once: see
`Table.is_slow`. That is judged before a message is framed or compressed.

What is large is done in shares, so that nobody waits for what others get: a message to a large
group goes to some of its members in each turn, and a large message is compressed piece by piece.
For each connection the order stays: what is sent to a member that has not had its turn comes after
what was published before (`catch_up`), and other data waits behind a message that is being made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from itertools import islice
from typing import Final

import wsraw.messages as m
from wsraw.gateway.connection import Connection
from wsraw.gateway.deflate import DEFLATED_AT_ONCE, Deflation, Packing
from wsraw.gateway.flow import Flow
from wsraw.gateway.framed import Framed
from wsraw.gateway.framing import UNFINISHED, FramingKey, frame_message, frame_packed
from wsraw.gateway.route import EVENT_COST, Route, Worker
from wsraw.link import LinkState

FRAME_HEAD: Final = 14
"""The most bytes that a WebSocket frame has beside its data (RFC 6455, section 5.2)."""

FRAGMENT_TIMEOUT: Final = 30.0
"""Seconds within which a fragmented message must be finished."""


MOST_SPREADS: Final = 16
"""Messages that are on their way to large groups. Behind that who publishes waits."""

SHARE: Final = 64
"""Members of a group that get at once what is published, and as many of the others in each turn,
less the connections that have something to write anyway."""

LEAST_SHARE: Final = 16
"""Members in a turn, however many those are."""

MOST_DELIVERED: Final = 256
"""Messages that those members get in a turn, more or less."""


class Spread:
    """A message on its way to the members of a group that have not got it yet."""

    __slots__ = ("data", "deflations", "frames", "kind", "members")

    def __init__(self, members: dict[Route, None], data: bytes, kind: str) -> None:
        self.members = members
        self.data = data
        self.kind = kind
        self.frames: dict[FramingKey, Framed] = {}
        """As it is framed for all connections of a key."""
        self.deflations: dict[FramingKey, Deflation] = {}
        """Those that are being made, where it is large."""

    def frame(self, key: FramingKey, flow: Flow) -> Framed | None:
        """It as a frame for that key; None: that is not made yet, ask again."""
        frame = self.frames.get(key)
        if frame is None:
            frame = self._make(key)
            if frame is not None:
                self.frames[key] = frame
                flow.share(frame)
        return frame

    def _make(self, key: FramingKey) -> Framed | None:
        data = self.data
        is_large = len(data) > DEFLATED_AT_ONCE
        if not is_large or not isinstance(key, Packing) or len(data) < key.threshold:
            return frame_message(key, data, self.kind)
        deflation = self.deflations.get(key)
        if deflation is None:
            deflation = self.deflations[key] = key.deflation(data)
        packed = deflation.step()
        if packed is None:
            return None
        del self.deflations[key]
        return frame_packed(packed, self.kind)


class Outgoing:
    """Sends and publishes of workers, in their order of arrival at the gateway."""

    def __init__(
        self,
        flow: Flow,
        limit: int,
        policy: str,
        dirty: dict[Connection, None],
        is_slow: Callable[[Route, Worker | None, int, float], bool],
        overflow: Callable[[Route, float], None],
        close: Callable[[Route, m.Close, float], None],
        cut_short: Callable[[Route, float], None],
        fault: Callable[[Connection, BaseException, float], None],
    ) -> None:
        self._flow = flow
        self._limit = limit
        self._policy = policy
        self._dirty = dirty
        self._is_slow = is_slow
        self._overflow = overflow
        self._close = close
        self._cut_short = cut_short
        self._fault = fault
        self.fragmented: set[Route] = set()
        self.making: dict[Route, tuple[Worker | None, m.Send]] = {}
        """Connections whose next message is large and is being compressed, in turn."""
        self._maker = Worker(b"", m.gateway_decoder(), 0.0)
        """Has what is being made as its unfinished message, so that all others wait."""
        self.spreads: deque[Spread] = deque()
        """Messages that are on their way to large groups, in order."""
        self.share = SHARE
        self.work = 0
        """What has been done for single commands, about as much as that many small ones."""
        self.dropped = 0
        """Published messages that a slow reader did not get, where the policy allows it."""

    def send(self, route: Route, worker: Worker | None, send: m.Send, now: float) -> str | None:
        """Queue one frame or chunk; returns why it is refused, if it is."""
        under_way = route.fragment is not None
        if under_way or not send.final:
            late, why = self._hold_back(route, worker, send, now)
            if late or why is not None:
                return why
        con = route.con
        route.active = True
        size = con.output_size + con.early_size + len(send.data)
        if size > self._limit and self._is_slow(route, worker, size, now):
            self._overflow(route, now)
            return None
        why = con.send(send.data, send.type, send.final, now)
        if why is not None:
            if why == UNFINISHED:
                self._begin_making(route, worker, send)
                return None
            if route.fragment is not None:
                self.forget(route)
                if under_way:
                    # What has been sent of that message cannot be taken back, nor finished.
                    self._cut_short(route, now)
            return why
        self._dirty[con] = None
        if con.shell is None or con.early_size:
            # It does not stand yet: no write will tell that its output has grown.
            self._flow.output_changed(route)
        if route.fragment is not None and send.final:
            self._finish_fragment(route, now)
        return None

    def _hold_back(
        self, route: Route, worker: Worker | None, send: m.Send, now: float
    ) -> tuple[bool, str | None]:
        """Whether a frame must wait for somebody else's fragmented message."""
        if route.con.kind == "raw":
            return False, None
        if route.fragment is None:
            if worker is not None:
                route.fragment = worker
                route.fragment_since = now
                worker.ties.add(route)
                self.fragmented.add(route)
            return False, None
        if route.fragment is worker and route not in self.making:
            return False, None
        if route.late_sends is None:
            route.late_sends = deque()
        route.late_sends.append((worker, send))
        self._flow.add(route, len(send.data) + EVENT_COST)
        if route.held > self._limit:
            size = route.held + route.con.output_size
            if route not in self.making or self._is_slow(route, worker, size, now):
                self._overflow(route, now)
        return True, None

    def hold_close(self, route: Route, worker: Worker, close: m.Close) -> bool:
        """Let a handler's close wait behind a message that is being made; False: there is none."""
        if route not in self.making:
            return False
        if route.late_sends is None:
            route.late_sends = deque()
        route.late_sends.append((worker, close))
        self._flow.add(route, EVENT_COST)
        return True

    def _begin_making(self, route: Route, worker: Worker | None, send: m.Send) -> None:
        self.making[route] = worker, send
        self._flow.hold(len(send.data))
        if route.fragment is None:
            route.fragment = self._maker

    def _go_on_making(self, now: float) -> None:
        """A step of one message; then it is another one's turn."""
        route = next(iter(self.making))
        worker, send = self.making.pop(route)
        try:
            self._make(route, worker, send, now)
        except Exception as error:
            self._fault(route.con, error, now)

    def _make(self, route: Route, worker: Worker | None, send: m.Send, now: float) -> None:
        if route.con.send(send.data, send.type, send.final, now) == UNFINISHED:
            self.making[route] = worker, send
            return
        self._flow.hold(-len(send.data))
        self._dirty[route.con] = None
        if route.con.shell is None:
            self._flow.output_changed(route)
        if send.final:
            self._finish_fragment(route, now)
        else:
            self._let_go(route, now)

    def _let_go(self, route: Route, now: float) -> None:
        """Send what has waited, in order; some of it may have to wait again."""
        late, route.late_sends = route.late_sends, None
        self._replay(route, late, now)

    def _replay(
        self, route: Route, late: deque[tuple[Worker | None, m.Send | m.Close]] | None, now: float
    ) -> None:
        for worker, record in late or ():
            if isinstance(record, m.Send):
                self._flow.remove(route, len(record.data) + EVENT_COST)
                self.send(route, worker, record, now)
                continue
            self._flow.remove(route, EVENT_COST)
            if worker is None or not self.hold_close(route, worker, record):
                self._close(route, record, now)

    def _finish_fragment(self, route: Route, now: float) -> None:
        late, route.late_sends = route.late_sends, None
        self.forget(route)
        # One of those that waited may begin a fragmented message: the rest of it follows at once,
        # and what is not of it waits again, in order.
        self._replay(route, late, now)
        if route.fragment is not None and route.fragment.state is LinkState.GONE:
            # Begun by a worker that left before its turn came; nobody will finish it.
            self.forget(route)
            self._cut_short(route, now)

    def forget(self, route: Route) -> None:
        """No message is under way any more, and nothing waits behind it."""
        worker, route.fragment = route.fragment, None
        if worker is not None and worker is not route.opener and worker is not route.owner:
            worker.ties.discard(route)
        self.fragmented.discard(route)
        if route in self.making:
            _, made = self.making.pop(route)
            self._flow.hold(-len(made.data))
        late, route.late_sends = route.late_sends, None
        for _, record in late or ():
            size = len(record.data) if isinstance(record, m.Send) else 0
            self._flow.remove(route, size + EVENT_COST)

    def _is_full(self, con: Connection, size: int) -> bool:
        return con.output_size + size > self._limit

    def unfinished(self, now: float) -> list[Route]:
        """Connections whose fragmented message has taken too long."""
        return [r for r in self.fragmented if now - r.fragment_since > FRAGMENT_TIMEOUT]

    def publish(
        self, members: Collection[Route], excluded: set[int], publish: m.Publish, now: float
    ) -> str | None:
        """Send to all of a group; framed once for all that share the way their frames are made."""
        data, kind = publish.data, publish.type
        if kind == "text":
            try:
                data.decode()
            except UnicodeDecodeError as error:
                return f"text that is not UTF-8: {error.reason} at byte {error.start}"
        if len(self.spreads) >= MOST_SPREADS:
            return UNFINISHED
        to = dict.fromkeys(members)
        for route in [route for route in to if route.id in excluded] if excluded else ():
            del to[route]
        if not to:
            return None
        self.spreads.append(Spread(to, data, kind))
        if len(self.spreads) == 1:
            self._spread(self.share, now)
        return None

    @property
    def is_behind(self) -> bool:
        """Whether `go_on` has something to do."""
        return bool(self.spreads or self.making)

    def go_on(self, now: float) -> None:
        """Once a turn: give what was published to some more members, and go on with what is being
        made."""
        if self.making:
            self._go_on_making(now)
        if self.spreads:
            self._spread(max(LEAST_SHARE, self.share - len(self._dirty)), now)

    def _spread(self, left: int, now: float) -> None:
        """Members that have their turn get all that is on its way to them: it is one write."""
        first = self.spreads[0]
        until = self.work + MOST_DELIVERED
        for route in list(islice(first.members, left)):
            for spread in self.spreads:
                if route in spread.members:
                    try:
                        if not self._deliver(route, spread, now):
                            # Now it is being made; nobody else can have it yet.
                            return
                    except Exception as error:
                        # The others get it.
                        self._fault(route.con, error, now)
                    spread.members.pop(route, None)
                    self.work += 1
            if self.work > until:
                break
        while self.spreads and not self.spreads[0].members:
            self.spreads.popleft()

    def catch_up(self, route: Route, now: float) -> None:
        """Give this member what was published before and has not reached it yet."""
        for spread in self.spreads:
            if route in spread.members:
                del spread.members[route]
                if not self._deliver(route, spread, now):
                    # It is made once more, for this one alone, and the others do not wait.
                    self.send(route, None, m.Send(route.id, spread.data, spread.kind), now)

    def _deliver(self, route: Route, spread: Spread, now: float) -> bool:
        """Queue a published message for one member; False: it is not made yet."""
        if route.gone:
            return True
        con, data, kind = route.con, spread.data, spread.kind
        key = con.framing_key
        if key is None or route.fragment is not None:
            if self._policy == "drop-newest" and self._is_full(con, len(data) + FRAME_HEAD):
                self.dropped += 1
            else:
                self.send(route, None, m.Send(route.id, data, kind), now)
            return True
        frame = spread.frame(key, self._flow)
        if frame is None:
            return False
        if self._policy == "drop-newest" and self._is_full(con, len(frame)):
            self.dropped += 1
            return True
        con.send_framed(frame)
        route.active = True
        self._dirty[con] = None
        if con.shell is None:
            self._flow.output_changed(route)
        if con.output_size > self._limit:
            if self._policy == "drop-oldest":
                size = con.output_size
                self.dropped += con.drop_oldest_framed(self._limit)
                # As good as written, for those who wait for what stands behind it.
                route.written += size - con.output_size
                route.skipped += size - con.output_size
                self._flow.output_changed(route)
            if con.output_size > self._limit and self._is_slow(route, None, con.output_size, now):
                self._overflow(route, now)
        return True
