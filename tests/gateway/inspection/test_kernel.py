from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import contextmanager

from tests.e2e.serving import linux
from tests.gateway.harness import Harness
from wsraw.gateway.inspection import kernel
from wsraw.gateway.sockets.endpoint import Endpoint, Shared
from wsraw.runtime.loop import Loop


@contextmanager
def endpoint_of(sock: socket.socket) -> Generator[Endpoint]:
    harness, loop = Harness(), Loop()
    try:
        yield Endpoint(Shared(loop, harness.registry, harness.settings), sock, harness.raw())
    finally:
        loop.close()


@linux
def test_the_kernel_counts_the_bytes_that_came() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as accepted,
        endpoint_of(accepted) as endpoint,
    ):
        assert kernel.look(endpoint.con)["received"] == 0
        client.sendall(b"x" * 1234)
        assert len(accepted.recv(1234, socket.MSG_WAITALL)) == 1234
        facts = kernel.look(endpoint.con)
        assert facts["received"] == 1234
        assert 0 < facts["round_trip"] < 1
        assert facts["repeated"] == facts["unsent"] == 0
    assert kernel.look(endpoint.con) == {}, "it is closed"


def test_without_a_socket_or_tcp_there_are_no_facts() -> None:
    assert kernel.look(Harness().raw()) == {}
    one, other = socket.socketpair()
    with one, other, endpoint_of(one) as endpoint:
        facts = kernel.look(endpoint.con)
        assert facts == {} or one.family != getattr(socket, "AF_UNIX", None)
