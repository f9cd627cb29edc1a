from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsraw.config.settings import BridgeSettings, Settings
from wsraw.gateway.connection.connection import Connection, Phase
from wsraw.gateway.splices.targets import LARGEST, NoTargetError, Targets, token_of


def client(url: str = "/", **params: str) -> Connection:
    con = Connection(1, Settings(), {"params": params} if params else {}, Phase(), opened=False)
    con.inf = {"url": url, "Protocol": "websocket server"}
    return con


def test_the_token_is_in_the_path_or_in_the_query() -> None:
    assert token_of(client("/vnc?token=a%20b&x=1")) == "a b"
    assert token_of(client("/vnc/q?token=other", token="q")) == "q"
    assert token_of(client("/vnc?token=")) == ""
    assert token_of(client()) == ""


def test_a_target_that_is_always_the_same() -> None:
    found = Targets(BridgeSettings(to="tcp://h:5900")).find(client("/?token=x"), [], 0.0)
    assert (found.target.host, found.target.port, found.tells_open) == ("h", 5900, True)


def test_the_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    targets = Targets(BridgeSettings(tokens=str(path)))

    def port(token: str, now: float) -> int:
        return targets.find(client(f"/?token={token}"), [], now).target.port

    with pytest.raises(NoTargetError, match="cannot be read") as missing:
        port("a", 0.0)
    assert missing.value.status == 502
    path.write_text("a: h:1\n", "utf-8")
    assert port("a", 2.0) == 1
    path.write_text("a: h:2\nb: h:30\n", "utf-8")
    assert port("a", 2.5) == 1
    assert port("a", 4.0) == 2
    assert port("b", 4.0) == 30
    # A file that is being replaced may be missing for a moment, or be half of it.
    os.remove(path)
    assert port("b", 6.0) == 30
    path.write_text("b: h:31\nhalf", "utf-8")
    assert port("b", 8.0) == 30
    with pytest.raises(NoTargetError, match=r"cannot be used: line 2") as wrong:
        port("c", 8.0)
    assert wrong.value.status == 502
    path.write_text("b: h:31\n", "utf-8")
    assert port("b", 10.0) == 31
    for token, why in (("c", "no such token"), ("", "no token in the request")):
        with pytest.raises(NoTargetError, match=why) as unknown:
            port(token, 10.0)
        assert unknown.value.status == 404


def test_a_file_that_is_too_large_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(b"#" * (LARGEST + 1))
    with pytest.raises(NoTargetError, match="more than 4194304 bytes"):
        Targets(BridgeSettings(tokens=str(path))).find(client("/?token=a"), [], 0.0)


def test_a_target_of_the_file_that_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("a: nowhere\n", "utf-8")
    with pytest.raises(NoTargetError, match="cannot be opened") as wrong:
        Targets(BridgeSettings(tokens=str(path))).find(client("/?token=a"), [], 0.0)
    assert wrong.value.status == 502
