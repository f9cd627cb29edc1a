from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tests.deadline import UNIT
from tests.needs import unix_sockets
from wsraw.runtime.link.connection import HAS_UNIX, LONGEST_SOCKET_PATH
from wsraw.supervisor.run_folder import folder as folders
from wsraw.supervisor.run_folder.folder import EPOCHS, Folder, FolderError

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes and owners are POSIX's")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_fresh_folder_is_private_and_goes_away() -> None:
    folder = Folder("", print)
    assert folder.path.is_dir()
    if sys.platform != "win32":
        assert mode(folder.path) == 0o700
    folder.set_file("token", "abc\n")
    folder.restore()
    folder.next_epoch()
    folder.close()
    assert not folder.path.exists()


# --- folders without a setting ---


@pytest.fixture
def own_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return folders.base()


def test_fresh_folders_lie_together(own_base: Path) -> None:
    one, two = Folder("", print), Folder("", print)
    assert one.path.parent == two.path.parent == own_base
    if sys.platform != "win32":
        assert mode(own_base) == 0o700
    assert folders.fresh_folders() == sorted([one.path, two.path])
    one.close()
    assert own_base.exists()
    two.close()
    assert not own_base.exists(), "the last one takes it along"
    assert folders.fresh_folders() == []


def test_a_missing_runtime_folder_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    assert folders.base().parent == Path(tempfile.gettempdir())


def test_a_runtime_folder_is_enough_where_nothing_else_is_writable(
    own_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example with a read-only root file system, where a start once ended with a traceback."""

    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    Folder("", print).close()
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert folders.base().parent == Path("/tmp"), "whoever makes it there is told why not"


@posix
def test_a_run_dir_may_be_a_symbolic_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir(mode=0o700)
    link.symlink_to(real)
    folder = Folder(str(link), print)
    folder.set_file("token", "secret\n")
    for _ in range(2):
        folder.restore()
        assert (real / "token").read_text() == "secret\n"
        (real / "token").unlink()
    folder.close()


@posix
def test_a_planted_symbolic_link_is_not_followed(own_base: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    own_base.symlink_to(elsewhere)
    with pytest.raises(FolderError, match="belongs to another user"):
        Folder("", print)
    assert list(elsewhere.iterdir()) == []


@posix
def test_a_base_open_to_others_is_refused(own_base: Path) -> None:
    own_base.mkdir(mode=0o755)
    with pytest.raises(FolderError, match="chmod 700"):
        Folder("", print)


@posix
def test_a_deleted_fresh_folder_is_recreated_with_its_parent(own_base: Path) -> None:
    """systemd removes /run/user/UID when the last session of a user ends."""
    folder = Folder("", print)
    shutil.rmtree(own_base)
    assert folder.restore()
    assert mode(own_base) == mode(folder.path) == 0o700
    Folder("", print).close()
    folder.close()
    assert not own_base.exists()


def test_dead_letters_keep_a_fresh_folder(own_base: Path) -> None:
    folder = Folder("", print)
    letters = folder.path / folders.DEAD_LETTERS
    letters.touch()
    folder.set_file(folders.CONTROL, "abc\nipc://x\n")
    folder.restore()
    assert folder.close() == letters
    assert not (folder.path / folders.CONTROL).exists()
    assert not folders.is_live(folder.path)


# --- remains of killed runs ---


def kill_a_run(own_base: Path) -> Path:
    """Start a run in a process of its own, and kill it; returns its folder."""
    code = (
        "from wsraw.supervisor.run_folder.folder import Folder; f = Folder('', print); "
        "print(f.path); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        path = child.stdout.readline().strip()
        child.kill()
    assert path, "it could not start"
    return Path(path)


@posix
def test_the_next_run_removes_the_folder_of_a_killed_one(own_base: Path) -> None:
    left = kill_a_run(own_base)
    (left / "token").touch()
    assert left.parent == own_base
    live = Folder("", print)
    assert not left.exists()
    other = Folder("", print)
    assert live.path.exists(), "one that lives is left alone"
    live.close()
    other.close()


@posix
def test_dead_letters_are_never_removed(own_base: Path) -> None:
    left = kill_a_run(own_base)
    (left / folders.DEAD_LETTERS).write_text("{}\n{}\n")
    Folder("", print).close()
    assert folders.count_dead_letters(left) == 2
    assert folders.count_dead_letters(own_base) == 0
    assert not folders.is_live(left)


def test_a_folder_that_is_being_created_is_not_removed(own_base: Path) -> None:
    Folder("", print).close()
    own_base.mkdir(mode=0o700)
    path = own_base / "young"
    path.mkdir()
    folders.clear_leftovers()
    assert path.exists()


# --- cleaners ---


cleaner = pytest.mark.skipif(
    not shutil.which("systemd-tmpfiles"), reason="no systemd-tmpfiles here"
)


def clean(folder: Path) -> None:
    """Clean up old files as systemd does daily; here all files are old."""
    rules = folder.parent / "rules.conf"
    rules.write_text(f"d {folder} 0755 - - 0\n")
    subprocess.run(["systemd-tmpfiles", "--clean", rules], check=True)


@cleaner
def test_systemd_tmpfiles_leaves_the_folder_of_a_run_alone(tmp_path: Path) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    folder = Folder(str(place / "run"), print)
    folder.set_file("token", "abc\n")
    folder.restore()
    (place / "old").touch()
    clean(place)
    assert not (place / "old").exists()
    assert (folder.path / "token").exists()
    assert not folder.restore(), "nothing is missing"
    shutil.rmtree(folder.path)
    folder.restore()
    clean(place)
    assert not folder.restore(), "the new one is left alone, too"
    folder.close()
    clean(place)
    assert not folder.path.exists(), "no run is in it any more"


# --- other runs ---


def test_a_run_is_live_while_it_holds_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert not folders.is_live(path)
    folder = Folder(str(path), print)
    assert folders.is_live(path)
    assert folders.is_live(path), "to ask takes nothing away"
    folder.close()
    assert not folders.is_live(path)


def test_a_command_that_looks_at_a_folder_does_not_block_a_run(tmp_path: Path) -> None:
    path = str(tmp_path / "run")
    Folder(path, print).close()
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.002):
            folders.is_live(Path(path))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(50):
            Folder(path, print).close()
    finally:
        over.set()
        asking.join()


def test_the_files_with_secrets_are_private(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "run"), print)
    folder.set_file(folders.CONTROL, "abc\nipc://x\n")
    folder.restore()
    file = folder.path / folders.CONTROL
    assert file.read_text() == "abc\nipc://x\n"
    if sys.platform != "win32":
        assert mode(file) == 0o600
    folder.close()
    assert not file.exists()


# --- a folder of the user's ---


def test_a_run_dir_stays_with_its_epoch(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run"
    folder = Folder(str(path), print)
    assert [folder.next_epoch() for _ in range(3)] == [1, 2, 3]
    folder.restore()
    folder.set_file("token", "abc\n")
    folder.restore()
    folder.close()
    assert path.is_dir()
    assert not (path / "token").exists()
    again = Folder(str(path), print)
    assert again.next_epoch() == 4
    again.close()


def test_epochs_fit_into_a_connection_id(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "run"), print)
    (folder.path / "epoch").write_text(str(EPOCHS - 2))
    assert folder.next_epoch() == EPOCHS - 1
    assert folder.next_epoch() == 1
    folder.close()


@pytest.mark.parametrize("content", ["", "many", "-1", "9" * 30, "7\0", "\xff"])
def test_a_damaged_epoch_file_does_not_prevent_a_start(content: str, tmp_path: Path) -> None:
    """A start once exited with code 2, after which a service manager does not retry."""
    path = tmp_path / "run"
    said: list[tuple[str, str]] = []
    folder = Folder(str(path), lambda *line: said.append(line))
    (path / "epoch").write_text(content, "latin-1")
    first = folder.next_epoch()
    assert 1 <= first < EPOCHS
    [(level, complaint)] = said
    assert level == "error"
    assert f"{path / 'epoch'} is damaged" in complaint
    folder.restore()
    assert (path / "epoch").read_text() == f"{first}\n"
    folder.close()


@pytest.mark.parametrize("content", [None, "", "many", "1", "0"])
def test_an_epoch_is_never_used_twice(content: str | None, tmp_path: Path) -> None:
    """An id that an application has stored must never refer to another client (GatewayWorker
    #66).
    """
    path = tmp_path / "run"
    said: list[tuple[str, str]] = []
    folder = Folder(str(path), lambda *line: said.append(line))
    (path / "epoch").write_text("41")
    assert folder.next_epoch() == 42
    folder.restore()
    if content is None:
        (path / "epoch").unlink()
    else:
        (path / "epoch").write_text(content)
    assert folder.next_epoch() == 43
    assert said == []
    folder.close()


def test_the_token_file_is_private(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "run"), print)
    for text in ("old\n", "new\n"):
        folder.set_file("token", text)
        folder.restore()
    assert (folder.path / "token").read_text() == "new\n"
    if sys.platform != "win32":
        assert mode(folder.path / "token") == 0o600
    folder.close()


def test_a_folder_serves_one_run(tmp_path: Path) -> None:
    path = str(tmp_path / "run")
    folder = Folder(path, print)
    with contextlib.ExitStack() as listening:
        if HAS_UNIX:
            control = listening.enter_context(socket.socket(socket.AF_UNIX))
            control.bind(str(folder.path / "control.sock"))
            control.listen()
        with pytest.raises(FolderError, match="in use by another run"):
            Folder(path, print)
    folder.close()
    Folder(path, print).close()


@unix_sockets
def test_a_process_that_inherited_the_lock_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway of a killed supervisor takes its time to say goodbye."""
    path = str(tmp_path / "run")
    folder = Folder(path, print)
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        pass_fds=[folder.lock],
    ) as child:
        folder.close()
        monkeypatch.setattr(folders, "LEAVING", 0.0)
        with pytest.raises(FolderError, match="does not exit") as refused:
            Folder(path, print)
        assert refused.value.is_passing
        monkeypatch.setattr(folders, "LEAVING", 30.0 * UNIT)

        def leave(level: str, text: str) -> None:
            said.append(text)
            child.communicate()

        said: list[str] = []
        Folder(path, leave).close()
        assert said == [f"waiting for the gateway of an earlier run to leave {path}"]


@posix
def test_a_folder_open_to_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir(mode=0o755)
    # The advice must not be chmod 700, as the folder may be /tmp.
    with pytest.raises(FolderError, match=f"wsraw's own, such as {path}/wsraw, which is made"):
        Folder(str(path), print)
    Folder(str(path / "wsraw"), print).close()


@posix
@pytest.mark.skipif(sys.platform != "win32" and os.geteuid() != 0, reason="only root can give away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    os.chown(path, 12345, -1)
    with pytest.raises(FolderError, match="belongs to another user"):
        Folder(str(path), print)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(FolderError, match="choose a folder that you may write to"):
        Folder(str(file / "run"), print)


@posix
@unix_sockets
def test_the_path_of_a_socket_has_a_limit(tmp_path: Path) -> None:
    room = LONGEST_SOCKET_PATH - len(os.fsencode(tmp_path)) - len("//control.sock")
    Folder(str(tmp_path / ("x" * room)), print).close()
    with pytest.raises(FolderError, match="choose a shorter --run-dir"):
        Folder(str(tmp_path / ("x" * (room + 1))), print)
