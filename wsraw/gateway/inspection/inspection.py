"""Sans-I/O. Requests of an operator about connections, worked on in slices of a turn.

Each request has a number, and is answered in pages. The next page is made when it is asked for, so
that only one page waits here for an operator who does not read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.inspection import actions, requests
from wsraw.gateway.inspection.steps import InspectionResult, Look, Steps
from wsraw.gateway.inspection.traces import IDLE, Tracer
from wsraw.link.records import Ask, Enough, FromGateway, More, Page

log = logging.getLogger("wsraw.gateway")

SLICE: Final = 0.0005
"""Seconds of a turn for all requests together."""

Begin = Callable[[Registry, Mapping[str, Any], Look], Steps]

KNOWN: Final[dict[str, Begin]] = {
    "connections": requests.connections,
    "connection": requests.connection,
    "kick": actions.kick,
    "publish": actions.publish,
    "send": actions.send,
    "send_to_user": actions.send_to_user,
}


class Inspection:
    """The requests that are being worked on."""

    def __init__(
        self,
        registry: Registry,
        look: Look,
        clock: Callable[[], float],
        wall: Callable[[], float],
        tell: Callable[[FromGateway], object],
    ) -> None:
        self.tracer = Tracer(registry, wall)
        self._registry = registry
        self._look = look
        self._clock = clock
        self._tell = tell
        self._waiting: dict[int, Steps] = {}
        """Requests whose next page was not asked for yet."""
        self.running: dict[int, Steps] = {}
        """Requests that have work to do, in the order of their turns."""
        self._idle: dict[int, Steps] = {}
        """Traces of connections on which nothing happens."""

    def ask(self, ask: Ask) -> None:
        """Begin a request."""
        begin = KNOWN.get(ask.what)
        if begin is None and ask.what != "trace":
            self._end(
                ask.ref,
                InspectionResult(False, f"this gateway does not know the request {ask.what}"),
            )
            return
        try:
            if begin is None:
                self.running[ask.ref] = self.tracer.trace(ask.options)
            else:
                self.running[ask.ref] = begin(self._registry, ask.options, self._look)
        except ValueError as error:
            self._end(ask.ref, InspectionResult(False, str(error)))

    def more(self, more: More) -> None:
        """Make the next page of a request."""
        steps = self._waiting.pop(more.ref, None)
        if steps is not None:
            self.running[more.ref] = steps

    def enough(self, enough: Enough) -> None:
        """End a request that is not needed any more."""
        for each in (self._waiting, self.running, self._idle):
            steps = each.pop(enough.ref, None)
            if steps is not None:
                steps.close()

    def forget(self) -> None:
        """End all requests, because the link to the supervisor was lost."""
        for ref in [*self._waiting, *self.running, *self._idle]:
            self.enough(Enough(ref))

    def look(self) -> None:
        """At the end of a turn, while there are taps: let traces see its changes."""
        if self.tracer.look() and self._idle:
            self.running |= self._idle
            self._idle.clear()
            self.go_on()

    def go_on(self) -> None:
        """Once a turn: work on requests, in turn, for a slice of time."""
        until = self._clock() + SLICE
        while self.running:
            ref = next(iter(self.running))
            steps = self.running.pop(ref)
            page, answer = self._step(ref, steps)
            if answer is not None:
                self._end(ref, answer)
            elif page is IDLE:
                self._idle[ref] = steps
            elif page is not None:
                self._waiting[ref] = steps
                self._tell(Page(ref, True, "", {"rows": page}, more=True))
            else:
                self.running[ref] = steps
            if self._clock() > until:
                break

    def _step(
        self, ref: int, steps: Steps
    ) -> tuple[list[dict[str, Any]] | None, InspectionResult | None]:
        """The page that a step has filled, and the answer if the page was the last one."""
        try:
            return next(steps), None
        except StopIteration as end:
            answer: InspectionResult = end.value
            return None, answer
        except Exception as error:
            self._registry.counters.fault(f"request {ref} of the command line", error)
            return None, InspectionResult(
                False, f"a bug in wsraw: {error!r}; see the gateway's log"
            )

    def _end(self, ref: int, answer: InspectionResult) -> None:
        self._tell(Page(ref, answer.ok, answer.text, answer.data))
