"""Sans-I/O. How connections ended: as the client saw it, and as on_close reports it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

GATEWAY_DIED: Final = "gateway-died"


class CloseReport(NamedTuple):
    """The report of one on_close."""

    name: str
    """The client's address."""
    code: str
    cause: str
    state: str


@dataclass
class ConnectionEnd:
    """The end of one connection, as the client saw it."""

    kind: str
    """`websocket`, `raw`, or `hang`, which must be disconnected."""
    name: str
    """The client's address."""
    header: str = ""
    """The expected `con.state`: the beginning of its first record, once that was answered."""
    is_known: bool = True
    """Whether a worker must know the connection; not if the client sent nothing."""
    how: str = ""
    """How the connection ended too early; empty if the drill closed it."""
    cause: str = ""
    """The cause that its on_close reported; empty if that is not known."""


class _Choice(NamedTuple):
    """A choice of the ends of an address that its reports are about, and the breaches of that
    choice."""

    breaches: int
    missing: int
    """Ends that a worker must know, but that have no report."""
    chosen: tuple[ConnectionEnd, ...]


class CloseRecords:
    """All ends of a drill. An address can be reused, so the ends and the reports of each are
    matched in order. Ends that outnumber the reports are those that need none, or that fit worst.

    `gateway_dies`: connections may be lost with it. `unheld`: a connection that is without a worker
    at that moment gets no on_close (docs/troubleshooting.md).
    """

    def __init__(self, gateway_dies: bool = False, unheld: bool = False) -> None:
        self.missing = 0
        self.duplicated = 0
        self.unheld = 0
        """Connections that were lost with a gateway and not reported, which is allowed where
        workers die, too."""
        self.states_lost = 0
        self._gateway_dies = gateway_dies
        self._may_be_unheld = unheld
        self._ends: dict[str, list[ConnectionEnd]] = defaultdict(list)
        self._reports: dict[str, list[CloseReport]] = defaultdict(list)

    def ended(self, end: ConnectionEnd) -> None:
        self._ends[end.name].append(end)

    def report(self, report: CloseReport) -> None:
        """Add a report. Those about other clients of the same run do not count."""
        self._reports[report.name].append(report)

    def all_reported(self) -> bool:
        """Whether each end that a worker must know was reported."""
        return all(
            len(reports) >= sum(end.is_known for end in ends)
            # The report of a connection that was lost with a gateway is not that of a later one.
            and sum(report.cause != GATEWAY_DIED for report in reports)
            >= sum(end.is_known and not self.looks_lost(end.how) for end in ends)
            for name, ends in self._ends.items()
            for reports in (self._reports[name],)
        )

    def match(self) -> None:
        """Match ends and reports, and count those that do not fit. Call it once, at the end."""
        for name, ends in self._ends.items():
            reports = self._reports[name]
            reported = self._choose_reported(ends, reports)
            for end, report in zip(reported, reports, strict=False):
                end.cause = report.cause
                self.states_lost += _is_state_lost(end, report)
            numbers = {id(end) for end in reported}
            unreported = [end for end in ends if end.is_known and id(end) not in numbers]
            unheld = sum(map(self._may_be_missing, unreported))
            self.unheld += unheld
            self.missing += len(unreported) - unheld
            self.duplicated += len(reports) - len(reported)

    def _choose_reported(
        self, ends: Sequence[ConnectionEnd], reports: Sequence[CloseReport]
    ) -> tuple[ConnectionEnd, ...]:
        """The ends that the reports are about: those with the fewest breaches."""
        number = min(len(ends), len(reports))
        if number == len(ends):
            return tuple(ends)
        # By the number of reports that have an end.
        best: dict[int, _Choice] = {0: _Choice(0, 0, ())}
        for end in ends:
            choices = []
            for used, (breaches, missing, chosen) in best.items():
                breach = end.is_known and not self._may_be_missing(end)
                choices.append((used, _Choice(breaches + breach, missing + end.is_known, chosen)))
                if used < number:
                    breaches += self._misfit(end, reports[used])
                    choices.append((used + 1, _Choice(breaches, missing, (*chosen, end))))
            best = {}
            for used, choice in choices:
                if used not in best or choice[:2] < best[used][:2]:
                    best[used] = choice
        return best[number].chosen

    def _misfit(self, end: ConnectionEnd, report: CloseReport) -> int:
        is_stranger = (report.cause == GATEWAY_DIED) != self.looks_lost(end.how)
        return _is_state_lost(end, report) + is_stranger

    def _may_be_missing(self, end: ConnectionEnd) -> bool:
        """Whether an end may have no report, because no worker held its connection."""
        return self._may_be_unheld and self._is_lost(end)

    def _disconnected(self) -> Iterator[ConnectionEnd]:
        return (end for ends in self._ends.values() for end in ends if end.how)

    def count_disconnected(self) -> int:
        return sum(1 for _ in self._disconnected())

    def disconnected(self, delivery: str) -> tuple[Counter[str], Counter[str]]:
        """Count the causes of disconnections: those that break the promises, and the others.
        Connections that were lost with a gateway are in neither."""
        wrong: Counter[str] = Counter()
        expected: Counter[str] = Counter()
        for end in self._disconnected():
            if not self._is_lost(end):
                (expected if _is_promised(end, delivery) else wrong)[end.cause or end.how] += 1
        return wrong, expected

    def lost_with_gateway(self) -> Counter[str]:
        """Count the causes of connections that were lost with a gateway."""
        return Counter(end.cause or end.how for end in self._disconnected() if self._is_lost(end))

    def _is_lost(self, end: ConnectionEnd) -> bool:
        return end.cause in ("", GATEWAY_DIED) and self.looks_lost(end.how)

    def looks_lost(self, how: str) -> bool:
        """Whether a client whose gateway has died would see this."""
        return self._gateway_dies and how.startswith(("eof", "connection reset", "broken pipe"))


def _is_state_lost(end: ConnectionEnd, report: CloseReport) -> bool:
    return bool(end.header) and end.header != report.state


def _is_promised(end: ConnectionEnd, delivery: str) -> bool:
    """Whether the promises allow this end (docs/worker-protocol.md, delivery modes and rule 11)."""
    if delivery == "at-most-once":
        cause = "worker-died"
    elif end.kind == "hang":
        cause = "poison"
    else:
        return False
    # Without a report there is only the close code, or the reset of a raw connection.
    return end.cause == cause or (
        not end.cause and end.how.startswith(("1011", "connection reset"))
    )
