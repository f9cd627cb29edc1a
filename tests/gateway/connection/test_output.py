from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw.gateway.connection.output import GATHERED_FROM, MOST_GATHERED, WRITE_SIZE, Output
from wsraw.gateway.websocket.heads import Head
from wsraw.gateway.websocket.shared import Framed


@given(st.lists(st.binary(max_size=20) | st.integers(0, 30), max_size=30))
def test_every_byte_goes_out_once_and_in_order(steps: list[bytes | int]) -> None:
    output, expected, written = Output(), b"", b""
    for step in steps:
        if isinstance(step, bytes):
            output.append(step)
            expected += step
        else:
            data = bytes(output.data_to_send())[:step]
            output.take_written(len(data))
            written += data
        assert output.size == len(expected) - len(written)
        assert bytes(output.data_to_send()) == expected[len(written) :]


def test_a_single_chunk_is_not_copied() -> None:
    output, chunk = Output(), b"chunk"
    output.append(chunk)
    assert output.data_to_send() is chunk


def test_a_long_queue_is_joined_in_parts() -> None:
    output = Output()
    for _ in range(3 * WRITE_SIZE // 1024):
        output.append(b"x" * 1024)
    total = 0
    while output.size:
        data = output.data_to_send()
        assert len(data) <= WRITE_SIZE + 1024
        # A socket, too, may take fewer bytes than it was given.
        size = len(data) // 2 + 1
        output.take_written(size)
        total += size
    assert total == 3 * WRITE_SIZE
    assert not output.chunks


def test_a_large_rest_is_not_copied() -> None:
    output = Output()
    output.append(b"x" * 2 * WRITE_SIZE)
    output.append(b"y")
    output.take_written(10)
    data = output.data_to_send()
    assert isinstance(data, memoryview)
    assert len(data) == 2 * WRITE_SIZE - 10


def test_the_oldest_published_go_first_and_nothing_else_goes() -> None:
    output = Output()
    for chunk in (Framed(b"aaaa"), b"mine", Framed(b"bbbb"), Framed(b"cccc")):
        output.append(chunk)
    assert output.drop_oldest_framed(8) == 2
    assert output.data_to_send() == b"minecccc"
    assert output.size == 8
    assert output.drop_oldest_framed(0) == 1
    assert output.data_to_send() == b"mine"


def test_a_message_that_is_partly_written_is_not_dropped() -> None:
    output = Output()
    output.append(Framed(b"aaaa"))
    output.append(Framed(b"bbbb"))
    output.take_written(1)
    assert output.drop_oldest_framed(0) == 1
    assert bytes(output.data_to_send()) == b"aaa"


@pytest.mark.parametrize("written", range(1, 10))
@pytest.mark.parametrize("drop", [Output.drop_waiting, lambda output: output.drop_oldest_framed(0)])
def test_the_payload_of_a_head_that_was_begun_is_not_dropped(
    written: int, drop: Callable[[Output], object]
) -> None:
    output = Output()
    for chunk in (Head(b"head"), b"payload", Framed(b"next")):
        output.append(chunk)
    output.take_written(written)
    drop(output)
    assert bytes(output.data_to_send()) == b"headpayload"[written:]
    output.take_written(output.size)
    output.append(Framed(b"later"))
    drop(output)
    assert not output.size


@pytest.mark.parametrize("encrypted", range(1, 12))
def test_the_payload_of_a_head_that_was_encrypted_is_not_dropped(encrypted: int) -> None:
    output = Output()
    for chunk in (Head(b"head"), b"payload", b"next"):
        output.append(chunk)
    output.encrypted = encrypted
    output.drop_waiting()
    assert bytes(output.data_to_send()) == b"headpayload"


def test_a_head_that_was_not_begun_goes_with_its_payload() -> None:
    output = Output()
    for chunk in (b"before", Head(b"head"), b"payload"):
        output.append(chunk)
    output.take_written(1)
    output.drop_waiting()
    assert bytes(output.data_to_send()) == b"efore"


def test_a_few_large_chunks_are_not_joined() -> None:
    output = Output()
    chunks = [bytes([n]) * GATHERED_FROM for n in range(3)]
    for chunk in chunks:
        output.append(chunk)
    gathered = output.gathered()
    assert gathered is not None
    assert all(one is other for one, other in zip(gathered, chunks, strict=True))
    assert b"".join(gathered) == output.data_to_send()
    output.take_written(GATHERED_FROM + 10)
    output.append(b"x" * 100)
    gathered = output.gathered()
    assert gathered is None
    output.append(b"y" * 3 * GATHERED_FROM)
    gathered = output.gathered()
    assert gathered is not None
    assert b"".join(gathered) == output.data_to_send()


def test_a_large_chunk_and_many_small_ones_are_not_gathered() -> None:
    output = Output()
    output.append(b"x" * 10 * GATHERED_FROM)
    assert output.gathered() is None
    for _ in range(MOST_GATHERED):
        output.append(b"y")
    assert output.gathered() is None
    output.append(b"z" * MOST_GATHERED * GATHERED_FROM)
    # The kernel takes at most this many buffers (IOV_MAX).
    assert output.gathered() is None
