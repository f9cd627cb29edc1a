"""permessage-deflate and RFC 7692: the offers and answers of section 7.1, and the bytes of
section 7.2.
"""

from __future__ import annotations

import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)

from wsraw.config.settings import Settings
from wsraw.gateway.websocket import deflate as d

SNCT = "server_no_context_takeover"
CNCT = "client_no_context_takeover"
SMWB = "server_max_window_bits"
CMWB = "client_max_window_bits"

LARGE = 1 << 30


def takeover(bits: int = 15) -> Settings:
    return Settings(deflate_context_takeover=True, deflate_window_bits=bits)


def parameters(text: str) -> list[tuple[str, str | None]]:
    """The parameters of a header, without the name of the extension."""
    pairs = [part.strip().partition("=") for part in text.split(";") if part.strip()]
    return [(name, value if equals else None) for name, equals, value in pairs]


def shown(said: list[tuple[str, str | None]]) -> str:
    return "; ".join(name if value is None else f"{name}={value}" for name, value in said)


def inflate_all(
    codec: d.Codec, payload: bytes, first: bool, final: bool, limit: int, step: int = 1000
) -> bytes:
    """Inflate a whole frame in steps."""
    codec.begin(payload, first, final, limit)
    total = 0
    while True:
        size, data = codec.inflate(step)
        total += size
        if data is not None:
            assert len(data) == total
            return data
        assert size == step, "no step is in vain"
        assert codec.unfinished >= total


# --- a server's answer ---


@pytest.mark.parametrize(
    ("settings", "offer", "answer", "terms"),
    [
        # We answer without context takeover, whatever the client asks for, and name a window for
        # the server even if the client has not.
        (Settings(), "", f"{SNCT}; {CNCT}; {SMWB}=12", (12, 15, False, False)),
        (Settings(), SNCT, f"{SNCT}; {CNCT}; {SMWB}=12", (12, 15, False, False)),
        (Settings(), CNCT, f"{SNCT}; {CNCT}; {SMWB}=12", (12, 15, False, False)),
        # Section 7.1.2.2: the server may limit only the window of a client that names it.
        (Settings(), CMWB, f"{SNCT}; {CNCT}; {SMWB}=12; {CMWB}=12", (12, 12, False, False)),
        (Settings(), f"{CMWB}=10", f"{SNCT}; {CNCT}; {SMWB}=12; {CMWB}=10", (12, 10, False, False)),
        (Settings(), f"{CMWB}=15", f"{SNCT}; {CNCT}; {SMWB}=12; {CMWB}=12", (12, 12, False, False)),
        (Settings(), f"{SMWB}=9", f"{SNCT}; {CNCT}; {SMWB}=9", (9, 15, False, False)),
        (Settings(), f"{SMWB}=15", f"{SNCT}; {CNCT}; {SMWB}=12", (12, 15, False, False)),
        # zlib has no window of 8 bits: we agree, and send uncompressed.
        (Settings(), f"{SMWB}=8", f"{SNCT}; {CNCT}; {SMWB}=8", (8, 15, False, False)),
        (Settings(), f"{CMWB}=8", f"{SNCT}; {CNCT}; {SMWB}=12; {CMWB}=8", (12, 8, False, False)),
        # With context takeover, except where the client denies it.
        (takeover(), "", "", (15, 15, True, True)),
        (takeover(), CMWB, "", (15, 15, True, True)),
        (takeover(), SNCT, SNCT, (15, 15, False, True)),
        (takeover(), CNCT, CNCT, (15, 15, True, False)),
        (takeover(), f"{SMWB}=15", f"{SMWB}=15", (15, 15, True, True)),
        (takeover(10), f"{CMWB}; {SNCT}", f"{SNCT}; {SMWB}=10; {CMWB}=10", (10, 10, False, True)),
    ],
)
def test_an_offer_is_answered_with_terms_that_both_sides_can_keep(
    settings: Settings, offer: str, answer: str, terms: tuple[Any, ...]
) -> None:
    said, agreed = d.answer(parameters(offer), settings)
    assert shown(said) == answer
    assert agreed == terms


WRONG = [
    "unknown",
    "unknown=1",
    f"{SNCT}=1",
    f"{CNCT}=true",
    f"{SMWB}=7",
    f"{SMWB}=16",
    f"{SMWB}=012",
    f"{SMWB}=",
    f"{CMWB}=7",
    f"{CMWB}=x",
    f"{SNCT}; {SNCT}",
    f"{CMWB}; {CMWB}",
    f"{CMWB}; {CMWB}=10",
    f"{SMWB}=10; {SMWB}=10",
]


@pytest.mark.parametrize("offer", [*WRONG, SMWB])
def test_an_invalid_offer_is_declined(offer: str) -> None:
    with pytest.raises(ValueError, match="permessage-deflate"):
        d.answer(parameters(offer), Settings())


# --- a client's offers ---


def test_a_client_offers_what_its_settings_allow() -> None:
    assert [shown(offer) for offer in d.offers(Settings())] == [
        f"{SNCT}; {CNCT}; {SMWB}=12; {CMWB}=12",
        f"{SNCT}; {CNCT}; {CMWB}",
    ]
    assert [shown(offer) for offer in d.offers(takeover())] == [CMWB]


@pytest.mark.parametrize(
    ("settings", "answer", "terms"),
    [
        (Settings(), SNCT, (12, 15, False, False)),
        (Settings(), f"{SNCT}; {CNCT}", (12, 15, False, False)),
        (Settings(), f"{SNCT}; {SMWB}=8; {CMWB}=8", (8, 8, False, False)),
        (Settings(), f"{SNCT}; {SMWB}=12; {CMWB}=10", (10, 12, False, False)),
        (takeover(), "", (15, 15, True, True)),
        (takeover(), f"{CNCT}; {SMWB}=9", (15, 9, False, True)),
        (takeover(), SNCT, (15, 15, True, False)),
    ],
)
def test_the_answer_to_an_offer_sets_the_terms(
    settings: Settings, answer: str, terms: tuple[Any, ...]
) -> None:
    assert d.accept(parameters(answer), settings) == terms


@pytest.mark.parametrize(
    "answer", [*(f"{SNCT}; {wrong}" for wrong in WRONG), f"{SNCT}; {CMWB}", ""]
)
def test_an_answer_that_does_not_match_the_offer_is_refused(answer: str) -> None:
    with pytest.raises(ValueError, match="permessage-deflate"):
        d.accept(parameters(answer), Settings())


@given(
    bits=st.integers(9, 15),
    server=st.booleans(),
    client=st.booleans(),
    their_bits=st.none() | st.integers(9, 15),
    our_bits=st.none() | st.booleans() | st.integers(9, 15),
    keep=st.booleans(),
)
def test_the_library_agrees_on_the_same_terms(
    bits: int, server: bool, client: bool, their_bits: Any, our_bits: Any, keep: bool
) -> None:
    settings = Settings(deflate_window_bits=bits, deflate_context_takeover=keep)
    theirs = ClientPerMessageDeflateFactory(server, client, their_bits, our_bits or None)
    said, terms = d.answer(list(theirs.get_request_params()), settings)
    extension = theirs.process_response_params(said, [])
    assert terms == (
        extension.remote_max_window_bits,
        # A client may use a smaller window than it was allowed.
        max(terms.receive_bits, extension.local_max_window_bits),
        not extension.remote_no_context_takeover,
        not extension.local_no_context_takeover,
    )
    factory = ServerPerMessageDeflateFactory(server, client, their_bits)
    for offer in d.offers(settings):
        said, extension = factory.process_request_params(offer, [])
        terms = d.accept(said, settings)
        assert terms.send_bits <= extension.remote_max_window_bits
        assert terms.receive_bits >= extension.local_max_window_bits
        assert terms.send_takeover <= (not extension.remote_no_context_takeover)
        assert terms.receive_takeover >= (not extension.local_no_context_takeover)


# --- the bytes ---


def codec(settings: Settings | None = None, send_bits: int = 15) -> d.Codec:
    """Both ends with the same parameters."""
    settings = settings or Settings(deflate_from=0)
    keep = settings.deflate_context_takeover
    return d.Codec(d.Terms(send_bits, send_bits, keep, keep), settings)


def all_steps(deflation: d.Deflation) -> bytes:
    while True:
        packed = deflation.step()
        if packed is not None:
            return packed


def compressed(codec: d.Codec, data: bytes, first: bool = True, final: bool = True) -> bytes:
    return all_steps(codec.deflation(data, first, final))


@given(
    messages=st.lists(st.lists(st.binary(max_size=60), min_size=1, max_size=4), max_size=5),
    times=st.sampled_from([1, 1000]),
    bits=st.integers(9, 15),
    keep=st.booleans(),
)
def test_a_message_is_inflated_to_what_was_compressed(
    messages: list[list[bytes]], times: int, bits: int, keep: bool
) -> None:
    one, other = (codec(takeover() if keep else None, bits) for _ in range(2))
    for fragments in messages:
        for n, fragment in enumerate(fragments):
            first, final = n == 0, n == len(fragments) - 1
            payload = compressed(one, fragment * times, first, final)
            assert payload or not final
            assert inflate_all(other, payload, first, final, LARGE) == fragment * times


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param("f248cdc9c90700", id="7.2.3.1: a block"),
        pytest.param("000500faff48656c6c6f00", id="7.2.3.3: a block without compression"),
        pytest.param("f348cdc9c9070000", id="7.2.3.4: a final block"),
        pytest.param("f24805000000ffffcac9c90700", id="7.2.3.5: two blocks"),
    ],
)
@pytest.mark.parametrize("keep", [False, True])
def test_the_samples_of_the_rfc_are_inflated(payload: str, keep: bool) -> None:
    under_test = codec(takeover() if keep else None)
    # Several messages: the state that one leaves must not spoil the next.
    for _ in range(3):
        assert inflate_all(under_test, bytes.fromhex(payload), True, True, LARGE) == b"Hello"


def test_the_sample_with_a_shared_window_is_inflated() -> None:
    under_test = codec(takeover())
    # Section 7.2.3.2.
    for payload in ("f248cdc9c90700", "f200110000"):
        assert inflate_all(under_test, bytes.fromhex(payload), True, True, LARGE) == b"Hello"


def final_block(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def test_a_final_block_is_not_the_end_of_a_fragmented_message() -> None:
    under_test = codec()
    assert inflate_all(under_test, final_block(b"one"), True, False, LARGE) == b"one"
    assert inflate_all(under_test, final_block(b"two"), False, False, LARGE) == b"two"
    assert inflate_all(under_test, final_block(b"end") + b"\x00", False, True, LARGE) == b"end"


def test_a_frame_may_have_some_final_blocks_and_not_thousands() -> None:
    block = final_block(b"x")
    assert inflate_all(codec(), block * 3 + b"\x00", True, True, LARGE) == b"xxx"
    with pytest.raises(zlib.error):
        inflate_all(codec(), block * 100_000, True, True, LARGE)


def deflated(data: bytes, level: int = 9) -> bytes:
    packer = zlib.compressobj(level, wbits=-15)
    return (packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.mark.parametrize("payload", [b"\xff\xff\xff\xff", deflated(b"x" * 99)[:5] + b"\xff" * 9])
def test_garbage_is_refused(payload: bytes) -> None:
    with pytest.raises(zlib.error):
        inflate_all(codec(), payload, True, True, LARGE)


@given(st.lists(st.tuples(st.binary(max_size=30), st.booleans()), max_size=6), st.booleans())
def test_any_bytes_are_refused_or_inflated(frames: list[tuple[bytes, bool]], keep: bool) -> None:
    under_test = codec(takeover() if keep else None)
    first = True
    for payload, final in frames:
        try:
            assert len(inflate_all(under_test, payload, first, final, 100)) <= 100
        except (zlib.error, d.TooBigError):
            return
        first = final


@pytest.mark.parametrize("level", [0, 9])
@pytest.mark.parametrize("size", [1, 257, 258, 259, 2043, 2044, 100_000])
def test_data_as_long_as_the_limit_is_not_too_long(size: int, level: int) -> None:
    payload = deflated(bytes(size), level)
    assert inflate_all(codec(), payload, True, True, size) == bytes(size)
    with pytest.raises(d.TooBigError):
        inflate_all(codec(), payload, True, True, size - 1)


@pytest.mark.parametrize("keep", [False, True])
def test_a_bomb_costs_no_more_than_the_limit(keep: bool) -> None:
    bomb = deflated(bytes(64 << 20))
    nested = final_block(bytes(500)) + final_block(bytes(64 << 20))
    for payload in (bomb, nested):
        under_test = codec(takeover() if keep else None)
        tracemalloc.start()
        try:
            with pytest.raises(d.TooBigError):
                inflate_all(under_test, payload, True, True, 1000)
            assert tracemalloc.get_traced_memory()[1] < 4 * len(payload) + 100_000
        finally:
            tracemalloc.stop()


def test_contexts_exist_only_while_they_are_used() -> None:
    under_test = codec()
    for part in (b"a", b"b"):
        packed = compressed(under_test, part, part == b"a", part == b"b")
        inflate_all(under_test, packed, part == b"a", part == b"b", LARGE)
    assert under_test._deflater is None
    assert under_test._inflater is None
    under_test = codec(takeover())
    assert under_test._deflater is None
    inflate_all(under_test, compressed(under_test, b"a"), True, True, LARGE)
    assert under_test._deflater is not None
    assert under_test._inflater is not None
    under_test.forget()
    assert under_test._deflater is None
    assert under_test._inflater is None


def test_small_messages_shrink_with_a_kept_context() -> None:
    message = b'{"user": "somebody", "text": "something", "room": "anywhere"}'
    apart, together = codec(), codec(takeover())
    for under_test in (apart, together):
        compressed(under_test, message)
    assert len(compressed(together, message)) < len(compressed(apart, message)) / 3


@pytest.mark.parametrize("bits", range(9, 16))
def test_compressed_data_fits_the_window_that_was_agreed_on(bits: int) -> None:
    data = bytes(range(256)) * 300
    packed = all_steps(d.packing(bits, 0).deflation(data))
    assert zlib.decompressobj(-bits).decompress(packed + b"\x00\x00\xff\xff") == data


def test_connections_with_the_same_terms_share_a_packing() -> None:
    settings = Settings(deflate_from=100)
    one = codec(settings, 12).packing
    assert one is not None
    assert one is codec(settings, 12).packing
    assert one is not codec(settings, 11).packing
    assert one.threshold == 100
    assert codec(takeover()).packing is None
    nothing = codec(send_bits=8)
    assert not nothing.compresses
    assert nothing.packing is None


@pytest.mark.parametrize("step", [1, 7, 500, 501, 1000, 100_000])
@pytest.mark.parametrize("size", [0, 1, 500, 1000, 1001, 5000])
def test_steps_of_any_size_give_the_same(step: int, size: int) -> None:
    payload = final_block(b"a" * size) + final_block(b"b" * size) + deflated(b"c" * size)
    expected = b"a" * size + b"b" * size + b"c" * size
    assert inflate_all(codec(), payload, True, True, LARGE, step) == expected


def test_a_bomb_is_inflated_step_by_step_up_to_the_limit() -> None:
    under_test = codec()
    under_test.begin(deflated(bytes(64 << 20)), True, True, 1 << 20)
    steps = []
    with pytest.raises(d.TooBigError):
        while True:
            steps.append(under_test.inflate(d.STEP))
    assert steps == [(d.STEP, None)] * ((1 << 20) // d.STEP)
