"""An HTTP exchange continues in another gateway, whatever its state."""

import pytest

from wsraw.gateway.connection.requests.exchange import Exchange

HEAD = b"POST /x HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET / HTTP/1.1\r\n"

BODIES = {
    "of a length": (HEAD + b"Content-Length: 5\r\n\r\n", b"12345", b"12345"),
    "in one chunk": (CHUNKED, b"5\r\n12345\r\n0\r\n\r\n", b"12345"),
    "in several": (
        CHUNKED,
        b"1\r\n1\r\nb\r\n23456789012\r\n2\r\n34\r\n0\r\n\r\n",
        b"12345678901234",
    ),
    "with extensions": (CHUNKED, b'2;a="b"\r\n12\r\n003;c\r\n345\r\n00;d\r\n\r\n', b"12345"),
    "with trailers": (CHUNKED, b"2\r\n12\r\n0\r\nX-Sum: 3\r\nY: z\r\n\r\n", b"12"),
    "that looks like chunks": (
        CHUNKED,
        b"7\r\n0\r\n\r\n1\r\r\n1\r\n\n\r\n0\r\n\r\n",
        b"0\r\n\r\n1\r\n",
    ),
    "without content": (CHUNKED, b"0\r\n\r\n", b""),
}


def moved(exchange: Exchange) -> Exchange:
    return Exchange.again(exchange.progress)


@pytest.mark.parametrize("kind", BODIES)
def test_a_request_that_moves_within_its_body_is_read_to_the_same_end(kind: str) -> None:
    head, sent, body = BODIES[kind]
    for cut in range(len(sent)):
        exchange = Exchange(head, 100)
        exchange.receive_data(sent[:cut])
        exchange = moved(moved(exchange))
        exchange.receive_data(sent[cut:] + NEXT)
        assert exchange.is_complete, cut
        assert (exchange.take_body(), exchange.take_rest()) == (body, NEXT), cut


@pytest.mark.parametrize("kind", BODIES)
def test_a_request_that_moves_byte_by_byte_is_read_to_the_same_end(kind: str) -> None:
    head, sent, body = BODIES[kind]
    exchange = Exchange(head, 100)
    for at in range(len(sent)):
        exchange.receive_data(sent[at : at + 1])
        if not exchange.is_complete:
            exchange = moved(exchange)
    assert (exchange.is_complete, exchange.take_body()) == (True, body)


def test_chunks_that_are_not_read_yet_move_too() -> None:
    exchange = Exchange(CHUNKED, 1000)
    exchange.receive_data(b"1\r\nx\r\n" * 200)
    assert exchange.has_more
    exchange = moved(exchange)
    assert exchange.has_more
    while exchange.has_more:
        exchange.receive_data(b"")
    exchange.receive_data(b"0\r\n\r\n")
    assert (exchange.is_complete, exchange.take_body()) == (True, b"x" * 200)
