from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.harness import HANDSHAKE, Harness, entry_of
from wsraw.config.settings import PoolSettings
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.delivery.accounts import STALLED
from wsraw.gateway.delivery.entry import PAUSED_OWN
from wsraw.gateway.inspection.filters import Filter


def websocket(harness: Harness, path: str) -> Connection:
    return harness.raw(HANDSHAKE.replace(b"GET / ", f"GET {path} ".encode()))


def fits(harness: Harness, con: Connection, **options: Any) -> bool:
    return Filter(options, harness.registry).matches(con)


def test_without_options_every_connection_fits() -> None:
    harness = Harness()
    silent, raw = harness.raw(b""), harness.raw()
    assert fits(harness, silent)
    assert fits(harness, raw)
    # Options that a command line leaves out may also be present and empty.
    assert Filter({"pool": "", "slow": False, "idle": None}, harness.registry).is_for_all


def test_all_options_must_fit() -> None:
    harness = Harness()
    raw = harness.raw()
    assert fits(harness, raw, kind="raw", state="open")
    assert not fits(harness, raw, kind="raw", state="closing")


def test_connections_are_filtered_by_kind_and_state() -> None:
    harness = Harness()
    silent, raw, web = harness.raw(b""), harness.raw(), harness.websocket()
    for con, kind, state in [
        (silent, "unknown", "sniffing"), (raw, "raw", "open"), (web, "websocket", "open"),
    ]:  # fmt: skip
        for other in ("unknown", "raw", "websocket"):
            assert fits(harness, con, kind=other) == (other == kind)
        assert fits(harness, con, state=state)
        assert not fits(harness, con, state="closed")


def test_a_pool_fits_also_before_the_first_event() -> None:
    harness = Harness(workers=("x",), pools=(PoolSettings(name="chat", workers=("x",)),))
    for con in (harness.raw(), harness.raw(b"")):
        assert fits(harness, con, pool="default")
        assert not fits(harness, con, pool="chat")


def test_members_of_a_group_fit_and_are_the_only_candidates() -> None:
    harness = Harness()
    member, other = harness.raw(), harness.raw()
    harness.registry.groups.join(entry_of(member), "room")
    chosen = Filter({"group": "room"}, harness.registry)
    assert list(chosen.each()) == [[member]]
    assert chosen.matches(member)
    assert not chosen.matches(other)
    assert list(Filter({"group": "none"}, harness.registry).each()) == []


def test_the_connections_of_a_user_fit_and_are_the_only_candidates() -> None:
    harness = Harness()
    anns, bobs, other = (harness.raw() for _ in range(3))
    harness.registry.groups.bind(entry_of(anns), "ann")
    harness.registry.groups.bind(entry_of(bobs), "bob")
    harness.registry.groups.join(entry_of(anns), "room")
    chosen = Filter({"user": "ann"}, harness.registry)
    assert not chosen.is_for_all
    assert list(chosen.each()) == [[anns]]
    assert [chosen.matches(con) for con in (anns, bobs, other)] == [True, False, False]
    both = Filter({"user": "bob", "group": "room"}, harness.registry)
    assert not any(both.matches(con) for cons in both.each() for con in cons)


@pytest.mark.parametrize(
    ("peer", "address", "fitting"),
    [
        ("192.0.2.7:50000", "192.0.2.7", True),
        ("192.0.2.7:50000", "192.0.2.7:50000", True),
        ("192.0.2.7:50000", "192.0.2.7:50001", False),
        ("192.0.2.7:50000", "192.0.2.0/24", True),
        ("192.0.2.7:50000", "192.0.3.0/24", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("[2001:db8::7]:50000", "2001:db8::7", True),
        ("[2001:db8::7]:50000", "2001:db8::/32", True),
        ("[2001:db8::7]:50000", "192.0.2.0/24", False),
        ("[::ffff:192.0.2.7]:1", "192.0.2.7", True),
        ("unix", "unix", True),
        ("unix:/tmp/x", "unix", True),
        ("unix", "192.0.2.7", False),
        ("", "192.0.2.7", False),
    ],
)
def test_an_address_or_a_network_fits(peer: str, address: str, fitting: bool) -> None:
    harness = Harness()
    con = harness.raw()
    con.about["peer"] = peer
    assert fits(harness, con, address=address) == fitting


@pytest.mark.parametrize(
    ("target", "address", "fitting"),
    [
        ("ws://192.0.2.7:80/x", "192.0.2.7", True),
        ("192.0.2.7:80", "192.0.2.0/24", True),
        ("ws://example.org/x", "192.0.2.7", False),
    ],
)
def test_the_target_of_an_opened_connection_is_its_address(
    target: str, address: str, fitting: bool
) -> None:
    harness = Harness()
    con = harness.raw()
    con.opened = True
    con.about["target"] = target
    assert fits(harness, con, address=address) == fitting
    assert fits(harness, con, opened=True)


@pytest.mark.parametrize(
    ("path", "pattern", "fitting"),
    [
        ("/rooms/1", "/rooms/{room}", True),
        ("/rooms/1?token=x", "/rooms/1", True),
        ("/rooms/1/2", "/rooms/{room}", False),
        ("/rooms/1/2", "/rooms/{rest...}", True),
        ("/rooms/../x", "/{rest...}", False),
    ],
)
def test_the_path_of_a_websocket_fits(path: str, pattern: str, fitting: bool) -> None:
    harness = Harness()
    assert fits(harness, websocket(harness, path), path=pattern) == fitting
    assert not fits(harness, harness.raw(), path=pattern)


def test_the_worker_that_holds_a_connection_fits() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    assert not fits(harness, con, worker=3)
    linked.worker.number = 3
    assert fits(harness, con, worker=3)
    assert not fits(harness, con, worker=4)
    # A worker that the supervisor has not started has no number.
    assert not fits(harness, con, worker=0)
    linked.worker.number = 0
    assert fits(harness, con, worker=0)


def test_a_client_is_slow_if_much_waits_or_something_for_a_while() -> None:
    harness = Harness(high_water_mark=400)
    registry = harness.registry
    con = harness.websocket()
    entry = entry_of(con)
    assert not fits(harness, con, slow=True)
    con.output.append(b"x" * 100)
    registry.flow.output_changed(entry)
    assert not fits(harness, con, slow=True), "as much as the low-water mark"
    registry.flow.now += STALLED
    assert fits(harness, con, slow=True)
    registry.flow.now -= STALLED
    con.output.append(b"x")
    registry.flow.output_changed(entry)
    assert fits(harness, con, slow=True)


def test_a_paused_connection_fits() -> None:
    harness = Harness()
    con = harness.raw()
    assert not fits(harness, con, paused=True)
    harness.registry.flow.pause(entry_of(con), PAUSED_OWN)
    assert fits(harness, con, paused=True)
    assert not fits(harness, harness.raw(b""), paused=True)


def test_a_connection_is_idle_since_data_was_last_carried_in_either_direction() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.websocket()
    linked.work()
    silent = harness.raw(b"")
    flow = harness.registry.flow
    harness.run(50.0)
    assert fits(harness, con, idle=50)
    harness.say(con, b"\x81\x81\0\0\0\0x")
    assert not fits(harness, con, idle=1)
    flow.now += 10
    assert fits(harness, con, idle=10)
    assert not fits(harness, con, idle=10.5)
    assert not fits(harness, silent, idle=0.001), "it is not known since when"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"pool": "x"}, "there is no pool 'x'; the only one is default"),
        ({"pool": 3}, "pool: 3 is not a text"),
        ({"kind": "http"}, "kind: 'http': write websocket, raw, unknown"),
        ({"state": "up"}, "state: 'up': write sniffing, connecting, open"),
        ({"address": "host"}, "'host': write an address"),
        ({"address": "10.0.0.1/8"}, "'10.0.0.1/8': bits are set after the prefix"),
        ({"path": "rooms"}, "'rooms': a path begins with /"),
        ({"idle": "x"}, "idle: 'x' is not a number"),
        ({"worker": True}, "worker: True is not a number"),
        ({"group": 3}, "group: 3 is not a text"),
    ],
)
def test_an_option_that_cannot_be_right_is_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError) as error:
        Filter(options, Harness().registry)
    assert str(error.value).startswith(line)
