from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deadline import DEADLINE
from tests.ports import free_port
from tests.running import environment
from wsraw.config.addresses import Listen, parse_listen
from wsraw.runtime.sockets import _advice, adopt, bind, close, printable, share, strerror

unix_only = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")

Open = Callable[..., socket.socket]


@pytest.fixture
def listen() -> Iterator[Open]:
    opened: list[tuple[socket.socket, Listen]] = []

    def begin(**asked: Any) -> socket.socket:
        setting = Listen(**{"name": "test", "host": "127.0.0.1", **asked})
        sock = bind(setting)
        opened.append((sock, setting))
        return sock

    yield begin
    for sock, setting in opened:
        close(sock, setting)


def port_of(sock: socket.socket) -> int:
    port = sock.getsockname()[1]
    assert isinstance(port, int)
    return port


def test_a_listening_socket_does_not_block(listen: Open) -> None:
    with pytest.raises(BlockingIOError):
        listen().accept()


def test_an_ipv6_listener_takes_no_ipv4(listen: Open) -> None:
    """Otherwise [::]:8000 and 0.0.0.0:8000 could not be used together."""
    # A port that the system chooses for IPv6 may be in use over IPv4.
    port = free_port()
    six = listen(host="::", port=port)
    four = listen(host="0.0.0.0", port=port)
    assert port_of(four) == port_of(six) == port


def test_a_host_name_is_looked_up(listen: Open) -> None:
    assert listen(host="localhost").getsockname()[0] in ("127.0.0.1", "::1")


@unix_only
def test_a_socket_file_of_a_run_that_was_killed_is_replaced(listen: Open, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    assert listen(host="", path=path).getsockname() == path


@unix_only
@pytest.mark.parametrize("link", [False, True], ids=["file", "link to a file"])
def test_a_file_that_is_not_a_socket_is_left_alone(
    listen: Open, tmp_path: Path, link: bool
) -> None:
    path, precious = tmp_path / "s", tmp_path / "precious"
    (precious if link else path).write_text("precious")
    if link:
        path.symlink_to(precious)
    with pytest.raises(OSError, match=r"on test: .*not a socket"):
        listen(host="", path=str(path))
    assert path.read_text() == "precious"


@unix_only
@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("none/s", "there is no folder .*none"),
        ("s" * 200, "choose a shorter path"),
    ],
)
def test_an_impossible_socket_path_is_refused(
    listen: Open, tmp_path: Path, path: str, advice: str
) -> None:
    with pytest.raises(OSError, match=f"cannot listen on test: .*{advice}"):
        listen(host="", path=str(tmp_path / path))


@unix_only
def test_the_mode_of_a_socket_file_may_let_others_in(listen: Open, tmp_path: Path) -> None:
    """nginx may be another user (websocketd #474, websockify #541, circus #354)."""
    group = os.getgid()
    for mode, asked, group_name in ((None, 0o755, ""), (0o666, 0o666, ""), (0o660, 0o660, group)):
        before = os.umask(0o022)
        try:
            listen(path=str(tmp_path / str(mode)), mode=mode, group=str(group_name))
        finally:
            os.umask(before)
        status = os.stat(tmp_path / str(mode))
        assert (status.st_mode & 0o7777, status.st_gid) == (asked, group)


@unix_only
def test_nobody_can_connect_before_the_mode_is_set(
    listen: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "s")
    tried = []

    def try_it(*arguments: Any) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            tried.append(client.connect_ex(path))
        chmod(*arguments)

    chmod = os.chmod
    monkeypatch.setattr(os, "chmod", try_it)
    listen(path=path, mode=0o600)
    assert tried == [errno.ECONNREFUSED]
    with socket.socket(socket.AF_UNIX) as client:
        assert client.connect_ex(path) == 0


@unix_only
@pytest.mark.parametrize("group", ["no-such-group", "4294967296", "9" * 30])
def test_an_unknown_group_is_refused(listen: Open, tmp_path: Path, group: str) -> None:
    path = tmp_path / "s"
    with pytest.raises(OSError, match=f"cannot listen on test: .*group.*'{group}'"):
        listen(path=str(path), mode=0o660, group=group)
    assert not path.exists()


@unix_only
def test_a_group_that_may_not_be_given_is_refused(
    listen: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    # Fail as for all users but root, who may run these tests.
    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(OSError, match="not permitted; run as a member of that group"):
        listen(path=str(tmp_path / "s"), mode=0o660, group=str(os.getgid()))
    assert not (tmp_path / "s").exists()


@unix_only
def test_a_unix_socket_in_use_is_refused(listen: Open, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listen(host="", path=path)
    with pytest.raises(OSError, match="in use") as error:
        listen(host="", path=path)
    assert error.value.errno == errno.EADDRINUSE
    assert os.path.exists(path)


@unix_only
def test_the_socket_file_of_a_later_run_stays(tmp_path: Path) -> None:
    """A stop removes only the file that the run itself has made (gunicorn #476, #1523, libuv
    #1332).
    """
    listen = Listen(name="test", path=str(tmp_path / "s"))
    old = bind(listen)
    os.unlink(listen.path)  # A deploy script does this.
    new = bind(listen)
    close(old, listen)
    assert os.path.exists(listen.path)
    close(new, listen)
    assert not os.path.exists(listen.path)
    again = bind(listen)
    os.unlink(listen.path)
    Path(listen.path).write_text("precious")
    close(again, listen)
    assert Path(listen.path).read_text() == "precious"


# --- wrong use: one line that says what to do ---


def test_a_port_in_use_is_refused(listen: Open) -> None:
    port = port_of(listen())
    with pytest.raises(OSError) as error:
        listen(name="127.0.0.1:8000", port=port)
    assert error.value.errno == errno.EADDRINUSE
    assert error.value.strerror == (
        "cannot listen on 127.0.0.1:8000: the address is in use; stop the other program or choose "
        "another port"
    )


@pytest.mark.parametrize(
    ("asked", "advice"),
    [
        ({"host": "no-such-name.invalid"}, "write an address"),
        ({"host": "a" * 64}, "write an address"),
        ({"host": "a..b"}, "write an address"),
        ({"host": "192.0.2.1"}, "this machine has no such address"),
        (
            {"host": "", "path": "no/such/folder/s"},
            "there is no folder no/such/folder",
        ),
        ({"host": "", "path": "x" * 300}, "too long"),
    ],
)
def test_a_failure_to_bind_is_reported_with_advice(
    listen: Open, asked: dict[str, Any], advice: str
) -> None:
    if "path" in asked and not hasattr(socket, "AF_UNIX"):
        advice = "no unix sockets"
    with pytest.raises(OSError) as error:
        listen(**asked)
    assert (error.value.strerror or "").startswith("cannot listen on test: ")
    assert advice in (error.value.strerror or "")


def test_a_privileged_port_is_refused_with_advice(
    listen: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user who runs the tests may be allowed to use the port, so the refusal of the kernel
    is simulated.
    """

    class Refusing(socket.socket):
        def bind(self, address: Any) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket, "socket", Refusing)
    advice = "choose another port" if sys.platform == "win32" else "choose a port above 1023"
    with pytest.raises(OSError, match=f"not permitted; (.*; )?{advice}"):
        listen(port=80)


def test_on_windows_no_port_is_privileged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    advice = _advice(Listen(name="test", port=80), refused)
    assert "excludedportrange" in advice
    assert "1023" not in advice


def test_an_error_that_only_winsock_has_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert strerror(errno.EPIPE) == os.strerror(errno.EPIPE)
    monkeypatch.setattr(socket, "errorTab", {10061: "Connection refused."}, raising=False)
    assert strerror(10061) == "Connection refused"


def test_nobody_else_can_listen_where_we_do(listen: Open) -> None:
    """On Windows it would be enough if the second process set SO_REUSEADDR."""
    port = port_of(listen())
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError):
            thief.bind(("127.0.0.1", port))
            thief.listen()


# --- addresses ---


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        (("::ffff:192.0.2.7", 80, 0, 0), "192.0.2.7:80"),
        (("::ffff:1", 80, 0, 0), "[::ffff:1]:80"),
        ("/tmp/s", "unix:/tmp/s"),
        ("/tmp/\udcff\udcfe", r"unix:/tmp/\udcff\udcfe"),
        ("/tmp/a\x1b[31m\nb", r"unix:/tmp/a\x1b[31m\nb"),
        ("", "unix"),
        (b"\0abstract", "unix"),
    ],
)
def test_an_address_is_shown_in_printable_form(address: object, shown: str) -> None:
    assert printable(address) == shown


# --- inherited ---


def test_a_socket_that_nobody_has_passed_cannot_be_opened() -> None:
    with pytest.raises(OSError, match="cannot listen on fd:3: no service manager has passed"):
        bind(parse_listen("fd:3"))


@unix_only
def test_the_file_of_a_socket_is_removed_with_it(tmp_path: Path) -> None:
    setting = Listen(name="test", path=str(tmp_path / "s"))
    sock = bind(setting)
    assert os.path.exists(setting.path)
    close(sock, setting)
    assert not os.path.exists(setting.path)


def test_children_accept_from_a_socket_that_their_parent_bound(listen: Open) -> None:
    """The children accept one after the other, as gateways do; clients that connect in between
    wait.
    """
    sock = listen()
    code = (
        "import select\nfrom wsraw.runtime.sockets import adopt\n"
        "sock = adopt(input())\nassert not sock.get_inheritable()\n"
        "select.select([sock], [], [])\nsock.accept()[0].sendall(b'mine')"
    )
    options: dict[str, Any] = {} if sys.platform == "win32" else {"pass_fds": [sock.fileno()]}
    for _ in range(2):
        with (
            socket.create_connection(sock.getsockname(), DEADLINE) as client,
            subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                env=environment(),
                text=True,
                **options,
            ) as child,
        ):
            child.communicate(f"{share(sock, child.pid)}\n")
            assert child.returncode == 0
            assert client.recv(10) == b"mine"


def test_a_descriptor_that_is_not_a_socket_is_refused(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        # On Windows the number is not even a shared socket.
        with pytest.raises(ValueError if sys.platform == "win32" else OSError):
            adopt(str(descriptor))
    finally:
        os.close(descriptor)
