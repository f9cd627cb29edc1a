"""I/O. One connection of the worker link: a ZMTP peer over a non-blocking socket, without a loop.

Everything here returns at once. The owner of a connection knows when it can be read or written, and
how long to keep it.
"""

from __future__ import annotations

import socket
import sys
from collections import deque
from functools import cache
from itertools import islice
from typing import Final

from wsraw.link.batches import READ_IN_PLACE, Batch
from wsraw.link.zmtp import ZmtpPeer, header

READ_BUDGET: Final = 1024 * 1024
"""Bytes that one call reads from a connection before others get their turn."""

LEAST_READ: Final = 4 * 1024
"""Bytes of the first reads. All batches of a read are handled in one turn, and each may have only
two bytes: so more is read only from peers with longer batches."""

READ_SIZE: Final = 64 * 1024
"""The most bytes of a read from a peer without long batches."""

LARGE_READ: Final = 256 * 1024
"""The most bytes of a read from a peer with long batches that are still shorter than this. Longer
ones are received into a buffer of their own, into which what was read of them before is copied."""

GROWTH: Final = 4

FEW: Final = 64
"""Batches in a full read up to which the next read is larger."""

MANY: Final = 256
"""Batches after which one call stops reading, however short they are."""

JOINED_BELOW: Final = 16 * 1024
"""Bytes below which a batch is copied behind its header. Longer ones are written without a copy."""

MOST_FRAMES: Final = 32
"""Frames in one call of sendmsg, of two pieces each. The system's limit (IOV_MAX) is 1024."""

COMMAND_LIMIT: Final = 64 * 1024
"""Unsent bytes above which a PING is not answered: unsent data is a sign of life as well, and
otherwise a peer that only sends would make us keep its PONGs."""

LONGEST_SOCKET_PATH: Final = 103 if sys.platform == "darwin" else 107
"""Bytes of sun_path without its closing zero (unix(7); macOS has 104)."""

SOCKET_BUFFERS: Final = (1024 * 1024, 256 * 1024)
"""Bytes of a large batch that the system takes at once, or fewer if its own limit is lower: Linux
cuts the size that is asked for, other systems refuse it."""

HAS_UNIX: Final = hasattr(socket, "AF_UNIX") and sys.platform != "win32"
"""Whether unix sockets can be used. On Windows, they have no owner that could be checked."""

CAN_GATHER: Final = hasattr(socket.socket, "sendmsg")
"""Python has no sendmsg on Windows."""


def tune(sock: socket.socket) -> None:
    """Set the options of a socket of the link. Raises OSError if a TCP peer is already gone."""
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        # Batches are written once a turn, in one piece. TCP's buffers grow automatically.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        for size in SOCKET_BUFFERS:
            try:
                sock.setsockopt(socket.SOL_SOCKET, option, size)
            except OSError:
                continue
            break


@cache
def _keep_large_reads() -> None:
    """Until a block of this size was freed once, glibc asks the system for each block of 128 KiB or
    more (mallopt(3), M_MMAP_THRESHOLD), which would take 20 us a read."""
    bytes(2 * LARGE_READ)


class _Frame:
    """A frame that is partly unsent."""

    __slots__ = ("batch", "is_begun", "pieces", "size")

    def __init__(self, batch: bytes | None, pieces: list[memoryview]) -> None:
        self.batch = batch
        """The batch in it; None for a command."""
        self.pieces = pieces
        """The unsent pieces of the frame."""
        self.size = sum(map(len, pieces))
        self.is_begun = False
        """Whether a part of the frame was sent: then nothing else can be sent before its end."""

    def sent(self, count: int) -> None:
        """Count sent bytes of the frame, which is not complete yet."""
        self.is_begun = True
        self.size -= count
        if count >= len(self.pieces[0]):
            count -= len(self.pieces.pop(0))
        if count:
            self.pieces[0] = self.pieces[0][count:]


class LinkSocket:
    """A connected, non-blocking socket and its peer. Data is received completely and in order:
    `ended` is set only when everything before the end was handed out."""

    __slots__ = (
        "_out",
        "_portion",
        "_sock",
        "broken",
        "ended",
        "has_more",
        "peer",
        "unsent",
        "why",
    )

    def __init__(self, sock: socket.socket, peer: ZmtpPeer) -> None:
        """The greeting is unsent at first; `flush` sends it."""
        self.peer = peer
        self.unsent = 0
        """Bytes that the system has not taken."""
        self.has_more = False
        """Whether the last `receive` has stopped although there may be more data."""
        self.ended = False
        """Whether nothing more will be received; `why` has the reason."""
        self.why = ""
        """Why the connection has ended: an error of the socket or of the peer's protocol, or the
        reason in an ERROR command of the peer."""
        self.broken = ""
        """Why nothing more can be written. `receive` finds out whether the peer is gone, after its
        last data."""
        self._sock = sock
        self._portion = LEAST_READ
        self._out: deque[_Frame] = deque()
        self._command(peer.data_to_send())

    def fileno(self) -> int:
        """The descriptor; -1 once closed."""
        return self._sock.fileno()

    @property
    def is_tcp(self) -> bool:
        """Whether closing with unread data can destroy what the peer has not read yet."""
        return self._sock.family in (socket.AF_INET, socket.AF_INET6)

    # --- in ---

    def receive(self, budget: int = READ_BUDGET) -> list[Batch]:
        """Read until there is no more, or at least `budget` bytes or MANY batches were read.

        What is wrong with the peer ends the connection, and an ERROR command for it is queued. So
        are answers to other commands: `unsent` tells.
        """
        batches: list[Batch] = []
        self.has_more = False
        if self.ended:
            return batches
        sock, peer = self._sock, self.peer
        try:
            while True:
                rest = peer.rest()
                if rest is None:
                    asked = self._portion
                    data = sock.recv(asked)
                    size = len(data)
                    new = peer.receive_data(data)
                    if batches:
                        batches += new
                    else:
                        batches = new
                    if size == asked:
                        self._read_more(asked, len(new))
                else:
                    asked = len(rest)
                    size = sock.recv_into(rest)
                    rest.release()
                    batch = peer.received(size) if size else None
                    if batch is not None:
                        batches.append(batch)
                if not size:
                    self._end("the peer has closed the connection")
                    break
                if peer.why or (size < asked and not self.broken):
                    # Data that comes now is reported as readable again.
                    break
                budget -= size
                if budget <= 0 or len(batches) > MANY:
                    self.has_more = True
                    break
        except (BlockingIOError, InterruptedError):
            if self.broken:
                self._end(self.broken)
        except OSError as error:
            self._end(error.strerror or str(error))
        if peer.output:
            command = peer.data_to_send()
            if peer.why or self.unsent < COMMAND_LIMIT:
                self._command(command)
        if peer.why:
            self._end(peer.why)
        return batches

    def _read_more(self, asked: int, batches: int) -> None:
        """Adapt the size of reads: the last one was full, and this many batches ended in it."""
        if batches > FEW:
            self._portion = LEAST_READ
            return
        most = READ_SIZE
        if batches * READ_IN_PLACE <= asked:
            rest = self.peer.rest()
            if rest is None or asked + len(rest) <= LARGE_READ:
                most = LARGE_READ
                _keep_large_reads()
        self._portion = min(most, asked * GROWTH)

    def _end(self, why: str) -> None:
        if not self.ended:
            self.ended = True
            self.why = why

    # --- out ---

    def send(self, batch: bytes) -> bool:
        """Write a batch after unsent data. True if the system has taken all of it; the rest is for
        `flush`."""
        size = len(batch)
        head = header(size)
        sent = 0
        if not self._out and not self.broken:
            # The usual case: one call, and nothing to keep.
            try:
                if size < JOINED_BELOW:
                    sent = self._sock.send(head + batch)
                elif CAN_GATHER:
                    sent = self._sock.sendmsg((head, batch))
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self.broken = error.strerror or str(error)
            if sent == len(head) + size:
                return True
        pieces = (head, batch) if size >= JOINED_BELOW else (head + batch,)
        self._queue(_Frame(batch, [memoryview(piece) for piece in pieces]))
        if sent:
            self._taken(sent)
        return not CAN_GATHER and len(self._out) == 1 and self.flush()

    def flush(self) -> bool:
        """Write as much as the system takes. True if that was all."""
        out, sock = self._out, self._sock
        try:
            while out:
                if self.broken:
                    return False
                pieces = out[0].pieces
                if CAN_GATHER and (len(out) > 1 or len(pieces) > 1):
                    frames = list(islice(out, MOST_FRAMES))
                    size = sum(frame.size for frame in frames)
                    sent = sock.sendmsg([piece for frame in frames for piece in frame.pieces])
                else:
                    size = len(pieces[0])
                    sent = sock.send(pieces[0])
                self._taken(sent)
                if sent < size:
                    return False
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self.broken = error.strerror or str(error)
            return False
        return True

    def unsent_batches(self, *, begun: bool = True) -> list[bytes]:
        """The batches that the system has not taken completely: the peer cannot have seen them. If
        not `begun`, without one that is partly sent: `drop` leaves the rest of it to be sent."""
        frames = [frame for frame in self._out if begun or not frame.is_begun]
        return [frame.batch for frame in frames if frame.batch is not None]

    def drop(self) -> None:
        """Forget the batches of which nothing was sent."""
        self._out = deque([each for each in self._out if each.is_begun or each.batch is None])
        self.unsent = sum([frame.size for frame in self._out])

    def fail(self, why: str) -> None:
        """Refuse the peer: drop the batches of which nothing was sent, queue an ERROR command with
        the reason, and receive nothing more."""
        self.drop()
        self.peer.fail(why)
        self._command(self.peer.data_to_send())
        self._end(why)

    def _command(self, data: bytes) -> None:
        if data:
            self._queue(_Frame(None, [memoryview(data)]))

    def _queue(self, frame: _Frame) -> None:
        self._out.append(frame)
        self.unsent += frame.size

    def _taken(self, count: int) -> None:
        """Remove the bytes that the system has taken."""
        self.unsent -= count
        out = self._out
        while count:
            frame = out[0]
            if count < frame.size:
                frame.sent(count)
                return
            count -= frame.size
            out.popleft()

    # --- the end ---

    def finish(self) -> None:
        """Announce that nothing more is sent. The socket stays open for reading."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # The peer is gone already.

    def discard(self) -> bool:
        """Read and discard received data; False at the end of it."""
        try:
            return bool(self._sock.recv(READ_SIZE))
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False

    def close(self) -> None:
        """Free the descriptor; unsent data is lost."""
        self.broken = self.broken or "closed"
        self._end("closed")
        self._sock.close()
