"""The gateway's end of a link: a ROUTER of libzmq, with which all workers must work."""

from __future__ import annotations

import socket
from pathlib import Path

import zmq

from tests.deadline import eventually

TCP = "tcp://127.0.0.1:*"


def on_this_machine(folder: Path) -> str:
    """The endpoint of a gateway with that run folder."""
    return f"ipc://{folder / 'link.sock'}" if hasattr(socket, "AF_UNIX") else TCP


def bind(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, queue: int = 1000
) -> zmq.Socket[bytes]:
    """Bind a ROUTER. `queue` is the number of a worker's batches that libzmq reads ahead."""
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.RCVHWM, queue)
    try:
        router.bind(endpoint)
    except zmq.ZMQError:
        router.close()
        raise
    return router


def endpoint_of(router: zmq.Socket[bytes]) -> str:
    return router.getsockopt_string(zmq.LAST_ENDPOINT)


def bind_again(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, queue: int = 1000
) -> zmq.Socket[bytes]:
    """Bind another gateway's ROUTER where one was just closed."""
    found: list[zmq.Socket[bytes]] = []

    def is_bound() -> bool:
        try:
            found.append(bind(context, endpoint, queue))
        except zmq.ZMQError:  # libzmq closes the old socket in its own thread.
            return False
        return True

    eventually(is_bound, "the endpoint to be free")
    return found[0]


def listen_again(endpoint: str) -> socket.socket:
    """Listen without a ROUTER at the TCP port of one that was just closed."""
    host, port = endpoint.removeprefix("tcp://").split(":")

    def listen() -> socket.socket | None:
        try:
            return socket.create_server((host, int(port)))
        except OSError:
            return None

    found = eventually(listen, "the port to be free")
    assert found is not None
    return found
