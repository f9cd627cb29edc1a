"""I/O. The gateway's end of the control link: it sends reports to the supervisor, and reads its
records."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from typing import Final

from wsraw.gateway.sessions.reports import Reports
from wsraw.link.records import (
    Decoder,
    Exited,
    FromGateway,
    FromSupervisor,
    LinkError,
    Spawned,
    encode,
)
from wsraw.link.rules import is_same_secret
from wsraw.link.zmtp import REPLACED
from wsraw.runtime.link.client import LinkClient
from wsraw.runtime.loop import Loop, Timer

log = logging.getLogger("wsraw.gateway")

LAST_WORDS: Final = 1.0
"""Seconds for sending the last reports at the end."""


class ControlLink:
    """A connection to the supervisor, made again if it is lost while the supervisor lives. The link
    holds up to a megabyte for a supervisor that does not read, because it was stopped; further
    reports wait (see Reports)."""

    def __init__(
        self, loop: Loop, endpoint: str, token: str, lost: Callable[[], object] = lambda: None
    ) -> None:
        """`lost` is called when a link is lost, with what was asked over it."""
        self._loop = loop
        self._lost = lost
        self._token = token
        self._reports = Reports()
        self._decoder = Decoder(str, FromSupervisor)
        self._client = LinkClient(endpoint)
        self._client.on_change = self._watch
        self._watched = (-1, False)
        """The descriptor that the loop watches, and whether it is watched for writing."""
        self._timer: Timer | None = None
        self.is_due = False
        """Whether there may be something to read."""
        self._work(False, False)

    # --- out ---

    def tell(self, records: Iterable[FromGateway]) -> None:
        """Send records as soon as possible. None is lost while the supervisor lives."""
        for record in records:
            self._reports.add(record)
        self._send()

    def _send(self) -> None:
        records = self._reports.waiting()
        if records and self._client.send(encode([self._token, *records])):
            self._reports.said()

    # --- in ---

    def receive(self) -> list[FromSupervisor] | None:
        """The records of the next received batch, or None."""
        while (batch := self._client.receive()) is not None:
            try:
                token, records, wrong = self._decoder.decode(batch)
            except LinkError as error:
                log.error("dropped a message of the supervisor that is not a batch: %s", error)
                continue
            if not is_same_secret(token, self._token):
                log.error("dropped a batch with a wrong token on the control link")
                continue
            for _, why in wrong:
                log.error("left out a record of the supervisor: %s", why)
            return [self._note(record) for record in records if record is not None]
        self.is_due = False
        if self._client.is_lost:
            self._begin_again()
        return None

    def _note(self, record: FromSupervisor) -> FromSupervisor:
        if isinstance(record, Spawned):
            self._reports.spawned(record.n)
        elif isinstance(record, Exited):
            self._reports.exited(record.n)
        return record

    def read_now(self) -> bool:
        """Read without waiting for the loop's call. Returns whether anything was read: there may be
        more, which is read after `receive`."""
        self._work(False, False)
        return self._client.is_readable

    def _begin_again(self) -> None:
        if REPLACED in self._client.why:
            log.debug("connecting to the supervisor again: %s", REPLACED)
        else:
            log.error("the link to the supervisor was lost: %s", self._client.why)
        self._lost()
        self._reports.repeat()
        self._client.reconnect()
        self._work(False, False)

    # --- the loop ---

    def _work(self, readable: bool, writable: bool) -> None:
        client = self._client
        client.work(self._loop.now)
        self.is_due = True
        self._send()
        self._watch()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if client.wait_until < math.inf:
            self._timer = self._loop.call_at(client.wait_until, self._work_later)

    def _work_later(self) -> None:
        self._timer = None
        self._work(False, False)

    def _watch(self) -> None:
        fd, write = self._client.fileno(), self._client.wants_write
        old, _ = self._watched
        if (fd, write) == self._watched:
            return
        self._watched = fd, write
        if old not in (fd, -1):
            self._loop.unwatch(old)
        if fd >= 0:
            self._loop.watch(fd, self._work, read=True, write=write)

    def close(self) -> None:
        """Close when all reports are sent, or after a second."""
        self._client.close(LAST_WORDS)
