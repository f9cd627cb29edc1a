"""I/O. The files of unix sockets that clients connect to, which cleaners of /tmp and mistaken
people remove.

A file of a socket is only a name: without it nobody finds the socket, which goes on listening, and
who is connected notices nothing. A socket cannot be given a new name, but its name can be given a
second one (a hard link) in the run folder, and the first one is made again from that.
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
"""Second names in the run folder."""

NO_LINKS: Final = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)
"""There can be no second name: another file system, or one without hard links."""


class SocketFiles:
    """Keeps a second name of each listener's file, and restores the first."""

    def __init__(self, say: Callable[[Level, str], object]) -> None:
        self._say = say
        self._trouble: dict[str, str] = {}
        """What was said about a listener whose file is not its own, by path."""
        self._why: dict[str, str] = {}
        """Why a listener has no second name, by path."""

    def look(self, bound: Iterable[tuple[socket.socket, Listen]], folder: Path) -> None:
        """Look at each listener, and keep second names in that folder."""
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
            # Of a run that was killed.
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
        """Once, although each look finds it."""
        if self._trouble.get(listen.path) != text:
            self._trouble[listen.path] = text
            self._say("error", f"the socket file of {listen.name} {text}")


def adopted(sock: socket.socket, listen: Listen, folder: Path) -> socket.socket:
    """A listener that the program before us has bound, as if we had. It is known by its second
    name, as somebody may have taken the first."""
    kept = folder / _name(listen.path)
    return listening.of_file(sock, str(kept) if os.path.lexists(kept) else listen.path)


def remove(folder: Path) -> None:
    """Remove all second names; the listeners are closed."""
    for kept in folder.glob(PATTERN):
        try:
            kept.unlink()
        except OSError:
            # Gone, or nobody may write there any more: nothing depends on it.
            pass


def _name(path: str) -> str:
    # Here, as it loads OpenSSL.
    import hashlib

    return PATTERN.replace("*", hashlib.sha256(os.fsencode(path)).hexdigest()[:12])


def _reason(error: OSError | NotImplementedError) -> str:
    if isinstance(error, NotImplementedError) or error.errno in NO_LINKS:
        return "the run folder is on another file system, or there are no hard links"
    return os_error(error)
