"""Sans-I/O. Who owns the connections while a gateway is replaced: the giver, or the taker.

Both hold the same descriptors from the first record of a handover on, and neither reads or writes a
moved socket until it is decided who owns the sockets. They talk over two socketpairs: one for
records (giver to taker), which may be full, and one for words, which never is, because both sides
send only a few short words::

    giver                              taker
      │ serves                           │ loads, checks
      │ ◀──────── ready ──────────────── │
      │ stops at the end of a turn       │
      │ ═════════ records ═════════════▶ │ restores the state in them
      │ ◀──────── adopted ────────────── │ can serve, and waits
      │ ───────── C (commit) ──────────▶ │
      │ ◀──────── L (live) ───────────── │ serves from now on
      │ closes its descriptors           │

Either may be killed at any instant. Then the other one reads the end of the words, after all words
that were sent before. From that, each may conclude:

- **The giver goes on** if it has sent A (abort), or if the words end without an L. A taker sends L
  before it touches anything. So without an L nothing was touched, and the taker is gone.
- **The taker serves** if it has everything, and then C comes, or the words end without an A. A
  giver sends A before it touches anything again. So without an A nothing was touched, and the giver
  is gone. If the giver was killed before the system had taken everything, both are gone.

C, A and L are single bytes: each was sent, or it was not. The giver sends at most one of C and A,
when it decides: at `adopted`, or when its time is over. After a C it waits for the L or the end,
however long that takes; the supervisor kills a taker that does not get there.
tests/gateway/handover/test_dialog.py goes through all orders of these steps and of both deaths.
"""

from __future__ import annotations

import json
import math
from enum import Enum
from typing import Any, Final

COMMIT: Final = b"C"
ABORT: Final = b"A"
LIVE: Final = b"L"

READY: Final = "ready"
ADOPTED: Final = "adopted"
REFUSED: Final = "refused"

MOST_WORDS: Final = 64 * 1024
"""Bytes of an incomplete word; no taker sends as many."""

ENDED: Final = "the new gateway has ended"

GOES_ON: Final = "the old gateway goes on"
"""Why a taker quits that is not needed any more. The old gateway logs the reason."""

NOT_KNOWN: Final = "the new gateway speaks another version of the handover"


class Next(Enum):
    """What the owner of a Giver or a Taker must do next."""

    WAIT = "nothing yet"
    GIVE = "stop serving, and send the records"
    COMMIT = "say C; if that fails, the words have ended"
    KEEP = "say A if the other one may still hear it, then go on serving"
    LEAVE = "close the descriptors: the taker serves"
    SERVE = "say L, then serve"
    QUIT = "end"


class Giver:
    """The old gateway's side."""

    def __init__(self, timeout: float) -> None:
        """`timeout`: seconds from the stop to `adopted`; 0: no limit."""
        self._timeout = timeout
        self._heard = b""
        self._until = math.inf
        self.is_stopped = False
        """Nothing is served any more: records are being sent."""
        self.has_committed = False
        self.over: Next | None = None
        """KEEP or LEAVE, once that is decided."""
        self.why = ""
        """Why the giver keeps what it has."""
        self.said: dict[str, Any] = {}
        """Data of the taker's last word."""

    @property
    def wake_at(self) -> float:
        """When `check` is due; infinity if never."""
        return self._until if self.over is None and not self.has_committed else math.inf

    def receive(self, data: bytes, now: float) -> Next:
        """Handle bytes of the taker. The owner acts on the answer before it reads on."""
        self._heard += data
        while self._heard and self.over is None:
            if self._heard[:1] == LIVE:
                # Whatever came before: the taker serves now, so we must not.
                self.over = Next.LEAVE
                break
            line, end, rest = self._heard.partition(b"\n")
            if not end:
                if len(line) > MOST_WORDS:
                    return self.fail(NOT_KNOWN)
                break
            self._heard = rest
            next_ = self._hear(line, now)
            if next_ is not Next.WAIT:
                return next_
        return self.over or Next.WAIT

    def _hear(self, line: bytes, now: float) -> Next:
        try:
            name, said = json.loads(line)
            name, self.said = str(name), dict(said)
        except (ValueError, TypeError):
            return self.fail(NOT_KNOWN)
        if name == READY and not self.is_stopped:
            self.is_stopped = True
            self._until = now + (self._timeout or math.inf)
            return Next.GIVE
        if name == ADOPTED and self.is_stopped and not self.has_committed:
            self.has_committed = True
            return Next.COMMIT
        if name == REFUSED:
            return self.fail(str(self.said.get("why", "")))
        return self.fail(NOT_KNOWN)

    def end(self) -> Next:
        """The words have ended, and all of them were read: the taker is gone."""
        if self.over is None:
            self.over = Next.KEEP
            self.why = ENDED
        return self.over

    def fail(self, why: str) -> Next:
        """A problem of the taker, or of this side. Once the taker was told to serve, only its end
        gives the connections back: then this method does nothing."""
        if self.over is None and not self.has_committed:
            self.over = Next.KEEP
            self.why = why
        return self.over or Next.WAIT

    def check(self, now: float) -> Next:
        """Check whether the timeout is over."""
        if now < self.wake_at:
            return self.over or Next.WAIT
        return self.fail(f"the new gateway has not taken over within {self._timeout:g} s")


class Taker:
    """The new gateway's side."""

    def __init__(self) -> None:
        self.has_adopted = False
        """The taker has everything that the giver had."""
        self.giver_is_gone = False
        self.over: Next | None = None
        """SERVE or QUIT, once that is decided."""
        self.why = ""
        """Why the taker quits."""

    def adopted(self) -> Next:
        """Everything has arrived and is restored. WAIT: say `adopted`."""
        if self.over is None:
            self.has_adopted = True
            if self.giver_is_gone:
                self.over = Next.SERVE
        return self.over or Next.WAIT

    def receive(self, data: bytes) -> Next:
        """Handle bytes of the giver."""
        for index in range(len(data)):
            byte = data[index : index + 1]
            if self.over is not None:
                break
            if byte == COMMIT and self.has_adopted:
                self.over = Next.SERVE
            elif byte == ABORT:
                self.fail(GOES_ON)
            else:
                self.fail(f"the old gateway says {byte!r}, which is not known here")
        return self.over or Next.WAIT

    def end(self) -> Next:
        """The words have ended, and all of them were read: the giver is gone. What it has sent may
        still be complete."""
        self.giver_is_gone = True
        if self.over is None and self.has_adopted:
            self.over = Next.SERVE
        return self.over or Next.WAIT

    def cut_off(self) -> Next:
        """The records have ended before the last one."""
        if self.giver_is_gone:
            self.fail("the old gateway has ended before it had handed over everything")
        return self.over or Next.WAIT

    def fail(self, why: str) -> Next:
        """The taker cannot serve, or is not allowed to. The giver continues, at the latest when we
        have ended."""
        if self.over is None:
            self.over = Next.QUIT
            self.why = why
        return self.over


def word(name: str, said: dict[str, Any] | None = None) -> bytes:
    """A word of the taker, as bytes."""
    return json.dumps([name, said or {}]).encode() + b"\n"
