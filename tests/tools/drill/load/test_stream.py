"""The drill's own half of both protocols, against the gateway's library where that can be."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from wsraw.tools.drill.figures import Figures
from wsraw.tools.drill.load import stream
from wsraw.tools.drill.load.record import Checker


def records(count: int, size: int = 40) -> list[bytes]:
    checker = Checker(9, size, 0, Figures())
    return [checker.send() for _ in range(count)]


@pytest.mark.parametrize("cut", [1, 7, 39, 40, 41, 1000])
def test_records_are_found_however_the_stream_is_cut(cut: int) -> None:
    sent = records(5)
    data = b"".join(sent)
    parser = stream.Records(40)
    got = [record for n in range(0, len(data), cut) for record in parser.receive(data[n : n + cut])]
    assert got == sent


def test_records_behind_junk_are_found() -> None:
    one, two, three, four = records(4)
    assert stream.Records(40).receive(one + two[:-5] + three + four) == [one, two[:-5], three, four]
    assert stream.Records(40).receive(one[:-1] + two) == [one[:-1], two]
    assert stream.Records(40).receive(one + b"junk" + two + three) == [one, b"junk", two, three]


def test_a_stream_of_junk_is_returned_as_junk() -> None:
    assert b"".join(stream.Records(40).receive(b"x" * 100)) == b"x" * 99


@pytest.mark.parametrize("size", [0, 5, 125, 126, 65535, 65536])
@pytest.mark.parametrize("cut", [1 << 20, 3])
def test_frames_of_any_size_are_found_however_the_stream_is_cut(size: int, cut: int) -> None:
    if size > 1000 and cut == 3:
        cut = 4001
    data = bytes(n % 251 for n in range(size))
    wire = Frame(Opcode.BINARY, data).serialize(mask=False) * 2
    parser = stream.Frames()
    got = [frame for n in range(0, len(wire), cut) for frame in parser.receive(wire[n : n + cut])]
    assert got == [(stream.BINARY, data)] * 2


@pytest.mark.parametrize("size", [0, 5, 125, 126, 65535, 65536])
def test_frames_of_the_drill_are_understood_by_the_websockets_library(size: int) -> None:
    data = bytes(n % 251 for n in range(size))
    server = ServerProtocol(max_size=None)
    server.receive_data(stream.request("localhost:1", bytes(range(16))))
    (request,) = server.events_received()
    assert isinstance(request, Request)
    response = server.accept(request)
    server.send_response(response)
    stream.check_response(response.serialize().removesuffix(b"\r\n\r\n"), bytes(range(16)))
    server.receive_data(stream.frame(stream.BINARY, data, b"\x01\x02\x03\xff"))
    (frame,) = server.events_received()
    assert isinstance(frame, Frame)
    assert (frame.opcode, bytes(frame.data)) == (Opcode.BINARY, data)


@pytest.mark.parametrize(
    "wire", [b"\x82\x81\0\0\0\0x", b"\x02\x01x", b"\xc2\x01x"], ids=["masked", "fragment", "rsv"]
)
def test_invalid_frames_are_refused(wire: bytes) -> None:
    with pytest.raises(stream.StreamError):
        stream.Frames().receive(wire)


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 400 Bad Request", b"HTTP/1.1 101 Go\r\nSec-WebSocket-Accept: x"]
)
def test_invalid_handshake_responses_are_refused(head: bytes) -> None:
    with pytest.raises(stream.StreamError):
        stream.check_response(head, bytes(16))


def test_a_close_frame_is_shown_as_code_and_reason() -> None:
    assert stream.close_text(b"") == "1005"
    assert stream.close_text(b"\x03\xe8") == "1000"
    assert stream.close_text(b"\x03\xf3gone") == "1011 gone"
