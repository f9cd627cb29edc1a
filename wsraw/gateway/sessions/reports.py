"""Sans-I/O. What the supervisor is to be told, so that nothing of it is lost while it lives.

A supervisor that was stopped (SIGSTOP) reads nothing. Reports wait for it, and a later one about
the same thing replaces an earlier one: so what waits is bounded by the number of workers, and what
it reads in the end is the truth. When the link is lost nobody knows how much of what was sent has
arrived, so on a new link everything that still matters is said again.
"""

from __future__ import annotations

from wsraw.link.records import (
    Alive,
    FromGateway,
    Kept,
    Kill,
    Left,
    Listening,
    Page,
    Raised,
    Ready,
    Recycle,
    Reloaded,
    Report,
    Stopped,
    Upgraded,
)


class Reports:
    """Reports that wait, and those that a new link begins with."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[type, int], FromGateway] = {}
        """By what they are about, in the order in which they are to be said."""
        self._said: dict[tuple[type, int], FromGateway] = {}
        """The last one about each thing that is not over."""
        self._spawned: set[int] = set()
        """Workers whose processes live."""

    def spawned(self, n: int) -> None:
        """The supervisor has started worker `n`: what is said of it matters until its exit."""
        self._spawned.add(n)

    def exited(self, n: int) -> None:
        """The supervisor has reported the exit of worker `n`."""
        self._spawned.discard(n)
        self._said.pop((Ready, n), None)
        self._said.pop((Kill, n), None)

    def add(self, record: FromGateway) -> None:
        """Say this, too. Replaces what waits about the same thing."""
        about = _about(record)
        old = self._waiting.pop(about, None)
        if isinstance(record, Left) and isinstance(old, Left):
            record = Left(record.n, old.acked + record.acked, old.unfinished + record.unfinished)
        self._waiting[about] = record

    def waiting(self) -> list[FromGateway]:
        """What is to be said, in order."""
        return list(self._waiting.values())

    def said(self) -> None:
        """All of that is on its way."""
        for record in self._waiting.values():
            match record:
                case Ready(n) | Left(n) if n in self._spawned:
                    # A session begins or is over: only the last of them still holds.
                    self._said[Ready, n] = record
                case Kill(n) if n in self._spawned:
                    self._said[Kill, n] = record
                case Listening() | Stopped() | Upgraded():
                    self._said[type(record), 0] = record
        self._waiting.clear()

    def repeat(self) -> None:
        """The link was lost: say again what may not have arrived, and then what waits."""
        later, self._waiting = self._waiting, {}
        for record in (*self._said.values(), *later.values()):
            self.add(record)


def _about(record: FromGateway) -> tuple[type, int]:
    match record:
        case Ready(n) | Left(n) | Kill(n) | Recycle(n):
            return type(record), n
        case Report(ref) | Page(ref):
            return type(record), ref
        case Listening() | Stopped() | Reloaded() | Alive() | Upgraded() | Kept() | Raised():
            return type(record), 0
