"""I/O. How a worker that the supervisor has not started finds the gateway: by the run folder.

Read the token first, because a run writes it last: so the token of a run is never sent to the
endpoint of an earlier run, where another program may listen by now.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from wsraw.runtime.link.connection import HAS_UNIX

TOKEN: Final = "token"
"""File with the token that admits workers."""

SOCKET: Final = "link.sock"

ENDPOINT: Final = "link"
"""File with the endpoint of the link, where there are no unix sockets."""


def token(folder: Path) -> str:
    """The token of the run. Raises OSError, which names the file."""
    return _read(folder / TOKEN)


def endpoint(folder: Path) -> str:
    """The endpoint of the run. Raises OSError, which names the file."""
    return f"ipc://{folder / SOCKET}" if HAS_UNIX else _read(folder / ENDPOINT)


def _read(file: Path) -> str:
    try:
        return file.read_text("ascii").strip()
    except ValueError as error:
        raise OSError(errno.EINVAL, "it is damaged", str(file)) from error
