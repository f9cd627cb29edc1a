"""Sans-I/O. What a drill has found, as a table and as JSON, and whether it is a breach."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from wsraw.tools.drill.plan import Plan


@dataclass(kw_only=True)
class Report:
    """The figures of one drill. Times are seconds."""

    plan: Plan
    seconds: float
    sent: int
    answered: int
    unsent: int
    lost: int
    doubled: int
    reordered: int
    corrupted: int
    cut_off: int
    disconnected: dict[str, int]
    """Cause → how many clients, where none should be."""
    disconnected_as_promised: dict[str, int]
    """Cause → how many, where the delivery mode or a hang asked for it."""
    disconnected_with_gateway: dict[str, int]
    """Cause → how many, where the drill has killed their gateway, or that one's supervisor."""
    refused: dict[str, int]
    """Why a connect failed → how often."""
    connects_lost: int
    """Connects that failed because their gateway was killed after it had accepted them, or because
    the supervisor was, and its sockets with it."""
    closes_checked: bool
    """Whether the handlers told of each; else the next four say nothing."""
    closes_missing: int
    closes_doubled: int
    closes_unheld: int
    """Not told, as no worker held those connections when their gateway was killed."""
    states_lost: int
    longest_pause: float
    longest_pause_of_a_connection: float
    latency_p50: float
    latency_p99: float
    latency_max: float
    late: float
    kills: int
    hangs: int
    hangs_unfinished: int
    stops: int
    reloads: int
    scales: int
    gateway_kills: int
    supervisor_kills: int
    restarts: int | None
    """Deaths of workers that were followed by another one; None if nobody knows."""
    dead_letters: int | None
    dead_letters_expected: int
    failures: list[str] = field(default_factory=list)
    """What the run did not do as it was asked."""
    notes: list[str] = field(default_factory=list)

    @property
    def offered(self) -> float:
        """Messages a second that were due, those of connections that were down included."""
        return (self.sent + self.unsent) / self.seconds if self.seconds else 0.0

    @property
    def achieved(self) -> float:
        """Messages a second that were answered."""
        return self.answered / self.seconds if self.seconds else 0.0

    def breaches(self) -> list[str]:
        """What must not be, in words; empty is what we hope for."""
        counts = {
            "lost": self.lost,
            "doubled": self.doubled,
            "reordered": self.reordered,
            "corrupted": self.corrupted,
            "disconnected": sum(self.disconnected.values()),
            "connects refused": sum(self.refused.values()),
            "on_close missing": self.closes_missing,
            "on_close doubled": self.closes_doubled,
            "con.state lost": self.states_lost,
            "hangs without an end": self.hangs_unfinished,
        }
        found = [f"{count} {what}" for what, count in counts.items() if count]
        ended = self.disconnected or self.disconnected_as_promised or self.disconnected_with_gateway
        if self.cut_off and not ended:
            found.append(f"{self.cut_off} cut off")
        if self.dead_letters is not None and self.dead_letters != self.dead_letters_expected:
            found.append(f"{self.dead_letters} dead letters, not {self.dead_letters_expected}")
        if not self.answered:
            found.append("nothing answered")
        return found + self.failures

    def json(self) -> str:
        """One object; its keys stay."""
        figures = asdict(self) | {
            "offered_rate": self.offered,
            "achieved_rate": self.achieved,
            "breaches": self.breaches(),
        }
        return json.dumps({key: _finite(value) for key, value in figures.items()}, indent=2)

    def table(self) -> str:
        """For a terminal."""
        rows = [(name, value, _mark(bad)) for name, value, bad in self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = [
            f"{name:<{widths[0]}}  {value:>{widths[1]}}  {mark}".rstrip()
            for name, value, mark in rows
        ]
        lines += [f"note: {note}" for note in self.notes]
        breaches = self.breaches()
        lines.append("breach: " + "; ".join(breaches) if breaches else "no breach")
        return "\n".join(lines)

    def _rows(self) -> list[tuple[str, str, bool]]:
        plan = self.plan
        checked = self.closes_checked
        rows = [
            ("delivery", plan.delivery, False),
            ("connections", f"{plan.websockets} WebSocket, {plan.raw} raw", False),
            ("messages sent", f"{self.sent}", False),
            ("messages answered", f"{self.answered}", not self.answered),
            ("rate offered", f"{self.offered:.0f}/s", False),
            ("rate achieved", f"{self.achieved:.0f}/s", False),
            _count("lost", self.lost),
            _count("doubled", self.doubled),
            _count("reordered", self.reordered),
            _count("corrupted", self.corrupted),
            *_causes("disconnected", self.disconnected, True),
            *_causes("disconnected as promised", self.disconnected_as_promised, False),
            *self._rows_of_gateways(),
            ("unanswered on those", f"{self.cut_off}", False),
            *_causes("connects refused", self.refused, True),
            _count("on_close missing", self.closes_missing, checked),
            _count("on_close doubled", self.closes_doubled, checked),
            _count("con.state lost", self.states_lost, checked),
            ("longest pause", _ms(self.longest_pause), False),
            ("longest pause of a connection", _ms(self.longest_pause_of_a_connection), False),
            ("latency p50", _ms(self.latency_p50), False),
            ("latency p99", _ms(self.latency_p99), False),
            ("latency max", _ms(self.latency_max), False),
            ("sent late at most", _ms(self.late), False),
            ("kills", f"{self.kills}", False),
            ("hangs", f"{self.hangs}", False),
            ("stops", f"{self.stops}", False),
            ("reloads", f"{self.reloads}", False),
            ("changes of scale", f"{self.scales}", False),
            ("restarts", _known(self.restarts), False),
            (
                "dead letters",
                _known(self.dead_letters),
                self.dead_letters not in (None, self.dead_letters_expected),
            ),
        ]
        if plan.everybody_dies:
            rows += [
                ("kills of the gateway", f"{self.gateway_kills}", False),
                ("kills of the supervisor", f"{self.supervisor_kills}", False),
            ]
        if self.unsent:
            rows.insert(3, ("not sent while disconnected", f"{self.unsent}", False))
        return rows

    def _rows_of_gateways(self) -> list[tuple[str, str, bool]]:
        if not self.plan.everybody_dies:
            return []
        return [
            *_causes("disconnected with a gateway", self.disconnected_with_gateway, False),
            ("connects lost with a gateway", f"{self.connects_lost}", False),
            (
                "on_close of connections held by no worker",
                f"{self.closes_unheld}" if self.closes_checked else "not known",
                False,
            ),
        ]


def as_counts(found: list[str]) -> dict[str, int]:
    """Each text, and how often it is there."""
    return dict(Counter(found))


def _count(name: str, count: int, known: bool = True) -> tuple[str, str, bool]:
    return name, f"{count}" if known else "not known", bool(count)


def _causes(name: str, causes: dict[str, int], bad: bool) -> list[tuple[str, str, bool]]:
    total = sum(causes.values())
    return [
        (name, f"{total}", bad and bool(total)),
        *((f"  {cause}", f"{count}", bad) for cause, count in sorted(causes.items())),
    ]


def _known(count: int | None) -> str:
    return "not known" if count is None else f"{count}"


def _mark(bad: bool) -> str:
    return "<-" if bad else ""


def _ms(seconds: float) -> str:
    return "not known" if math.isnan(seconds) else f"{seconds * 1000:.1f} ms"


def _finite(value: Any) -> Any:
    """JSON has no nan."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
