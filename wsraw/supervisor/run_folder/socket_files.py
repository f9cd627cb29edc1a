"""I/O. The files of unix sockets that clients connect to: cleaners of /tmp, or people by mistake,
may remove them.

The file of a socket is only its name: without it no new client finds the socket, which still
listens, and connected clients notice nothing. A socket cannot get a new name, but its file can have
a second name (a hard link) in the run folder, from which the first one is made again.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from wsraw.config.addresses import Listen
from wsraw.runtime import sockets as listening
from wsraw.runtime.log.line import Level
from wsraw.runtime.printable import os_error

PATTERN: Final = "listener-*.sock"
"""Pattern of the second names in the run folder."""

NO_LINKS: Final = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)
"""Errors that mean that there can be no second name: another file system, or one without hard
links."""


class SocketFiles:
    """Keeps a second name of each listener's file, and restores the first."""

    def __init__(self, say: Callable[[Level, str], object]) -> None:
        self._say = say
        self._trouble: dict[str, str] = {}
        """Problems that were logged about listeners whose file is not their own, by path."""
        self._why: dict[str, str] = {}
        """Why a listener has no second name, by path."""

    def look(self, bound: Iterable[tuple[socket.socket, Listen]], folder: Path) -> None:
        """Check each listener, and keep second names in that folder."""
        for sock, listen in bound:
            kept = folder / _name(listen.path)
            if listening.is_intact(sock, listen):
                self._keep(sock, listen, kept)
            else:
                self._restore(sock, listen, kept)

    def _keep(self, sock: socket.socket, listen: Listen, kept: Path) -> None:
        path = listen.path
        if self._trouble.pop(path, ""):
            self._say("info", f"the socket file of {listen.name} is there again")
        if listening.is_file_of(sock, str(kept)):
            return
        self._why.pop(path, None)
        try:
            # The file belongs to a run that was killed.
            kept.unlink(missing_ok=True)
            os.link(path, kept, follow_symlinks=False)
        except (OSError, NotImplementedError) as error:
            self._why[path] = _reason(error)

    def _restore(self, sock: socket.socket, listen: Listen, kept: Path) -> None:
        path = listen.path
        if os.path.lexists(path):
            self._tell(
                listen,
                "was replaced by another file: clients do not reach this run there. Remove that "
                "file or stop the program that has made it, and ours is restored",
            )
            return
        if not listening.is_file_of(sock, str(kept)):
            why = self._why.get(path) or "its second name in the run folder was removed, too"
            self._tell(
                listen,
                f"was removed and cannot be restored ({why}): no new client can connect there "
                "until the run is started again",
            )
            return
        try:
            os.link(kept, path, follow_symlinks=False)
        except (OSError, NotImplementedError) as error:
            self._tell(listen, f"was removed and cannot be restored: {_reason(error)}")
            return
        self._trouble.pop(path, None)
        self._say("warning", f"the socket file of {listen.name} was removed; it is restored")

    def _tell(self, listen: Listen, text: str) -> None:
        """Log a problem once, although each check finds it."""
        if self._trouble.get(listen.path) != text:
            self._trouble[listen.path] = text
            self._say("error", f"the socket file of {listen.name} {text}")


def adopted(sock: socket.socket, listen: Listen, folder: Path) -> socket.socket:
    """Take over a listener that the program before us has bound. It is known by its second name,
    because the first may now belong to another socket."""
    kept = folder / _name(listen.path)
    return listening.of_file(sock, str(kept) if os.path.lexists(kept) else listen.path)


def remove(folder: Path) -> None:
    """Remove all second names; the listeners are closed."""
    for kept in folder.glob(PATTERN):
        try:
            kept.unlink()
        except OSError:
            # The folder is gone, or not writable any more: nothing depends on the file.
            pass


def _name(path: str) -> str:
    # Imported here, because it loads OpenSSL.
    import hashlib

    return PATTERN.replace("*", hashlib.sha256(os.fsencode(path)).hexdigest()[:12])


def _reason(error: OSError | NotImplementedError) -> str:
    if isinstance(error, NotImplementedError) or error.errno in NO_LINKS:
        return "the run folder is on another file system, or there are no hard links"
    return os_error(error)
