"""Sans-I/O. The figures of a drill as a table and as JSON, and which of them are breaches."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from wsraw.tools.drill.plan import Plan

LABELS: Final = {
    "sent": "messages sent",
    "unsent": "not sent while disconnected",
    "answered": "messages answered",
    "achieved_rate": "rate achieved",
    "lost": "lost",
    "duplicated": "duplicated",
    "reordered": "reordered",
    "corrupted": "corrupted",
    "disconnected": "disconnected",
    "disconnected_as_promised": "disconnected as promised",
    "disconnected_with_gateway": "disconnected with a gateway",
    "connects_lost": "connects lost with a gateway",
    "cut_off": "unanswered when disconnected",
    "refused": "connects refused",
    "closes_missing": "on_close missing",
    "closes_duplicated": "on_close duplicated",
    "states_lost": "con.state lost",
    "closes_unheld": "on_close of connections held by no worker",
    "longest_pause": "longest pause",
    "longest_pause_of_a_connection": "longest pause of a connection",
    "latency_p50": "latency p50",
    "latency_p99": "latency p99",
    "latency_max": "latency max",
    "late": "sent late at most",
    "kills": "kills of workers",
    "hangs": "hangs of handlers",
    "hangs_unfinished": "hangs without an end",
    "stops": "suspended workers",
    "reloads": "reloads",
    "gateway_kills": "kills of the gateway",
    "upgrades": "upgrades",
    "dead_letters": "dead letters",
}
"""The rows of the table."""

BREACHES: Final = (
    *("lost", "duplicated", "reordered", "corrupted", "disconnected", "refused"),
    *("closes_missing", "closes_duplicated", "states_lost", "hangs_unfinished"),
)
"""Figures that must be 0."""

OF_GATEWAYS: Final = {
    "disconnected_with_gateway",
    "connects_lost",
    "closes_unheld",
    "gateway_kills",
}
"""Rows only for drills that kill gateways."""

Row = tuple[str, str, bool]
"""Label, value, and whether it is a breach."""


class Report:
    """The figures of one drill, by their names in JSON. Times are seconds.

    `failures`: requests that the run did not carry out.
    """

    def __init__(
        self, plan: Plan, figures: dict[str, Any], failures: Sequence[str], notes: Sequence[str]
    ) -> None:
        self.plan = plan
        self.figures = figures
        self.failures = list(failures)
        """A line comes as often as its failure has happened."""
        self.notes = list(notes)

    def breaches(self) -> list[str]:
        """The broken promises, as text."""
        figures = self.figures
        found = [f"{_total(figures[key])} {LABELS[key]}" for key in BREACHES if figures[key]]
        ended = ("disconnected", "disconnected_as_promised", "disconnected_with_gateway")
        if figures["cut_off"] and not any(figures[key] for key in ended):
            found.append(f"{figures['cut_off']} cut off")
        letters, expected = figures["dead_letters"], figures["dead_letters_expected"]
        if letters not in (None, expected):
            found.append(f"{letters} dead letters, not {expected}")
        if not figures["answered"]:
            found.append("nothing answered")
        return found + self._counted_failures()

    def _counted_failures(self) -> list[str]:
        counts = Counter(self.failures)
        return [f"{text} ({n} times)" if n > 1 else text for text, n in counts.items()]

    def json(self) -> str:
        """One object. Its keys are part of the public interface."""
        figures = {
            # JSON has no nan.
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in self.figures.items()
        }
        more = {
            "breaches": self.breaches(),
            "failures": self._counted_failures(),
            "notes": self.notes,
        }
        return json.dumps({"plan": vars(self.plan), **figures, **more}, indent=2)

    def table(self) -> str:
        rows = [row for key in LABELS for row in self._rows(key)]
        widths = [max(len(str(row[column])) for row in rows) for column in (0, 1)]
        lines = [
            f"{name:<{widths[0]}}  {value:>{widths[1]}}  {'<-' if bad else ''}".rstrip()
            for name, value, bad in rows
        ]
        lines += [f"note: {note}" for note in self.notes]
        breaches = self.breaches()
        lines.append("breach: " + "; ".join(breaches) if breaches else "no breach")
        return "\n".join(lines)

    def _rows(self, key: str) -> Iterator[Row]:
        value = self.figures[key]
        if key in OF_GATEWAYS and not self.plan.kill_gateway_every:
            return
        if key == "upgrades" and not self.plan.upgrade_every:
            return
        bad = key in BREACHES and bool(value)
        if key == "answered":
            bad = not value
        elif key == "dead_letters":
            bad = value not in (None, self.figures["dead_letters_expected"])
        yield LABELS[key], _text(key, value), bad
        if isinstance(value, dict):
            yield from ((f"  {cause}", str(value[cause]), bad) for cause in sorted(value))


def _total(value: Any) -> int:
    return sum(value.values()) if isinstance(value, dict) else int(value)


def _text(key: str, value: Any) -> str:
    if value is None or value != value:
        return "not known"
    if key.endswith("_rate"):
        return f"{value:.0f}/s"
    if isinstance(value, float):
        return f"{value * 1000:.1f} ms"
    return str(_total(value))
