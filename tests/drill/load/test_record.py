"""What the checker makes of each order in which records can come back."""

from __future__ import annotations

import pytest

from wsraw.tools.drill.load.record import HEADER, MAGIC, Checker, Findings, filler


class Bench:
    """A checker that has sent ten records from round 5 on."""

    def __init__(self) -> None:
        self.findings = Findings()
        self.checker = Checker(3, 64, 5, self.findings)
        self.sent = [self.checker.send() for _ in range(10)]

    def receive(self, *order: int) -> list[int | None]:
        return [self.checker.receive(self.sent[n]) for n in order]

    def counts(self) -> tuple[int, int, int, int, int]:
        """Answered, doubled, reordered, corrupted, outstanding."""
        found = self.findings
        return (
            found.answered,
            found.doubled,
            found.reordered,
            found.corrupted,
            self.checker.outstanding,
        )


def test_a_record_holds_its_connection_and_its_number() -> None:
    checker = Checker(0x1F, 20, 0x2E, Findings())
    assert checker.send()[:HEADER] == b"WD00001f0000002e"
    assert len(checker.send()) == 20
    assert filler(64, 1) != filler(64, 2)
    # Else a raw stream that is out of step could not find the next record.
    assert MAGIC not in filler(1000, 7)


@pytest.mark.parametrize(
    ("order", "counts"),
    [
        (range(10), (10, 0, 0, 0, 0)),
        ((0, 1, 1, 2), (3, 1, 0, 0, 7)),
        ((0, 2, 1, 3), (4, 0, 1, 0, 6)),
        ((0, 2, 3), (3, 0, 0, 0, 7)),
        ((3, 0, 1, 2), (4, 0, 3, 0, 6)),
        ((1, 0, 0), (2, 1, 1, 0, 8)),
        ((0, 1, 0), (2, 1, 0, 0, 8)),
    ],
    ids=["right", "doubled", "swapped", "missing", "first late", "late twice", "old"],
)
def test_lost_doubled_and_reordered_records_are_counted(
    order: list[int], counts: tuple[int, ...]
) -> None:
    bench = Bench()
    bench.receive(*order)
    assert bench.counts() == counts


def test_the_round_of_a_record_is_returned_once() -> None:
    bench = Bench()
    assert bench.receive(0, 0, 2, 1, 1) == [5, None, 7, 6, None]


@pytest.mark.parametrize(
    "record",
    [
        Checker(4, 64, 5, Findings()).send(),
        Checker(3, 64, 15, Findings()).send(),
        Checker(3, 64, 4, Findings()).send(),
        Checker(3, 63, 5, Findings()).send(),
        b"",
        b"WD000003zzzzzzzz",
        b"x" * 64,
    ],
    ids=["another's", "not sent yet", "before our time", "short", "empty", "no number", "anything"],
)
def test_a_record_that_was_never_sent_counts_as_corrupted(record: bytes) -> None:
    bench = Bench()
    assert bench.checker.receive(record) is None
    assert bench.counts() == (0, 0, 0, 1, 10)


def test_the_checker_waits_until_the_last_record_arrives() -> None:
    bench = Bench()
    bench.receive(*range(1, 9))
    assert bench.checker.waiting
    bench.receive(9)
    assert not bench.checker.waiting
    assert (bench.checker.overtaken, bench.checker.outstanding) == (1, 1)
