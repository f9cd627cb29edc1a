"""The run continues whatever happens to its folder.

tests/supervisor/run_folder/test_keeper.py tests each kind of damage.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.deadline import eventually
from tests.e2e.serving import ECHO, TIMEOUT, receive_exactly, serve
from tests.needs import KILL, signals, unix_sockets
from tests.running import Running, wsraw

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be removed")


def remove(folder: Path) -> None:
    """Remove the folder in one step: while files are removed one by one, the supervisor makes
    new ones.
    """
    aside = folder.with_name("removed")
    folder.rename(aside)
    shutil.rmtree(aside)


def test_a_removed_run_folder_does_not_stop_restarts() -> None:
    """A cleaner of /tmp removes such folders (supervisor #480, #1105, #1710, #1723)."""
    with serve(ECHO) as serving:
        folder = serving.folder
        assert folder is not None
        with serving.ws() as client:
            remove(folder)
            os.kill(serving.worker(1), KILL)
            client.send("by the second worker")
            assert client.recv(TIMEOUT) == "by the second worker"
        os.kill(serving.gateway, KILL)
        with serving.ws() as client:
            client.send("by the second gateway")
            assert client.recv(TIMEOUT) == "by the second gateway"
        done = wsraw("stop", f"--run-dir={folder}")
        assert done.returncode == 0, done.stderr
        assert serving.run.wait() == 0


def test_an_unusable_run_folder_does_not_stop_the_restart_of_the_gateway() -> None:
    """A folder that cannot be written must not end the run (DataDog/dd-agent #2149). Here a file
    has its name.
    """
    with serve(ECHO) as serving:
        folder = serving.folder
        assert folder is not None
        remove(folder)
        while not folder.is_file():
            try:
                folder.touch(exist_ok=False)
            except FileExistsError:
                # The supervisor has already made the folder again.
                remove(folder)
        try:
            os.kill(serving.gateway, KILL)
            with serving.ws() as client:
                client.send("still here")
                assert client.recv(TIMEOUT) == "still here"
            # A new worker has replaced the old one, as the link has moved.
            [spare] = [path for path in folder.parent.iterdir() if path.is_dir()]
            assert wsraw("status", f"--run-dir={spare}").returncode == 0
            serving.run.line(r"cannot hold sockets")
            done = wsraw("stop", f"--run-dir={spare}")
            assert done.returncode == 0, done.stderr
            assert serving.run.wait() == 0
        finally:
            folder.unlink()


@unix_sockets
def test_a_socket_file_of_a_listener_that_was_removed_is_restored(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with serve(ECHO, listen=[f"unix:{path}?mode=0600"]) as serving:
        folder = serving.folder
        assert folder is not None

        def talks(client: socket.socket) -> bool:
            client.sendall(b"echo")
            return receive_exactly(client, 4) == b"echo"

        eventually(lambda: list(folder.glob("listener-*.sock")), "its second name")
        with serving.tcp() as client:
            path.unlink()
            serving.run.line(r"warning wsraw: the socket file of unix:\S+ was removed; it is rest")
            assert talks(client)
            with serving.tcp() as other:
                assert talks(other)
            assert path.stat().st_mode & 0o777 == 0o600
            # The death of a gateway changes nothing.
            os.kill(serving.gateway, KILL)
            path.unlink()
            serving.run.line(r"it is restored", 2)
            with serving.tcp() as other:
                assert talks(other)
    assert not path.exists()


@signals
def test_a_start_waits_for_the_gateway_of_a_killed_supervisor(tmp_path: Path) -> None:
    """The second run used to exit with code 2 for up to five seconds, and a service manager does
    not retry after that code.
    """
    gate = tmp_path / "gate"
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import os, time\n"
        "def on_message(msg, con):\n"
        "    print('in the handler')\n"
        f"    while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
    )
    options = [f"--workers={slow}", f"--run-dir={tmp_path / 'run'}"]
    with (
        Running(*options) as first,
        socket.create_connection(("127.0.0.1", first.port), TIMEOUT) as client,
    ):
        gateway = int(first.line(r"gateway started, pid (\d+)")[1])
        client.sendall(b"x")
        first.line("in the handler")
        first.process.kill()
        first.process.wait()
        # The gateway waits for the handler. Stop the gateway, so that it stays until the second run
        # has seen it.
        os.kill(gateway, signal.SIGSTOP)
        with Running(*options) as second:
            second.line("waiting for the gateway of an earlier run to leave")
            gate.touch()
            os.kill(gateway, signal.SIGCONT)
            second.ready()
            second.send(signal.SIGTERM)
            assert second.wait() == 0
