"""Damage to the files of a run folder while the run is up.

The cases come from Supervisor #480 and #1105 (cleaners of /tmp) and DataDog/dd-agent #2149 (a full
disk).
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from tests.deadline import eventually
from tests.needs import unix_sockets
from wsraw.link.records import Do, encode
from wsraw.runtime.loop import Loop
from wsraw.supervisor.control.link import Control, ControlRequest
from wsraw.supervisor.log import Log
from wsraw.supervisor.run_folder import folder as folders
from wsraw.supervisor.run_folder.folder import Folder
from wsraw.supervisor.run_folder.keeper import Keeper

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be removed")


class Run:
    """The keeper of a run folder, without the run."""

    def __init__(self, path: Path, link: str = "") -> None:
        self.path = path
        self.stream = io.StringIO()
        self.log = Log(self.stream, "info")
        self.folder = Folder(str(path), self.log.say)
        self.loop = Loop()
        self.control = Control(self.loop, path, self.log)
        self.keeper = Keeper(self.folder, self.control, "worker-token", self.log, link)
        self.keeper.begin()
        self.epochs = [self.start()]

    def start(self) -> int:
        """Prepare the folder as for each start of a gateway."""
        epoch = self.folder.next_epoch()
        self.keeper.keep()
        Path(self.keeper.place().path, "link.sock").touch()
        self.keeper.linked(f"ipc://{self.keeper.place().path}/link.sock")
        return epoch

    def answers(self, folder: Path) -> bool:
        """Whether a command of the command line finds the run in that folder, and gets through."""
        if not folders.is_live(folder):
            return False
        token, endpoint = (folder / folders.CONTROL).read_text().split()
        context = zmq.Context()
        sock = context.socket(zmq.DEALER)
        sock.set(zmq.LINGER, 0)
        sock.connect(endpoint)
        sock.send(encode([token, Do(1, "status", [])]))
        try:
            return bool(eventually(self._hear))
        finally:
            context.destroy()

    def _hear(self) -> bool:
        self.loop.wake_at(self.loop.now)
        self.loop.turn()
        # The end of the previous link may come first.
        heard = iter(self.control.receive, None)
        return any(isinstance(record, ControlRequest) for record in heard)

    def said(self) -> str:
        """The log so far. Closes it."""
        self.log.close()
        return self.stream.getvalue()

    def close(self) -> None:
        self.control.close()
        self.keeper.close()
        self.loop.close()
        self.log.close()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    run = Run(tmp_path / "up" / "run")
    yield run
    run.close()


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def files_only(folder: Path) -> None:
    for file in folder.iterdir():
        if file.is_file():
            file.unlink()


def damage(folder: Path) -> None:
    for name in ("token", "control-token", "epoch", "lock"):
        (folder / name).write_bytes(b"\0" * 100)


def set_back(folder: Path) -> None:
    """Write the files again, like a backup that is restored."""
    for name in ("token", "control-token", "epoch"):
        file = folder / name
        text = file.read_text()
        file.unlink()
        file.write_text(text)


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def remove_with_parents(folder: Path) -> None:
    shutil.rmtree(folder.parent)


def make_another(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir(mode=0o700)


@pytest.mark.parametrize(
    "harm", [empty, files_only, damage, set_back, remove, remove_with_parents, make_another]
)
def test_a_deleted_folder_is_recreated(run: Run, harm: Callable[[Path], None]) -> None:
    harm(run.path)
    run.keeper.keep()
    assert run.answers(run.path)
    assert (run.path / "token").read_text() == "worker-token\n"
    assert run.path.stat().st_mode & 0o777 == 0o700
    assert run.keeper.is_link_gone() == (not (run.path / "link.sock").exists())
    run.epochs.append(run.start())
    assert not run.keeper.is_link_gone()
    assert run.epochs == [1, 2]
    assert (run.path / "epoch").read_text() == "2\n"
    assert "were missing or changed; restored" in run.said()
    run.stream.truncate(0)
    run.keeper.keep()
    assert run.stream.getvalue() == "", "there is nothing to do"


@pytest.mark.parametrize(
    "name",
    ["token", "control-token", "epoch", pytest.param("control.sock", marks=unix_sockets), "lock"],
)
def test_each_deleted_file_is_recreated(run: Run, name: str) -> None:
    before = None if name.endswith("sock") else (run.path / name).read_text()
    (run.path / name).unlink()
    run.keeper.keep()
    assert before is None or (run.path / name).read_text() == before
    assert run.answers(run.path)


@unix_sockets
@pytest.mark.parametrize("name", ["a file", "a link", "a folder"])
def test_what_is_in_the_way_of_the_control_socket_is_told_once(run: Run, name: str) -> None:
    """The file may belong to a user, so it is not removed. Commands cannot reach the run then, and
    the log must say why.
    """
    file = run.path / "control.sock"
    file.unlink()
    if name == "a file":
        file.touch()
    elif name == "a link":
        file.symlink_to(run.path / "nowhere")
    else:
        file.mkdir()
    for _ in range(3):
        run.keeper.keep()
    if name == "a folder":
        file.rmdir()
    else:
        file.unlink()
    for _ in range(3):
        run.keeper.keep()
    assert run.answers(run.path)
    said = run.said()
    assert said.count("commands such as `wsraw status` cannot reach this run") == 1
    assert "control.sock: the path exists" in said
    assert said.count("commands can reach this run again") == 1


def in_the_way(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()


def parent_in_the_way(folder: Path) -> None:
    shutil.rmtree(folder.parent)
    folder.parent.touch()


def open_to_others(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    folder.chmod(0o755)


@pytest.mark.parametrize("harm", [in_the_way, parent_in_the_way, open_to_others])
def test_a_spare_folder_is_used_when_the_folder_cannot_be_written(
    run: Run, harm: Callable[[Path], None]
) -> None:
    """A full or a read-only disk is another such case: cases/neighbours/09."""
    harm(run.path)
    run.epochs.append(run.start())
    run.epochs.append(run.start())
    assert run.epochs == [1, 2, 3]
    if harm is not open_to_others:
        [spare] = folders.fresh_folders()
        assert run.keeper.place().path == (spare)
        assert run.answers(spare)
    # Once the folder is repaired, it is used again.
    if run.path.is_dir():
        run.path.chmod(0o700)
    elif run.path.exists():
        run.path.unlink()
    else:
        run.path.parent.unlink()
    run.keeper.keep()
    assert run.answers(run.path)
    assert (run.path / "epoch").read_text() == "3\n"
    assert run.keeper.place().path == (run.path)
    said = run.said()
    assert said.count("The run continues") == 1
    assert "is complete again" in said


def test_a_folder_taken_by_another_run_is_left_alone(run: Run) -> None:
    shutil.rmtree(run.path)
    other = Folder(str(run.path), print)
    other.set_file("token", "others\n")
    other.restore()
    run.epochs.append(run.start())
    assert run.epochs == [1, 2]
    assert (run.path / "token").read_text() == "others\n"
    run.control.close()
    run.keeper.close()
    assert (run.path / "token").read_text() == "others\n"
    run.control = Control(run.loop, run.path, run.log)
    run.keeper = Keeper(other, run.control, "t", run.log)


def test_the_endpoint_of_the_link_is_in_a_file_where_it_is_no_file_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoint is written before the token, so that a reader of the token finds no endpoint
    of an earlier run.
    """
    written: list[str] = []
    write = folders.write_secret

    def watched(file: Path, text: str) -> None:
        written.append(file.name)
        write(file, text)

    monkeypatch.setattr(folders, "write_secret", watched)
    run = Run(tmp_path / "run", "tcp://127.0.0.1:4711")
    assert (run.path / "link").read_text() == "tcp://127.0.0.1:4711\n"
    assert written.index("link") < written.index("token")
    written.clear()
    empty(run.path)
    run.keeper.keep()
    assert (run.path / "link").read_text() == "tcp://127.0.0.1:4711\n"
    assert written.index("link") < written.index("token")
    run.close()
    assert not (run.path / "link").exists()


def test_children_inherit_the_new_lock(run: Run) -> None:
    before = run.folder.lock
    empty(run.path)
    run.keeper.keep()
    assert run.folder.lock == before
    assert os.path.samestat(os.fstat(before), os.stat(run.path / "lock"))
    assert not os.get_inheritable(before)
