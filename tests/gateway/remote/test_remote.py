"""Workers on other machines: which keys are allowed, and what a lost link means."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import pytest

from tests.gateway.harness import TOKEN, Harness, entry_of, hello
from wsraw.gateway.delivery.worker import RemoteWorker
from wsraw.gateway.remote.transport import zap_reply
from wsraw.gateway.sessions.sessions import COME_BACK
from wsraw.link.records import Who, encode
from wsraw.link.worker_end import WorkerEnd

IDENTITIES = itertools.count()


def remote_worker(
    harness: Harness, key: str = "alice", pools: set[str] | None = None, **changes: Any
) -> bytes:
    identity = b"\1%d" % next(IDENTITIES)
    who = RemoteWorker("10.0.0.7", key, frozenset(pools) if pools is not None else None)
    assert harness.sessions.add_remote(identity, who, harness.now)
    harness.receive(identity, encode([0, hello(**changes)]))
    return identity


def test_a_worker_with_a_key_needs_no_token_and_is_logged_by_its_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = Harness()
    with caplog.at_level(logging.INFO, "wsraw.gateway"):
        remote_worker(harness, token="")
    assert "worker x (alice at 10.0.0.7) is ready" in caplog.text


@pytest.mark.parametrize(("pools", "good"), [(None, True), ({"a", "chat"}, True), ({"a"}, False)])
def test_a_key_is_good_only_for_its_pools(pools: set[str] | None, good: bool) -> None:
    harness = Harness()
    identity = remote_worker(harness, pools=pools, pool="chat")
    assert (identity in harness.sessions.workers) is good


def test_without_a_key_a_worker_started_by_hand_needs_the_token() -> None:
    harness = Harness()
    harness.sessions.tokens.add("third", 3)
    assert remote_worker(harness, key="") in harness.sessions.workers
    assert remote_worker(harness, key="", token="no") not in harness.sessions.workers
    # A child of the supervisor does not connect over the network, whatever token it has.
    identity = remote_worker(harness, key="", token="third", instance="y")
    assert identity not in harness.sessions.workers


def test_a_worker_that_reconnects_keeps_its_number() -> None:
    harness = Harness()
    identity = remote_worker(harness, pools={"default"})
    harness.receive(identity, encode([0, hello()]))
    assert harness.sessions.workers[identity].remote is not None
    harness.receive(identity, encode([0, hello(pool="other")]))
    assert identity not in harness.sessions.workers


def serve_once(harness: Harness, identity: bytes) -> WorkerEnd:
    """Add a remote worker that holds one connection's events; returns its end of the link."""
    linked = WorkerEnd(pool="default", token=TOKEN, instance="far", language="test")
    linked.receive(encode([0, Who()]))
    harness.sessions.add_remote(identity, RemoteWorker("10.0.0.7", "alice"), harness.now)
    data = linked.data_to_send()
    assert data is not None
    harness.receive(identity, data)
    con = harness.raw()
    harness.turn()
    assert entry_of(con).in_flight == 2
    return linked


def die_alone(harness: Harness) -> None:
    """Let a worker die of the first suspect, which it was given alone."""
    linked = harness.worker()
    harness.turn()
    assert len(linked.events) == 1
    harness.sessions.end(linked.worker, harness.now, died=True)


def test_a_lost_link_is_not_a_death_if_the_instance_comes_back() -> None:
    harness = Harness(handler_timeout=0)
    linked = serve_once(harness, b"\1a")
    assert harness.settings.max_deliveries < 5
    for n in range(5):
        [worker] = harness.sessions.workers.values()
        harness.sessions.link_lost(worker, harness.now)
        linked.receive(encode([0, Who()]))
        identity = b"\1b%d" % n
        harness.sessions.add_remote(identity, RemoteWorker("10.0.0.7", "alice"), harness.now)
        data = linked.data_to_send()
        assert data is not None
        harness.receive(identity, data)
        harness.run(COME_BACK + 2)
    assert not harness.sessions.dead_letters
    [worker] = harness.sessions.workers.values()
    [flight] = worker.window.in_flight.values()
    assert flight.event.delivery == 6, "that it may have been handled in part is told all the same"


def test_a_lost_link_is_a_death_if_the_instance_stays_away() -> None:
    """If the loss counted as a death, one more death makes the event poison."""
    for seconds, is_death in ((COME_BACK - 1, False), (COME_BACK + 2, True)):
        harness = Harness(handler_timeout=0, max_deliveries=2)
        serve_once(harness, b"\1a")
        [worker] = harness.sessions.workers.values()
        harness.sessions.link_lost(worker, harness.now)
        harness.run(seconds)
        die_alone(harness)
        assert bool(harness.sessions.dead_letters) is is_death


def test_a_lost_link_of_a_local_worker_is_a_death_at_once() -> None:
    harness = Harness(max_deliveries=2)
    linked = harness.worker()
    harness.raw()
    harness.turn()
    harness.sessions.link_lost(linked.worker, harness.now)
    die_alone(harness)
    assert harness.sessions.dead_letters


# --- ZAP ---

REQUEST = [b"1.0", b"7", b"wsraw", b"10.0.0.7", b"", b"CURVE", b"k" * 32]


def test_a_known_key_is_accepted() -> None:
    assert zap_reply(REQUEST, lambda key: "alice" if key == b"k" * 32 else None) == (
        [b"1.0", b"7", b"200", b"OK", b"alice", b""],
        "",
    )


@pytest.mark.parametrize(
    "request_",
    [REQUEST, REQUEST[:5], [*REQUEST[:5], b"NULL"], [*REQUEST[:5], b"PLAIN", b"alice", b"pw"], []],
)
def test_workers_with_unknown_keys_may_try_again(request_: list[bytes]) -> None:
    reply, _ = zap_reply(request_, lambda key: None)
    assert reply[2] == b"300"
    assert len(reply) == 6
