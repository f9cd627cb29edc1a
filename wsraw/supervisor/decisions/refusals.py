"""Sans-I/O. Why parts of the last reload were refused, for people who look later."""

from __future__ import annotations

from typing import Final

LONGEST: Final = 500
"""Characters of a reason that are kept."""


class Refusals:
    """The parts of the last reload that were refused: pools, or the certificates. A part is removed
    once it is reloaded."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[float, str]] = {}
        """By part, when it was refused, and why."""

    def settled(self, part: str, ok: bool, why: str, now: float) -> None:
        """A part was reloaded, or refused; of `why`, the first two lines are kept."""
        self._parts.pop(part, None)
        if not ok:
            text = ": ".join(line.strip() for line in why.splitlines()[:2])
            self._parts[part] = now, text[:LONGEST]

    def told(self, now: float) -> dict[str, tuple[float, str]]:
        """By part, how many seconds ago it was refused, and why."""
        return {part: (now - when, why) for part, (when, why) in self._parts.items()}

    def go_on(self, told: dict[str, tuple[float, str]], now: float) -> None:
        """Take over what an earlier program has recorded."""
        self._parts = {part: (now - ago, why) for part, (ago, why) in told.items()}

    def as_list(self, now: float) -> list[dict[str, object]]:
        """Reasons and their ages in seconds, the oldest first."""
        return [{"why": why, "ago": now - when} for when, why in self._parts.values()]

    def in_words(self) -> str:
        """The refusals on one line; empty if there are none."""
        reasons = "; ".join(why for _, why in self._parts.values())
        return f"last reload: {reasons}" if reasons else ""
