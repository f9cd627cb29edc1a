"""Sans-I/O. Names of groups and nodes as subjects of NATS.

A subject is tokens with dots between them, and wildcards are tokens, too (`*`, `>`). A group may
have any name, so what is not a plain character is written as its UTF-8 bytes: `room.7` becomes
`room=2E7`. A long name is replaced by its hash, because a NATS server disconnects clients that send
a line of more than 4 KiB.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

LONGEST: Final = 200
"""Characters of an encoded name; a longer one is hashed."""

HASHED: Final = "=="
"""The prefix of a hash. In an encoded name, `=` is always followed by two hexadecimal digits."""

_SIMPLE: Final = re.compile(r"[A-Za-z0-9_-]{1,200}")

_PLAIN: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def encode(name: str) -> str:
    """A name as one token of a subject. Different names have different tokens (as far as the
    SHA-256 of long names differs)."""
    if _SIMPLE.fullmatch(name):
        return name
    data = name.encode("utf-8", "surrogatepass")
    token = "".join([chr(byte) if byte in _PLAIN else f"={byte:02X}" for byte in data])
    if not 0 < len(token) <= LONGEST:
        return HASHED + hashlib.sha256(data).hexdigest()
    return token


class Subjects:
    """The subjects of one cluster; several may share a NATS server."""

    def __init__(self, cluster: str, node: str) -> None:
        self._groups = f"{cluster}.group."
        self._users = f"{cluster}.user."
        self._nodes = f"{cluster}.node."
        self.all = f"{cluster}.all"
        """The subject for all nodes."""
        self.own = self.of_node(node)
        """The subject for this node."""

    def of_group(self, group: str) -> str:
        """The subject for what is published to a group."""
        return self._groups + encode(group)

    def of_user(self, user: str) -> str:
        """The subject for what is sent to a user."""
        return self._users + encode(user)

    def of_node(self, node: str) -> str:
        """The subject for what is sent to one node."""
        return self._nodes + node
