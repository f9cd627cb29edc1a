from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from tests.deadline import DEADLINE
from wsraw.runtime.bell import Bell


@pytest.fixture
def bell() -> Iterator[Bell]:
    made = Bell()
    yield made
    made.close()


def is_ringing(bell: Bell) -> bool:
    return bool(select.select([bell.reader], [], [], 0)[0])


def test_a_bell_that_has_rung_ends_a_wait_until_it_is_quieted(bell: Bell) -> None:
    assert not is_ringing(bell)
    bell.ring()
    assert is_ringing(bell)
    bell.quiet()
    assert not is_ringing(bell)


def test_a_bell_can_be_rung_without_end(bell: Bell) -> None:
    for _ in range(100_000):
        bell.ring()
    bell.quiet()
    assert not is_ringing(bell)


def test_a_closed_bell_can_be_rung(bell: Bell) -> None:
    bell.close()
    bell.ring()


def test_where_a_pair_is_tcp_no_ring_waits_for_an_acknowledgement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pairs are TCP on Windows."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far = server.accept()[0]
    monkeypatch.setattr(socket, "socketpair", lambda: (near, far))
    bell = Bell()
    assert far.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    bell.ring()
    assert select.select([bell.reader], [], [], DEADLINE)[0]
    bell.close()
