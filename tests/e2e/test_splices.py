"""Splices with real processes and sockets, while workers are killed or stopped."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.e2e.serving import EXAMPLES, TIMEOUT, serve
from tests.e2e.upstream import raw_upstream
from tests.needs import KILL

HANDLERS = """
import os
from wsraw import open_client_connection

def on_connect(inf, con):
    if inf["Protocol"] in ("raw", "websocket server"):
        con.splice(open_client_connection(os.environ["TARGET"], verify=False))
"""


def echo(sock: socket.socket) -> None:
    """Echo, and send a goodbye at the end."""
    while data := sock.recv(1 << 16):
        sock.sendall(data)
    sock.sendall(b"goodbye")


def test_a_tunnel_outlives_its_worker() -> None:
    with raw_upstream(echo) as upstream:
        env = {"TARGET": f"127.0.0.1:{upstream.port}", "TICKET": "t"}
        with serve(EXAMPLES / "tunnel.py", env=env) as serving:
            with serving.ws() as stranger, pytest.raises(ConnectionClosed) as closed:
                stranger.send("guess")
                stranger.recv(TIMEOUT)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008
            with serving.ws() as client:
                client.send("t")
                client.send(b"behind the ticket")
                assert client.recv(TIMEOUT) == "welcome"
                assert client.recv(TIMEOUT) == b"behind the ticket"
                os.kill(serving.worker(1), KILL)
                for n in range(100):
                    client.send(b"%d" % n)
                    assert client.recv(TIMEOUT) == b"%d" % n


def test_a_raw_client_gets_what_comes_after_its_fin(tmp_path: Path) -> None:
    handlers = tmp_path / "handlers.py"
    handlers.write_text(HANDLERS, "utf-8")
    with raw_upstream(echo) as upstream:
        env = {"TARGET": f"127.0.0.1:{upstream.port}"}
        with serve(handlers, env=env) as serving, serving.tcp() as sock:
            sock.settimeout(TIMEOUT)
            sent = os.urandom(1 << 22)

            def push() -> None:
                sock.sendall(sent)
                sock.shutdown(socket.SHUT_WR)

            thread = threading.Thread(target=push)
            thread.start()
            got = bytearray()
            while data := sock.recv(1 << 16):
                got += data
            thread.join()
            assert bytes(got) == sent + b"goodbye"
