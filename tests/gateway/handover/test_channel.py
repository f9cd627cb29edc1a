"""Frames and their descriptors over a real socketpair."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.needs import unix_sockets
from wsraw.gateway.handover.channel import (
    LAST,
    MOST_SOCKETS,
    RECORD,
    ChannelError,
    Receiver,
    Sender,
    pair,
)

pytestmark = unix_sockets


@pytest.fixture
def ends() -> Iterator[tuple[Sender, Receiver, socket.socket, socket.socket]]:
    ours, theirs = pair()
    with ours, theirs:
        yield Sender(ours), Receiver(theirs), ours, theirs


def test_data_and_sockets_come_together(
    ends: tuple[Sender, Receiver, socket.socket, socket.socket],
) -> None:
    sender, receiver, _, _ = ends
    left, right = socket.socketpair()
    tcp = socket.create_server(("127.0.0.1", 0))
    with left, right, tcp:
        sender.put(RECORD, b"hello", [left, tcp])
        sender.send()
        assert sender.is_done
        sender.put(LAST, b"")
        sender.send()
        first, last = [*receiver.receive(), *receiver.receive()]
        with ExitStack() as stack:
            for sock in first.sockets:
                stack.enter_context(sock)
            assert (first.data, last.kind) == (b"hello", LAST)
            moved, listening = first.sockets
            assert listening.getsockname() == tcp.getsockname()
            assert not os.get_inheritable(moved.fileno())
            moved.send(b"x")
            assert right.recv(1) == b"x"


@pytest.mark.parametrize("count", [0, 1, MOST_SOCKETS])
@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_a_frame_of_any_size_is_cut_and_joined(
    ends: tuple[Sender, Receiver, socket.socket, socket.socket], size: int, count: int
) -> None:
    sender, receiver, _, _ = ends
    data = os.urandom(size)
    frames = []
    with socket.socket() as sock:
        sender.put(RECORD, data, [sock] * count)
        while not frames:
            sender.send()
            frames += receiver.receive()
    (frame,) = frames
    assert frame.data == data
    assert len(frame.sockets) == count
    for moved in frame.sockets:
        moved.close()


def test_a_receiver_with_too_few_descriptors_left_says_so(
    ends: tuple[Sender, Receiver, socket.socket, socket.socket],
) -> None:
    resource = pytest.importorskip("resource")
    sender, receiver, _, _ = ends
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as sock:
        sender.put(RECORD, b"x", [sock] * 200)
        sender.send()
        resource.setrlimit(resource.RLIMIT_NOFILE, (sock.fileno() + 20, before[1]))
        try:
            with pytest.raises(ChannelError, match="too few descriptors"):
                receiver.receive()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            receiver.close()


def test_the_end_of_the_sender_is_noticed(
    ends: tuple[Sender, Receiver, socket.socket, socket.socket],
) -> None:
    sender, receiver, ours, _ = ends
    sender.put(RECORD, b"hello")
    sender.send()
    ours.close()
    assert [frame.data for frame in receiver.receive()] == [b"hello"]
    assert receiver.receive() == []
    assert receiver.ended


def test_sending_to_a_taker_that_is_gone_raises(
    ends: tuple[Sender, Receiver, socket.socket, socket.socket],
) -> None:
    sender, _, _, theirs = ends
    theirs.close()
    sender.put(RECORD, b"hello")
    with pytest.raises(OSError):
        sender.send()
