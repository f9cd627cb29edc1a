"""Sans-I/O. Traces: what taps tell, for an operator who reads it as it happens.

Lines wait in a queue with a bound. If the operator reads too slowly, lines are dropped and counted:
no connection waits for an operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from wsraw.gateway.connection.connection import CLOSED, Connection
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.inspection.filters import Filter
from wsraw.gateway.inspection.steps import InspectionResult, Row, Steps, find, id_of
from wsraw.gateway.inspection.taps import STATE, WRONG, Tap

QUEUE: Final = 1024 * 1024
"""Bytes of lines that may wait for one operator."""

LINE: Final = 200
"""Bytes that a line counts beside its data and its text."""

PAGE: Final = 64 * 1024
"""Bytes of lines on a page, plus one line."""

MOST_BYTES: Final = 64 * 1024
"""Bytes of a payload that an operator may ask for."""

EARLY: Final = 16 * 1024
"""Bytes of lines of a connection that may wait until it is known whether it is to be traced."""

MOST_TRACED: Final = 100
"""Connections that one operator may trace at once."""

IDLE: Final[list[Row]] = []
"""A page that is not sent: there are no lines yet."""


class Lines:
    """Lines that wait to be read. Each line has its `time`, the id of its connection (`con`), a
    sign (`about`, see taps.py), `what` has happened, the number of bytes (`size`), the first of
    them (`data`), and a `text`."""

    def __init__(self, most_bytes: int, room: int, now: Callable[[], float]) -> None:
        self.most_bytes = most_bytes
        self._room = room
        self._now = now
        self._lines: list[Row] = []
        self._size = 0
        self._lost = 0
        """Lines that were dropped since the last line that was not."""

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, con_id: int, about: str, what: str, size: int, data: bytes, text: str) -> None:
        """Add a line if there is room."""
        if self._size >= self._room:
            self._lost += 1
            return
        self._append(con_id, about, what, size, data[: self.most_bytes], text)

    def _append(
        self, con_id: int, about: str, what: str, size: int, data: bytes, text: str
    ) -> None:
        line = {"time": self._now(), "con": con_id, "about": about, "what": what, "size": size}
        self._put(line | {"data": data, "text": text})

    def _put(self, line: Row) -> None:
        self._lines.append(line)
        self._size += _weight(line)

    def take(self) -> list[Row]:
        """The next page; its lines make room for others."""
        page: list[Row] = []
        size = 0
        for line in self._lines:
            if size > PAGE:
                break
            page.append(line)
            size += _weight(line)
        del self._lines[: len(page)]
        self._size -= size
        if self._lost:
            # Behind the earlier lines.
            lost, self._lost = self._lost, 0
            self._append(0, WRONG, "lines lost", 0, b"", f"{lost:,}, not read in time")
        return page

    def take_over(self, other: Lines) -> None:
        """Add the lines that another object has collected."""
        for line in other._lines:
            self._put(line)
        self._lost += other._lost


def _weight(line: Row) -> int:
    return LINE + len(line["data"]) + len(line["text"])


class TraceRequest:
    """One operator's trace."""

    def __init__(self, chosen: Filter | None, count: int, lines: Lines) -> None:
        self.chosen = chosen
        """Which connections to trace; None for one that is known by its id."""
        self.left = count
        """How many connections the trace still waits for."""
        self.lines = lines
        self.traced: dict[Connection, Lines] = {}
        self.candidates: dict[Connection, Lines] = {}
        """New connections that may match later, each with its lines so far."""

    @property
    def is_over(self) -> bool:
        """Whether all traced connections have ended, and no other is waited for."""
        return not self.left and not self.traced


class Tracer:
    """All traces of a gateway. `wall` gives the time of day."""

    def __init__(self, registry: Registry, wall: Callable[[], float]) -> None:
        self._registry = registry
        self._wall = wall
        self._offset = 0.0
        """Seconds by which the time of day is ahead of the loop's clock."""
        self.taps: dict[Connection, tuple[Tap, list[Lines]]] = {}
        """Connections with a tap, and the lines that it adds to."""
        self._requests: list[TraceRequest] = []

    # --- a request ---

    def trace(self, options: Mapping[str, Any]) -> Steps:
        """Trace the connection `id`, or the first ones that match a filter: as many as
        `connections` says, present and future ones, or with `new` only future ones. Of each payload
        the first `bytes` are shown. Ends when all of them have ended.

        Raises ValueError for options that cannot be right.
        """
        most_bytes = _number(options, "bytes", 200, 0, MOST_BYTES)
        lines = Lines(most_bytes, QUEUE, self._now)
        if "id" in options:
            return self._trace(TraceRequest(None, 1, lines), id_of(options), True)
        chosen = Filter(options, self._registry)
        count = _number(options, "connections", 1, 1, MOST_TRACED)
        return self._trace(TraceRequest(chosen, count, lines), None, not options.get("new"))

    def _trace(self, request: TraceRequest, con_id: int | None, with_present: bool) -> Steps:
        self._offset = self._wall() - self._registry.flow.now
        self._requests.append(request)
        try:
            if con_id is not None:
                con = yield from find(self._registry, con_id)
                if isinstance(con, str):
                    return InspectionResult(False, con)
                self._begin(request, con)
            elif request.chosen is not None and with_present:
                for cons in request.chosen.each():
                    for con in cons:
                        self._begin_if_fitting(request, con)
                    yield None
            if request.left:
                request.lines.add(0, STATE, "waiting", 0, b"", "for a connection that matches")
            while True:
                page = request.lines.take()
                if not page and request.is_over:
                    return InspectionResult(True, "", {"rows": page})
                yield page or IDLE
        finally:
            self._requests.remove(request)
            for con, lines in (*request.traced.items(), *request.candidates.items()):
                self._remove(con, lines)

    def _begin_if_fitting(self, request: TraceRequest, con: Connection) -> None:
        chosen = request.chosen
        if chosen is None or not request.left or con in request.candidates:
            return
        if con.state is not CLOSED and chosen.matches(con):
            self._begin(request, con)

    def _begin(self, request: TraceRequest, con: Connection) -> None:
        request.left -= 1
        request.traced[con] = request.lines
        self._add(con, request.lines)

    # --- taps ---

    def _add(self, con: Connection, lines: Lines) -> None:
        """Add what a connection reports to these lines."""
        if con in self.taps:
            tap, readers = self.taps[con]
            readers.append(lines)
            if not lines:
                tap.tell_beginning(partial(lines.add, con.id))
            return
        readers = [lines]

        def note(about: str, what: str, size: int, data: bytes, text: str) -> None:
            for each in readers:
                each.add(con.id, about, what, size, data, text)

        self.taps[con] = Tap(con, note), readers

    def _remove(self, con: Connection, lines: Lines) -> None:
        tap, readers = self.taps[con]
        readers.remove(lines)
        if not readers:
            del self.taps[con]
            tap.close()

    def newcomer(self, con: Connection) -> None:
        """A client has connected."""
        for request in self._requests:
            if request.chosen is not None and request.left:
                lines = Lines(request.lines.most_bytes, EARLY, self._now)
                request.candidates[con] = lines
                self._add(con, lines)

    def look(self) -> bool:
        """The turn is over: report changes. Returns whether there is something to read."""
        for con, (tap, _) in list(self.taps.items()):
            if not tap.look():
                tap.note(STATE, "end", 0, b"", "")
                for request in self._requests:
                    self._decide(request, con)
                    if con in request.traced:
                        self._remove(con, request.traced.pop(con))
        for request in self._requests:
            for con in list(request.candidates):
                self._decide(request, con)
        return any(request.lines or request.is_over for request in self._requests)

    def _decide(self, request: TraceRequest, con: Connection) -> None:
        """Trace a candidate if it matches."""
        lines = request.candidates.get(con)
        if lines is None or request.chosen is None:
            return
        if request.left and request.chosen.matches(con):
            del request.candidates[con]
            request.lines.take_over(lines)
            self._begin(request, con)
            self._remove(con, lines)
        elif not request.left or con.kind or con.state is CLOSED:
            del request.candidates[con]
            self._remove(con, lines)

    def _now(self) -> float:
        return self._registry.flow.now + self._offset


def _number(options: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = options.get(name, default)
    if not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name}: {value!r}: write a number from {least} to {most}")
    return value
