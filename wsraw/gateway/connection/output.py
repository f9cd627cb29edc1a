"""Sans-I/O. Bytes that wait for a connection's socket."""

from __future__ import annotations

from typing import Final

from wsraw.gateway.websocket.shared import Framed

WRITE_SIZE: Final = 256 * 1024
"""Bytes joined for one write. A socket rarely takes more, and what it leaves is joined again."""

GATHERED_FROM: Final = 4 * 1024
"""Bytes of a chunk, on average, from which on several are better written without joining them."""

MOST_GATHERED: Final = 16

CHUNK: Final = 64
"""Bytes that even the smallest chunk takes."""


class Output:
    """Chunks in order; only the first one can have been written in part."""

    __slots__ = ("_sent", "output", "output_size", "shared_size", "taken")

    def __init__(self) -> None:
        self.output: list[bytes] = []
        self.output_size = 0
        """Bytes that wait."""
        self.shared_size = 0
        """Bytes of published chunks among them, which others hold, too; with what was written of
        the first one."""
        self._sent = 0
        self.taken = 0
        """Bytes in front that are encrypted, and not yet written: they must follow."""

    def append(self, chunk: bytes) -> None:
        """Queue a chunk; an empty one is no output."""
        if chunk:
            self.output.append(chunk)
            self.output_size += len(chunk)

    def append_shared(self, chunk: bytes) -> None:
        """Queue a published chunk, whose bytes are kept once for all that wait for it."""
        self.append(chunk)
        self.shared_size += len(chunk)

    @property
    def own_size(self) -> int:
        """Bytes of memory that its output takes, without what it shares with others."""
        return max(self.output_size + self._sent - self.shared_size, CHUNK * len(self.output))

    def data_to_send(self) -> bytes | memoryview:
        """What to write next: all of it, or the first WRITE_SIZE bytes and a little more."""
        output, sent = self.output, self._sent
        if len(output) == 1 and not sent:
            return output[0]
        if not output:
            return b""
        first = memoryview(output[0])[sent:]
        if len(output) == 1 or len(first) >= WRITE_SIZE:
            return first
        if self.output_size <= WRITE_SIZE:
            return b"".join((first, *output[1:]))
        chunks: list[bytes | memoryview] = [first]
        size = len(first)
        for chunk in output[1:]:
            if size >= WRITE_SIZE:
                break
            chunks.append(chunk)
            size += len(chunk)
        return b"".join(chunks)

    def gathered(self) -> list[bytes | memoryview] | None:
        """The same in a few large chunks, for those who can write them without joining them; None
        if it is one chunk, or many small ones."""
        output = self.output
        count = len(output)
        if count == 1 or count > MOST_GATHERED or self.output_size < count * GATHERED_FROM:
            return None
        chunks: list[bytes | memoryview] = [*output]
        if self._sent:
            chunks[0] = memoryview(output[0])[self._sent :]
        return chunks

    def take_written(self, size: int) -> None:
        """The first `size` bytes of `data_to_send`, or of `gathered`, have been written."""
        output = self.output
        self.output_size -= size
        if not self.output_size:
            output.clear()
            self._sent = self.shared_size = 0
            return
        size += self._sent
        whole = 0
        while size >= len(output[whole]):
            size -= len(output[whole])
            whole += 1
        if self.shared_size:
            self.shared_size -= _shared(output[:whole])
        del output[:whole]
        self._sent = size

    def drop_waiting(self) -> None:
        """Nobody will get it, but for chunks that were begun: those must be whole."""
        begun = self._chunks_begun()
        del self.output[begun:]
        self.shared_size = _shared(self.output)
        self.output_size = sum(map(len, self.output)) - self._sent

    def _chunks_begun(self) -> int:
        """How many chunks were written or encrypted, at least in part."""
        left = self._sent + self.taken
        count = 0
        while left > 0:
            left -= len(self.output[count])
            count += 1
        return count

    def drop_output(self) -> None:
        """Nobody will read it."""
        self.output.clear()
        self.output_size = self._sent = self.taken = self.shared_size = 0

    def drop_oldest_framed(self, limit: int) -> int:
        """Drop the oldest published messages until `limit` bytes or none are left.

        Returns how many; a message that was begun stays.
        """
        output = self.output
        dropped = 0
        index = self._chunks_begun()
        while self.output_size > limit and index < len(output):
            if type(output[index]) is Framed:
                size = len(output.pop(index))
                self.output_size -= size
                self.shared_size -= size
                dropped += 1
            else:
                index += 1
        return dropped


def _shared(chunks: list[bytes]) -> int:
    return sum([len(chunk) for chunk in chunks if type(chunk) is Framed])
