from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.connection.requests.clients import Client
from tests.gateway.harness import Harness
from tests.supervisor.policy_run import Run
from tests.supervisor.test_status import Processes
from wsraw.admin import metrics
from wsraw.gateway.status import of_loop, report
from wsraw.link.records import Respond, Send, Stats
from wsraw.runtime.loop import TURN_BOUNDS, Turns
from wsraw.supervisor import status

promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool here")

HEAD = {"run_dir": "/run/x", "pid": 9, "age": 61.0, "listen": ["ws://h:1"], "admin": None}


def figures(harness: Harness | None = None, run: Run | None = None) -> dict[str, Any]:
    """The status of a run with this gateway; without one, the gateway does not answer."""
    run = run or Run(1).up()
    told = None
    if harness is not None:
        told = report(harness.registry, harness.sessions, 3, harness.now, 99, samples=False)
        told["accepted"] = {"127.0.0.1:8000": 4}
        told["cluster"] = {
            "state": "connected",
            "nodes": ["b"],
            "subscriptions": 2,
            "counts": {"sent": 3},
        }
        told["certificates"] = [{"listener": "wss://h:1", "cert": "/c.pem", "not_after": 2e9}]
        told["tls"] = {"waiting": 0, "completed": 5, "failed": 1}
        told["loop"] = of_loop(Turns(), 0.25)
    return HEAD | status.of_run(run.policy, Processes(), told, 7, run.now)


def busy() -> Harness:
    """A gateway with a worker, and with connections open, ended and parked."""
    harness = Harness()
    harness.sessions.tokens.add("first", 1)
    linked = harness.worker(token="first")
    one = harness.raw()
    two = harness.websocket()
    linked.work()
    linked.say(Send(one.id, b"12345"), Send(two.id, b"1"))
    linked.say(Stats("on_message", 5, 2.5, 1, [1, 0, 2]))
    harness.hang_up(one)
    linked.work()
    harness.registry.counters.hit("origins", harness.now)
    web = Client(harness)
    web.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    linked.ack(*linked.events, commands=(Respond(web.pipe.con.id, 200, [], b"hello"),))
    web.step()
    return harness


def values(data: dict[str, Any], accept: str = "") -> dict[tuple[str, frozenset[Any]], float]:
    """The samples of a page, by name and labels."""
    text = metrics.page(data, accept)[0].decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(data: dict[str, Any], name: str, **labels: str) -> float | None:
    return values(data).get((name, frozenset(labels.items())))


def test_connections_and_messages_are_told_by_kind_pool_and_listener() -> None:
    data = figures(busy())
    place = {"pool": "default", "listener": ""}
    assert value(data, "wsraw_connections", kind="websocket", **place) == 1
    assert value(data, "wsraw_connections", kind="raw", **place) == 0
    assert value(data, "wsraw_connections_started_total", kind="raw", **place) == 1
    assert value(data, "wsraw_messages_total", direction="in", kind="raw", **place) == 1
    assert value(data, "wsraw_messages_total", direction="out", kind="raw", **place) == 1
    closed = [key for key in values(data) if key[0] == "wsraw_connections_closed_total"]
    assert len(closed) == 2
    assert value(data, "wsraw_connections_accepted_total", listener="127.0.0.1:8000") == 4
    assert value(data, "wsraw_limits_reached_total", limit="origins") == 1
    assert value(data, "wsraw_http_responses_total", status="2xx", **place) == 1
    assert value(data, "wsraw_tls_handshakes_total", outcome="failed") == 1


def test_workers_and_restarts_are_told_by_the_supervisor() -> None:
    run = Run(1).up()
    run.pass_time(5)
    run.exit(run.worker, -11)
    data = figures(busy(), run)
    labels = {"process": "worker", "pool": "default"}
    assert value(data, "wsraw_restarts_total", reason="signal", **labels) == 1
    assert value(data, "wsraw_restarts_total", reason="hung", **labels) == 0
    assert value(data, "wsraw_workers_wanted", pool="default") == 1
    run.pass_time(1)
    data = figures(busy(), run)
    memory = value(data, "wsraw_worker_resident_memory_bytes", pool="default", worker="2")
    assert memory == 20 << 20


def test_metrics_of_a_gateway_that_does_not_answer_are_left_out() -> None:
    found = values(figures())
    assert found["wsraw_gateway_up", frozenset()] == 0
    names = {name for name, _ in found}
    assert "wsraw_restarts_total" in names
    assert not names & {"wsraw_connections", "wsraw_memory_bytes", "wsraw_loop_lag_seconds"}


def test_a_histogram_is_cumulative() -> None:
    counted = metrics.Histogram((0.1, 1.0), 10, 5.5, [3, 2])
    assert counted.buckets() == [("0.1", 5), ("1.0", 8), ("+Inf", 10)]


def test_the_turns_of_the_loop_are_a_histogram_of_its_bounds() -> None:
    harness = busy()
    data = figures(harness)
    data["gateway"]["loop"] = {"turns": 5, "seconds": 2.0, "long": [1, *[0] * 8, 1], "lag": 0.0}
    assert value(data, "wsraw_loop_turn_seconds_count") == 5
    assert value(data, "wsraw_loop_turn_seconds_bucket", le="0.001") == 3
    assert value(data, "wsraw_loop_turn_seconds_bucket", le="1.0") == 4
    assert metrics.TURN_BOUNDS == TURN_BOUNDS


def test_the_times_of_handlers_are_a_histogram_and_their_exceptions_a_counter() -> None:
    data = figures(busy())
    where = {"pool": "default", "handler": "on_message"}
    bucket = "wsraw_handler_seconds_bucket"
    found = [value(data, bucket, le=le, **where) for le in ("0.0001", "0.00025", "0.001", "+Inf")]
    assert found == [2, 3, 5, 5]
    assert value(data, "wsraw_handler_seconds_sum", **where) == 2.5
    assert value(data, "wsraw_handler_exceptions_total", **where) == 1


def test_names_follow_the_conventions_of_prometheus() -> None:
    names = [metric.name for metric in metrics.METRICS]
    assert len(set(names)) == len(names)
    for metric in metrics.METRICS:
        assert re.fullmatch("wsraw(_[a-z]+)+", metric.name)
        assert not metric.name.endswith("_total"), "the library adds it"
        assert metric.help.endswith((".", ")."))
        assert not re.search("_(ms|kib|percent|seconds_.*)$", metric.name)


def test_every_metric_has_a_value_in_a_run_with_traffic() -> None:
    data = figures(busy())
    counts = {"sent": 5, "missed": 1, "not_sent": 0}
    data["gateway"]["cluster"] = {
        "state": "connected", "nodes": ["two"], "subscriptions": 1, "counts": counts,
    }  # fmt: skip
    families = {family.name for family in metrics.families(data)}
    assert {metric.name for metric in metrics.METRICS} - families == set()


def test_a_scraper_that_knows_openmetrics_gets_it() -> None:
    text, kind = metrics.page(figures(busy()), "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


@promtool
def test_promtool_finds_nothing_wrong_with_the_metrics() -> None:
    text = metrics.page(figures(busy()), "")[0]
    found = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert (found.returncode, found.stderr) == (0, b"")
