"""The run goes on whatever happens to its folder; tests/supervisor/test_keeper.py has the kinds."""

from __future__ import annotations

import os
import shutil
import signal
import sys

import pytest
from e2e.serving import ECHO, TIMEOUT, serve
from running import wsraw

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be removed")


def test_the_folder_is_removed_and_gateway_and_workers_are_killed() -> None:
    """Supervisor #480, #1105, #1710, #1723: what a cleaner of /tmp removes."""
    with serve(ECHO) as serving:
        folder = serving.folder
        assert folder is not None
        with serving.ws() as client:
            shutil.rmtree(folder)
            os.kill(serving.worker(1), signal.SIGKILL)
            client.send("by the second worker")
            assert client.recv(TIMEOUT) == "by the second worker"
        os.kill(serving.gateway, signal.SIGKILL)
        with serving.ws() as client:
            client.send("by the second gateway")
            assert client.recv(TIMEOUT) == "by the second gateway"
        done = wsraw("stop", f"--run-dir={folder}")
        assert done.returncode == 0, done.stderr
        assert serving.run.wait() == 0


def test_the_folder_becomes_unusable_and_the_gateway_is_killed() -> None:
    """DataDog/dd-agent #2149: what cannot be written ends nothing. Here a file is in the way."""
    with serve(ECHO) as serving:
        folder = serving.folder
        assert folder is not None
        shutil.rmtree(folder)
        folder.touch()
        try:
            # A worker that lives on would find the new place, too, but takes its time to leave.
            os.kill(serving.worker(1), signal.SIGKILL)
            os.kill(serving.gateway, signal.SIGKILL)
            with serving.ws() as client:
                client.send("still here")
                assert client.recv(TIMEOUT) == "still here"
            [spare] = [path for path in folder.parent.iterdir() if path.is_dir()]
            assert wsraw("status", f"--run-dir={spare}").returncode == 0
            serving.run.line(r"takes no sockets")
        finally:
            folder.unlink()
