from __future__ import annotations

import os
import socket
import sys

import pytest

from wsraw.runtime.link.user import credentials, is_ours

unix_only = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")


@unix_only
def test_the_other_end_of_a_unix_socket_is_known() -> None:
    near, far = socket.socketpair()
    who = credentials(near)
    if sys.platform == "linux":
        assert who == (os.getpid(), os.geteuid())
    elif who is not None:
        assert who[1] == os.geteuid()
    near.close()
    far.close()


def test_the_other_end_of_tcp_is_not_known() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert credentials(listener) is None


@pytest.mark.skipif(sys.platform == "win32", reason="no user ids there")
def test_our_own_user_and_root_may_connect() -> None:
    assert is_ours(os.geteuid())
    assert is_ours(0)
    assert not is_ours(os.geteuid() + 1)
