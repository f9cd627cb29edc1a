"""Sans-I/O. A reload has two halves: workers are replaced, and the gateway reads its certificates.

Who asked for it gets one answer, when both are through.
"""

from __future__ import annotations

from typing import NamedTuple


class Outcome(NamedTuple):
    """How a reload went, in words."""

    ok: bool
    text: str


class Halves:
    """What is known of the reload that is under way; only the last one counts."""

    def __init__(self) -> None:
        self._is_reading = False
        self._refused = ""
        self._of_workers: Outcome | None = None

    def begin(self, reads: bool) -> None:
        """A reload begins; `reads`: the gateway was told to read its certificates anew."""
        self._is_reading = reads
        self._refused = ""
        self._of_workers = None

    def read(self, refused: str) -> Outcome | None:
        """The gateway has read them, or refused what it read; or it is gone (a new one reads them
        at its start). The whole outcome, if this was the last half."""
        self._is_reading = False
        self._refused = refused
        done, self._of_workers = self._of_workers, None
        return None if done is None else self.replaced(done.ok, done.text)

    def replaced(self, ok: bool, text: str) -> Outcome | None:
        """The workers are replaced, or the new ones refused; as above."""
        if self._is_reading:
            self._of_workers = Outcome(ok, text)
            return None
        if self._refused:
            refused, self._refused = self._refused, ""
            return Outcome(False, f"{text}; certificates refused, the old ones stay: {refused}")
        return Outcome(ok, text)
