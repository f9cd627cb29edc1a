"""The file of a listener's unix socket is restored, and a file that cannot be restored is
reported once.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from wsraw.config.addresses import Listen
from wsraw.runtime import sockets as listening
from wsraw.supervisor.run_folder import socket_files
from wsraw.supervisor.run_folder.socket_files import SocketFiles

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")


class Place:
    """A listener, a run folder, and the log."""

    def __init__(self, folder: Path, run: Path) -> None:
        self.said: list[tuple[str, str]] = []
        self.listen = Listen(name="unix:app", path=str(folder / "app.sock"))
        self.path = Path(self.listen.path)
        self.run = run
        self.sock = listening.bind(self.listen)
        self.files = SocketFiles(lambda level, text: self.said.append((level, text)))

    def look(self) -> list[tuple[str, str]]:
        self.said.clear()
        self.files.look([(self.sock, self.listen)], self.run)
        return list(self.said)

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.path)) == 0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    run = tmp_path / "run"
    run.mkdir()
    place = Place(tmp_path, run)
    yield place
    listening.close(place.sock, place.listen)


def test_a_file_that_was_removed_is_restored_as_often_as_that_happens(place: Place) -> None:
    assert place.look() == []
    for _ in range(3):
        place.path.unlink()
        assert not place.answers()
        assert place.look() == [
            ("warning", "the socket file of unix:app was removed; it is restored")
        ]
        assert place.answers() and place.look() == []


def test_another_file_is_left_alone_until_it_is_gone(place: Place) -> None:
    place.look()
    place.path.unlink()
    place.path.write_text("of somebody else")
    [(level, text)] = place.look()
    assert level == "error" and "was replaced by another file" in text
    assert place.look() == [] and place.path.read_text() == "of somebody else"
    place.path.unlink()
    assert place.look() == [("warning", "the socket file of unix:app was removed; it is restored")]
    assert place.answers()


def test_a_link_in_its_place_is_another_file(place: Place) -> None:
    place.look()
    place.path.unlink()
    place.path.symlink_to("nowhere")
    [(level, text)] = place.look()
    assert level == "error" and "was replaced by another file" in text


def test_a_run_folder_that_was_emptied_gets_the_second_name_again(place: Place) -> None:
    place.look()
    socket_files.remove(place.run)
    place.look()
    assert list(place.run.iterdir())
    place.path.unlink()
    assert place.look() and place.answers()


def test_a_socket_file_without_both_names_is_reported_once(place: Place) -> None:
    place.look()
    socket_files.remove(place.run)
    place.path.unlink()
    [(level, text)] = place.look()
    assert level == "error" and "its second name in the run folder was removed, too" in text
    assert "until the run is started again" in text and place.look() == []


def test_a_second_name_of_a_killed_run_is_replaced(place: Place, tmp_path: Path) -> None:
    place.look()
    other = Place(tmp_path / "run", place.run)
    os.replace(other.path, next(place.run.glob("listener-*")))
    place.look()
    place.path.unlink()
    place.look()
    assert place.answers()
    other.sock.close()


def test_in_a_folder_that_is_gone_it_cannot_be_restored(place: Place, tmp_path: Path) -> None:
    sub = tmp_path / "sub"
    sub.mkdir()
    inner = Place(sub, place.run)
    inner.look()
    shutil.rmtree(sub)
    [(level, text)] = inner.look()
    assert level == "error" and "cannot be restored" in text and "No such file" in text
    assert inner.look() == []
    sub.mkdir()
    assert inner.look() == [("warning", "the socket file of unix:app was removed; it is restored")]
    listening.close(inner.sock, inner.listen)


def test_on_another_file_system_the_reason_is_reported(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system")
    with ExitStack() as stack:
        other = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory)))
        place = Place(tmp_path, other)
        stack.callback(place.sock.close)
        assert place.look() == [] == list(other.iterdir())
        place.path.unlink()
        [(level, text)] = place.look()
        assert level == "error" and "the run folder is on another file system" in text


@pytest.mark.parametrize("instead", [False, True])
def test_a_replaced_supervisor_restores_what_was_removed_before(
    place: Place, instead: bool
) -> None:
    place.look()
    place.path.unlink()
    if instead:
        place.path.write_text("of somebody else")
    place.sock = socket_files.adopted(place.sock, place.listen, place.run)
    place.files = SocketFiles(lambda level, text: place.said.append((level, text)))
    if instead:
        [(level, text)] = place.look()
        assert level == "error" and "was replaced by another file" in text
        place.path.unlink()
    assert place.look() == [("warning", "the socket file of unix:app was removed; it is restored")]
    assert place.answers()
