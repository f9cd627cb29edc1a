from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st

from wsraw.config import options, pools
from wsraw.config.checks import from_options
from wsraw.config.patterns import Pattern
from wsraw.config.pools import TableError
from wsraw.config.settings import PoolSettings, RouteSettings, Settings


def settings(**given: Any) -> Settings:
    """As a run would have them; raises ValueError for what is wrong."""
    return from_options({name: options.read(name, value) for name, value in given.items()})


# --- the short forms ---


@pytest.mark.parametrize(
    ("texts", "read"),
    [
        ("chat=chat.py:4", [("chat", ("chat.py:4",))]),
        (["chat=node a=b.mjs:2"], [("chat", ("node a=b.mjs:2",))]),
        (["far"], [("far", ())]),
        (["a=x.py", "b=y.py", "a=z.py:2"], [("a", ("x.py", "z.py:2")), ("b", ("y.py",))]),
    ],
)
def test_pools_are_parsed_from_texts(texts: Any, read: list[tuple[str, tuple[str, ...]]]) -> None:
    assert options.read("pools", texts) == tuple(
        PoolSettings(name=name, workers=workers) for name, workers in read
    )


def test_pools_may_be_given_as_texts_and_tables_together() -> None:
    both = ["a=x.py", {"name": "b", "workers": "y.py", "dispatch": "sticky"}, "a=z.py"]
    assert options.read("pools", both) == (
        PoolSettings(name="a", workers=("x.py", "z.py")),
        PoolSettings(name="b", workers=("y.py",), dispatch="sticky"),
    )


@pytest.mark.parametrize(
    ("text", "route"),
    [
        ("/rooms/{room}=chat", RouteSettings(pool="chat", path="/rooms/{room}")),
        ("/a=b=chat", RouteSettings(pool="chat", path="/a=b")),
        ("raw=feed", RouteSettings(pool="feed", kind="raw")),
        ("websocket=a", RouteSettings(pool="a", kind="websocket")),
        ("any=a", RouteSettings(pool="a")),
    ],
)
def test_routes_are_parsed_from_texts_and_shown_as_such(text: str, route: RouteSettings) -> None:
    assert options.read("routes", text) == (route,)
    assert pools.shown(route) == text


@pytest.mark.parametrize("text", ["", "chat", "=chat", "/a", "/a=", "rooms=chat", "Raw=feed"])
def test_text_that_is_not_a_route_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(TableError, match="write PATTERN=POOL") as caught:
        options.read("routes", ["raw=a", text])
    assert caught.value.place == ("routes", 1, "")


def test_a_route_is_shown_with_all_its_conditions() -> None:
    route = RouteSettings(pool="a", path="/x", host="h", subprotocol="s", listener="l:1")
    assert pools.shown(route) == "listener l:1 host h /x subprotocol s=a"
    assert pools.shown(RouteSettings(pool="a", kind="raw", listener="l:1")) == "listener l:1 raw=a"


# --- what they come to ---


def test_without_pools_there_is_one_named_default() -> None:
    for given in (Settings(), Settings(workers=("x.py",))):
        assert pools.in_force(given) == {"default": given}
        assert pools.fallback(given) == "default"


def test_a_pool_overrides_settings_of_the_run_and_inherits_the_others() -> None:
    run = settings(
        workers="d.py",
        dispatch="sticky",
        delivery="at-most-once",
        pools=[
            "a=x.py",
            {"name": "b", "dispatch": "any", "verdict": "handlers", "subprotocols": "s"},
        ],
        routes=["/a=a", "/b=b"],
    )
    found = pools.in_force(run)
    assert list(found) == ["default", "a", "b"]
    assert found["default"] is found["a"] is run
    own = found["b"]
    assert (own.dispatch, own.delivery, own.verdict) == ("any", "at-most-once", "handlers")
    assert own.subprotocols == ("s",)
    assert pools.fallback(run) == "default"


def test_a_single_pool_without_routes_takes_all_clients() -> None:
    assert pools.fallback(settings(pools="a=x.py")) == "a"
    assert pools.fallback(settings(pools="a=x.py", routes="/a=a")) is None
    assert list(pools.in_force(settings(pools="a=x.py"))) == ["a"]


def test_each_pool_starts_the_workers_of_its_entries() -> None:
    run = settings(
        workers="d.py:2", pools=["a=x.py:3", "a=node y.mjs", "far"], routes=["/a=a", "raw=far"]
    )
    found = pools.entries(run)
    assert [(name, [entry.number for entry in each]) for name, each in found.items()] == [
        ("default", [2]), ("a", [3, 1]), ("far", [])
    ]  # fmt: skip
    assert [entry.number for entry in pools.entries(Settings())["default"]] == [1], "it prints"
    elsewhere = settings(workers="none", pools=["a=x.py", "b=none"], routes=["/a=a", "/b=b"])
    assert {name: len(each) for name, each in pools.entries(elsewhere).items()} == {
        "default": 0, "a": 1, "b": 0
    }  # fmt: skip
    assert pools.fallback(elsewhere) == "default"


# --- what is refused ---

WRONG: list[tuple[dict[str, Any], str, tuple[Any, ...]]] = [
    ({"pools": "a b=x.py"}, "pools: 'a b' is no name", (0, "name")),
    ({"pools": "a,b"}, "pools: 'a,b' is no name", (0, "name")),
    ({"pools": "=x.py"}, "pools: '' is no name", (0, "name")),
    ({"pools": "a" * 101}, f"pools: '{'a' * 101}' is no name", (0, "name")),
    ({"pools": "default=x.py"}, "pools: 'default' is the pool of the setting workers", (0, "name")),
    ({"pools": "push=x.py"}, "pools: 'push' is the pool of workers without", (0, "name")),
    (
        {"pools": ["a=x.py", {"name": "b"}, {"name": "a"}]},
        "pools: 'a' is there twice: write all its workers into one",
        (2, "name"),
    ),
    ({"pools": ["a=x.py", "a=x.py:2"]}, "pools: a: 'x.py' is there twice", (0, "workers")),
    ({"pools": "a=x.py:0"}, "pools: a: 'x.py:0': the number of processes", (0, "workers")),
    ({"pools": "a="}, "pools: 'a=': write NAME=WORKERS", (0, "")),
    (
        {"pools": ["a=x.py", "b=y.py"], "routes": ["/a=a"]},
        "pools: no client comes to 'b': write a route, as in --route /b=b",
        (1, "name"),
    ),
    ({"workers": "x.py", "pools": "a=x.py"}, "pools: no client comes to 'a'", (0, "name")),
    (
        {"pools": ["chat=x.py", "b=y.py"], "routes": ["/a=b", "/b=chta"]},
        "routes: /b=chta: there is no pool 'chta'; did you mean chat?",
        (1, "pool"),
    ),
    (
        {"pools": ["c=x.py", "b=y.py"], "routes": ["/a=zzz"]},
        "routes: /a=zzz: there is no pool 'zzz'; there are c and b",
        (0, "pool"),
    ),
    (
        {"pools": "a=x.py", "routes": ["/a=a", "any=default"]},
        "routes: any=default: there is no pool 'default'; it is that of the setting workers",
        (1, "pool"),
    ),
    (
        {"pools": "a=x.py", "routes": [{"pool": "b\n", "path": "/\n"}]},
        "routes: '/\\n=b\\n': there is no pool 'b\\n'",
        (0, "pool"),
    ),
    (
        {"pools": [{"na\nme": "a"}]},
        "pools: 'na\\nme': there is no such key in [[pools]]; did you mean name?",
        (0, "na\nme"),
    ),
    (
        {"pools": "a=x.py", "routes": "/{x}/{x}=a"},
        "routes: '/{x}/{x}': {x} is there twice",
        (0, "path"),
    ),
    (
        {"pools": "a=x.py", "routes": [{"pool": "a", "kind": "raw", "path": "/x"}]},
        "routes: /x raw=a: a raw client tells no path",
        (0, "path"),
    ),
    (
        {"pools": "a=x.py", "routes": [{"pool": "a", "kind": "raw", "host": "h"}]},
        "routes: host h raw=a: a raw client tells no host",
        (0, "host"),
    ),
    (
        {"pools": "a=x.py", "routes": [{"pool": "a", "kind": "raw", "subprotocol": "s"}]},
        "routes: subprotocol s raw=a: a raw client tells no subprotocol",
        (0, "subprotocol"),
    ),
    (
        {"pools": "a=x.py", "routes": [{"pool": "a", "host": "http://h"}]},
        "routes: 'http://h': write example.org",
        (0, "host"),
    ),
    (
        {"pools": "a=x.py", "routes": [{"pool": "a", "listener": "h:2"}]},
        "routes: 'h:2' is none of listen: '127.0.0.1:8000'",
        (0, "listener"),
    ),
    (
        {
            "pools": "a=x.py",
            "listen": "raw://h:1",
            "routes": [{"pool": "a", "listener": "raw://h:1", "path": "/x"}],
        },
        "routes: 'raw://h:1' has no client that is websocket",
        (0, "listener"),
    ),
    (
        {
            "pools": "a=x.py",
            "listen": "ws://h:1",
            "routes": [{"pool": "a", "listener": "ws://h:1", "kind": "raw"}],
        },
        "routes: 'ws://h:1' has no client that is raw",
        (0, "listener"),
    ),
    (
        {"pools": ["a=x.py", "b=x.py"], "routes": ["any=a", "/x=b"]},
        "routes: no client comes to /x=b: any=a stands before it and takes all; change their order",
        (1, ""),
    ),
    (
        {"pools": ["a=x.py", "b=x.py"], "routes": ["/{x}=a", "/y=b"]},
        "routes: no client comes to /y=b: /{x}=a stands before it",
        (1, ""),
    ),
    (
        {"pools": ["a=x.py", "b=x.py"], "routes": ["raw=a", "/y=b", "raw=b"]},
        "routes: no client comes to raw=b: raw=a stands before it",
        (2, ""),
    ),
]


@pytest.mark.parametrize(("given", "why", "place"), WRONG, ids=[why for _, why, _ in WRONG])
def test_a_wrong_pool_or_route_is_refused_with_its_place(
    given: dict[str, Any], why: str, place: tuple[Any, ...]
) -> None:
    with pytest.raises(TableError) as caught:
        settings(**given)
    assert str(caught.value).startswith(why)
    assert "\n" not in str(caught.value)
    assert caught.value.place == (why.partition(":")[0], *place)


ROUTES = st.builds(
    RouteSettings,
    pool=st.just("default"),
    path=st.sampled_from(
        ["", "/", "/a", "/a/", "/a/b", "/{x}", "/{x}/b", "/a/{x}", "/a/{x...}", "/{x...}"]
    ),
    host=st.sampled_from(["", "h", "H", "*.h"]),
    subprotocol=st.sampled_from(["", "s"]),
    kind=st.sampled_from(["any", "websocket"]),
)


@hypothesis_given(st.lists(ROUTES, max_size=6))
def test_an_unreachable_route_is_found_as_by_comparing_all_pairs(
    routes: list[RouteSettings],
) -> None:
    patterns = [Pattern(route.path) if route.path else None for route in routes]
    pairs = list(zip(routes, patterns, strict=True))
    before = pools._Earlier()
    for index, (route, pattern) in enumerate(pairs):
        takers = [one for one, path in pairs[:index] if pools._covers(one, path, route, pattern)]
        assert before.find(route, pattern) is (takers[0] if takers else None)
        before.add(route, pattern)


@pytest.mark.parametrize("routes", [["any=a"], ["/x=a", "any=a"], ["raw=a", "websocket=a"]])
def test_workers_that_no_route_leaves_clients_for_are_refused(routes: list[str]) -> None:
    with pytest.raises(ValueError, match="workers: no client is left for them by"):
        settings(workers="d.py", pools="a=x.py", routes=routes)


def test_more_than_a_thousand_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="pools: more than 1000 processes in all"):
        settings(pools=["a=x.py:600", "b=x.py:600"], routes=["/a=a", "/b=b"])


@pytest.mark.parametrize(
    "given",
    [
        {"pools": "a=x.py"},
        {"pools": "far"},
        {"pools": "a=x.py", "routes": "any=a"},
        {"workers": "d.py", "routes": "/rooms/{room}=default"},
        {"routes": "/rooms/{room}=default"},
        {"workers": "d.py", "pools": "a=x.py", "routes": ["/x=default", "any=a"]},
        {"workers": "d.py", "pools": "a=x.py", "routes": ["raw=a"]},
        {"pools": ["a=x.py", "b=x.py"], "routes": ["/x=a", "/{y}=b", "/{y...}=a", "raw=b"]},
        {
            "pools": ["a=x.py", "b=x.py"],
            "listen": ["h:1?plain_http=reject", "raw://h:2"],
            "routes": [
                {"pool": "a", "listener": "h:1", "host": "*.example.org"},
                {"pool": "a", "host": "example.org"},
                {"pool": "b", "path": "/x", "subprotocol": "s"},
                {"pool": "b", "listener": "h:1?plain_http=reject", "path": "/x"},
                {"pool": "a", "listener": "raw://h:2"},
                {"pool": "b", "kind": "raw"},
            ],
        },
    ],
)
def test_right_pools_and_routes_are_accepted(given: dict[str, Any]) -> None:
    settings(**given)
