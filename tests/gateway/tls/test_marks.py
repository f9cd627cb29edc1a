"""Marks that go through the socketpair of a pump, between data."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from tests.needs import unix_sockets
from wsraw.gateway.handover.channel import pair
from wsraw.gateway.tls.marks import LONGEST_REASON, PUMP_BUFFER, PumpMark, receive, send_mark

pytestmark = unix_sockets

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    both = pair(PUMP_BUFFER)
    yield both
    for end in both:
        end.close()


@pytest.mark.parametrize(
    ("mark", "why"),
    [
        (PumpMark.END, ""),
        (PumpMark.RESET, ""),
        (PumpMark.LOST, "reset by peer"),
        (PumpMark.LOST, "x" * 5000),
    ],
)
def test_a_mark_comes_behind_the_data_before_it(ends: Ends, mark: PumpMark, why: str) -> None:
    """The system may return both with one read."""
    here, there = ends
    here.send(b"data")
    send_mark(here, mark, why)
    here.send(b"more")
    data, found, reason = receive(there, 65_536)
    if found is None:
        assert data == b"data"
        data, found, reason = receive(there, 65_536)
        assert data == b""
    else:
        assert data == b"data"
    assert (found, reason) == (mark, why[:LONGEST_REASON])
    assert receive(there, 65_536) == (b"more", None, "")


def test_there_is_room_for_a_mark_however_full_the_socket_is(ends: Ends) -> None:
    here, there = ends
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += here.send(b"x" * 100_000)
    send_mark(here, PumpMark.RESET)
    mark = None
    while mark is None:
        data, mark, _ = receive(there, 65_536)
        sent -= len(data)
    assert mark is PumpMark.RESET
    assert sent == 0


def test_marks_leave_no_descriptors_open(ends: Ends) -> None:
    here, there = ends
    send_mark(here, PumpMark.END)
    receive(there, 100)
    before = os.dup(0)
    os.close(before)
    for _ in range(10):
        send_mark(here, PumpMark.LOST, "lost")
        receive(there, 100)
    after = os.dup(0)
    os.close(after)
    assert after == before


def test_a_mark_for_an_end_that_is_gone_is_no_error(ends: Ends) -> None:
    here, there = ends
    there.close()
    send_mark(here, PumpMark.LOST, "lost")
