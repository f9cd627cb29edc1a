"""Sans-I/O. Why the last reload was refused, for whoever looks later."""

from __future__ import annotations

from typing import Final

LONGEST: Final = 500
"""Characters that are kept of a reason."""


class Refusals:
    """The parts of the last reload that were refused: pools, or the certificates. A part is left
    out as soon as it is reloaded."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[float, str]] = {}
        """When, and why."""

    def settled(self, part: str, ok: bool, why: str, now: float) -> None:
        """A part was reloaded, or refused; of `why`, the first two lines are kept."""
        self._parts.pop(part, None)
        if not ok:
            text = ": ".join(line.strip() for line in why.splitlines()[:2])
            self._parts[part] = now, text[:LONGEST]

    def told(self, now: float) -> dict[str, tuple[float, str]]:
        """Seconds ago, and reason, by part."""
        return {part: (now - when, why) for part, (when, why) in self._parts.items()}

    def go_on(self, told: dict[str, tuple[float, str]], now: float) -> None:
        """With what another one has told."""
        self._parts = {part: (now - ago, why) for part, (ago, why) in told.items()}

    def as_list(self, now: float) -> list[dict[str, object]]:
        """Reasons and how many seconds ago, the oldest first."""
        return [{"why": why, "ago": now - when} for when, why in self._parts.values()]

    def in_words(self) -> str:
        """In a line; empty if nothing was refused."""
        reasons = "; ".join(why for _, why in self._parts.values())
        return f"last reload: {reasons}" if reasons else ""
