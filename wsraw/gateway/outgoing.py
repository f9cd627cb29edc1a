"""Sans-I/O. Data on its way to connections: fragments, groups framed once, the output's bound.

An unfinished fragmented message belongs to the session that began it; other data for that
connection waits behind it, in the connection's account, and a message that is not finished in time
ends the connection (1011). Output has a bound: past it a slow reader is closed (1008), unless what
overflows was published and the setting `overflow` allows to drop that; a message is never written
in part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Final

import wsraw.messages as m
from wsraw.gateway.connection import Connection
from wsraw.gateway.flow import Flow
from wsraw.gateway.framing import frame_message
from wsraw.gateway.route import EVENT_COST, Route, Worker
from wsraw.link import LinkState

FRAME_HEAD: Final = 14
"""The most bytes that a WebSocket frame has beside its data (RFC 6455, section 5.2)."""

FRAGMENT_TIMEOUT: Final = 30.0
"""Seconds within which a fragmented message must be finished."""


class Outgoing:
    """Sends and publishes of workers, in their order of arrival at the gateway."""

    def __init__(
        self,
        flow: Flow,
        limit: int,
        policy: str,
        dirty: dict[Connection, None],
        overflow: Callable[[Route, float], None],
        cut_short: Callable[[Route, float], None],
    ) -> None:
        self._flow = flow
        self._limit = limit
        self._policy = policy
        self._dirty = dirty
        self._overflow = overflow
        self._cut_short = cut_short
        self.fragmented: set[Route] = set()
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
        why = con.send(send.data, send.type, send.final, now)
        if why is not None:
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
        if con.output_size + con.early_size > self._limit:
            self._overflow(route, now)
        elif route.fragment is not None and send.final:
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
        if route.fragment is worker:
            return False, None
        if route.late_sends is None:
            route.late_sends = deque()
        route.late_sends.append((worker, send))
        self._flow.add(route, len(send.data) + EVENT_COST)
        if route.held > self._limit:
            self._overflow(route, now)
        return True, None

    def _finish_fragment(self, route: Route, now: float) -> None:
        late, route.late_sends = route.late_sends, None
        self.forget(route)
        # One of those that waited may begin a fragmented message: the rest of it follows at once,
        # and what is not of it waits again, in order.
        for worker, send in late or ():
            self._flow.remove(route, len(send.data) + EVENT_COST)
            self.send(route, worker, send, now)
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
        late, route.late_sends = route.late_sends, None
        for _, send in late or ():
            self._flow.remove(route, len(send.data) + EVENT_COST)

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
        frames: dict[object, bytes] = {}
        for route in list(members):
            if route.id in excluded:
                continue
            con = route.con
            key = con.framing_key
            if key is None or route.fragment is not None:
                if self._policy == "drop-newest" and self._is_full(con, len(data) + FRAME_HEAD):
                    self.dropped += 1
                else:
                    self.send(route, None, m.Send(route.id, data, kind), now)
                continue
            frame = frames.get(key)
            if frame is None:
                frame = frames[key] = frame_message(key, data, kind)
                self._flow.share(frame)
            if self._policy == "drop-newest" and self._is_full(con, len(frame)):
                self.dropped += 1
                continue
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
                if con.output_size > self._limit:
                    self._overflow(route, now)
        return None
