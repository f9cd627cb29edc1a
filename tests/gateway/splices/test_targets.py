from __future__ import annotations

import os
import random
import time
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


def test_a_fixed_target_ignores_the_token() -> None:
    targets = Targets(BridgeSettings(to="tcp://h:5900"))
    assert not targets.look(0.0)
    found = targets.find(client("/?token=x"))
    assert (found.target.host, found.target.port, found.preface) == ("h", 5900, b"")


def test_the_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    targets = Targets(BridgeSettings(tokens=str(path)))

    def port(token: str, now: float) -> int:
        assert not targets.look(now)
        return targets.find(client(f"/?token={token}")).target.port

    with pytest.raises(NoTargetError, match="cannot be read") as missing:
        port("a", 0.0)
    assert missing.value.status == 502
    path.write_text("a: h:1\n", "utf-8")
    assert port("a", 2.0) == 1
    path.write_text("a: h:2\nb: h:30\n", "utf-8")
    assert port("a", 2.5) == 1
    assert port("a", 4.0) == 2
    assert port("b", 4.0) == 30
    # A file that is being replaced may be missing for a moment, or be incomplete.
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


@pytest.mark.parametrize("kind", ["a pipe", "a folder"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    """Opening a pipe would delay all clients until something is written to it."""
    path = tmp_path / "tokens"
    if kind == "a folder":
        path.mkdir()
    elif hasattr(os, "mkfifo"):
        os.mkfifo(path)
    else:
        pytest.skip("this system has no named pipes")
    targets = Targets(BridgeSettings(tokens=str(path)))
    assert not targets.look(0.0)
    with pytest.raises(NoTargetError, match="not a regular file"):
        targets.find(client("/?token=a"))


def test_a_file_that_is_too_large_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(b"#" * (LARGEST + 1))
    targets = Targets(BridgeSettings(tokens=str(path)))
    read(targets, 0.0)
    with pytest.raises(NoTargetError, match="more than 4194304 bytes"):
        targets.find(client("/?token=a"))


def read(targets: Targets, now: float) -> list[float]:
    """Read the file as a gateway does; returns how long each turn took, in seconds."""
    times, goes_on = [], True
    begin = time.thread_time()
    goes_on = targets.look(now)
    while True:
        end = time.thread_time()
        times.append(end - begin)
        if not goes_on:
            return times
        begin = end
        goes_on = targets.go_on()


def test_the_largest_file_is_read_in_slices(tmp_path: Path) -> None:
    """Reading the whole file at once took 330 ms."""
    path = tmp_path / "tokens"
    lines = [f"token-{number:08}: 10.0.0.1:{number % 60000 + 1}\r\n" for number in range(120_000)]
    path.write_bytes(b"\xef\xbb\xbf" + "".join(lines).encode())
    assert LARGEST * 0.9 < path.stat().st_size < LARGEST
    targets = Targets(BridgeSettings(tokens=str(path)))
    times = read(targets, 0.0)
    assert len(times) > 200

    def port(token: str) -> int:
        return targets.find(client(f"/?token={token}")).target.port

    assert [port(f"token-{number:08}") for number in (0, 59_999, 119_999)] == [1, 60000, 60000]
    # Tokens that a new file removes are also forgotten in slices, and an error has its line number.
    path.write_text("one: h:7\n", "utf-8")
    assert len(read(targets, 2.0)) > 100
    assert port("one") == 7
    with pytest.raises(NoTargetError, match="no such token"):
        port("token-00000000")
    path.write_bytes("".join([*lines[:90_000], "wrong\n"]).encode())
    read(targets, 4.0)
    assert port("one") == 7
    with pytest.raises(NoTargetError, match=r"cannot be used: line 90001"):
        port("two")


@pytest.mark.parametrize("seed", range(20))
def test_garbage_is_never_half_used(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "tokens"
    path.write_text("good: h:1\n", "utf-8")
    targets = Targets(BridgeSettings(tokens=str(path)))
    read(targets, 0.0)
    path.write_bytes(random.Random(seed).randbytes(70_000))
    read(targets, 2.0)
    assert targets.find(client("/?token=good")).target.port == 1
    with pytest.raises(NoTargetError, match="cannot be used"):
        targets.find(client("/?token=other"))


def test_a_wrong_target_in_the_file_is_answered_with_502(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("a: nowhere\n", "utf-8")
    targets = Targets(BridgeSettings(tokens=str(path)))
    read(targets, 0.0)
    with pytest.raises(NoTargetError, match="cannot be opened") as wrong:
        targets.find(client("/?token=a"))
    assert wrong.value.status == 502
