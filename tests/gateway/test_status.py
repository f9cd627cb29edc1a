from __future__ import annotations

from tests.gateway.harness import Harness
from wsraw.gateway.status import report
from wsraw.link.records import Open, Send


def test_connections_are_counted_by_kind_with_their_waiting_events() -> None:
    harness = Harness(memory_limit=12345)
    harness.raw()
    harness.raw(b"")
    harness.websocket()
    told = report(harness.registry, harness.sessions, 3, harness.now)
    assert told["connections"] == {"websocket": 1, "raw": 1, "opened": 0, "total": 2}
    assert told["sockets"] == 3
    assert told["parked"] == 3, "two on_connect and a message; nobody is there"
    assert told["bytes"] == harness.registry.flow.accounted > 0
    assert (told["memory_limit"], told["crowded"], told["epoch"]) == (12345, False, 1)
    assert told["workers"] == []


def test_opened_connections_are_counted_by_kind() -> None:
    harness = Harness()
    linked = harness.worker()
    linked.say(Open(linked.link.new_id(), "h:1", "raw", "/", "h", "o", {}))
    told = report(harness.registry, harness.sessions, 0, harness.now)
    assert told["connections"] == {"websocket": 0, "raw": 1, "opened": 1, "total": 1}


def test_commands_for_what_is_closed_are_counted() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    harness.hang_up(con)
    linked.work()
    linked.say(Send(con.id, b"late"))
    assert report(harness.registry, harness.sessions, 0, harness.now)["unknown_ids"] == 1


def test_the_status_has_the_figures_of_a_worker() -> None:
    harness = Harness()
    harness.sessions.tokens.add("third", 3)
    linked = harness.worker(token="third", language="lua")
    harness.receive(b"\0new", b"")
    harness.raw(b"12345")
    harness.turn()
    harness.now += 2.0
    [told] = report(harness.registry, harness.sessions, 1, harness.now)["workers"]
    assert (told["n"], told["language"], told["state"]) == (3, "lua", "ready")
    assert (told["connections"], told["in_flight"], told["acked"]) == (1, 2, 0)
    assert told["oldest"] == 2.0
    assert told["in_flight_bytes"] == linked.worker.window.bytes > 5
    assert (told["service_p50"], told["service_p99"]) == (0.0, 0.0)
    linked.ack()
    [told] = report(harness.registry, harness.sessions, 1, harness.now)["workers"]
    assert (told["in_flight"], told["acked"], told["oldest"]) == (0, 2, 0.0)


def test_service_times_are_percentiles_of_the_samples() -> None:
    harness = Harness()
    worker = harness.worker().worker
    worker.window.samples.extend(n / 1000 for n in reversed(range(100)))
    [told] = report(harness.registry, harness.sessions, 0, 0.0)["workers"]
    size = len(worker.window.samples)
    assert told["service_p50"] == sorted(worker.window.samples)[size // 2]
    assert told["service_p99"] == sorted(worker.window.samples)[size * 99 // 100]


def test_a_hanging_worker_is_shown_as_such() -> None:
    harness = Harness(handler_timeout=1.0)
    harness.sessions.tokens.add("third", 3)
    harness.worker(token="third")
    harness.raw()
    harness.turn()
    harness.run(3)
    [told] = report(harness.registry, harness.sessions, 1, harness.now)["workers"]
    assert told["state"] == "hung"


def test_reached_limits_are_counted() -> None:
    harness = Harness()
    harness.registry.counters.hit("max_header_size", harness.now)
    data = report(harness.registry, harness.sessions, 0, harness.now, 99)
    assert data["limits"] == {"max_header_size": 1}
    assert data["max_connections"] == 99
