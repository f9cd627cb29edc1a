from __future__ import annotations

import re
from typing import Any

import pytest

from tests.supervisor.policy_run import Run
from wsraw.config.programs import Program, WorkerSpec
from wsraw.config.units import human_size, human_time
from wsraw.supervisor import status
from wsraw.supervisor.decisions.child import Child

REPORT: dict[str, Any] = {
    "epoch": 1,
    "sockets": 3,
    "connections": {"websocket": 2, "raw": 1, "opened": 0, "total": 3},
    "parked": 4,
    "paused": 5,
    "bytes": 2048,
    "memory_limit": 1 << 30,
    "crowded": False,
    "limits": {"origins": 8, "max_header_size": 9},
    "unknown_ids": 6,
    "dropped": 0,
    "workers": [
        {
            "n": 1, "instance": "aa", "language": "python/3", "state": "ready", "connections": 3,
            "in_flight": 2, "in_flight_bytes": 99, "oldest": 0.25, "window": 8, "acked": 1000,
            "service_p50": 0.00002, "service_p99": 0.002,
        },
        {"n": 0, "instance": "bb", "language": "lua", "state": "ready", "in_flight": 1},
        {"n": 77, "instance": "cc", "state": "ready"},
    ],
}  # fmt: skip


class Processes:
    """Processes of all children that are alive."""

    def pid(self, child: Child) -> int | None:
        return 4000 + child.n if child.alive else None

    def memory(self, child: Child) -> int | None:
        return 20 << 20 if child.alive else None


def told(run: Run, report: dict[str, Any] | None = REPORT) -> dict[str, Any]:
    head = {"run_dir": "/run/x", "pid": 9, "age": 61.0, "listen": ["ws://h:1", "tcp://h:1"]}
    return {**head, **status.of_run(run.policy, Processes(), report, 7, run.now)}


def test_the_status_joins_what_gateway_and_supervisor_report() -> None:
    run = Run(2).up()
    run.pass_time(5)
    data = told(run)
    one, two = data["workers"]
    assert (one["n"], one["state"], one["pid"], one["age"]) == (1, "ready", 4001, 5.0)
    assert (one["in_flight"], one["oldest"], one["window"]) == (2, 0.25, 8)
    assert (one["service_p50"], one["service_p99"]) == (0.00002, 0.002)
    assert (two["n"], two["in_flight"]) == (2, None), "the gateway has not said"
    assert data["gateway"]["dead_letters"] == 7
    assert data["gateway"]["answers"] is True
    assert [each["language"] for each in data["by_hand"]] == ["lua"]


def test_the_status_has_the_same_keys_without_the_gateway() -> None:
    run = Run(2).up()
    full, empty = told(run), told(run, None)
    assert full.keys() == empty.keys()
    assert full["gateway"].keys() == empty["gateway"].keys()
    assert full["workers"][0].keys() == empty["workers"][0].keys()
    assert empty["gateway"]["answers"] is False


def test_the_status_shows_restarts_with_the_last_reason() -> None:
    run = Run(1).up()
    run.pass_time(5)
    run.exit(run.worker, -11, "was killed by SIGSEGV")
    (worker,) = told(run)["workers"]
    assert worker["state"] == "dead"
    assert worker["starts_in"] == pytest.approx(0.1)
    assert (worker["pid"], worker["age"]) == (None, None)
    assert (worker["restarts"], worker["last_reason"]) == (1, "was killed by SIGSEGV")
    assert worker["last_death"] == 0.0
    run.pass_time(5)
    run.do(run.policy.ready(2, run.now))
    run.do(run.policy.reload(run.now))
    run.do(run.policy.ready(3, run.now))
    run.pass_time(1)
    data = told(run)
    assert [each["state"] for each in data["workers"]] == ["ready", "draining"]
    assert data["workers"][0]["restarts"] == 1, "a place keeps its history"
    assert data["workers"][0]["last_death"] == 6.0
    assert data["reloading"]


def test_the_status_shows_a_hanging_worker() -> None:
    run = Run(1).up()
    report = {"workers": [{**REPORT["workers"][0], "state": "hung"}]}
    assert told(run, report)["workers"][0]["state"] == "hung"


def test_the_status_shows_a_crash_loop() -> None:
    run = Run(1, restart_intensity=0).up()
    run.exit(run.worker, 1, "exited with code 1", "KeyError: 'a'")
    data = told(run)
    assert data["crash_loop"] is True
    text = status.table(data)
    assert "DEGRADED: crash loop of the pool default (KeyError: 'a'); the pool" in text
    assert "worker 1: the last one exited with code 1: KeyError: 'a' (0 ago)" in text
    run.pass_time(60)
    run.exit(run.worker, -11, "was killed by SIGSEGV")
    text = status.table(told(run))
    assert "DEGRADED: crash loop of the pool default; the pool" in text
    assert "KeyError" not in text, "that was the one before"


def test_a_run_that_serves_everybody_has_no_problems() -> None:
    run = Run(2).up()
    assert told(run)["problems"] == []
    assert "DEGRADED" not in status.table(told(run))


def test_a_pool_without_ready_workers_is_a_problem() -> None:
    run = Run(1, others={"far": []}).up()
    assert told(run)["problems"] == ["the pool far has no ready worker"]
    assert told(run, {"workers": [{"pool": "far", "state": "ready"}]})["problems"] == []
    run.pass_time(5)
    run.exit(run.worker)
    problems = told(run)["problems"]
    assert problems == [
        "the pool default has no ready worker",
        "the pool far has no ready worker",
    ]
    assert f"DEGRADED: {'; '.join(problems)}" in status.table(told(run))


def test_a_worker_that_hangs_does_not_count_as_ready() -> None:
    run = Run(1).up()
    report = {"workers": [{**REPORT["workers"][0], "state": "hung"}]}
    assert told(run, report)["problems"] == ["the pool default has no ready worker"]


def test_a_gateway_that_is_not_there_or_does_not_answer_is_a_problem() -> None:
    assert told(Run(1))["problems"][0] == "the gateway is dead"
    run = Run(1).up()
    assert told(run, None)["problems"] == ["the gateway does not answer"]
    run.pass_time(5)
    run.exit(run.policy.gateway)
    assert told(run, None)["problems"] == ["the gateway is starting"]


def test_a_run_that_stops_is_not_healthy() -> None:
    run = Run(1).up()
    run.do(run.policy.stop(run.now))
    assert "the run is stopping" in told(run)["problems"]


def test_a_crash_loop_of_the_gateway_is_told_from_one_of_a_pool() -> None:
    run = Run(1, restart_intensity=0).up()
    run.exit(run.policy.gateway)
    assert "crash loop of the gateway" in told(run, None)["problems"]


def test_the_status_is_shown_as_a_table() -> None:
    run = Run(2).up()
    run.pass_time(5)
    run.exit(run.worker, -11, "was killed by SIGSEGV")
    text = status.table(told(run))
    assert "run folder /run/x, pid 9, up 1.0 min" in text
    assert "listening on ws://h:1 and tcp://h:1" in text
    assert "gateway: ready, pid 4001, up 5.0 s, restarts 0, memory 20.0 MiB" in text
    assert "connections: 2 websocket, 1 raw, 0 opened, 3 total" in text
    assert "held 2.0 KiB of 1.0 GiB" in text
    assert "dead, starts in 0 s" in text
    assert "by hand" in text
    assert "worker 1: the last one was killed by SIGSEGV (0 ago)" in text
    rows = [line for line in text.splitlines() if line[:1] in "w12b"]
    assert len({line.find("ready") for line in rows if "ready" in line}) == 1, "columns"


def test_the_table_groups_workers_by_pool() -> None:
    feed = WorkerSpec(Program("feed.py", "feed.py", label="feed.py"), 2)
    run = Run(1, others={"feed": [feed], "far": []}, restart_intensity=0).up()
    run.do(run.policy.ready(2, run.now))
    run.exit(run.policy.pools["feed"].workers[0], 1)
    known = [{"name": "feed", "connections": 7, "waiting": 2, "ready": 1}]
    data = told(run, {**REPORT, "pools": known})
    assert [(each["name"], each["workers_wanted"]) for each in data["pools"]] == [
        ("default", 1), ("feed", 2), ("far", 0)
    ]  # fmt: skip
    assert [each["crash_loop"] for each in data["pools"]] == [False, True, False]
    assert [each["connections"] for each in data["pools"]] == [None, 7, None]
    assert [each["pool"] for each in data["workers"]] == ["default", "feed", "feed"]
    text = status.table(data)
    assert "crash loop of the pool feed" in text
    assert "pool feed: workers ready 1, wanted 2; connections 7, waiting 2" in text
    assert re.search(r"^1 .* default  x.py$", text, re.M)
    assert "pool" not in status.table(told(Run(1).up(), {"workers": []})), "there is one only"


def test_the_table_says_that_the_gateway_does_not_answer() -> None:
    run = Run(1)
    run.do(run.policy.decide(run.now))
    text = status.table({**told(run, None), "listen": []})
    assert "the gateway does not answer" in text
    assert "dead letters 7" in text, "they are in a file"
    assert "listening on nothing yet" in text


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"), (0, "0"), (0.00002, "0.02 ms"), (0.002, "2 ms"), (0.0347, "35 ms"),
        (1.0, "1.0 s"), (90, "1.5 min"), (7200, "2.0 h"), (86400, "1.0 d"),
    ],
)  # fmt: skip
def test_times_are_shown_in_one_or_two_units(seconds: float | None, shown: str) -> None:
    assert human_time(seconds) == shown


@pytest.mark.parametrize(
    ("size", "shown"), [(None, "-"), (0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB")]
)
def test_sizes_are_shown_in_one_unit(size: int | None, shown: str) -> None:
    assert human_size(size) == shown
