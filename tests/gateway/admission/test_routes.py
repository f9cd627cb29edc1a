from __future__ import annotations

from typing import Any

import pytest

from tests.corpus import UPGRADE
from tests.gateway.harness import Harness, entry_of
from wsraw.config import options
from wsraw.config.addresses import Listen
from wsraw.config.checks import from_options
from wsraw.config.settings import Settings
from wsraw.gateway.admission.policy import AdmissionPolicy
from wsraw.gateway.admission.routes import Routes
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.connection.connection import CLOSED, OPEN, Connection
from wsraw.gateway.counters import Counters
from wsraw.link.records import Open

HERE = Listen(name="h:1?plain_http=raw")
RAW = Listen(name="raw://h:2", protocol="raw")


def settings(**given: Any) -> Settings:
    given.setdefault("listen", ["h:1?plain_http=raw", "raw://h:2"])
    return from_options({name: options.read(name, value) for name, value in given.items()})


POOLS = ["a=x.py", "b=x.py", "c=x.py"]
ROUTES = [
    {"pool": "a", "path": "/rooms/new", "host": "*.example.org"},
    {"pool": "b", "path": "/rooms/{room}"},
    {"pool": "c", "subprotocol": "soap"},
    {"pool": "a", "listener": "raw://h:2"},
    {"pool": "c", "path": "/{user}/{path...}", "listener": "h:1"},
    {"pool": "b", "kind": "raw"},
]
SETTINGS = settings(pools=POOLS, routes=ROUTES)

CLIENTS: list[tuple[str, str, list[str], tuple[str, dict[str, str], str] | None]] = [
    ("/rooms/new", "x.example.org", [], ("a", {}, "")),
    ("/rooms/new", "X.Example.org:80", [], ("a", {}, "")),
    ("/rooms/new", "example.org", [], ("b", {"room": "new"}, "")),
    ("/rooms/new", "", [], ("b", {"room": "new"}, "")),
    ("/rooms/7", "x.example.org", ["soap"], ("b", {"room": "7"}, "")),
    ("/", "h", ["chat", "soap"], ("c", {}, "soap")),
    ("//", "h", ["soap"], ("c", {}, "soap")),
    ("*", "h", ["soap"], ("c", {}, "soap")),
    ("/", "h", ["Soap"], None),
    ("/", "h", [], None),
    ("/ann/", "h", [], ("c", {"user": "ann", "path": ""}, "")),
    ("/ann/../x", "h", [], None),
    ("/rooms/", "h", [], ("c", {"user": "rooms", "path": ""}, "")),
    ("/rooms", "h", [], None),
    ("*", "h", [], None),
]


@pytest.mark.parametrize(("target", "host", "offered", "wanted"), CLIENTS)
def test_the_first_matching_route_decides(
    target: str, host: str, offered: list[str], wanted: tuple[str, dict[str, str], str] | None
) -> None:
    found = Routes(SETTINGS).websocket(HERE, target, host, offered)
    got = None if found is None else (found.pool, found.params, found.subprotocol)
    assert got == wanted


def test_raw_clients_are_routed_by_their_listener() -> None:
    routing = Routes(SETTINGS)
    for listen, pool in ((RAW, "a"), (HERE, "b")):
        found = routing.raw(listen)
        assert found is not None
        assert found.pool == pool
    assert Routes(settings(pools="a=x.py", routes="/x=a")).raw(HERE) is None


@pytest.mark.parametrize(
    ("given", "pool"),
    [
        ({}, "default"),
        ({"workers": "d.py", "pools": "a=x.py", "routes": ["/x=a"]}, "default"),
        ({"pools": "a=x.py"}, "a"),
        ({"pools": "a=x.py", "routes": ["/x=a"]}, None),
        ({"pools": ["a=x.py", "b=x.py"], "routes": ["/x=b", "any=a"]}, "a"),
    ],
)
def test_a_client_that_matches_no_route_goes_to_the_default_pool_if_there_is_one(
    given: dict[str, Any], pool: str | None
) -> None:
    routing = Routes(settings(**given))
    for found in (routing.raw(HERE), routing.websocket(HERE, "/y", "h", [])):
        assert (found and found.pool) == pool


# --- connections with and without a route ---


def come(given: Settings, data: bytes, listen: Listen = HERE) -> tuple[Connection, list[Any]]:
    """A client that has sent this data."""
    limits = Counters()
    con = accepted(7, listen, given, {}, 0.0, AdmissionPolicy(given, limits))
    events = list(con.first_events(0.0))
    if data:
        events += con.receive_data(data, 0.0)
    return con, events


def request(target: bytes, headers: bytes = b"") -> bytes:
    return (UPGRADE % headers).replace(b"GET /chat ", b"GET " + target + b" ", 1)


def test_the_upgrade_request_of_these_tests_has_the_path_that_they_replace() -> None:
    assert request(b"/x") != UPGRADE % b""


def test_handlers_get_the_parameters_of_the_path() -> None:
    con, events = come(SETTINGS, request(b"/rooms/a%20b?x=1"))
    assert con.state is OPEN
    assert con.pool == "b"
    (event,) = events
    assert event.about["params"] == {"room": "a b"}
    assert event.inf["url"] == "/rooms/a%20b?x=1", "as it was sent"
    assert come(SETTINGS, request(b"/x", b"Sec-WebSocket-Protocol: soap\r\n"))[1][0].about == {
        "subprotocol": "soap"
    }


def test_a_websocket_without_a_route_is_answered_with_404() -> None:
    con, events = come(SETTINGS, request(b"/nowhere"))
    assert con.state is CLOSED
    assert events == [], "no handler hears of it"
    assert b"".join(con.output.chunks).startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert not con.output.reset, "it can read that"


@pytest.mark.parametrize("listen", [HERE, RAW])
def test_a_raw_client_without_a_route_is_reset(listen: Listen) -> None:
    given = settings(pools="a=x.py", routes="/x=a")
    con, events = come(given, b"hello", listen)
    assert con.state is CLOSED
    assert con.output.reset
    assert events == []


def test_a_silent_client_without_a_route_is_reset() -> None:
    given = settings(pools="a=x.py", routes="/x=a")
    con, _ = come(given, b"", Listen(name="h:1?plain_http=raw", first_byte_timeout=1.0))
    assert con.handle_timeout(2.0) == []
    assert con.state is CLOSED
    assert con.output.reset
    con, _ = come(given, b"GET /", HERE)
    assert con.receive_eof(1.0) == []
    assert con.state is CLOSED


def test_a_plain_request_without_a_route_is_answered_with_404() -> None:
    given = settings(pools="a=x.py", routes="/x=a")
    con, _ = come(given, b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"".join(con.output.chunks).startswith(b"HTTP/1.1 404 ")
    assert not con.output.reset


def test_a_refused_client_does_not_learn_which_routes_exist() -> None:
    given = settings(pools="a=x.py", routes="/x=a", hosts="example.org")
    con, _ = come(given, request(b"/nowhere"))
    assert b"".join(con.output.chunks).startswith(b"HTTP/1.1 421 ")
    given = settings(pools="a=x.py", routes="/x=a")
    con, _ = come(given, request(b"/nowhere", b"Origin: https://evil.example\r\n"))
    assert b"".join(con.output.chunks).startswith(b"HTTP/1.1 403 ")


def test_routes_match_the_host_that_a_trusted_proxy_names() -> None:
    given = settings(
        pools="a=x.py", routes=[{"pool": "a", "host": "example.org"}], trusted_proxies="unix"
    )
    head = request(b"/", b"X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: example.org\r\n")
    policy = AdmissionPolicy(given, Counters())
    for address, state in (("unix", OPEN), (None, CLOSED)):
        con = accepted(7, HERE, given, {}, 0.0, policy, address)
        con.receive_data(head, 0.0)
        assert con.state is state


def test_each_pool_has_its_own_verdict_and_subprotocols() -> None:
    given = settings(
        subprotocols="x",
        pools=[
            "a=x.py",
            {"name": "b", "verdict": "handlers", "subprotocols": ["y", "x"]},
        ],
        routes=["/a=a", "/b=b"],
    )
    offer = b"Sec-WebSocket-Protocol: x, y\r\n"
    con, (event,) = come(given, request(b"/a", offer))
    assert (con.state is OPEN, event.verdict, event.about) == (True, False, {"subprotocol": "x"})
    con, (event,) = come(given, request(b"/b", offer))
    assert (con.undecided, event.verdict) == (True, True)
    con.accept(None, (), 0.0)
    assert con.about == {"subprotocol": "y"}
    con, _ = come(given, request(b"/b", offer))
    con.accept("x", (), 0.0)
    assert con.about == {"subprotocol": "x"}
    assert b"".join(con.output.chunks).lower().count(b"sec-websocket-protocol") == 1


# --- a gateway with two pools ---

TWO = ["chat=x.py", {"name": "feed", "delivery": "at-most-once", "dispatch": "sticky"}]


def harness(**given: Any) -> Harness:
    given = {"pools": TWO, "routes": ["websocket=chat", "raw=feed"], **given}
    own = {name: options.read(name, value) for name, value in given.items()}
    return Harness(**own)


def test_clients_are_served_by_workers_of_their_pool() -> None:
    there = harness()
    chat, feed = there.worker(pool="chat"), there.worker(pool="feed")
    web, raw = there.websocket(), there.raw()
    there.turn()
    assert {event.con for event in chat.events} == {web.id}
    assert {event.con for event in feed.events} == {raw.id}
    pools = there.registry.pools
    assert (pools["chat"].connections, pools["feed"].connections) == (1, 1)
    assert (pools["chat"].sticky, pools["feed"].sticky) == (False, True)


def test_clients_wait_rather_than_go_to_workers_of_another_pool() -> None:
    there = harness(worker_wait_timeout=5.0)
    feed = there.worker(pool="feed")
    web, raw = there.websocket(), there.raw()
    there.run(3.0)
    assert entry_of(web).parked
    assert {event.con for event in feed.events} == {raw.id}
    there.run(5.0)
    assert web.ending.cause == "no-worker"
    assert raw.state is OPEN
    assert there.registry.pools["chat"].connections == 0


def test_each_pool_has_its_own_delivery_mode() -> None:
    there = harness()
    chat, feed = there.worker(pool="chat"), there.worker(pool="feed")
    web, raw = there.websocket(), there.raw()
    there.turn()
    for linked in (chat, feed):
        there.sessions.end(linked.worker, there.now, died=True)
    assert raw.ending.cause == "worker-died", "at most once"
    assert web.state is OPEN
    other = there.worker(pool="chat")
    assert [(event.con, event.delivery) for event in other.work()] == [(web.id, 2)]


def test_suspects_of_one_pool_do_not_isolate_workers_of_another() -> None:
    there = harness(routes=["websocket=chat", "raw=feed"], pools=["chat=x.py", "feed=x.py"])
    chat, feed = there.worker(pool="chat"), there.worker(pool="feed")
    for _ in range(3):
        there.websocket()
    there.turn()
    there.sessions.end(chat.worker, there.now, died=True)
    again = there.worker(pool="chat")
    there.turn()
    assert len(again.events) == 1, "one suspect at a time"
    there.raw()
    there.raw()
    there.turn()
    assert not feed.worker.window.is_closed
    assert len(feed.events) == 4
    assert len(again.work()) == 3


def test_a_connection_that_a_worker_opens_belongs_to_its_pool() -> None:
    there = harness()
    feed = there.worker(pool="feed")
    first = feed.link.new_id()
    feed.say(Open(first, "h:1", options={"name": "up"}))
    assert there.registry.entries[first].pool.name == "feed"
    chat = there.worker(pool="chat")
    second = chat.link.new_id()
    chat.say(Open(second, "h:1", options={"name": "up"}))
    assert there.registry.entries[second].pool.name == "chat", "a name is its pool's alone"


def test_a_pool_that_is_not_configured_lasts_until_its_last_worker_and_connection() -> None:
    there = harness()
    stray = there.worker(pool="other")
    con = stray.link.new_id()
    stray.say(Open(con, "h:1", options={"name": "up"}))
    assert set(there.registry.pools) == {"chat", "feed", "other"}
    there.sessions.end(stray.worker, there.now)
    assert "other" in there.registry.pools, "it has a connection"
    again = there.worker(pool="other")
    route = there.registry.entries[con]
    there.registry.take(route.con, route.con.connect_failed("refused", there.now), there.now)
    again.work()
    assert con not in there.registry.entries
    there.sessions.end(again.worker, there.now)
    assert set(there.registry.pools) == {"chat", "feed"}
    for n in range(100):
        linked = there.worker(pool=f"p{n}")
        there.sessions.end(linked.worker, there.now, died=True)
    assert set(there.registry.pools) == {"chat", "feed"}
