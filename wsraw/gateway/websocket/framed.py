"""Sans-I/O. A message that is framed for more than one connection."""

from __future__ import annotations

from collections.abc import Callable


class Framed(bytes):
    """A published message, framed once for many connections.

    The type says which of the waiting chunks a slow reader may go without.
    """

    freed: Callable[[int], object] | None = None
    """To be told of its size when the last connection has let go of it."""

    def __del__(self) -> None:
        if self.freed is not None:
            self.freed(len(self))
