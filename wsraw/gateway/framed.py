"""Sans-I/O. A message that is framed for more than one connection."""

from __future__ import annotations


class Framed(bytes):
    """A published message, framed once for many connections.

    The type says which of the waiting chunks a slow reader may go without.
    """

    __slots__ = ()
