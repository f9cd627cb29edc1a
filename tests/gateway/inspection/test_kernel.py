from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

from tests.e2e.serving import linux
from tests.gateway.harness import Harness
from wsraw.gateway.inspection import kernel
from wsraw.gateway.sockets.endpoint import Endpoint


def endpoint_of(sock: socket.socket) -> Endpoint:
    con = Harness().raw()
    shared: Any = SimpleNamespace()
    return Endpoint(shared, sock, con)


@linux
def test_the_kernel_counts_the_bytes_that_came() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as accepted,
    ):
        endpoint = endpoint_of(accepted)
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
    with one, other:
        facts = kernel.look(endpoint_of(one).con)
        assert facts == {} or one.family != getattr(socket, "AF_UNIX", None)
