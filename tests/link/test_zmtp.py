"""ZMTP on bytes: both ends with each other, with recorded bytes of real libzmq, and with invalid
bytes.
"""

from __future__ import annotations

import random
import time
import tomllib
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from wsraw.link.batches import LARGEST_BATCH, NO_BATCH, READ_IN_PLACE, Batch
from wsraw.link.zmtp import (
    COMMAND_LIMIT,
    FIRST_PART,
    GREETING,
    GROWTH,
    ODD_FRAMES,
    SIGNATURE,
    SPARE_LIMIT,
    ZmtpPeer,
    header,
)

CAPTURED = tomllib.loads(Path(__file__).with_name("zmtp.toml").read_text("ascii"))
LIMIT = 1 << 20


def server(limit: int = LIMIT) -> ZmtpPeer:
    return ZmtpPeer("ROUTER", {"DEALER"}, limit, as_server=True)


def client(limit: int = LIMIT) -> ZmtpPeer:
    return ZmtpPeer("DEALER", {"ROUTER"}, limit, as_server=False)


ENDS: dict[str, Callable[..., ZmtpPeer]] = {"server": server, "client": client}
OTHER = {"server": client, "client": server}


def frame(body: bytes, flags: int = 0, *, long: bool = False) -> bytes:
    """A frame, made without the code under test."""
    if long or len(body) > 255:
        return bytes((flags | 2,)) + len(body).to_bytes(8, "big") + body
    return bytes((flags, len(body))) + body


def command(name: bytes, data: bytes = b"", flags: int = 4) -> bytes:
    return frame(bytes((len(name),)) + name + data, flags)


def prop(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value


def ready(socket_type: bytes, *more: bytes) -> bytes:
    return command(b"READY", prop(b"Socket-Type", socket_type) + b"".join(more))


def hello(end: str) -> bytes:
    """The bytes that the other end sends before its first message."""
    return GREETING + ready(b"DEALER" if end == "server" else b"ROUTER")


def ready_peer(end: str, limit: int = LIMIT) -> ZmtpPeer:
    peer = ENDS[end](limit)
    assert peer.receive_data(hello(end)) == []
    assert peer.is_ready
    peer.data_to_send()
    return peer


class Heard(NamedTuple):
    """The result of some bytes."""

    messages: list[bytes]
    said: bytes
    why: str
    is_ready: bool


def hear(peer: ZmtpPeer, pieces: Iterable[bytes], *, in_place: bool = False) -> Heard:
    """Give a peer these bytes; with `in_place`, into the view of `rest` as far as that reaches."""
    messages: list[Batch] = []
    said = b""
    for piece in pieces:
        at = 0
        while at < len(piece):
            view = peer.rest() if in_place else None
            if view is None:
                messages += peer.receive_data(piece[at:])
                break
            count = min(len(view), len(piece) - at)
            view[:count] = piece[at : at + count]
            view.release()
            del view
            at += count
            message = peer.received(count)
            messages += [] if message is None else [message]
        said += peer.data_to_send()
    return Heard([bytes(each) for each in messages], said, peer.why, peer.is_ready)


def single_bytes(data: bytes) -> Iterator[bytes]:
    for i in range(len(data)):
        yield data[i : i + 1]


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Every cut into two pieces."""
    for i in range(len(data) + 1):
        yield [data[:i], data[i:]]


def check_every_cut(end: str, data: bytes, limit: int = LIMIT) -> Heard:
    """Check that every cut gives the same result."""
    whole = hear(ENDS[end](limit), [data])
    assert hear(ENDS[end](limit), single_bytes(data)) == whole
    for pieces in cuts(data):
        assert hear(ENDS[end](limit), pieces) == whole
        assert hear(ENDS[end](limit), pieces, in_place=True) == whole
    return whole


# --- data of real peers ---


@pytest.mark.parametrize("name", CAPTURED)
def test_what_libzmq_has_said_is_understood_at_every_cut(name: str) -> None:
    case: dict[str, Any] = CAPTURED[name]
    heard = check_every_cut(case["to"], bytes.fromhex(case["bytes"]))
    assert [message.hex() for message in heard.messages] == case["messages"]
    assert case["why"] in heard.why
    assert bool(heard.why) is bool(case["why"])
    assert heard.is_ready is not bool(case["why"])


def test_the_captured_cases_are_of_both_roles_and_of_all_versions() -> None:
    for end in ENDS:
        origins = " ".join(case["origin"] for case in CAPTURED.values() if case["to"] == end)
        assert all(f"libzmq {version}" in origins for version in ("2.2", "3.2", "4.0", "4.3"))


@pytest.mark.parametrize("end", ENDS)
def test_both_ends_greet_and_messages_pass_in_both_directions(end: str) -> None:
    one, other = ENDS[end](), OTHER[end]()
    while said := (one.data_to_send(), other.data_to_send()):
        if said == (b"", b""):
            break
        assert one.receive_data(said[1]) == other.receive_data(said[0]) == []
    assert one.is_ready
    assert other.is_ready
    for size in (0, 1, 255, 256, READ_IN_PLACE - 1, READ_IN_PLACE, LIMIT):
        body = random.Random(size).randbytes(size)
        assert one.receive_data(header(size) + body) == [body]
        assert other.receive_data((header(size) + body) * 3) == [body] * 3
    assert one.data_to_send() == other.data_to_send() == b""


def test_the_client_says_ready_first_and_the_server_answers() -> None:
    """So an ERROR of the server can come instead of its READY."""
    one, other = server(), client()
    assert one.data_to_send() == other.data_to_send() == SIGNATURE
    one.receive_data(SIGNATURE)
    assert one.data_to_send() == GREETING[len(SIGNATURE) :]
    one.receive_data(GREETING[len(SIGNATURE) :])
    assert one.data_to_send() == b""
    other.receive_data(GREETING)
    assert other.data_to_send() == GREETING[len(SIGNATURE) :] + ready(b"DEALER")
    one.receive_data(ready(b"DEALER"))
    assert one.is_ready
    assert one.data_to_send() == ready(b"ROUTER")
    assert not other.is_ready
    other.receive_data(ready(b"ROUTER"))
    assert other.is_ready


@pytest.mark.parametrize(
    "greeting",
    [
        GREETING,
        # Version 3.0, a later minor and a later major version; padding, as-server and filler are
        # ignored.
        GREETING[:11] + b"\x00" + GREETING[12:],
        GREETING[:11] + b"\x09" + GREETING[12:],
        GREETING[:10] + b"\x04\x00" + GREETING[12:],
        b"\xff" + b"\xa5" * 8 + b"\x7f" + GREETING[10:],
        GREETING[:32] + b"\x01" * 32,
    ],
)
def test_good_greetings_are_accepted(greeting: bytes) -> None:
    heard = check_every_cut("server", greeting + ready(b"DEALER") + frame(b"x"))
    assert heard.messages == [b"x"]


@pytest.mark.parametrize(
    "metadata",
    [
        prop(b"socket-TYPE", b"DEALER"),
        prop(b"Identity", b"\0" * 255) + prop(b"Socket-Type", b"DEALER"),
        prop(b"Socket-Type", b"DEALER") + prop(b"X-" + b"n" * 253, b"") + prop(b"a", b"v" * 4000),
    ],
)
def test_good_metadata_are_accepted(metadata: bytes) -> None:
    data = GREETING + command(b"READY", metadata)
    heard = hear(server(), single_bytes(data))
    assert heard.is_ready
    assert hear(server(), [data]) == heard


# --- invalid data ---

WRONG_GREETINGS = {
    b"GET / HTTP/1.1\r\n": "speaks HTTP",
    b"HTTP/1.1 400 Bad Request\r\n": "speaks HTTP",
    b"\x16\x03\x01\x02\x00\x01": "speaks TLS",
    b"\x15\x03\x01\x00\x02": "speaks TLS",
    b"SSH-2.0-OpenSSH_9.6\r\n": "begins with b'SSH-'",
    b"\x94\x01\xa5hello": r"begins with b'\x94\x01\xa5h'",
    b"\x05\x01\x00\xff": r"begins with b'\x05\x01\x00\xff'",
    bytes(64): r"begins with b'\x00\x00\x00\x00'",
    b"\xff" + bytes(8) + b"\x7e": "speaks ZMTP 1.0",
    GREETING[:10] + b"\x00": "speaks ZMTP 2.0",
    GREETING[:10] + b"\x02": "speaks ZMTP 2.0",
    GREETING[:12] + b"CURVE".ljust(52, b"\0"): "the mechanism CURVE",
    GREETING[:12] + b"NULLS".ljust(52, b"\0"): "the mechanism NULLS",
    GREETING[:12] + b"CURVE".ljust(20, b"\0"): "the mechanism CURVE",
    GREETING[:12] + b"\x1b[31m\x1f\x7f\x80 ~".ljust(52, b"\0"): "the mechanism ?[31m??? ~",
    GREETING[:12] + bytes(52): "the mechanism ,",
}


@pytest.mark.parametrize("data", WRONG_GREETINGS)
@pytest.mark.parametrize("end", ENDS)
def test_a_peer_that_does_not_speak_zmtp_is_known_by_its_first_bytes(end: str, data: bytes) -> None:
    heard = check_every_cut(end, data)
    assert WRONG_GREETINGS[data] in heard.why
    # A peer that has not sent a greeting would not understand an ERROR. A peer with a later
    # mechanism may see from the greeting which one is ours.
    assert heard.said == (GREETING if data[:11] == SIGNATURE else SIGNATURE)


WRONG_HANDSHAKES = {
    ready(b"PUSH"): "Socket-Type is PUSH, and must be DEALER",
    ready(b"PUSH" * 100): "Socket-Type is PUSHPUSH",
    ready(b"\n\x1b[2J\xff"): "Socket-Type is ??[2J?, and must be DEALER",
    ready(b""): "Socket-Type is missing, and must be DEALER",
    command(b"READY"): "Socket-Type is missing, and must be DEALER",
    command(b"READY", prop(b"Identity", b"me")): "Socket-Type is missing",
    command(b"READY", b"\0" + prop(b"", b"DEALER")): "without a name",
    command(b"READY", prop(b"", b"DEALER")): "without a name",
    command(b"READY", prop(b"Socket-Type", b"DEALER")[:-1]): "READY ends in the middle",
    command(b"READY", prop(b"Socket-Type", b"DEALER") + b"\x05"): "READY ends in the middle",
    command(b"READY", b"\x0bSocket-Type\xff\xff\xff\xffDEALER"): "READY ends in the middle",
    command(b"HELLO"): "the command HELLO came before READY",
    command(b"PING", b"\0\0"): "the command PING came before READY",
    frame(b"hello"): "a message came before READY",
    frame(b"hello", 1): "a message came before READY",
    frame(b"x" * 300): "a message came before READY",
    frame(b"", 4): "a command without a name",
    frame(b"\0abc", 4): "a command without a name",
    frame(b"\5READ", 4): "a command without a name",
    command(b"READY", prop(b"Socket-Type", b"DEALER"), 5): "a command has the flag MORE",
    bytes((6,)) + (COMMAND_LIMIT + 1).to_bytes(8, "big"): "a command of 8,193 bytes",
    bytes((6,)) + b"\xff" * 8: "a command of 18,446,744,073,709,551,615 bytes; the limit is 8,192",
    b"\x08": "the byte 0x08",
    b"\xff": "the byte 0xff",
}


@pytest.mark.parametrize("data", WRONG_HANDSHAKES)
def test_a_wrong_handshake_is_refused_with_an_error_and_no_ready(data: bytes) -> None:
    heard = check_every_cut("server", GREETING + data + frame(b"unheard"))
    assert WRONG_HANDSHAKES[data] in heard.why
    assert heard.messages == []
    assert not heard.is_ready
    reason = heard.why[:255].encode()
    assert heard.said == GREETING + command(b"ERROR", bytes((len(reason),)) + reason)


WRONG_TRAFFIC = {
    frame(b"x" * (LIMIT + 1))[:9]: "a batch of 1,048,577 bytes; the limit is 1,048,576",
    b"\x02" + b"\xff" * 8: "a batch of 18,446,744,073,709,551,615 bytes",
    b"\x03" + b"\xff" * 8: "a batch of 18,446,744,073,709,551,615 bytes",
    frame(b"a", 1) + b"\x02" + b"\x7f" * 8: "a batch of 9,187",
    command(b"READY", prop(b"Socket-Type", b"DEALER")): "READY came twice",
    command(b"PING"): "a PING of 0 bytes; it has 2 to 18",
    command(b"PING", b"\0"): "a PING of 1 bytes",
    command(b"PING", bytes(19)): "a PING of 19 bytes",
    frame(b"", 4): "a command without a name",
    frame(b"x", 5): "a command has the flag MORE",
    b"\x07": "a command has the flag MORE",
    bytes((6,)) + (COMMAND_LIMIT + 1).to_bytes(8, "big"): "a command of 8,193 bytes",
    b"\x10": "the byte 0x10",
    b"GET / HTTP/1.1\r\n": "the byte 0x47",
    frame(b"a", 1) * (ODD_FRAMES + 1): "a message of more than 1,000 frames",
}


@pytest.mark.parametrize("data", WRONG_TRAFFIC, ids=lambda data: repr(data[:12]))
@pytest.mark.parametrize("end", ENDS)
def test_a_fault_ends_the_connection_and_what_came_before_is_handed_out(
    end: str, data: bytes
) -> None:
    before = [b"first", b"x" * 300]
    heard = hear(ready_peer(end), single_bytes(b"".join(map(frame, before)) + data + frame(b"x")))
    assert WRONG_TRAFFIC[data] in heard.why
    assert heard.messages[:2] == before
    assert heard.messages[2:] in ([], [NO_BATCH])
    reason = heard.why[:255].encode()
    assert heard.said == command(b"ERROR", bytes((len(reason),)) + reason)
    if len(data) < 1000:
        whole = b"".join(map(frame, before)) + data + frame(b"x")
        for pieces in cuts(whole):
            assert hear(ready_peer(end), pieces) == heard


def test_nothing_is_read_or_said_after_a_fault() -> None:
    peer = ready_peer("server")
    peer.receive_data(b"\xff")
    assert peer.data_to_send() != b""
    assert peer.receive_data(frame(b"x")) == []
    assert peer.receive_data(command(b"PING", b"\0\0")) == []
    assert peer.data_to_send() == b""
    why = peer.why
    peer.fail("another reason")
    assert peer.why == why
    assert peer.data_to_send() == b""


def test_what_was_received_of_a_message_goes_with_a_fault() -> None:
    peer = ready_peer("server")
    peer.receive_data(frame(bytes(LIMIT))[:100_000])
    assert peer.rest() is not None
    peer.fail("the gateway ends")
    assert peer.rest() is None


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("handshake", [False, True])
def test_an_error_of_the_peer_ends_the_connection_with_its_reason(
    end: str, handshake: bool
) -> None:
    before = GREETING if handshake else hello(end)
    for data, reason in (
        (b"\x0dnot welcome\n\x1b", "not welcome??"),
        (b"", ""),
        (b"\0", ""),
        (b"\xffshort", "short"),
        (b"\xff" + b"x" * 255, "x" * 255),
        (b"\x05hello, and more", "hello"),
    ):
        heard = check_every_cut(end, before + command(b"ERROR", data) + frame(b"x"))
        assert heard.why == f"refused by the peer: {reason}"
        assert heard.messages == []
        assert b"ERROR" not in heard.said


@pytest.mark.parametrize("end", ENDS)
def test_we_fail_a_peer_with_a_reason_that_its_log_can_show(end: str) -> None:
    peer = ready_peer(end)
    peer.fail("no hello in 10 s\r\n\x1b[31m “now”" + "x" * 300)
    said = peer.data_to_send()
    expected = b"no hello in 10 s???[31m ?now?" + b"x" * 300
    assert said == command(b"ERROR", b"\xff" + expected[:255])
    other = OTHER[end]()
    other.receive_data(hello("client" if end == "server" else "server"))
    other.receive_data(said)
    assert other.why == f"refused by the peer: {expected[:255].decode()}"
    # Before its greeting a peer does not know ERROR.
    early = ENDS[end]()
    early.data_to_send()
    early.receive_data(SIGNATURE)
    early.data_to_send()
    early.fail("too late")
    assert early.data_to_send() == b""
    assert early.why == "too late"


# --- commands among messages ---


@pytest.mark.parametrize("end", ENDS)
def test_a_ping_is_answered_with_its_context_and_other_commands_are_ignored(end: str) -> None:
    data = (
        frame(b"one")
        + command(b"PING", b"\0\x14")
        + command(b"PING", b"\xff\xff" + b"c" * 16)
        + frame(b"two")
        + command(b"PONG")
        + command(b"PONG", b"context")
        + command(b"SUBSCRIBE", b"topic")
        + command(b"CANCEL", b"topic")
        + command(b"JOIN", b"group")
        + command(b"Later\0", b"?" * 600)
        + frame(b"\4PING\0\0", 4, long=True)
        + frame(b"three")
    )
    heard = check_every_cut(end, hello(end) + data)
    assert heard.messages == [b"one", b"two", b"three"]
    assert heard.said.endswith(command(b"PONG") + command(b"PONG", b"c" * 16) + command(b"PONG"))
    assert heard.said.count(b"PONG") == 3
    assert heard.why == ""


def test_a_command_may_come_inside_a_message_of_several_frames() -> None:
    data = frame(b"a", 1) + command(b"PING", b"\0\0!") + frame(b"b") + frame(b"next")
    heard = check_every_cut("server", hello("server") + data)
    assert heard.messages == [NO_BATCH, b"next"]
    assert heard.said.endswith(command(b"PONG", b"!"))


def test_what_is_skipped_is_not_read_whatever_it_looks_like() -> None:
    unread = frame(b"unread") * 3 + b"\xff" + bytes(300)
    data = frame(unread, 1) + frame(unread, 1) + frame(unread) + frame(b"next")
    assert check_every_cut("server", hello("server") + data).messages == [NO_BATCH, b"next"]


@pytest.mark.parametrize("size", [COMMAND_LIMIT - 1, COMMAND_LIMIT])
def test_a_command_may_be_as_long_as_the_limit_and_arrive_in_pieces(size: int) -> None:
    data = frame(b"\x05Later" + bytes(size - 6), 4) + frame(b"x")
    for pieces in ([data], [data[:9], data[9:]], [data[:-5], data[-5:]], single_bytes(data)):
        assert hear(ready_peer("server"), pieces, in_place=True).messages == [b"x"]


def test_a_flood_of_commands_ends_and_the_messages_before_do_not_get_lost() -> None:
    peer = ready_peer("server")
    ping = command(b"PING", b"\0\0")
    assert peer.receive_data(ping * ODD_FRAMES + frame(b"x")) == [b"x"]
    assert len(peer.data_to_send()) == ODD_FRAMES * len(command(b"PONG"))
    assert peer.why == ""
    assert peer.receive_data(frame(b"x") + ping * (ODD_FRAMES + 1)) == [b"x"]
    assert "more than 1,000 commands" in peer.why


# --- frames ---


@pytest.mark.parametrize("size", [0, 1, 254, 255, 256, 257, 65535, 65536])
def test_a_header_is_short_where_it_can_be(size: int) -> None:
    body = bytes(size)
    assert header(size) + body == frame(body)


@pytest.mark.parametrize("end", ENDS)
def test_messages_of_all_kinds_come_the_same_at_every_cut(end: str) -> None:
    bodies = [b"", b"x", b"y" * 255, b"z" * 256, b"", b"\xff" * 9]
    data = b"".join(map(frame, bodies)) + frame(b"long", long=True) + frame(b"", long=True)
    assert check_every_cut(end, hello(end) + data).messages == [*bodies, b"long", b""]


@pytest.mark.parametrize("size", [READ_IN_PLACE - 1, READ_IN_PLACE, READ_IN_PLACE + 1, FIRST_PART])
def test_a_large_message_between_small_ones_comes_the_same_at_cuts_around_its_borders(
    size: int,
) -> None:
    body = random.Random(size).randbytes(size)
    data = frame(b"before") + frame(body) + frame(b"after")
    places = {8, 9, 10, 16, 17, 18, 19, len(data) // 2, len(data) // 3}
    places |= {end - i for i in range(12) for end in (len(data), len(data) - READ_IN_PLACE)}
    for first in places:
        for second in places:
            if first <= second:
                pieces = [data[:first], data[first:second], data[second:]]
                for in_place in (False, True):
                    heard = hear(ready_peer("server"), pieces, in_place=in_place)
                    assert heard.messages == [b"before", body, b"after"]


def test_small_messages_are_copies_and_large_ones_are_views() -> None:
    peer = ready_peer("server")
    small = frame(b"x" * (READ_IN_PLACE - 1))
    large = frame(b"x" * READ_IN_PLACE)
    assert list(map(type, peer.receive_data(small + large))) == [bytes, memoryview]
    assert peer.receive_data(small[:100]) == []
    assert list(map(type, peer.receive_data(small[100:]))) == [bytes]
    assert peer.receive_data(large[:100]) == []
    assert list(map(type, peer.receive_data(large[100:]))) == [memoryview]


def in_two(peer: ZmtpPeer, body: bytes) -> memoryview:
    """A message that gets a buffer of its own."""
    data = frame(body)
    assert peer.receive_data(data[:100]) == []
    [message] = peer.receive_data(data[100:])
    assert isinstance(message, memoryview)
    assert message == body
    return message


def test_a_buffer_is_used_again_once_nobody_has_a_view_of_it() -> None:
    peer = ready_peer("server")
    first = in_two(peer, b"a" * 100_000)
    buffer = first.obj
    kept = first[5:10]
    first.release()
    second = in_two(peer, b"b" * 100_000)
    assert second.obj is not buffer
    assert kept == b"aaaaa"
    buffer = second.obj
    second.release()
    # A shorter message reuses the buffer, with its own length; a longer and a small message do not.
    third = in_two(peer, b"c" * READ_IN_PLACE)
    assert third.obj is buffer
    assert peer.receive_data(frame(b"d" * READ_IN_PLACE * 2)[:100]) == []
    view = peer.rest()
    assert view is not None
    assert len(view) == READ_IN_PLACE * 2 + 9 - 100
    assert hear(peer, [b"d" * len(view)], in_place=True).messages == [b"d" * READ_IN_PLACE * 2]
    third.release()


def test_a_very_large_buffer_is_not_kept() -> None:
    peer = ready_peer("server", limit=LARGEST_BATCH)
    message = in_two(peer, bytes(SPARE_LIMIT + 1))
    buffer = message.obj
    message.release()
    assert in_two(peer, bytes(READ_IN_PLACE)).obj is not buffer


def test_a_buffer_that_was_given_back_is_not_used_again() -> None:
    peer = ready_peer("server")
    message = in_two(peer, bytes(100_000))
    buffer = message.obj
    message.release()
    peer.free_spare()
    assert in_two(peer, bytes(100_000)).obj is not buffer


def test_a_message_in_a_buffer_of_its_own_stays_as_it_is() -> None:
    peer = ready_peer("server")
    bodies = [random.Random(i).randbytes(READ_IN_PLACE * 9) for i in range(3)]
    messages = []
    for body in bodies:
        data = frame(body)
        messages += peer.receive_data(data[:1000])
        messages += peer.receive_data(data[1000:])
    assert messages == bodies


@pytest.mark.parametrize("end", ENDS)
def test_random_messages_come_the_same_at_random_cuts(end: str) -> None:
    choose = random.Random(end)
    sizes = (0, 1, 9, 255, 256, 1000, READ_IN_PLACE, FIRST_PART, FIRST_PART * GROWTH + 1)
    for _ in range(60):
        bodies: list[bytes] = []
        stream = bytearray()
        for _ in range(choose.randrange(12)):
            kind = choose.random()
            body = choose.randbytes(max(0, choose.choice(sizes) + choose.randrange(-2, 3)))
            if kind < 0.1:
                stream += command(b"PING", b"\0\0")
            elif kind < 0.2:
                stream += frame(body, 1) + frame(b"", 1) + frame(body)
                body = NO_BATCH
            else:
                stream += frame(body, long=kind > 0.9)
            if kind >= 0.1:
                bodies.append(body)
        pieces = []
        at = 0
        while at < len(stream):
            size = choose.choice((1, 2, 9, 100, 4096, 65536, 1 << 20))
            pieces.append(bytes(stream[at : at + size]))
            at += size
            if len(pieces) > 2000:
                pieces.append(bytes(stream[at:]))
                break
        for in_place in (False, True):
            heard = hear(ready_peer(end), pieces, in_place=in_place)
            assert heard.messages == bodies
            assert heard.why == ""


# --- limits, and what they cost ---


def test_the_limit_is_exact_and_counts_before_a_byte_of_the_body() -> None:
    peer = ready_peer("server", limit=1000)
    assert peer.receive_data(frame(b"x" * 1000)) == [b"x" * 1000]
    assert peer.receive_data(frame(b"x" * 1000)[:9]) == []
    assert peer.receive_data(b"x" * 1000) == [b"x" * 1000]
    why = "a batch of 1,001 bytes; the limit is 1,000: send it in several"
    assert peer.receive_data(frame(b"x" * 1001)[:9]) == []
    assert peer.why == why
    # The limit also holds for a message that is complete at once, and after another message.
    for before in (b"", frame(b"x")):
        peer = ready_peer("server", limit=1000)
        assert peer.receive_data(before + frame(b"x" * 1001)) == ([b"x"] if before else [])
        assert peer.why == why


def test_a_limit_counts_for_frames_that_begin_later() -> None:
    peer = ready_peer("server", limit=1000)
    body = b"x" * 1000
    assert peer.receive_data(frame(body)[:500]) == []
    peer.limit = 300
    assert peer.receive_data(frame(body)[500:]) == [body]
    peer.limit = 2000
    assert peer.receive_data(frame(body * 2)) == [body * 2]
    peer.limit = 300
    assert peer.receive_data(frame(body)) == []
    assert "the limit is 300" in peer.why


def allocated(work: Callable[[], object]) -> int:
    """The most memory that is allocated, in bytes."""
    tracemalloc.start()
    try:
        result = work()
        peak = tracemalloc.get_traced_memory()[1]
        del result
    finally:
        tracemalloc.stop()
    return peak


def test_a_frame_that_is_only_announced_takes_little_memory() -> None:
    peer = ready_peer("server", limit=LARGEST_BATCH)
    start = b"\x02" + LARGEST_BATCH.to_bytes(8, "big")
    assert allocated(lambda: peer.receive_data(start)) < FIRST_PART + 10_000
    sent = FIRST_PART * 3
    data = bytes(sent)
    assert allocated(lambda: peer.receive_data(data)) < (sent + FIRST_PART) * GROWTH * 2
    view = peer.rest()
    assert view is not None
    assert sent + len(view) <= sent * GROWTH


@pytest.mark.parametrize("first", [1000, FIRST_PART, FIRST_PART * 2])
def test_there_is_always_room_for_the_rest_of_a_large_message(first: int) -> None:
    """Receiving into an empty view would look like the end of the connection."""
    peer = ready_peer("server", limit=LARGEST_BATCH)
    body = bytes(FIRST_PART * GROWTH * 2)
    data = frame(body)
    at = 9 + first
    assert peer.receive_data(data[:at]) == []
    for end in (9 + FIRST_PART * 2, 9 + FIRST_PART * GROWTH):
        assert peer.rest()
        assert peer.receive_data(data[at:end]) == []
        at = end
    assert peer.rest()
    assert peer.receive_data(data[at:]) == [body]


def test_a_peer_that_has_sent_large_messages_gets_their_memory_at_once() -> None:
    peer = ready_peer("server", limit=LARGEST_BATCH)
    body = bytes(FIRST_PART * GROWTH)
    assert hear(peer, [frame(body)[:1000], frame(body)[1000:]]).messages == [body]
    peer.receive_data(frame(body)[:1000])
    view = peer.rest()
    assert view is not None
    assert len(view) == len(body) + 9 - 1000


def test_a_message_of_several_frames_is_not_kept() -> None:
    peer = ready_peer("server")
    piece = bytes(65536)

    def flood() -> None:
        assert peer.receive_data(frame(b"x", 1)) == [NO_BATCH]
        for _ in range(50):
            assert peer.receive_data(b"\x03" + LIMIT.to_bytes(8, "big")) == []
            for _ in range(LIMIT // len(piece)):
                assert peer.receive_data(piece) == []
                assert peer.rest() is None
        assert peer.receive_data(frame(b"last") + frame(b"next")) == [b"next"]

    assert allocated(flood) < 20_000


def test_a_large_message_in_small_pieces_takes_no_more_than_its_bytes() -> None:
    """Copying the earlier data for each piece would take 128 GiB."""
    size = 4 << 20
    data = frame(bytes(size))
    pieces = [data[i : i + 64] for i in range(0, len(data), 64)]
    for in_place in (False, True):
        peer = ready_peer("client", LARGEST_BATCH)
        began = time.thread_time()
        assert hear(peer, pieces, in_place=in_place).messages == [bytes(size)]
        assert time.thread_time() - began < 6


@pytest.mark.parametrize("data", [frame(b""), frame(b"x"), frame(b"", long=True)])
def test_many_small_messages_in_one_piece_take_no_more_than_their_bytes(data: bytes) -> None:
    """Copying the following bytes for each message would take more than 100 GiB."""
    count = 300_000
    peer = ready_peer("server")
    began = time.thread_time()
    assert len(peer.receive_data(data * count)) == count
    assert time.thread_time() - began < 6
