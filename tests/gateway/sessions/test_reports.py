from __future__ import annotations

from wsraw.gateway.sessions.reports import Reports
from wsraw.link.records import (
    Alive,
    FromGateway,
    Kill,
    Left,
    Listening,
    Ready,
    Recycle,
    Reloaded,
    Report,
    Stopped,
)

NEWS = Listening(["127.0.0.1:1"], "ipc://x", 1, 2)


def reports(*records: FromGateway, spawned: int = 9) -> Reports:
    """Reports about the workers 1 to `spawned`, which are alive."""
    made = Reports()
    for n in range(1, spawned + 1):
        made.spawned(n)
    for record in records:
        made.add(record)
    return made


def test_reports_are_said_once_and_in_order() -> None:
    made = reports(NEWS, Ready(1), Ready(2))
    assert made.waiting() == [NEWS, Ready(1), Ready(2)]
    made.said()
    assert made.waiting() == []
    made.add(Left(1))
    assert made.waiting() == [Left(1)]


def test_a_later_report_about_the_same_thing_replaces_one_that_waits() -> None:
    made = reports(Ready(1), Recycle(2, "a"), Kill(1, "hangs", abort=True), Recycle(2, "b"))
    made.add(Kill(1, "hangs still"))
    assert made.waiting() == [Ready(1), Recycle(2, "b"), Kill(1, "hangs still")]


def test_sessions_that_come_and_go_wait_as_the_last_of_them() -> None:
    made = reports(Ready(1), Left(1, 5, 1), Ready(1), Left(1, 2, 2), Ready(1))
    assert made.waiting() == [Left(1, 7, 3), Ready(1)]
    made.add(Left(1, 1, 0))
    assert made.waiting() == [Ready(1), Left(1, 8, 3)]


def test_what_waits_is_bounded_by_the_number_of_workers() -> None:
    made = reports()
    for round_ in range(1000):
        for n in range(1, 10):
            for record in (Ready(n), Recycle(n, "old"), Kill(n, "hangs"), Left(n, 1)):
                made.add(record)
        for other in (NEWS, Alive(), Reloaded(), Stopped()):
            made.add(other)
        assert len(made.waiting()) == 4 * 9 + 4, round_


def test_each_question_has_its_answer() -> None:
    made = reports(Report(1, {}), Report(2, {}))
    assert made.waiting() == [Report(1, {}), Report(2, {})]


def test_a_new_link_begins_with_what_still_holds() -> None:
    made = reports(NEWS, Ready(1), Ready(2), Ready(3), Kill(4, "shut out"), Recycle(1, "old"))
    made.said()
    for record in (Left(2, 3, 4), Report(1, {}), Alive(), Reloaded("no")):
        made.add(record)
    made.said()
    made.add(Ready(5))
    made.repeat()
    assert made.waiting() == [
        NEWS, Ready(1), Left(2, 3, 4), Ready(3), Kill(4, "shut out"), Ready(5),
    ]  # fmt: skip
    made.said()
    made.repeat()
    assert len(made.waiting()) == 6, "it may be lost again"


def test_what_waits_at_a_loss_comes_after_what_was_said_before() -> None:
    made = reports(Ready(1))
    made.said()
    made.add(Left(1, 2, 3))
    made.repeat()
    assert made.waiting() == [Ready(1), Left(1, 2, 3)]


def test_nothing_is_repeated_about_a_worker_whose_exit_was_reported() -> None:
    made = reports(Ready(1), Kill(1, "hangs"), Ready(2))
    made.said()
    made.exited(1)
    # The session of a worker ends later, once all its batches are read.
    made.add(Left(1, 7, 1))
    assert made.waiting() == [Left(1, 7, 1)]
    made.said()
    made.repeat()
    assert made.waiting() == [Ready(2)]


def test_nothing_is_kept_of_workers_that_are_gone() -> None:
    made = Reports()
    for n in range(1000):
        made.spawned(n)
        made.add(Ready(n))
        made.said()
        made.exited(n)
        made.add(Left(n))
        made.said()
    assert not made._said
    assert not made._spawned
