"""I/O. The run folder: private, locked, with the sockets, the epoch and the tokens in it."""

from __future__ import annotations

import errno
import getpass
import os
import secrets
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable
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

LEAVING: Final = 15.0
"""Seconds for which the gateway of a run whose supervisor was killed may be leaving; it takes 5."""

LOOK_AGAIN: Final = 0.05
"""Seconds between two looks at whether it has left."""

FRESH: Final = 60.0
"""Seconds for which a folder without a lock may be one that another run is just making."""

_PASSING: Final = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors that trying again later may well not meet."""

EPOCHS: Final = 1 << 17
"""A connection id keeps 17 bits for the epoch: 53 that every language can hold, less 36."""


class FolderError(Exception):
    """The run folder cannot be used; the text says what to do."""

    def __init__(self, text: str, *, is_passing: bool = False) -> None:
        """`is_passing`: trying again later may well succeed."""
        super().__init__(text)
        self.is_passing = is_passing


class InUseError(FolderError):
    """Somebody else holds its lock."""


_Signature = tuple[int, int, int, int]
"""What a file is known by: device, number, size and time."""


class Folder:
    """The run folder, made and locked. Raises FolderError.

    Without a path a fresh one is made under `base()`, and removed at the end. A supervisor that is
    killed cannot do that: the next run of the same user does it.

    What stands in the folder is for others, or for a next run: this run has it in memory, and
    `restore` writes anew what has been removed, changed, or could not be written before.
    """

    def __init__(self, path: str, say: Callable[[str], object] = str) -> None:
        """`say` is told why it takes long, if it does."""
        self._is_ours = not path
        self.complaints: list[str] = []
        """What the log has to say of the folder; whoever logs it clears the list."""
        self._texts: dict[str, str] = {}
        """The files in it, by name, as they should be."""
        self._seen: dict[str, _Signature] = {}
        """Those that have been written, as they were then."""
        self._epoch = 0
        if path:
            self.path = Path(path).absolute()
            _make(self.path, "--run-dir")
        else:
            clear_leftovers()
            self.path = _make_fresh()
        try:
            self._check_length()
            self.lock = self._wait_for_lock(say)
        except FolderError:
            self._remove_ours()
            raise

    def _check_length(self) -> None:
        if sys.platform == "win32":
            return
        length = len(os.fsencode(self.path / LONGEST_NAME))
        if length > LONGEST_SOCKET_PATH:
            raise FolderError(
                f"run folder {self.path}: too long for the path of a socket ({length} bytes, "
                f"{LONGEST_SOCKET_PATH} at most); choose a shorter --run-dir"
            )

    def _wait_for_lock(self, say: Callable[[str], object]) -> int:
        """Once the gateway of a killed supervisor has left: it takes its time to say goodbye."""
        until = time.monotonic() + LEAVING
        has_said = False
        while True:
            try:
                return self._take_lock(ASKING)
            except InUseError as error:
                if has_supervisor(self.path):
                    raise
                if time.monotonic() > until:
                    text = f"run folder {self.path}: a gateway of an earlier run does not leave"
                    raise FolderError(text, is_passing=True) from error
            if not has_said:
                say(f"waiting for the gateway of an earlier run to leave {self.path}")
                has_said = True
            time.sleep(LOOK_AGAIN)

    def _take_lock(self, patience: float) -> int:
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
                "write to",
                is_passing=error.errno in _PASSING,
            ) from error
        until = time.monotonic() + patience
        while not (taken := _take(lock)) and time.monotonic() < until:
            # Perhaps somebody only asks whether we are there (`is_live`).
            time.sleep(ASKING / 10)
        if not taken:
            os.close(lock)
            raise InUseError(
                f"run folder {self.path} is in use by another run; stop that one, or choose "
                "another --run-dir"
            )
        return lock

    # --- what stands in it ---

    def next_epoch(self) -> int:
        """The number of this gateway start, from 1; `restore` writes it.

        Connection ids and session numbers begin with it, so no number may come twice: the file
        counts on from earlier runs, and what we have given out ourselves is never forgotten.
        """
        file = self.path / "epoch"
        found, why = self._epoch, ""
        try:
            text = file.read_text("ascii")
            found = int(text)
            if not 0 <= found < EPOCHS:
                raise ValueError(f"{text.strip()[:20]!r} is not a count")
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "its content is not a number"
        if why and not self._epoch:
            found = secrets.randbelow(EPOCHS - 1)
            self.complaints.append(
                f"{file} is damaged ({why}): which connection ids earlier runs have given out is "
                "not known; the count goes on at a random number"
            )
        elif why or (self._epoch and (found - self._epoch) % (EPOCHS - 1) > EPOCHS // 2):
            # Damaged while we run, or set back: we know better.
            found = self._epoch
        self._epoch = found % (EPOCHS - 1) + 1
        self._texts["epoch"] = f"{self._epoch}\n"
        self._seen.pop("epoch", None)
        return self._epoch

    def write_token(self, token: str) -> None:
        """Leave the token for workers that are started by hand. Raises FolderError."""
        self._write("token", f"{token}\n")

    def write_control(self, token: str, endpoint: str) -> None:
        """Leave the token and the endpoint for commands of the command line. Raises FolderError."""
        self._write(CONTROL, f"{token}\n{endpoint}\n")

    def _write(self, name: str, text: str) -> None:
        self._texts[name] = text
        self._seen.pop(name, None)
        file = self.path / name
        if not self._holds_lock():
            raise FolderError(f"{file}: the lock of the run folder is gone, or another run's")
        try:
            _write_secret(file, text)
            self._seen[name] = _signature(file)
        except OSError as error:
            raise FolderError(
                f"{file}: {error.strerror}", is_passing=error.errno in _PASSING
            ) from error

    def restore(self) -> bool:
        """Make anew what is missing, or not as we left it, and write what is new. True if anything
        was missing. Raises FolderError if that cannot be done; what is in memory stays."""
        missing = [name for name in self._texts if not self._stands(name)]
        is_lost = not self._holds_lock() or any(name in self._seen for name in missing)
        if not missing and not is_lost:
            return False
        if self._is_ours:
            # Private, too: else a next run would refuse it.
            _make(self.path.parent, "run folder")
        _make(self.path, "run folder")
        if not self._holds_lock():
            fresh = self._take_lock(0.0)
            # The same number as before: that is what children inherit.
            os.dup2(fresh, self.lock, inheritable=False)
            os.close(fresh)
        error: FolderError | None = None
        for name in missing:
            try:
                self._write(name, self._texts[name])
            except FolderError as raised:
                error = error or raised
        if error is not None:
            raise error
        return is_lost

    def _stands(self, name: str) -> bool:
        try:
            return _signature(self.path / name) == self._seen.get(name)
        except OSError:
            return False

    def _holds_lock(self) -> bool:
        """Whether the file that we have locked is the one that others see. An open file cannot be
        removed on Windows."""
        try:
            return sys.platform == "win32" or os.path.samestat(
                os.stat(self.path / "lock"), os.fstat(self.lock)
            )
        except OSError:
            return False

    def takes_sockets(self) -> bool:
        """Whether a socket can be bound here: not in a folder that is gone, full, read-only or by
        now another run's."""
        if not self._holds_lock():
            return False
        family = getattr(socket, "AF_UNIX", None)
        if sys.platform == "win32" or family is None:
            return True
        probe = self.path / "probe.sock"
        try:
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                probe.unlink(missing_ok=True)
                sock.bind(str(probe))
            probe.unlink()
        except OSError:
            return False
        return True

    def close(self) -> Path | None:
        """Leave nothing behind but the epoch and the lock's file, and those only if the folder is
        the user's. The lock goes last, so that no next run sees us clean up its files. Returns the
        file of dead letters for which a folder of our own is kept."""
        if not self._holds_lock() and (self.path / "lock").exists():
            # Somebody has emptied the folder, and what stands there now is another run's.
            os.close(self.lock)
            return None
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
    place = os.environ.get("XDG_RUNTIME_DIR", "")
    if not place or not os.access(place, os.W_OK | os.X_OK):
        try:
            place = tempfile.gettempdir()
        except FileNotFoundError:
            # Nothing is writable; whoever makes a folder there is told so.
            place = "/tmp"
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
            hint = f"chmod 700 {path}"
            if what == "--run-dir":
                # It may be /tmp, or a home: others may need what they find there.
                own = path / "wsraw"
                hint = f"choose a folder of wsraw's own, such as {own}, which is made private"
            raise FolderError(f"{what} {path} is open to other users; {hint}")


def _write_secret(file: Path, text: str) -> None:
    """Replace the file whole, or leave it as it is: half a file helps nobody. Raises OSError."""
    fresh = file.with_name(f"{file.name}.new")
    fresh.unlink(missing_ok=True)
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            if file.name == "epoch":
                # The only one that must outlive the machine's power.
                os.fsync(descriptor)
        fresh.replace(file)
    except OSError:
        try:
            fresh.unlink(missing_ok=True)
        except OSError:
            pass
        raise


def _signature(file: Path) -> _Signature:
    status = file.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


# --- what others ask ---


def is_live(path: Path) -> bool:
    """Whether a run holds the lock of that folder; its disk may be read-only by now."""
    try:
        try:
            lock = os.open(path / "lock", os.O_RDWR)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            lock = os.open(path / "lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _take(lock, shared=True)
    finally:
        os.close(lock)


def may_enter(path: Path) -> bool:
    """Whether it can be seen if there is a run in that folder."""
    try:
        os.stat(path / "lock")
    except PermissionError:
        return False
    except OSError:
        pass
    return True


def has_supervisor(path: Path) -> bool:
    """Whether there is a supervisor that hears the commands of the run in that folder; without one
    its gateway is leaving."""
    family = getattr(socket, "AF_UNIX", None)
    if sys.platform == "win32" or family is None:
        # There no child outlives it.
        return True
    try:
        endpoint = (path / CONTROL).read_text("utf-8").splitlines()[1]
    except (OSError, ValueError, IndexError):
        endpoint = ""
    # Removed files are there again within a second; a run that is just beginning has none yet.
    for file in {endpoint.removeprefix("ipc://"), str(path / LONGEST_NAME)}:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            try:
                sock.connect(file)
            except BlockingIOError:
                return True  # It has many who want to be heard.
            except OSError:
                continue
            return True
    return False


def are_leaving() -> bool:
    """Whether the gateway of a run without a folder of its own outlives its supervisor at the
    moment: it may still hold an address."""
    return any(is_live(path) and not has_supervisor(path) for path in fresh_folders())


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
