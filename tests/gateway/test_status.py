from __future__ import annotations

from stage import Stage

from wsraw.gateway.status import report
from wsraw.link.records import Open, Send


def test_connections_are_counted_by_kind_with_their_waiting_events() -> None:
    stage = Stage(memory_limit=12345)
    stage.raw()
    stage.raw(b"")
    stage.websocket()
    told = report(stage.registry, stage.sessions, 3, stage.now)
    assert told["connections"] == {"websocket": 1, "raw": 1, "opened": 0, "total": 2}
    assert told["sockets"] == 3
    assert told["parked"] == 3, "two on_connect and a message; nobody is there"
    assert told["bytes"] == stage.registry.flow.accounted > 0
    assert (told["memory_limit"], told["crowded"], told["epoch"]) == (12345, False, 1)
    assert told["workers"] == []


def test_opened_connections_are_counted_by_kind() -> None:
    stage = Stage()
    mate = stage.worker()
    mate.say(Open(mate.link.new_id(), "h:1", "raw", "/", "h", "o", {}))
    told = report(stage.registry, stage.sessions, 0, stage.now)
    assert told["connections"] == {"websocket": 0, "raw": 1, "opened": 1, "total": 1}


def test_commands_for_what_is_closed_are_counted() -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.raw()
    stage.hang_up(con)
    mate.work()
    mate.say(Send(con.id, b"late"))
    assert report(stage.registry, stage.sessions, 0, stage.now)["unknown_ids"] == 1


def test_the_status_has_the_figures_of_a_worker() -> None:
    stage = Stage()
    stage.sessions.tokens.add("third", 3)
    mate = stage.worker(token="third", language="lua")
    stage.receive(b"\0new", b"")
    stage.raw(b"12345")
    stage.turn()
    stage.now += 2.0
    [told] = report(stage.registry, stage.sessions, 1, stage.now)["workers"]
    assert (told["n"], told["language"], told["state"]) == (3, "lua", "ready")
    assert (told["connections"], told["in_flight"], told["acked"]) == (1, 2, 0)
    assert told["oldest"] == 2.0
    assert told["in_flight_bytes"] == mate.worker.window.bytes > 5
    assert (told["service_p50"], told["service_p99"]) == (0.0, 0.0)
    mate.ack()
    [told] = report(stage.registry, stage.sessions, 1, stage.now)["workers"]
    assert (told["in_flight"], told["acked"], told["oldest"]) == (0, 2, 0.0)


def test_service_times_are_percentiles_of_the_samples() -> None:
    stage = Stage()
    worker = stage.worker().worker
    worker.window.samples.extend(n / 1000 for n in reversed(range(100)))
    [told] = report(stage.registry, stage.sessions, 0, 0.0)["workers"]
    size = len(worker.window.samples)
    assert told["service_p50"] == sorted(worker.window.samples)[size // 2]
    assert told["service_p99"] == sorted(worker.window.samples)[size * 99 // 100]


def test_a_hanging_worker_is_shown_as_such() -> None:
    stage = Stage(handler_timeout=1.0)
    stage.sessions.tokens.add("third", 3)
    stage.worker(token="third")
    stage.raw()
    stage.turn()
    stage.run(3)
    [told] = report(stage.registry, stage.sessions, 1, stage.now)["workers"]
    assert told["state"] == "hung"


def test_reached_limits_are_counted() -> None:
    stage = Stage()
    stage.registry.counters.hit("max_header_size", stage.now)
    data = report(stage.registry, stage.sessions, 0, stage.now, 99)
    assert data["limits"] == {"max_header_size": 1}
    assert data["max_connections"] == 99
