from __future__ import annotations

from typing import Any

import pytest

from wsraw.config import options, pools
from wsraw.config.checks import from_options
from wsraw.config.settings import PoolSettings, RouteSettings, Settings


def settings(**given: Any) -> Settings:
    """Settings as a run has them; raises ValueError if they are wrong."""
    return from_options({name: options.read(name, value) for name, value in given.items()})


# --- the short forms ---


@pytest.mark.parametrize(
    ("texts", "read"),
    [
        ("chat=chat.py:4", [("chat", ("chat.py:4",))]),
        (["chat=node a=b.mjs:2"], [("chat", ("node a=b.mjs:2",))]),
        (["far"], [("far", ())]),
    ],
)
def test_pools_are_parsed_from_texts(texts: Any, read: list[tuple[str, tuple[str, ...]]]) -> None:
    assert options.read("pools", texts) == tuple(
        PoolSettings(name=name, workers=workers) for name, workers in read
    )


def test_pools_may_be_texts_and_tables() -> None:
    both = ["a=x.py", {"name": "b", "workers": "y.py", "dispatch": "sticky"}]
    assert options.read("pools", both) == (
        PoolSettings(name="a", workers=("x.py",)),
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
def test_other_texts_are_not_routes(text: str) -> None:
    with pytest.raises(ValueError, match=r"^routes: .* write PATTERN=POOL"):
        options.read("routes", ["raw=a", text])


def test_a_route_is_shown_with_all_its_conditions() -> None:
    route = RouteSettings(pool="a", path="/x", host="h", subprotocol="s", listener="l:1")
    assert pools.shown(route) == "listener l:1 host h /x subprotocol s=a"
    assert pools.shown(RouteSettings(pool="a", kind="raw", listener="l:1")) == "listener l:1 raw=a"


# --- the resulting pools ---


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


def test_programs_are_started_for_each_pool() -> None:
    run = settings(workers="d.py:2", pools=["a=x.py:3", "far"], routes=["/a=a", "raw=far"])
    found = pools.entries(run)
    assert [(name, [entry.number for entry in each]) for name, each in found.items()] == [
        ("default", [2]), ("a", [3]), ("far", [])
    ]  # fmt: skip
    assert [entry.number for entry in pools.entries(Settings())["default"]] == [1], "it prints"
    elsewhere = settings(workers="none", pools=["a=x.py", "b=none"], routes=["/a=a", "/b=b"])
    assert {name: len(each) for name, each in pools.entries(elsewhere).items()} == {
        "default": 0, "a": 1, "b": 0
    }  # fmt: skip
    assert pools.fallback(elsewhere) == "default"


# --- refused settings ---

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"pools": "a b=x.py"}, "pools: 'a b' is not a pool name"),
    ({"pools": "a,b"}, "pools: 'a,b' is not a pool name"),
    ({"pools": "=x.py"}, "pools: '' is not a pool name"),
    ({"pools": "a" * 101}, f"pools: '{'a' * 101}' is not a pool name"),
    ({"pools": "default=x.py"}, "pools: 'default' is the pool of the setting workers"),
    ({"pools": "push=x.py"}, "pools: 'push' is reserved for workers without"),
    (
        {"pools": ["a=x.py", {"name": "b"}, {"name": "a"}]},
        "pools: 'a' is given twice: use one [[pools]] table",
    ),
    ({"pools": ["a=x.py", "a=x.py:2"]}, "pools: 'a' is given twice"),
    ({"pools": "a=x.py:0"}, "pools: a: 'x.py:0': the number of processes"),
    ({"pools": "a="}, "pools: 'a=': write NAME=WORKERS"),
    (
        {"pools": ["a=x.py", "b=y.py"], "routes": ["/a=a"]},
        "pools: no route leads to 'b': write one, as in --route /b=b",
    ),
    ({"workers": "x.py", "pools": "a=x.py"}, "pools: no route leads to 'a'"),
    (
        {"pools": ["chat=x.py", "b=y.py"], "routes": ["/a=b", "/b=chta"]},
        "routes: /b=chta: there is no pool 'chta'; did you mean chat?",
    ),
    (
        {"pools": ["c=x.py", "b=y.py"], "routes": ["/a=zzz"]},
        "routes: /a=zzz: there is no pool 'zzz'; there are c, b",
    ),
    (
        {"pools": "a=x.py", "routes": ["/a=a", "any=default"]},
        "routes: any=default: there is no pool 'default'; it is the pool of the setting workers",
    ),
    (
        {"pools": "a=x.py", "routes": [{"pool": "b\n", "path": "/\n"}]},
        "routes: '/\\n=b\\n': there is no pool 'b\\n'",
    ),
    (
        {"pools": [{"na\nme": "a"}]},
        "pools: table 1: 'na\\nme': there is no such key in [[pools]]; did you mean name?",
    ),
    (
        {"pools": "a=x.py", "routes": "/{x}/{x}=a"},
        "routes: '/{x}/{x}': {x} is used twice",
    ),
    (
        {"pools": "a=x.py", "routes": [{"pool": "a", "kind": "raw", "path": "/x"}]},
        "routes: /x raw=a: a raw client has no path",
    ),
    (
        {"pools": "a=x.py", "routes": [{"pool": "a", "kind": "raw", "host": "h"}]},
        "routes: host h raw=a: a raw client has no host",
    ),
    (
        {"pools": "a=x.py", "routes": [{"pool": "a", "kind": "raw", "subprotocol": "s"}]},
        "routes: subprotocol s raw=a: a raw client has no subprotocol",
    ),
    (
        {"pools": "a=x.py", "routes": [{"pool": "a", "host": "http://h"}]},
        "routes: 'http://h': write example.org",
    ),
    (
        {"pools": "a=x.py", "routes": [{"pool": "a", "listener": "h:2"}]},
        "routes: listener h:2=a: there is no listener 'h:2'; there are '127.0.0.1:8000'",
    ),
    (
        {
            "pools": "a=x.py",
            "listen": "raw://h:1",
            "routes": [{"pool": "a", "listener": "raw://h:1", "path": "/x"}],
        },
        "routes: listener raw://h:1 /x=a: 'raw://h:1' has no websocket clients",
    ),
    (
        {
            "pools": "a=x.py",
            "listen": "ws://h:1",
            "routes": [{"pool": "a", "listener": "ws://h:1", "kind": "raw"}],
        },
        "routes: listener ws://h:1 raw=a: 'ws://h:1' has no raw clients",
    ),
]


@pytest.mark.parametrize(("given", "why"), WRONG, ids=[why for _, why in WRONG])
def test_wrong_pools_and_routes_are_refused_with_advice(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError) as caught:
        settings(**given)
    assert str(caught.value).startswith(why)
    assert "\n" not in str(caught.value)


def test_more_than_a_thousand_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="pools: more than 1000 processes in total"):
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
def test_pools_and_routes_that_fit_are_accepted(given: dict[str, Any]) -> None:
    settings(**given)
