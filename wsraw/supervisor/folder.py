"""I/O. The run folder: private, locked, with the sockets, the epoch and the tokens in it."""

from __future__ import annotations

import getpass
import os
import shutil
import stat
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

LONGEST_SOCKET_PATH: Final = 103 if sys.platform == "darwin" else 107
"""Bytes of sun_path without its closing zero (unix(7); macOS has 104)."""

LONGEST_NAME: Final = "control.sock"

CONTROL: Final = "control-token"
"""What commands of the command line need: the token, and on a second line the endpoint."""

DEAD_LETTERS: Final = "dead-letters.jsonl"
"""Written by the gateway. A folder that holds it is not removed."""

ASKING: Final = 0.1
"""Seconds for which a lock may be in the hands of somebody who only asks."""

FRESH: Final = 60.0
"""Seconds for which a folder without a lock may be one that another run is just making."""

EPOCHS: Final = 1 << 17
"""A connection id keeps 17 bits for the epoch: 53 that every language can hold, less 36."""


class FolderError(Exception):
    """The run folder cannot be used; the text says what to do."""


class Folder:
    """The run folder, made and locked. Raises FolderError.

    Without a path a fresh one is made under `base()`, and removed at the end. A supervisor that is
    killed cannot do that: the next run of the same user does it.
    """

    def __init__(self, path: str) -> None:
        self._is_ours = not path
        if path:
            self.path = Path(path).absolute()
            _make(self.path, "--run-dir")
        else:
            clear_leftovers()
            self.path = _make_fresh()
        try:
            self._check_length()
            self.lock = self._lock()
        except FolderError:
            self._remove_ours()
            raise
        self.token_file = self.path / "token"

    def _check_length(self) -> None:
        if sys.platform == "win32":
            return
        length = len(os.fsencode(self.path / LONGEST_NAME))
        if length > LONGEST_SOCKET_PATH:
            raise FolderError(
                f"run folder {self.path}: too long for the path of a socket ({length} bytes, "
                f"{LONGEST_SOCKET_PATH} at most); choose a shorter --run-dir"
            )

    def _lock(self) -> int:
        """A descriptor that holds the lock for as long as we live, or a gateway that inherits it.

        So a second run cannot begin beside the gateway of a first. Workers do not hold it, as the
        processes that handlers start would inherit it. On Windows a lock belongs to
        its process; there the job object leaves no child behind.
        """
        try:
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise FolderError(
                f"run folder {self.path}: {error.strerror}; choose a --run-dir that you may "
                "write to"
            ) from error
        until = time.monotonic() + ASKING
        while not (taken := _take(lock)) and time.monotonic() < until:
            # Perhaps somebody only asks whether we are there (`is_live`).
            time.sleep(ASKING / 10)
        if not taken:
            os.close(lock)
            raise FolderError(
                f"run folder {self.path} is in use by another run; stop that one, or choose "
                "another --run-dir"
            )
        return lock

    def next_epoch(self) -> int:
        """The number of this gateway start, from 1. Raises FolderError if the count is lost."""
        file = self.path / "epoch"
        try:
            epoch = int(file.read_text("ascii")) % (EPOCHS - 1) + 1
        except FileNotFoundError:
            epoch = 1
        except (OSError, ValueError) as error:
            raise FolderError(f"{file} is damaged ({error}); remove it") from error
        # Replaced whole: a count that is lost would give old connection ids to new connections.
        fresh = file.with_suffix(".new")
        try:
            fresh.write_text(f"{epoch}\n", "ascii")
            fresh.replace(file)
        except OSError as error:
            raise FolderError(f"{file}: {error.strerror}") from error
        return epoch

    def write_token(self, token: str) -> None:
        """Leave the token for workers that are started by hand. Raises FolderError."""
        _write_secret(self.token_file, token)

    def write_control(self, token: str, endpoint: str) -> None:
        """Leave the token and the endpoint for commands of the command line. Raises FolderError."""
        _write_secret(self.path / CONTROL, f"{token}\n{endpoint}")

    def close(self) -> Path | None:
        """Leave nothing behind but the epoch and the lock's file, and those only if the folder is
        the user's. The lock goes last, so that no next run sees us clean up its files. Returns the
        file of dead letters for which a folder of our own is kept."""
        for name in ("token", CONTROL, "link.sock", LONGEST_NAME):
            try:
                (self.path / name).unlink(missing_ok=True)
            except OSError:
                # Windows, or a folder that was taken away: nothing depends on it.
                pass
        letters = self.path / DEAD_LETTERS
        kept = letters if self._is_ours and letters.exists() else None
        os.close(self.lock)
        if kept is None:
            self._remove_ours()
        return kept

    def _remove_ours(self) -> None:
        if self._is_ours:
            shutil.rmtree(self.path, ignore_errors=True)
            try:
                # If it was the last one.
                self.path.parent.rmdir()
            except OSError:
                pass


# --- folders that nobody has named ---


def base() -> Path:
    """Where fresh run folders of this user are."""
    user = getpass.getuser() if sys.platform == "win32" else str(os.geteuid())
    places = [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir()]
    for place in places:
        if place and os.access(place, os.W_OK | os.X_OK):
            break
    return Path(place, f"wsraw-{user}")


def _make_fresh() -> Path:
    while True:
        _make(base(), "run folder")
        try:
            return Path(tempfile.mkdtemp(prefix="", dir=base()))
        except FileNotFoundError:
            # Another run has just ended, and has taken the empty folder along.
            continue
        except OSError as error:
            raise FolderError(f"run folder {base()}: {error.strerror}; give a --run-dir") from error


def _make(path: Path, what: str) -> None:
    """Make sure of a folder that nobody else can look into. Raises FolderError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A link that somebody else has laid into a folder open to all must not lead us on.
        status = path.stat() if what == "--run-dir" else path.lstat()
    except OSError as error:
        raise FolderError(
            f"{what} {path}: {error.strerror}; choose a folder that you may write to"
        ) from error
    if sys.platform != "win32":
        # Whoever can reach the sockets in it can try to be a worker.
        if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode):
            raise FolderError(f"{what} {path} belongs to another user; choose your own")
        if status.st_mode & 0o077:
            raise FolderError(f"{what} {path} is open to other users; chmod 700 {path}")


def _write_secret(file: Path, text: str) -> None:
    try:
        file.unlink(missing_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text + "\n")
    except OSError as error:
        raise FolderError(f"{file}: {error.strerror}") from error


# --- what others ask ---


def is_live(path: Path) -> bool:
    """Whether a run holds the lock of that folder."""
    try:
        lock = os.open(path / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        return not _take(lock, shared=True)
    finally:
        os.close(lock)


def fresh_folders() -> list[Path]:
    """The folders under `base()`, live or not."""
    try:
        return sorted(path for path in base().iterdir() if path.is_dir())
    except OSError:
        return []


def clear_leftovers() -> None:
    """Remove the fresh folders of runs whose supervisor was killed.

    Not a task for the gateway that outlives its supervisor: it may be killed in the same moment,
    and it cannot know whether a worker still uses the folder. Who gets the lock is alone.
    """
    for path in fresh_folders():
        try:
            lock = os.open(path / "lock", os.O_RDWR)
        except FileNotFoundError:
            _clear_unlocked(path)
            continue
        except OSError:
            continue
        if not _take(lock):
            os.close(lock)
            continue
        keeps = (path / DEAD_LETTERS).exists()
        if sys.platform == "win32":
            # What is open cannot be removed there.
            os.close(lock)
        if not keeps:
            shutil.rmtree(path, ignore_errors=True)
        if sys.platform != "win32":
            os.close(lock)


def _clear_unlocked(path: Path) -> None:
    """One that was killed before it had a lock, unless it is being made now."""
    try:
        if time.time() - path.stat().st_mtime > FRESH:
            path.rmdir()
    except OSError:
        # Gone, or it holds something that is not ours.
        pass


def count_dead_letters(path: Path) -> int:
    """How many dead letters stand in that folder, of whichever gateway."""
    try:
        with open(path / DEAD_LETTERS, "rb") as lines:
            return sum(1 for _ in lines)
    except OSError:
        return 0


def _take(lock: int, *, shared: bool = False) -> bool:
    """Lock the file of that descriptor; False if somebody holds it. Closing it lets go."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            # Two that only ask must not find each other.
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
