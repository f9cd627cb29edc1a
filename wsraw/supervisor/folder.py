"""I/O. The run folder: private, locked, with the sockets, the epoch and the token in it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

LONGEST_SOCKET_PATH: Final = 103 if sys.platform == "darwin" else 107
"""Bytes of sun_path without its closing zero (unix(7); macOS has 104)."""

LONGEST_NAME: Final = "control.sock"

EPOCHS: Final = 1 << 17
"""A connection id keeps 17 bits for the epoch: 53 that every language can hold, less 36."""


class FolderError(Exception):
    """The run folder cannot be used; the text says what to do."""


class Folder:
    """The run folder, made and locked. Raises FolderError.

    Without a path a fresh one is made, and removed at the end.
    """

    def __init__(self, path: str) -> None:
        self._is_ours = not path
        if path:
            self.path = Path(path).absolute()
            self._make()
        else:
            self.path = Path(tempfile.mkdtemp(prefix="wsraw-"))
        try:
            self._check_length()
            self.lock = self._lock()
        except FolderError:
            self._remove_ours()
            raise
        self.token_file = self.path / "token"

    def _make(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.path.stat()
        except OSError as error:
            raise FolderError(
                f"--run-dir {self.path}: {error.strerror}; choose a folder that you may write to"
            ) from error
        if sys.platform != "win32":
            # Whoever can reach the sockets in it can try to be a worker.
            if status.st_uid != os.geteuid():
                raise FolderError(f"--run-dir {self.path} belongs to another user; choose your own")
            if status.st_mode & 0o077:
                raise FolderError(
                    f"--run-dir {self.path} is open to other users; chmod 700 {self.path}"
                )

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
        """A descriptor that holds the lock for as long as we live, or a child that inherits it.

        So a second run cannot begin beside what is left of a first. On Windows a lock belongs to
        its process; there the job object leaves no child behind.
        """
        try:
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise FolderError(
                f"run folder {self.path}: {error.strerror}; choose a --run-dir that you may "
                "write to"
            ) from error
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise FolderError(
                f"run folder {self.path} is in use by another run; stop that one, or choose "
                "another --run-dir"
            ) from error
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
        try:
            self.token_file.unlink(missing_ok=True)
            descriptor = os.open(self.token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                stream.write(token + "\n")
        except OSError as error:
            raise FolderError(f"{self.token_file}: {error.strerror}") from error

    def close(self) -> None:
        """Leave nothing behind but the epoch and the lock's file, and those only if the folder is
        the user's. The lock goes last, so that no next run sees us clean up its files."""
        for name in ("token", "link.sock", LONGEST_NAME):
            try:
                (self.path / name).unlink(missing_ok=True)
            except OSError:
                # Windows, or a folder that was taken away: nothing depends on it.
                pass
        os.close(self.lock)
        self._remove_ours()

    def _remove_ours(self) -> None:
        if self._is_ours:
            shutil.rmtree(self.path, ignore_errors=True)
