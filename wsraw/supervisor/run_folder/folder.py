"""I/O. The run folder: private, locked, with the sockets, the epoch and the tokens in it."""

from __future__ import annotations

import errno
import getpass
import os
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from wsraw.link.rules import split_host_port
from wsraw.runtime import private
from wsraw.runtime.link import place
from wsraw.runtime.link.connection import HAS_UNIX, LONGEST_SOCKET_PATH
from wsraw.runtime.log.line import Level
from wsraw.supervisor.replacing.records import FolderRecord
from wsraw.supervisor.run_folder import socket_files
from wsraw.supervisor.run_folder.versions import FOLDER as VERSIONS

LONGEST_NAME: Final = "control.sock"

ADMIN_TOKEN: Final = "admin-token"
"""File for the operator: the token of the admin page."""
CONTROL: Final = "control-token"
"""File for the command line: the token, and on a second line the endpoint."""

DEAD_LETTERS: Final = "dead-letters.jsonl"
"""File that the gateway writes. A folder with this file is not removed."""

PROBED: Final = 0.1
"""Seconds for which another process may hold the lock while it checks whether a run is up."""

REFUSED_WITHIN: Final = 5.0
"""Seconds within which a port where nobody listens refuses a connection."""

LEAVING: Final = 15.0
"""Seconds to wait for the gateway of a killed supervisor to exit; it takes about 5."""

LOOK_AGAIN: Final = 0.05
"""Seconds between two checks whether it has exited."""

_PASSING: Final = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors that may go away by themselves."""

EPOCHS: Final = 1 << 17
"""A connection id keeps 17 bits for the epoch: 53 that every language can hold, less 36."""


class FolderError(Exception):
    """The run folder cannot be used; the text says what to do."""

    def __init__(self, text: str, *, is_passing: bool = False) -> None:
        """`is_passing`: the same may succeed later."""
        super().__init__(text)
        self.is_passing = is_passing


_Signature = tuple[int, int, int, int]
"""Identity of a file's content: device, inode, size and time."""


class Folder:
    """The run folder, created and locked. Raises FolderError.

    Without a path a new folder is made under `base()` and removed at the end; after a kill the next
    run of the same user removes it.

    The files are for other processes and later runs. This run has their content in memory, and
    `restore` writes files again that were removed or changed, or could not be written before.
    """

    def __init__(self, path: str, say: Callable[[Level, str], object]) -> None:
        """`say` is called with the level and the text of a line for the log."""
        self._is_ours = not path
        self._say = say
        self._texts: dict[str, str] = {}
        """Content of each file by name."""
        self._seen: dict[str, _Signature] = {}
        """Signatures of the files as written."""
        self.epoch = 0
        if path:
            self.path = Path(path).absolute()
            _make(self.path, "--run-dir")
        else:
            clear_leftovers()
            self.path = _make_fresh()
        try:
            _check_length(self.path)
            self.lock = self._wait_for_lock()
        except FolderError:
            self._remove_ours()
            raise
        self._shield = _shield(self.path)

    @classmethod
    def adopted(cls, record: FolderRecord, say: Callable[[Level, str], object]) -> Folder:
        """The folder of the program before us, with its lock."""
        self = cls.__new__(cls)
        self.path = Path(record.path)
        self._is_ours, self._say = record.is_ours, say
        self._texts, self._seen, self.epoch = record.texts, record.seen, record.epoch
        self.lock = record.lock
        self._shield = record.shield if record.shield >= 0 else None
        for number in (record.lock, record.shield):
            if number >= 0:
                os.set_inheritable(number, False)
        return self

    def record(self) -> FolderRecord:
        """What the program that replaces us must know."""
        shield = self._shield if self._shield is not None else -1
        return FolderRecord(
            str(self.path), self._is_ours, self.lock, shield, self._texts, self._seen, self.epoch
        )

    def _wait_for_lock(self) -> int:
        """Take the lock, if need be after the gateway of a killed supervisor has exited."""
        lock = self._open_lock()
        began = time.monotonic()
        has_said = False
        while not _take(lock):
            waited = time.monotonic() - began
            # Until then another process may only be checking whether a run is up (`is_live`).
            if waited > PROBED:
                if has_supervisor(self.path):
                    raise self._in_use(lock)
                if waited > LEAVING:
                    os.close(lock)
                    text = f"run folder {self.path}: the gateway of an earlier run does not exit"
                    raise FolderError(text, is_passing=True)
                if not has_said:
                    text = f"waiting for the gateway of an earlier run to leave {self.path}"
                    self._say("info", text)
                    has_said = True
            time.sleep(PROBED / 10)
        return lock

    def _in_use(self, lock: int) -> FolderError:
        os.close(lock)
        return FolderError(
            f"run folder {self.path} is in use by another run; stop that one, or choose another "
            "--run-dir"
        )

    def _open_lock(self) -> int:
        """Open the file of the lock. The descriptor holds the lock until we and our gateway, which
        inherits it, have exited; so no second run starts beside the gateway of a first.

        Workers do not inherit it: processes that handlers start would keep it. On Windows a lock
        belongs to its process, and the job object ends all children.
        """
        try:
            return os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise FolderError(
                f"run folder {self.path}: {error.strerror}; choose a --run-dir that you may "
                "write to",
                is_passing=error.errno in _PASSING,
            ) from error

    # --- files ---

    def next_epoch(self) -> int:
        """Number of this gateway start, from 1; `restore` writes it.

        Connection ids and session numbers begin with it, so it must never repeat: the file counts
        on from earlier runs. While this run is up, its own count is the right one.
        """
        self.epoch = (self.epoch or self._last_epoch()) % (EPOCHS - 1) + 1
        self.set_file("epoch", f"{self.epoch}\n")
        return self.epoch

    def _last_epoch(self) -> int:
        """The last epoch of earlier runs; 0 if there was none."""
        file = self.path / "epoch"
        try:
            text = file.read_text("ascii")
            found = int(text)
            if 0 <= found < EPOCHS:
                return found
            why = f"{text.strip()[:20]!r} is not a count"
        except FileNotFoundError:
            return 0
        except ValueError:
            why = "its content is not a number"
        except OSError as error:
            why = error.strerror or str(error)
        self._say(
            "error",
            f"{file} is damaged ({why}), so the connection ids of earlier runs are not known; "
            "the count continues at a random number",
        )
        return int.from_bytes(os.urandom(8), "big") % (EPOCHS - 1)

    def set_file(self, name: str, text: str) -> None:
        """Set the content of a file; `restore` writes it."""
        self._texts[name] = text
        self._seen.pop(name, None)

    def restore(self) -> bool:
        """Write files that are missing, changed or new. True if any was missing or changed. Raises
        FolderError; the contents stay in memory."""
        missing = [name for name in self._texts if not self._is_intact(name)]
        is_lost = not self._holds_lock() or any(name in self._seen for name in missing)
        if not missing and not is_lost:
            return False
        if self._is_ours:
            # The parent must be private, or the next run refuses it.
            _make(self.path.parent, "run folder")
            _make(self.path, "run folder")
        else:
            _make(self.path, "--run-dir")
        if not self._holds_lock():
            fresh = self._open_lock()
            if not _take(fresh):
                raise self._in_use(fresh)
            # Under the same descriptor number, which children inherit.
            os.dup2(fresh, self.lock, inheritable=False)
            os.close(fresh)
            self._close_shield()
            self._shield = _shield(self.path)
        error: FolderError | None = None
        for name in missing:
            file = self.path / name
            try:
                write_secret(file, self._texts[name])
                self._seen[name] = _signature(file)
            except OSError as why:
                is_passing = why.errno in _PASSING
                error = error or FolderError(f"{file}: {why.strerror}", is_passing=is_passing)
        if error is not None:
            raise error
        return is_lost

    def _is_intact(self, name: str) -> bool:
        try:
            return _signature(self.path / name) == self._seen.get(name)
        except OSError:
            return False

    def _holds_lock(self) -> bool:
        """Whether the folder still has the locked file. On Windows that file cannot be removed."""
        try:
            return sys.platform == "win32" or os.path.samestat(
                os.stat(self.path / "lock"), os.fstat(self.lock)
            )
        except OSError:
            return False

    def takes_sockets(self) -> bool:
        """Whether a socket can be bound here; not if the folder is gone, full, read-only or taken
        by another run."""
        if not self._holds_lock():
            return False
        if not HAS_UNIX:
            return True
        probe = self.path / "probe.sock"
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                probe.unlink(missing_ok=True)
                sock.bind(str(probe))
            probe.unlink()
        except OSError:
            return False
        return True

    def close(self) -> Path | None:
        """Remove the folder, or, if the user named it, everything but the epoch and the lock file.
        The lock is released last, after our files are gone. Returns the file of dead letters, if
        one keeps our own folder alive."""
        if not self._holds_lock() and (self.path / "lock").exists():
            # The folder was emptied, and another run uses it now.
            os.close(self.lock)
            self._close_shield()
            return None
        for name in (place.TOKEN, place.ENDPOINT, place.SOCKET, CONTROL, ADMIN_TOKEN, LONGEST_NAME):
            try:
                (self.path / name).unlink(missing_ok=True)
            except OSError:
                # In use (Windows) or gone; nothing depends on it.
                pass
        socket_files.remove(self.path)
        shutil.rmtree(self.path / VERSIONS, ignore_errors=True)
        letters = self.path / DEAD_LETTERS
        kept = letters if self._is_ours and letters.exists() else None
        os.close(self.lock)
        self._close_shield()
        if kept is None:
            self._remove_ours()
        return kept

    def _close_shield(self) -> None:
        if self._shield is not None:
            os.close(self._shield)
            self._shield = None

    def _remove_ours(self) -> None:
        if self._is_ours:
            shutil.rmtree(self.path, ignore_errors=True)
            try:
                # Succeeds for the last run folder.
                self.path.parent.rmdir()
            except OSError:
                pass


# --- default folders ---


def base() -> Path:
    """Parent of this user's default run folders."""
    user = getpass.getuser() if sys.platform == "win32" else str(os.geteuid())
    place = os.environ.get("XDG_RUNTIME_DIR", "")
    if not place or not os.access(place, os.W_OK | os.X_OK):
        try:
            place = tempfile.gettempdir()
        except FileNotFoundError:
            # No such folder is writable; creating the folder reports that.
            place = "/tmp"
    return Path(place, f"wsraw-{user}")


def _shield(path: Path) -> int | None:
    """Lock the folder itself, until the descriptor is closed: systemd-tmpfiles, which removes old
    files, leaves a locked folder and all that is in it alone (tmpfiles.d(5))."""
    if sys.platform == "win32":
        return None
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError:
        # Files that are removed are made again.
        return None
    _take(folder, shared=True)
    return folder


def _check_length(path: Path) -> None:
    length = len(os.fsencode(path / LONGEST_NAME))
    if HAS_UNIX and length > LONGEST_SOCKET_PATH:
        raise FolderError(
            f"run folder {path}: too long for a socket's path ({length} bytes, "
            f"{LONGEST_SOCKET_PATH} at most); choose a shorter --run-dir"
        )


def _make_fresh() -> Path:
    while True:
        _make(base(), "run folder")
        try:
            return Path(tempfile.mkdtemp(prefix="", dir=base()))
        except FileNotFoundError:
            # Another run has just ended and removed the empty parent.
            continue
        except OSError as error:
            raise FolderError(f"run folder {base()}: {error.strerror}; give a --run-dir") from error


def _make(path: Path, what: str) -> None:
    """Create a private folder, or check that it is private. Raises FolderError."""
    try:
        private.make_folder(path)
        # Do not follow a link that another user has put into a shared folder.
        status = path.stat() if what == "--run-dir" else path.lstat()
    except OSError as error:
        raise FolderError(
            f"{what} {path}: {error.strerror}; choose a folder that you may write to"
        ) from error
    if sys.platform != "win32":
        # Access to its sockets lets a process try to register as a worker.
        if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode):
            raise FolderError(f"{what} {path} belongs to another user; choose your own")
        if status.st_mode & 0o077:
            hint = f"chmod 700 {path}"
            if what == "--run-dir":
                # Not chmod: it may be /tmp or a home that others need.
                own = path / "wsraw"
                hint = f"choose a folder of wsraw's own, such as {own}, which is made private"
            raise FolderError(f"{what} {path} is open to other users; {hint}")


def write_secret(file: Path, text: str) -> None:
    """Replace a file atomically. Raises OSError."""
    fresh = file.with_name(f"{file.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = private.open_file(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        if file.name == "epoch":
            # The only file that must survive a power failure.
            os.fsync(descriptor)
    fresh.replace(file)


def _signature(file: Path) -> _Signature:
    status = file.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


# --- questions of other processes ---


def is_live(path: Path) -> bool:
    """Whether a run holds the lock of that folder."""
    try:
        lock = os.open(path / "lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _take(lock, shared=True)
    finally:
        os.close(lock)


def has_supervisor(path: Path) -> bool:
    """Whether the run in that folder has a supervisor; without one its gateway is exiting."""
    try:
        endpoint = (path / CONTROL).read_text("utf-8").splitlines()[1]
    except (OSError, ValueError, IndexError):
        endpoint = ""
    if not HAS_UNIX:
        # On Windows no child outlives it. Without an endpoint the run is starting.
        return not endpoint or _is_listening(endpoint.removeprefix("tcp://"))
    # Removed files come back within a second; a run that is starting has none yet.
    for file in {endpoint.removeprefix("ipc://"), str(path / LONGEST_NAME)}:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            try:
                sock.connect(file)
            except BlockingIOError:
                return True  # Its queue is full.
            except OSError:
                continue
            return True
    return False


def _is_listening(address: str) -> bool:
    """Whether a process listens on that port of this machine."""
    host, port = split_host_port(address) or ("", None)
    if port is None:
        return False
    try:
        # On Windows, a refusal takes 2 s.
        socket.create_connection((host, port), REFUSED_WITHIN).close()
    except TimeoutError:
        return True  # Its queue is full.
    except OSError:
        return False
    return True


def are_leaving() -> bool:
    """Whether a gateway in a default folder outlives its supervisor at the moment; it may still
    hold an address."""
    return any(is_live(path) and not has_supervisor(path) for path in fresh_folders())


def fresh_folders() -> list[Path]:
    """Default run folders, live or not."""
    try:
        return sorted(path for path in base().iterdir() if path.is_dir())
    except OSError:
        return []


def clear_leftovers() -> None:
    """Remove the default folders of runs whose supervisor was killed.

    A gateway that outlives its supervisor cannot do this: it may be killed too, and does not know
    whether a worker still uses the folder. Taking the lock proves that the folder is unused.
    """
    for path in fresh_folders():
        try:
            lock = os.open(path / "lock", os.O_RDWR)
        except OSError:
            # A folder without a lock may belong to a run that is starting.
            continue
        is_unused = _take(lock)
        # Windows does not remove open files.
        os.close(lock)
        if is_unused and not (path / DEAD_LETTERS).exists():
            shutil.rmtree(path, ignore_errors=True)


def count_dead_letters(path: Path) -> int:
    try:
        with open(path / DEAD_LETTERS, "rb") as lines:
            return sum(1 for _ in lines)
    except OSError:
        return 0


def _take(lock: int, *, shared: bool = False) -> bool:
    """Lock the file of that descriptor until it is closed; False if another process holds it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            # Shared, so that two checks do not take each other for a run.
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
