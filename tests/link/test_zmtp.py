"""ZMTP, both ends of it on each other, and on bytes."""

from __future__ import annotations

from wsraw.link.batches import LARGEST_BATCH, READ_IN_PLACE
from wsraw.link.zmtp import Peer, header


def server(limit: int = LARGEST_BATCH) -> Peer:
    return Peer("ROUTER", {"DEALER"}, limit, as_server=True)


def client(limit: int = LARGEST_BATCH) -> Peer:
    return Peer("DEALER", {"ROUTER"}, limit, as_server=False)


def exchange(one: Peer, other: Peer) -> None:
    """Until neither has more to say."""
    while True:
        said = one.data_to_send()
        answer = other.data_to_send()
        if not said and not answer:
            return
        assert one.receive_data(answer) == []
        assert other.receive_data(said) == []


def frame(body: bytes) -> bytes:
    return header(len(body)) + body


def test_both_ends_greet_and_messages_pass_in_both_directions() -> None:
    one, other = server(), client()
    exchange(one, other)
    assert one.is_ready
    assert other.is_ready
    for body in (b"", b"x", b"x" * 255, b"x" * 256, b"x" * READ_IN_PLACE):
        assert other.receive_data(frame(body)) == [body]
        assert one.receive_data(frame(body) * 3) == [body] * 3
