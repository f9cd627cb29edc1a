"""The checker's result for each order of records."""

from __future__ import annotations

import pytest

from wsraw.tools.drill.figures import Figures
from wsraw.tools.drill.load.record import HEADER, MAGIC, Checker, Records, filler


class SentRecords:
    """A checker that has sent ten records, from round 5 on."""

    def __init__(self) -> None:
        self.figures = Figures()
        self.checker = Checker(3, 64, 5, self.figures)
        self.sent = [self.checker.send() for _ in range(10)]

    def receive(self, *order: int) -> list[int | None]:
        return [self.checker.receive(self.sent[n]) for n in order]

    def counts(self) -> tuple[int, int, int, int, int]:
        """The counts: answered, duplicated, reordered, corrupted, outstanding."""
        found = self.figures
        return (
            found.answered,
            found.duplicated,
            found.reordered,
            found.corrupted,
            self.checker.outstanding,
        )


def test_a_record_holds_its_connection_and_its_number() -> None:
    checker = Checker(0x1F, 20, 0x2E, Figures())
    assert checker.send()[:HEADER] == b"WD00001f0000002e"
    assert len(checker.send()) == 20
    assert filler(64, 1) != filler(64, 2)
    # With the magic bytes in a filler, a raw stream that is out of step could not find the next
    # record.
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
    ids=["right", "duplicated", "swapped", "missing", "first late", "late twice", "old"],
)
def test_lost_doubled_and_reordered_records_are_counted(
    order: list[int], counts: tuple[int, ...]
) -> None:
    sent_records = SentRecords()
    sent_records.receive(*order)
    assert sent_records.counts() == counts


def test_the_round_of_a_record_is_returned_once() -> None:
    sent_records = SentRecords()
    assert sent_records.receive(0, 0, 2, 1, 1) == [5, None, 7, 6, None]


@pytest.mark.parametrize(
    "record",
    [
        Checker(4, 64, 5, Figures()).send(),
        Checker(3, 64, 15, Figures()).send(),
        Checker(3, 64, 4, Figures()).send(),
        Checker(3, 63, 5, Figures()).send(),
        b"",
        b"WD000003zzzzzzzz",
        b"x" * 64,
    ],
    ids=[
        "another's",
        "not sent yet",
        "too old",
        "short",
        "empty",
        "no number",
        "anything",
    ],
)
def test_a_record_that_was_never_sent_counts_as_corrupted(record: bytes) -> None:
    sent_records = SentRecords()
    assert sent_records.checker.receive(record) is None
    assert sent_records.counts() == (0, 0, 0, 1, 10)


def test_the_checker_waits_until_the_last_record_arrives() -> None:
    sent_records = SentRecords()
    sent_records.receive(*range(1, 9))
    assert sent_records.checker.waiting
    sent_records.receive(9)
    assert not sent_records.checker.waiting
    assert (sent_records.checker.overtaken, sent_records.checker.outstanding) == (1, 1)


def records(count: int, size: int = 40) -> list[bytes]:
    checker = Checker(9, size, 0, Figures())
    return [checker.send() for _ in range(count)]


@pytest.mark.parametrize("cut", [1, 7, 39, 40, 41, 1000])
def test_records_are_found_however_the_stream_is_cut(cut: int) -> None:
    sent = records(5)
    data = b"".join(sent)
    parser = Records(40)
    got = [record for n in range(0, len(data), cut) for record in parser.receive(data[n : n + cut])]
    assert got == sent


def test_records_behind_junk_are_found() -> None:
    one, two, three, four = records(4)
    assert Records(40).receive(one + two[:-5] + three + four) == [one, two[:-5], three, four]
    assert Records(40).receive(one[:-1] + two) == [one[:-1], two]
    assert Records(40).receive(one + b"junk" + two + three) == [one, b"junk", two, three]


def test_a_stream_of_junk_is_returned_as_junk() -> None:
    assert b"".join(Records(40).receive(b"x" * 100)) == b"x" * 99
