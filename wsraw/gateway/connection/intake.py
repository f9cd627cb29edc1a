"""Sans-I/O. Bytes that have been received and not been parsed."""

from __future__ import annotations


class Intake:
    """A peer's unparsed bytes, why they wait, and what the last read was."""

    __slots__ = ("eof", "half_closed", "has_more", "parsed", "paused", "unparsed")

    def __init__(self) -> None:
        self.unparsed = b""
        self.has_more = False
        """Not all received bytes are parsed, and not because of a pause: `resume` in the next
        turn."""
        self.parsed = 0
        """Frames of any kind in the last `receive_data` or `resume`: a measure of the work that a
        peer causes. Raw connections have none."""
        self.paused = False
        self.eof = False
        """The peer has shut its side, and what it had sent still waits."""
        self.half_closed = False
        """The peer sends nothing more that counts (EOF of a raw peer, a violation); what it sent is
        still being handled."""

    def clear(self) -> None:
        self.unparsed = b""
        self.has_more = False
