"""I/O. Server-sent events that keep the page up to date while it is open."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs

from wsraw.admin.http import AdminRequest, AdminResponse, text
from wsraw.admin.run import NoAnswerError, Run

EVERY: Final = 1.0
"""Seconds between two events with figures."""

CONNECTIONS_EVERY: Final = 2.0
"""Seconds between two lists of connections."""

SHARE: Final = 20
"""An interval between two lists is at least this many times as long as the gateway took for the
last one."""

MOST_ROWS: Final = 50
MOST_STREAMS: Final = 8
"""Pages that may be open at the same time; each takes a thread."""

_streams = threading.BoundedSemaphore(MOST_STREAMS)

_SORTS: Final = ("output", "events", "idle", "age", "sent")
_KINDS: Final = ("websocket", "raw")
_SWITCHES: Final = ("slow", "paused", "opened")


def stream(request: AdminRequest) -> AdminResponse:
    """Figures, connections and log lines, until the page is closed."""
    if not _streams.acquire(blocking=False):
        return text(
            HTTPStatus.SERVICE_UNAVAILABLE, f"{MOST_STREAMS} pages are open: close another one"
        )
    events = _Events(request)
    return AdminResponse(HTTPStatus.OK, events, "text/event-stream; charset=utf-8")


def _options(query: str) -> dict[str, Any]:
    given = {name: values[-1] for name, values in parse_qs(query).items()}
    options: dict[str, Any] = {name: True for name in _SWITCHES if given.get(name) == "1"}
    sort, kind = given.get("sort", ""), given.get("kind", "")
    options["sort"] = sort if sort in _SORTS else _SORTS[0]
    if kind in _KINDS:
        options["kind"] = kind
    return options | {"limit": MOST_ROWS}


class _Events(Iterator[bytes]):
    """The events of one page."""

    def __init__(self, request: AdminRequest) -> None:
        self._events = _events(request.run, _options(request.query), request.has_left)
        self._lock = threading.Lock()
        self._is_open = True

    def __next__(self) -> bytes:
        return next(self._events)

    def close(self) -> None:
        """Make room for another page."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                _streams.release()


def _events(
    run: Run, options: dict[str, Any], has_left: Callable[[float], bool]
) -> Iterator[bytes]:
    due = connections_at = 0.0
    last_line = 0
    while not has_left(max(0.0, due - time.monotonic())):
        begin = time.monotonic()
        due = begin + EVERY
        try:
            at, figures = run.status()
            yield event("figures", figures | {"at": at})
            if begin >= connections_at:
                asked_at = time.monotonic()
                yield event("connections", run.connections(options))
                took = time.monotonic() - asked_at
                connections_at = begin + max(CONNECTIONS_EVERY, SHARE * took)
            lines = run.log(last_line)
            if lines:
                last_line = lines[-1][0]
                yield event("log", [line[1:] for line in lines])
        except NoAnswerError as error:
            yield event("trouble", str(error))


def event(kind: str, data: Any) -> bytes:
    """One event, as text. JSON as it is written here has no line breaks."""
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()
