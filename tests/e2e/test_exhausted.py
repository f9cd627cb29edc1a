"""More connections than descriptors: open connections stay served, and new clients wait."""

from __future__ import annotations

import select
import socket
import sys
from pathlib import Path

import pytest

from tests.deadline import UNIT, eventually
from tests.e2e.serving import ECHO, TIMEOUT, Serving, linux, receive_exactly, serve

pytestmark = linux

LIMIT = 120

LIMITED = f"""
import resource

resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT}))
"""


@pytest.fixture
def limited(tmp_path: Path) -> dict[str, str]:
    """An environment in which every Python process may open few descriptors."""
    if "sitecustomize" in sys.modules:
        pytest.skip("this Python has a sitecustomize of its own")
    (tmp_path / "sitecustomize.py").write_text(LIMITED)
    return {"PYTHONPATH": str(tmp_path)}


def served_of(socks: list[socket.socket], wait: float) -> set[socket.socket]:
    """The sockets that get an echo. The search ends when none has got one for `wait` seconds."""
    for sock in socks:
        sock.sendall(b"x")
    served: set[socket.socket] = set()
    while len(served) < len(socks):
        answered = select.select(set(socks) - served, [], [], wait)[0]
        if not answered:
            break
        for sock in answered:
            assert sock.recv(1) == b"x"
            served.add(sock)
    return served


def test_connections_beyond_the_descriptors_wait_and_others_are_served(
    limited: dict[str, str],
) -> None:
    with serve(ECHO, "--max-connections=100000", env=limited) as serving:
        assert (
            f"only {LIMIT} files may be open" in serving.run.line("max_connections is 100000.*")[0]
        )
        # Half of the descriptors are for connections; the other half is kept back.
        socks = [serving.tcp() for _ in range(LIMIT - 20)]
        try:
            check(serving, socks)
        finally:
            for sock in socks:
                sock.close()


def check(serving: Serving, socks: list[socket.socket]) -> None:
    line = serving.run.line(r"cannot accept on .*")[0]
    assert "Too many open files" in line
    assert "ulimit -n" in line
    inside = served_of(socks, 2 * UNIT)
    outside = set(socks) - inside
    assert LIMIT // 2 - 10 < len(inside) < LIMIT - 20
    # Open connections stay served, again and again.
    for _ in range(3):
        assert served_of(list(inside), TIMEOUT) == inside
    # The served clients leave, and the waiting ones are accepted; the bytes that they sent are
    # answered.
    for sock in inside:
        sock.close()
    for sock in outside:
        assert receive_exactly(sock, 1) == b"x"
    with serving.ws() as client:
        client.send("in again")
        assert client.recv(TIMEOUT) == "in again"
    # The log has one line in a while, not one for each attempt.
    assert str(serving).count("cannot accept on") <= 3


def test_the_soft_limit_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        f"""
import os, resource
if not os.environ.get("LIMITED"):
    os.environ["LIMITED"] = "1"
    resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, 1000))
"""
    )
    with serve(ECHO, env={"PYTHONPATH": str(tmp_path)}) as serving:
        limits = Path(f"/proc/{serving.gateway}/limits").read_text()
        row = next(line for line in limits.splitlines() if line.startswith("Max open files"))
        assert row.split()[3:5] == ["1000", "1000"]
        socks = [serving.tcp() for _ in range(2 * LIMIT)]
        for sock in socks:
            sock.sendall(b"y")
        for sock in socks:
            assert receive_exactly(sock, 1) == b"y"
            sock.close()
        eventually(lambda: serving.descriptors() < LIMIT, "all to be free again")
