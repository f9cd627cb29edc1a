"""The names that a handlers file imports."""

from __future__ import annotations

import inspect
import math
import re
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import wsraw
from wsraw.link.records import CloseRef, Join, Leave, Open, Publish, Send, SendRef, SendToUser
from wsraw.workers import api
from wsraw.workers.connection import Connection
from wsraw.workers.loading import handlers

from .conftest import FIRST_ID, Pair, con_id, message

MakePair = Callable[..., Pair]

ROOT = Path(__file__).parents[2]

PLAIN = {"url": "/", "host": "", "orig": ""}


def test_every_name_of_the_package_exists() -> None:
    for name in wsraw.__all__:
        assert getattr(wsraw, name) is not None
    with pytest.raises(AttributeError):
        _ = wsraw.nothing_of_that_name  # type: ignore[attr-defined]


def test_completion_shows_the_documented_names_and_nothing_else(pair: MakePair) -> None:
    assert dir(wsraw) == sorted(wsraw.__all__)
    names = dir(pair("").runtime.connection(FIRST_ID))
    assert "send" in names
    assert "request" in names
    assert not [name for name in names if name.startswith("_")]


TYPED = """
from wsraw import BinaryMsg, Connection, Inf, Message, Msg, TextMsg

def on_connect(inf: Inf, con: Connection) -> None:
    reveal_type(inf.get("Origin"))
    reveal_type(con.request.cookies if con.request else None)

def on_message(msg: Msg, con: Connection) -> Message | None:
    reveal_type(msg["data"])
    con.send(1)
    return msg

def only_websockets(msg: TextMsg | BinaryMsg) -> Message:
    if msg["type"] == "text":
        reveal_type(msg["data"])
    return msg
"""


def test_a_type_checker_knows_what_handlers_get(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "typed.py").write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--strict", tmp_path / "typed.py"]
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout
    lines = [line.partition(": ")[2] for line in told.splitlines()[:-1]]
    assert [line for line in lines if line.startswith("note: R")] == [
        'note: Revealed type is "str | None"',
        'note: Revealed type is "dict[str, str] | None"',
        'note: Revealed type is "str | bytes"',
        'note: Revealed type is "str"',
    ]
    errors = [line for line in lines if line.startswith("error")]
    assert len(errors) == 1
    assert 'Argument 1 to "send" of "Connection" has incompatible type "int"' in errors[0]


def test_the_docs_mention_every_name() -> None:
    text = (Path(__file__).parents[2] / "docs" / "handlers.md").read_text("utf-8")
    for name, args in handlers.SIGNATURES.items():
        assert f"{name}({', '.join(args)})" in text
    for name in wsraw.__all__:
        assert re.search(rf"\b{name}\b", text), name
    for name in vars(Connection):
        if not name.startswith("_"):
            assert f"con.{name}" in text, name
    for name in inspect.signature(wsraw.open_client_connection).parameters:
        assert f"`{name}`" in text, name


@pytest.mark.parametrize(
    ("args", "fields"),
    [
        (("h:1",), {"target": "h:1", "protocol": "raw", **PLAIN}),
        (("h:1", "websocket"), {"target": "h:1", "protocol": "websocket", **PLAIN}),
        (
            ("h:1", "websocket", "/u", "host", "orig"),
            {"target": "h:1", "protocol": "websocket", "url": "/u", "host": "host", "orig": "orig"},
        ),
        (
            ("ws://h:1/path?query",),
            {"target": "ws://h:1/path?query", "protocol": "websocket", **PLAIN},
        ),
        (
            # An argument overrides the target, even if it looks like a default.
            ("ws://h:1/path?query", "raw", "/", "127.0.0.1:8000"),
            {"target": "ws://h:1", "protocol": "websocket", "url": "/", "host": "127.0.0.1:8000"},
        ),
        (
            ("ws://h:1", "raw", "/given", "given"),
            {
                "target": "ws://h:1",
                "protocol": "websocket",
                "url": "/given",
                "host": "given",
                "orig": "",
            },
        ),
        (("unix:/run/x",), {"target": "unix:/run/x", "protocol": "raw", **PLAIN}),
    ],
)
def test_open_sends_its_options(
    pair: MakePair, args: tuple[str, ...], fields: dict[str, str]
) -> None:
    p = pair("")
    con = wsraw.open_client_connection(*args)
    assert (con.kind, con.target) == (fields["protocol"], fields["target"])
    assert p.commands() == [Open(FIRST_ID, **fields)]


def test_a_login_goes_into_a_header_and_is_not_shown(
    pair: MakePair, caplog: pytest.LogCaptureFixture
) -> None:
    """The login must not be logged (websockets #373, WebSocket-Node #448)."""
    p = pair("")
    con = wsraw.open_client_connection("ws://ann:s%3Acret@h:1/x", headers={"X": "y"}, orig="o")
    assert con.target == "ws://h:1/x"
    [open_] = p.commands()
    assert (open_.target, open_.orig) == ("ws://h:1/x", "o")
    assert open_.options["headers"] == {"Authorization": "Basic YW5uOnM6Y3JldA==", "X": "y"}
    for target in (
        "ann:secret@h:1",
        "ws://ann:secret@h:x/",
        "wss://ann:sec/ret@h",
        "x://a:secret@",
    ):
        with pytest.raises(ValueError, match="cannot open") as error:
            wsraw.open_client_connection(target)
        assert "ret" not in str(error.value).replace("write", "")
    assert not caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": None},
        {"target": b"h:1"},
        {"target": "h"},
        {"target": "h\0:1"},
        {"target": "h\ud83d:1"},
        {"protocol": "smtp"},
        {"protocol": 5},
        {"url": 1},
        {"url": "x"},
        {"host": "a\r\nb: c"},
        {"host": b"h"},
        {"orig": "\ud83d"},
        {"name": 5},
        {"name": "\ud83d"},
        {"couple": "x"},
        {"headers": 5},
        {"headers": {"X": 1}},
        {"headers": {"X": "a\nb"}},
        {"headers": {"X": "\ud83d"}},
        {"headers": {1: "a"}},
        {"headers": {"Upgrade": "a"}},
        {"subprotocols": "chat"},
        {"subprotocols": 5},
        {"subprotocols": [1]},
        {"subprotocols": ["a b"]},
        *({"connect_timeout": value} for value in (-1, -0.5, 1e308, math.inf, math.nan, 10**400)),
        *({"connect_timeout": value} for value in ("5", True, b"5", [], 1j)),
        {"server_name": "a\0b", "target": "tls://h:1"},
        {"server_name": 5},
        {"ca": "-----BEGIN \ud83d"},
        {"ca": 5},
        {"key": "-----BEGIN x"},
    ],
)
def test_an_impossible_open_raises_at_the_call(pair: MakePair, wrong: dict[str, Any]) -> None:
    p = pair("")
    given = {"target": "h:1", "protocol": "websocket", **wrong}
    with pytest.raises((TypeError, ValueError)):
        wsraw.open_client_connection(**given)
    assert p.commands() == []


class Markup(str):
    """A subclass of str, as template engines have."""


def test_subclasses_of_the_expected_types_are_accepted(pair: MakePair) -> None:
    p = pair("")
    wsraw.open_client_connection(
        Markup("h:1"), Markup("websocket"), Markup("/u"), name=Markup("n"),
        headers={Markup("X"): Markup("y")}, connect_timeout=Decimal("0.5"),
    )  # fmt: skip
    [open_] = p.commands()
    assert (open_.target, open_.options["name"]) == ("h:1", "n")
    assert open_.options["connect_timeout"] == 0.5


def test_comments_in_a_pem_file_may_be_in_any_encoding(pair: MakePair, tmp_path: Path) -> None:
    p = pair("")
    file = tmp_path / "ca.pem"
    file.write_bytes("# Müller GmbH\n-----BEGIN".encode("latin-1"))
    wsraw.open_client_connection("tls://h:1", ca=file)
    [open_] = p.commands()
    assert open_.options["ca"].endswith("-----BEGIN")


def test_open_sends_only_the_options_that_are_given(pair: MakePair) -> None:
    p = pair("")
    wsraw.open_client_connection(
        "h:1",
        name="n",
        couple=7,
        headers={"A": "b"},
        subprotocols=("x", "y"),
        connect_timeout=2,
        deflate=False,
    )
    wsraw.open_client_connection("h:1", couple=None)
    assert [open_.options for open_ in p.commands()] == [
        {
            "name": "n",
            "couple": 7,
            "headers": {"A": "b"},
            "subprotocols": ["x", "y"],
            "connect_timeout": 2.0,
            "deflate": False,
        },
        {"couple": None},
    ]


def test_open_names_the_event_it_was_called_in(pair: MakePair) -> None:
    p = pair(
        "from wsraw import open_client_connection\n"
        "def on_message(msg, con): open_client_connection('h:1')\n"
    )
    (open_,) = p.run(message(1, b"x"))
    assert open_.options == {"during": con_id(1)}


def test_an_unknown_protocol_is_refused(pair: MakePair) -> None:
    pair("")
    with pytest.raises(ValueError, match="'http'"):
        wsraw.open_client_connection("h:1", "http")


def test_the_functions_do_what_the_methods_do(pair: MakePair) -> None:
    p = pair("")
    con = wsraw.connection(con_id(1))
    wsraw.send_message("x", con)
    wsraw.send_message({"data": b"x", "final": False}, con_id(1))
    wsraw.join("g", con)
    wsraw.leave("g", con_id(1))
    assert p.commands() == [
        Send(con_id(1), b"x", "text"),
        Send(con_id(1), b"x", "binary", False),
        Join(con_id(1), "g"),
        Leave(con_id(1), "g"),
    ]


def test_publish_sends_to_a_group(pair: MakePair) -> None:
    p = pair("")
    con = wsraw.connection(con_id(1))
    wsraw.publish("g", "x")
    wsraw.publish("g", {"data": "x", "type": "binary"}, exclude=[con, con_id(2)])
    wsraw.publish("g", b"x", exclude=(c for c in [con]))
    wsraw.publish("g", b"x", exclude=con)
    with pytest.raises(ValueError, match="final"):
        wsraw.publish("g", {"data": "x", "final": False})
    assert p.commands() == [
        Publish("g", b"x", "text"),
        Publish("g", b"x", "binary", {"except": [con_id(1), con_id(2)]}),
        Publish("g", b"x", "binary", {"except": [con_id(1)]}),
        Publish("g", b"x", "binary", {"except": [con_id(1)]}),
    ]


def test_send_to_user_sends_to_a_user(pair: MakePair) -> None:
    p = pair("")
    wsraw.send_to_user("ann", "x")
    wsraw.send_to_user("ann", b"x", exclude=con_id(1))
    with pytest.raises(ValueError, match="final"):
        wsraw.send_to_user("ann", {"data": "x", "final": False})
    assert p.commands() == [
        SendToUser("ann", b"x", "text"),
        SendToUser("ann", b"x", "binary", {"except": [con_id(1)]}),
    ]


def test_connection_returns_the_connection_of_an_id(pair: MakePair) -> None:
    pair("")
    con = wsraw.connection(con_id(1))
    assert wsraw.connection(con) is con
    assert wsraw.connection(con_id(1)) is con
    with pytest.raises(TypeError):
        wsraw.connection(1.0)  # type: ignore[call-overload]


def test_connection_returns_the_connection_of_a_reference(pair: MakePair) -> None:
    p = pair("")
    con = wsraw.connection(con_id(1))
    assert con.ref == f"/{con.id}"
    assert wsraw.connection(con.ref) is con
    other = wsraw.connection("elsewhere/7")
    assert isinstance(other, wsraw.RemoteConnection)
    assert wsraw.connection(other) is other
    assert other == wsraw.connection("elsewhere/7") != wsraw.connection("elsewhere/8")
    assert len({other, wsraw.connection("elsewhere/7")}) == 1
    assert (other.id, repr(other)) == ("elsewhere/7", "<RemoteConnection elsewhere/7>")
    for wrong in ("", "1", "a/", "a/b", "a/b/1", "a/-1", "a/٧", f"a/{1 << 53}"):
        with pytest.raises(ValueError, match="is not the reference of a connection"):
            wsraw.connection(wrong)
    with pytest.raises(ValueError, match="only a whole message can be sent there"):
        other.send({"data": "x", "final": False})
    with pytest.raises(ValueError, match="not a close code"):
        other.close(1)
    other.send("x")
    other.send(b"y", "text")
    other.close(4000, "z")
    assert p.commands() == [
        SendRef("elsewhere/7", b"x", "text"),
        SendRef("elsewhere/7", b"y", "text"),
        CloseRef("elsewhere/7", 4000, "z"),
    ]


def test_call_soon_runs_a_function_in_the_thread_of_the_handlers(pair: MakePair) -> None:
    p = pair("")
    wsraw.call_soon(print, 1, 2)
    assert p.calls == [(print, (1, 2))]


def test_outside_a_worker_the_functions_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_installed", None)
    for function, *args in (
        (wsraw.publish, "g", "x"),
        (wsraw.connection, 1),
        (wsraw.open_client_connection, "h:1"),
        (wsraw.call_soon, print),
        (wsraw.flush,),
    ):
        with pytest.raises(RuntimeError, match="in a wsraw worker"):
            function(*args)  # type: ignore[operator]
