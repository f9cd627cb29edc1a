from __future__ import annotations

import logging

import pytest

from wsraw.config.settings import Settings
from wsraw.gateway.counters import BURST, CLIENTS, DONE, STRANGERS, TELL_EVERY, UNTOLD, Counters
from wsraw.runtime.log.line import Subject


def test_each_counted_limit_is_a_setting() -> None:
    for name in DONE:
        assert name.partition(" (")[0] in Settings.__struct_fields__


def test_the_first_violation_is_logged_at_once_and_the_others_in_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    limits = Counters()
    limits.hit("max_header_size", 100.0, Subject(1, "a"))
    for n in range(50):
        limits.hit("max_header_size", 101.0 + n / 10, Subject(2, f"b{n}"))
    limits.tick(100.0 + TELL_EVERY - 0.1)
    assert [record.getMessage() for record in caplog.records] == [
        "limit max_header_size: refused a request (431): connection 1 (a)"
    ]
    limits.tick(100.0 + TELL_EVERY)
    limits.tick(100.0 + 5 * TELL_EVERY)
    assert [record.getMessage() for record in caplog.records[1:]] == [
        "limit max_header_size: refused a request (431), 50 times in 10 s; the last one: "
        "connection 2 (b49)"
    ]
    told = [(record.__dict__["connection"], record.__dict__["peer"]) for record in caplog.records]
    assert told == [(1, "a"), (2, "b49")]
    assert limits.counts == {"max_header_size": 51}


def test_each_limit_is_logged_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    limits = Counters()
    for name in DONE:
        limits.hit(name, 0.0)
    assert len(caplog.records) == len(DONE) - len(UNTOLD)
    levels = {record.levelname for record in caplog.records if "idle" in record.getMessage()}
    assert levels == {"INFO"}
    assert limits.counts == dict.fromkeys(DONE, 1)


def test_a_lasting_storm_is_logged_every_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    limits = Counters()
    for tenth in range(601):
        limits.hit("max_connections", tenth / 10)
    assert len(caplog.records) == 7


def test_warnings_about_workers_do_not_flood_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = Counters()
    for n in range(1000):
        limits.say("error", "again %d", n)
    assert len(caplog.records) == BURST
    limits.tick(1.0)
    limits.now = 1.5
    limits.say("error", "a line between")
    limits.now = 2.5
    limits.say("error", "and again")
    assert [record.getMessage() for record in caplog.records[BURST:]] == [
        f"again 999 ({1000 - BURST - 1} more such lines were left out)",
        "and again (1 more such lines were left out)",
    ]
    assert not limits.counts, "it is no limit"


@pytest.mark.parametrize("of", [CLIENTS, STRANGERS])
def test_a_flood_of_others_hides_no_line_about_a_worker(
    of: str, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Counters()
    for n in range(1000):
        limits.say("error", "flood %d", n, of=of)
    limits.say("warning", "worker 3 is gone")
    assert caplog.records[-1].getMessage() == "worker 3 is gone"
    assert len(caplog.records) <= BURST + 1
