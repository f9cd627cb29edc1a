"""Sans-I/O. Bytes that wait for a connection's socket."""

from __future__ import annotations

from typing import Final

from wsraw.gateway.websocket.heads import Head
from wsraw.gateway.websocket.shared import Framed

WRITE_SIZE: Final = 256 * 1024
"""Bytes joined for one write. A socket rarely takes more, and what is left is joined again."""

GATHERED_FROM: Final = 4 * 1024
"""Average bytes of a chunk from which writing several chunks without joining them is faster."""

MOST_GATHERED: Final = 16

CHUNK: Final = 64
"""Bytes that even the smallest chunk takes."""


class Output:
    """Chunks in order; only the first one can be partly written."""

    __slots__ = (
        "_headed",
        "_sent",
        "chunks",
        "early",
        "early_size",
        "encrypted",
        "ends_with_reset",
        "reset",
        "shared_size",
        "size",
    )

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.size = 0
        """Bytes that wait, not counting the early messages."""
        self.shared_size = 0
        """Bytes of published chunks, which other connections hold, too, including what has been
        written of the first one."""
        self._sent = 0
        self._headed = False
        """The head of the first chunk has been written."""
        self.encrypted = 0
        """Encrypted bytes at the front that are not yet written: they must be written, too."""
        self.early: list[tuple[int, bytes, bool]] | None = None
        """Messages sent to a WebSocket before its handshake was complete: opcode, data, final."""
        self.early_size = 0
        self.ends_with_reset = False
        """Reset the connection once all is written: only that tells a raw peer of a fault."""
        self.reset = False
        """Cut the connection off at once: nothing more is written, and the peer gets a reset."""

    def append(self, chunk: bytes) -> None:
        """Queue a chunk; an empty one is no output."""
        if chunk:
            self.chunks.append(chunk)
            self.size += len(chunk)

    def append_shared(self, chunk: bytes) -> None:
        """Queue a published chunk, whose bytes are stored once for all connections."""
        self.append(chunk)
        self.shared_size += len(chunk)

    def keep_early(self, opcode: int, data: bytes, final: bool) -> None:
        """Queue a message that cannot be framed before the handshake is complete."""
        if self.early is None:
            self.early = []
        self.early.append((opcode, data, final))
        self.early_size += len(data)

    def take_early(self) -> list[tuple[int, bytes, bool]]:
        """The early messages, in order; they can now be framed, or are dropped."""
        early = self.early or []
        self.early = None
        self.early_size = 0
        return early

    @property
    def waiting(self) -> int:
        """Bytes that wait, including the early messages."""
        return self.size + self.early_size

    @property
    def own_size(self) -> int:
        """Bytes of memory of the output, without what it shares with other connections."""
        own = max(self.size + self._sent - self.shared_size, CHUNK * len(self.chunks))
        return own + self.early_size

    def data_to_send(self) -> bytes | memoryview:
        """The bytes to write next: all, or the first WRITE_SIZE bytes and a little more."""
        output, sent = self.chunks, self._sent
        if len(output) == 1 and not sent:
            return output[0]
        if not output:
            return b""
        first = memoryview(output[0])[sent:]
        if len(output) == 1 or len(first) >= WRITE_SIZE:
            return first
        if self.size <= WRITE_SIZE:
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
        """The bytes to write next as a few large chunks, for sockets that can write them without
        joining them; None if there is one chunk, or many small ones."""
        output = self.chunks
        count = len(output)
        if count == 1 or count > MOST_GATHERED or self.size < count * GATHERED_FROM:
            return None
        chunks: list[bytes | memoryview] = [*output]
        if self._sent:
            chunks[0] = memoryview(output[0])[self._sent :]
        return chunks

    def take_written(self, size: int) -> None:
        """The first `size` bytes of `data_to_send`, or of `gathered`, have been written."""
        output = self.chunks
        self.size -= size
        if not self.size:
            output.clear()
            self._sent = self.shared_size = 0
            self._headed = False
            return
        size += self._sent
        whole = 0
        while size >= len(output[whole]):
            size -= len(output[whole])
            whole += 1
        if self.shared_size:
            self.shared_size -= _shared(output[:whole])
        if whole:
            self._headed = type(output[whole - 1]) is Head
        del output[:whole]
        self._sent = size

    def drop(self) -> None:
        """Drop all chunks; early messages stay."""
        self.chunks.clear()
        self.size = self._sent = self.encrypted = self.shared_size = 0
        self._headed = False

    def drop_waiting(self) -> None:
        """Drop all chunks of which nothing was written; a chunk that was begun must be
        completed."""
        begun = self._chunks_begun()
        del self.chunks[begun:]
        self.shared_size = _shared(self.chunks)
        self.size = sum(map(len, self.chunks)) - self._sent

    def drop_oldest_framed(self, limit: int) -> int:
        """Drop the oldest published messages until `limit` bytes or none are left.

        Returns how many were dropped; a message that was begun stays.
        """
        output = self.chunks
        dropped = 0
        index = self._chunks_begun()
        while self.size > limit and index < len(output):
            if type(output[index]) is Framed:
                size = len(output.pop(index))
                self.size -= size
                self.shared_size -= size
                dropped += 1
            else:
                index += 1
        return dropped

    def _chunks_begun(self) -> int:
        """How many chunks must follow what was written or encrypted: partly written chunks, and the
        payload that belongs to a written head."""
        left = self._sent + self.encrypted
        count = 0
        headed = self._headed
        while left > 0:
            chunk = self.chunks[count]
            left -= len(chunk)
            headed = type(chunk) is Head
            count += 1
        return count + 1 if headed else count


def _shared(chunks: list[bytes]) -> int:
    return sum([len(chunk) for chunk in chunks if type(chunk) is Framed])
