"""A connection that moves to another process behaves as if it had not moved, for both sides."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway.frozen.lives import Kind, Life, decode_one
from wsraw.gateway.frozen.connection import Frames, Thaw, freeze_connection
from wsraw.gateway.frozen.copying import Clock
from wsraw.gateway.frozen.phases import Place
from wsraw.gateway.frozen.records import Carried, encode
from wsraw.gateway.websocket.frames import FrameReader
from wsraw.gateway.websocket.shared import Framed
from wsraw.gateway.websocket.watched import watch

OFFERS = {
    "takeover": b"permessage-deflate; client_max_window_bits",
    "small": b"permessage-deflate; client_max_window_bits=9; server_max_window_bits=9",
    "tiny": b"permessage-deflate; client_max_window_bits=8; server_max_window_bits=8",
    "ours alone": b"permessage-deflate; client_no_context_takeover",
    "theirs alone": b"permessage-deflate; server_no_context_takeover",
    "none": b"permessage-deflate; server_no_context_takeover; client_no_context_takeover",
}
KEEP = {"deflate": True, "deflate_context_takeover": True, "deflate_from": 0}
KINDS = {
    "raw": Kind("raw"),
    "raw at once": Kind("raw", listen={"protocol": "raw"}),
    "rates": Kind("raw websocket", {"message_rate": 5, "byte_rate": 3000}),
    "websocket": Kind("websocket", {"ping_interval": 5.0, "ping_timeout": 10.0}),
    "whole": Kind("websocket", {"messages": "whole", "max_message_size": 10_000}),
    "verdict": Kind("websocket raw", {"verdict": "handlers"}),
    "anything": Kind("websocket raw get wrong post"),
    "health": Kind("websocket wrong get", listen={"plain_http": "health"}),
    "proxy": Kind(
        "proxy websocket", {"trusted_proxies": ("unix",)}, {"proxy_protocol": "optional"}
    ),
    "requests": Kind("get post chunks expect websocket", {}, {"plain_http": "handlers"}),
    "requests of two pools": Kind("get post", {"static": "."}, {"plain_http": "handlers"}),
    "refused": Kind("refused get raw"),
    "opened": Kind("raw", opened="raw"),
    "opened websocket": Kind("", {"ping_interval": 5.0}, opened="websocket"),
    "opened deflate": Kind("", KEEP, opened="websocket"),
    **{
        f"deflate {name}": Kind(
            "websocket", KEEP, offer=b"Sec-WebSocket-Extensions: %s\r\n" % offer
        )
        for name, offer in OFFERS.items()
    },
    "deflate whole": Kind(
        "websocket",
        {**KEEP, "messages": "whole", "max_message_size": 100_000},
        offer=b"Sec-WebSocket-Extensions: %s\r\n" % OFFERS["takeover"],
    ),
}

STEPS = (
    *("freeze", "freeze", "freeze", "hello", "say", "say", "say", "read", "read", "read"),
    *("write", "write", "resume", "wait", "send", "send", "make", "publish", "decide", "decide"),
    *("pause", "follow", "drain", "leave", "drop", "close", "lose"),
)


@pytest.fixture(autouse=True)
def same_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random.SystemRandom, "randbytes", lambda self, n: bytes(n))


lives = st.lists(
    st.tuples(st.sampled_from(STEPS), st.integers(0, 255), st.integers(0, 255)), max_size=60
)


@pytest.mark.parametrize("name", KINDS)
def test_neither_client_nor_handler_notices_that_a_connection_was_moved(name: str) -> None:
    @settings(max_examples=150, deadline=None)
    @given(lives, st.integers(0, 9))
    def live(steps: list[Any], seed: int) -> None:
        life = Life(KINDS[name], seed)
        life.step("hello", seed, 0)
        if seed % 3:
            life.step("read", 5, 0)
        for step in steps:
            life.step(*step)
        life.finish()

    live()


def test_what_tls_has_encrypted_stays_where_that_is() -> None:
    """The moved output begins after the encrypted bytes, and frames that were begun are still
    whole.
    """
    life = Life(KINDS["websocket"], 1)
    for step in (("hello", 0, 0), ("read", 5, 0), ("write", 2, 0)):
        life.step(*step)
    con = life.con
    for text in (b"a" * 100, b"b" * 100, b"c" * 100):
        con.send(text, "text", True, 0.0)
    whole = b"".join(con.output.chunks)
    con.written(50, 0.0)
    con.output.encrypted = 100
    record = freeze_connection(con, Clock(0.0), Frames())
    assert con.output.encrypted == 100
    place = Place(life.settings, lambda pool: life.settings, life.policy, {})
    copy = Thaw(place, Clock(0.0), {}).connection(record)
    assert bytes(copy.output.data_to_send()) == whole[150:]
    copy.output.drop_waiting()
    # The frame that was begun must be whole.
    assert bytes(copy.output.data_to_send()) == whole[150:204]


def test_a_published_message_is_told_once_and_shared_again() -> None:
    life = Life(KINDS["raw at once"], 1)
    place = Place(life.settings, lambda pool: life.settings, life.policy, {})
    framed, frames, shared = Framed(b"x" * 1000), Frames(), []
    records = []
    for twin in life.twins:
        twin.con.send_framed(framed)
        records.append(freeze_connection(twin.con, Clock(0.0), frames))
    assert sum(len(bytes(chunk)) for each in records for chunk in each.output.chunks) == 1000
    thaw = Thaw(place, Clock(0.0), {}, shared.append)
    one, other = (thaw.connection(decode_one(encode(Carried(r, None, None))).con) for r in records)
    assert one.output.chunks[0] is other.output.chunks[0]
    assert one.output.shared_size == 1000
    assert len(shared) == 1


def test_a_trace_ends_with_its_gateway_and_nothing_else_does() -> None:
    life = Life(KINDS["websocket"], 1)
    for step in (("hello", 0, 0), ("read", 5, 0), ("write", 2, 0), ("say", 4, 4), ("read", 2, 0)):
        life.step(*step)
    before = freeze_connection(life.con, Clock(0.0), Frames())
    for twin in life.twins:
        assert twin.con.websocket is not None
        watch(twin.con.websocket, lambda *frame: None)
    assert freeze_connection(life.con, Clock(0.0), Frames()) == before
    for step in (("freeze", 1, 0), ("read", 5, 0), ("send", 1, 1), ("write", 2, 0)):
        life.step(*step)
    ws = life.twins[1].con.websocket
    assert ws is not None
    assert type(ws.reader) is FrameReader
