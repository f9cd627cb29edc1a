from __future__ import annotations

from typing import Any

import pytest

from tests.tools.top.played import (
    by_hand,
    figures,
    gateway,
    handler,
    pool,
    silent,
    totals,
    worker,
)
from wsraw.tools.top.rates import COUNTERS, Meter


def measured(*answers: tuple[float, dict[str, Any]]) -> dict[str, Any]:
    """The rates after the last of these answers."""
    meter, last = Meter(), {}
    for at, each in answers:
        last = meter.measure(at, each)
    return last


def with_counts(factor: int) -> dict[str, Any]:
    """Figures with different counters, all multiplied by this factor."""
    return figures(
        gateway=gateway(
            totals=[
                totals(
                    received=1 * factor, received_bytes=10 * factor, sent=2 * factor,
                    sent_bytes=20 * factor, closed={"peer": 3 * factor, "idle": 4 * factor},
                ),
                totals(
                    kind="raw", received=100 * factor, closed={"peer": 5 * factor},
                    responses={"2xx": 6 * factor, "5xx": factor},
                ),
            ],
            accepted={"one": 6 * factor, "two": 7 * factor},
            loop={"turns": 1, "seconds": 0.125 * factor, "long": [], "lag": 0.0},
            limits={"byte_rate": 8 * factor},
        ),
        pools=[pool(acked=9 * factor)],
        workers=[worker(1, acked=10 * factor), worker(2)],
        by_hand=[by_hand(acked=11 * factor)],
    )  # fmt: skip


def rates(data: dict[str, Any]) -> list[float | None]:
    """All rates."""
    parts = data["pools"] + data["workers"] + data["by_hand"]
    return [*data["rates"].values(), *(each["acked_per_second"] for each in parts)]


def test_rates_are_differences_by_the_time_between() -> None:
    found = measured((100.0, with_counts(1)), (104.0, with_counts(5)))
    assert found["seconds"] == 4.0
    assert found["rates"] == {
        "received": 101.0, "received_bytes": 10.0, "sent": 2.0, "sent_bytes": 20.0,
        "accepted": 13.0, "closed": 12.0, "busy": 0.125, "responses": 7.0, "failures": 1.0,
    }  # fmt: skip
    assert set(found["rates"]) == set(COUNTERS)
    assert [each["acked_per_second"] for each in found["pools"]] == [9.0]
    assert [each["acked_per_second"] for each in found["workers"]] == [10.0, 0.0]
    assert [each["acked_per_second"] for each in found["by_hand"]] == [11.0]
    assert found["limits_reached"] == {"byte_rate": 32}


def test_the_figures_stay_as_they_are() -> None:
    given = with_counts(3)
    found = measured((1.0, with_counts(1)), (2.0, given))
    assert {key: found[key] for key in ("gateway", "listen", "problems")} == {
        key: given[key] for key in ("gateway", "listen", "problems")
    }
    assert set(found) - set(given) == {"seconds", "rates", "limits_reached", "handlers"}
    assert "acked_per_second" not in given["workers"][0], "what was given is not changed"


def test_the_first_answer_has_no_rates() -> None:
    found = measured((1.0, with_counts(1)))
    assert set(rates(found)) == {None}
    assert found["seconds"] is found["limits_reached"] is None


def test_each_answer_is_compared_with_the_one_before() -> None:
    found = measured((1.0, with_counts(1)), (2.0, with_counts(2)), (3.0, with_counts(12)))
    assert (found["seconds"], found["rates"]["sent"]) == (1.0, 20.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": 41},
        {"gateway": gateway(epoch=2)},
        {"gateway": gateway(pid=51)},
        {"gateway": gateway(epoch=2, totals=[], accepted={})},
    ],
)
def test_another_run_or_gateway_begins_again(changes: dict[str, Any]) -> None:
    meter = Meter()
    meter.measure(1.0, figures())
    found = meter.measure(2.0, figures(**changes))
    assert set(rates(found)) == {None}
    assert set(rates(meter.measure(3.0, figures(**changes)))) == {0.0}


def test_a_gateway_that_does_not_answer_has_no_rates() -> None:
    found = measured((1.0, with_counts(1)), (2.0, silent()))
    assert set(rates(found)) == {None}


def test_after_a_silence_rates_are_those_of_the_whole_time() -> None:
    found = measured((1.0, with_counts(1)), (2.0, silent()), (5.0, with_counts(5)))
    assert (found["seconds"], found["rates"]["sent"]) == (4.0, 2.0)


def test_a_silence_at_the_beginning_is_not_compared_with() -> None:
    assert set(rates(measured((1.0, silent()), (2.0, with_counts(2))))) == {None}


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (worker(1, acked=5), worker(1, acked=7, pid=999)),
        (worker(1, acked=5), worker(1, acked=2)),
        (worker(1, acked=None), worker(1, acked=2)),
        (worker(1, acked=5), worker(1, acked=None)),
        (worker(2, acked=5), worker(1, acked=7)),
    ],
)
def test_a_worker_that_has_begun_again_has_no_rate(
    before: dict[str, Any], now: dict[str, Any]
) -> None:
    found = measured((1.0, figures(workers=[before])), (2.0, figures(workers=[now])))
    assert found["workers"][0]["acked_per_second"] is None
    assert found["rates"]["sent"] == 0.0


def test_a_new_pool_and_a_new_limit_are_no_error() -> None:
    after = figures(
        pools=[pool(), pool(name="chat", acked=7)], gateway=gateway(limits={"origins": 3})
    )
    found = measured((1.0, figures()), (2.0, after))
    assert [each["acked_per_second"] for each in found["pools"]] == [0.0, None]
    assert found["limits_reached"] == {"origins": 3}


def test_a_clock_that_stands_still_divides_nothing() -> None:
    assert set(rates(measured((1.0, with_counts(1)), (1.0, with_counts(2))))) == {None}


def of_handlers(**handlers: dict[str, Any]) -> dict[str, Any]:
    return figures(pools=[pool(handlers=handlers), pool(name="b", handlers={"every": handler()})])


def test_handlers_are_shown_by_what_they_did_in_the_time_between_the_slowest_first() -> None:
    long = [0] * 10 + [400] + [0] * 5
    before = of_handlers(
        on_message=handler(calls=1000, seconds=100.0, exceptions=7, slower=long),
        on_close=handler(calls=5),
    )
    now = of_handlers(
        on_message=handler(calls=1008, seconds=100.5, exceptions=7, slower=long),
        on_close=handler(calls=7, seconds=4.0, exceptions=2, slower=[0] * 13 + [2, 0, 0]),
        on_connect=handler(exceptions=1),
    )
    found = measured((10.0, before), (14.0, now))["handlers"]
    assert [(each["pool"], each["handler"]) for each in found] == [
        ("default", "on_close"), ("default", "on_message"), ("default", "on_connect"),
        ("b", "every"),
    ]  # fmt: skip
    close, message, connect, _ = found
    assert (close["mean"], close["exceptions_per_second"]) == (2.0, 0.5)
    assert 2.5 < close["p99"] <= 5.0
    assert (message["calls_per_second"], message["exceptions_per_second"]) == (2.0, 0.0)
    assert message["mean"] == pytest.approx(0.0625)
    assert message["p99"] < 0.0001, "the slow calls were before"
    assert (connect["mean"], connect["p99"], connect["exceptions_per_second"]) == (None, None, 0.25)


def test_handlers_are_unknown_without_a_time_between() -> None:
    assert measured((1.0, of_handlers()))["handlers"] is None
    assert measured((1.0, of_handlers()), (2.0, silent()))["handlers"] is None


def test_a_pool_that_has_begun_again_has_no_handlers_for_once() -> None:
    before, now = of_handlers(on_error=handler(calls=9)), of_handlers(on_error=handler(calls=2))
    found = measured((1.0, before), (2.0, now))["handlers"]
    assert [each["handler"] for each in found] == ["every"]
