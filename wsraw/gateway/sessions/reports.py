"""Sans-I/O. What the supervisor is to be told, so that nothing of it is lost while it lives.

A supervisor that was stopped (SIGSTOP) reads nothing. Reports wait for it, and a later report about
the same thing replaces an earlier one: so the number of waiting reports is bounded by the number of
workers, and the supervisor finally reads the present state. When the link is lost, it is not known
which reports have arrived, so everything that still matters is repeated on a new link.
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
    """Reports that wait, and those with which a new link begins."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[type, int], FromGateway] = {}
        """By subject, in the order in which they are to be sent."""
        self._said: dict[tuple[type, int], FromGateway] = {}
        """The last report about each subject that is not over."""
        self._spawned: set[int] = set()
        """Workers whose processes live."""

    def spawned(self, n: int) -> None:
        """The supervisor has started worker `n`: reports about it matter until its exit."""
        self._spawned.add(n)

    def exited(self, n: int) -> None:
        """The supervisor has reported the exit of worker `n`."""
        self._spawned.discard(n)
        self._said.pop((Ready, n), None)
        self._said.pop((Kill, n), None)

    def add(self, record: FromGateway) -> None:
        """Add a report. It replaces a waiting one about the same subject."""
        about = _about(record)
        old = self._waiting.pop(about, None)
        if isinstance(record, Left) and isinstance(old, Left):
            record = Left(record.n, old.acked + record.acked, old.unfinished + record.unfinished)
        self._waiting[about] = record

    def waiting(self) -> list[FromGateway]:
        """The waiting reports, in order."""
        return list(self._waiting.values())

    def said(self) -> None:
        """All waiting reports are sent."""
        for record in self._waiting.values():
            match record:
                case Ready(n) | Left(n) if n in self._spawned:
                    # A session begins or ends: only the last such report still holds.
                    self._said[Ready, n] = record
                case Kill(n) if n in self._spawned:
                    self._said[Kill, n] = record
                case Listening() | Stopped() | Upgraded():
                    self._said[type(record), 0] = record
        self._waiting.clear()

    def repeat(self) -> None:
        """The link was lost: repeat reports that may not have arrived, and then those that wait."""
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
