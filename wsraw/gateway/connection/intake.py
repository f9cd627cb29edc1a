"""Sans-I/O. Bytes that have come and are not parsed yet."""

from __future__ import annotations


class Intake:
    """The bytes of a peer that wait, why they do, and what the last read was."""

    __slots__ = ("eof", "half_closed", "has_more", "parsed", "paused", "unparsed")

    def __init__(self) -> None:
        self.unparsed = b""
        self.has_more = False
        """Not all that has come is parsed, and not because of a pause: `resume` it next turn."""
        self.parsed = 0
        """Frames of any kind that came of the last `receive_data` or `resume`: a measure of the
        work that a peer makes. Raw connections have none."""
        self.paused = False
        self.eof = False
        """The peer has shut its side, and what it sent before still waits."""
        self.half_closed = False
        """The peer sends nothing more that counts (EOF of a raw peer, a violation); what it sent is
        still being handled."""

    def clear(self) -> None:
        self.unparsed = b""
        self.has_more = False
