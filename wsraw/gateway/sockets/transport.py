"""I/O. How bytes go through a socket: plain, encrypted by TLS, or through a pump that does that. An
endpoint treats all three alike.

With TLS, a byte of output counts as written only when the kernel has all of its ciphertext: so
output that waits here is in the connection's account, and no mark is reached too early. `recv`
returns all plaintext that has come; if something is left that select does not report, `has_more` is
set.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import ClassVar, Final

from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.connection.output import GATHERED_FROM, WRITE_SIZE, Output
from wsraw.gateway.tls.engine import TlsEngine
from wsraw.gateway.tls.marks import PumpMark, blank, receive, send_mark

ENCRYPT_SIZE: Final = 64 * 1024
"""Bytes of plaintext encrypted at a time; the ciphertext waits for the kernel to take it."""

MOST_UNSENT: Final = 128 * 1024
"""Bytes of ciphertext that may wait for a peer to read them. Beyond one ENCRYPT_SIZE, these are
bytes of TLS itself: a peer that causes them (key updates) and reads nothing is disconnected."""

MOST_OVERHEAD: Final = 3 * 1024
"""Bytes of ciphertext with almost no plaintext, read without a gap, above which a peer queues with
peers that send a lot. A key update takes OpenSSL 15 µs for 27 bytes, and makes neither an event nor
a frame. (A long record that comes in parts counts, too.)"""

TRUNCATED: Final = "the TLS connection was cut off: no close_notify came"

# struct linger: two shorts on Windows, two ints elsewhere.
_RESET: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class PlainTransport:
    """A socket as it is."""

    __slots__ = ("_sock",)

    established: ClassVar[bool] = True
    has_more: ClassVar[bool] = False
    overhead: ClassVar[int] = 0
    unsent: ClassVar[bytes] = b""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def recv(self, size: int) -> bytes:
        """At most `size` bytes, b"" at the end. Raises BlockingIOError or OSError."""
        return self._sock.recv(size)

    def write(self, output: Output) -> int:
        """Write once; returns how many bytes the kernel has taken. Raises OSError."""
        chunks = output.gathered() if output.size >= GATHERED_FROM else None
        try:
            if chunks is not None and hasattr(self._sock, "sendmsg"):
                return self._sock.sendmsg(chunks)
            return self._sock.send(output.data_to_send())
        except (BlockingIOError, InterruptedError):
            return 0

    def finish(self) -> bool:
        """There is nothing to send: TCP's own end is enough."""
        return True

    def shut(self) -> bool:
        """Announce that nothing more comes; return whether a FIN of TCP must do it."""
        return True

    def reset(self) -> None:
        """Close the socket with a reset."""
        reset(self._sock)


class PumpedTransport:
    """A socketpair to an older gateway, which handles the client's TLS (see pump.py)."""

    __slots__ = ("_has_ended", "_sock", "lost")

    established: ClassVar[bool] = True
    overhead: ClassVar[int] = 0
    unsent: ClassVar[bytes] = b""

    def __init__(self, sock: socket.socket, lost: str = "") -> None:
        self._sock = sock
        self._has_ended = False
        self.lost = lost
        """Why the connection was lost; earlier data is still read."""
        # As long as there are descriptors.
        blank()

    @property
    def has_more(self) -> bool:
        """Whether `recv` has an error to raise that select does not report."""
        return bool(self.lost)

    def recv(self, size: int) -> bytes:
        """At most `size` bytes, b"" at the end. Raises BlockingIOError or OSError."""
        if self.lost:
            raise OSError(self.lost)
        data, mark, why = receive(self._sock, size)
        if mark is PumpMark.LOST:
            self.lost = why or "the connection was lost"
            if not data:
                raise OSError(self.lost)
        return data

    def write(self, output: Output) -> int:
        """Write once; returns how many bytes the kernel has taken. Raises OSError."""
        try:
            return self._sock.send(output.data_to_send())
        except (BlockingIOError, InterruptedError):
            return 0

    def finish(self) -> bool:
        """Have the pump send close_notify after all that was written; nothing else is left."""
        return self.shut()

    def shut(self) -> bool:
        """Announce that nothing more comes; the pump continues to read."""
        if not self._has_ended:
            self._has_ended = True
            send_mark(self._sock, PumpMark.END)
        return True

    def reset(self) -> None:
        """Close the socket; the pump resets the client's."""
        send_mark(self._sock, PumpMark.RESET)
        self._sock.close()


class TlsTransport:
    """A socket and the TLS engine above it."""

    __slots__ = ("_con", "_discards", "_has_closed", "_sock", "engine", "overhead", "unsent")

    def __init__(self, sock: socket.socket, engine: TlsEngine, con: Connection) -> None:
        self._sock = sock
        self._con = con
        self.engine = engine
        self.unsent = engine.data_to_send()
        """Ciphertext that the kernel has not taken yet."""
        self.overhead = 0
        """Bytes read lately that caused work and held almost no plaintext."""
        self._discards = False
        """Further data is discarded, and need not be decrypted."""
        self._has_closed = False

    @property
    def established(self) -> bool:
        """Whether output can be written."""
        return self.engine.established

    @property
    def has_more(self) -> bool:
        """Whether `recv` has something to return, or to raise, that select does not report."""
        engine = self.engine
        return engine.has_more or engine.ended or bool(engine.error)

    def recv(self, size: int) -> bytes:
        """All plaintext of the next `size` bytes of ciphertext, b"" at the end.

        Raises BlockingIOError if there is none, and OSError with the problem, like a socket.
        """
        engine = self.engine
        if self._discards:
            return self._sock.recv(size)
        if engine.error:
            raise self._failed()
        if engine.ended:
            return b""
        data = b""
        overhead, self.overhead = self.overhead, 0
        if not engine.has_more:
            data = self._sock.recv(size)
            if not data:
                if self._con.kind == "websocket":
                    # Its close frame reports its end.
                    return b""
                raise OSError(TRUNCATED)
        plain = engine.receive_data(data)
        if len(data) > size // 2:
            self.overhead = max(0, overhead + len(data) - 2 * len(plain))
        self.unsent += engine.data_to_send()
        if len(self.unsent) > MOST_UNSENT:
            raise OSError("TLS: the peer asks for answers and does not read them")
        if plain or engine.ended:
            return plain
        if engine.error:
            raise self._failed()
        raise BlockingIOError

    def _failed(self) -> OSError:
        try:
            # Send the alert, for a peer that still reads.
            self._push()
        except OSError:
            pass
        return OSError(f"TLS: {self.engine.error}")

    def write(self, output: Output) -> int:
        """Send what TLS itself has to send, then output once TLS is established; return how many
        bytes of output the kernel has taken. Raises OSError."""
        if not self.engine.established:
            self._push()
            return 0
        view = memoryview(output.data_to_send())
        done = 0
        while self._push():
            # `encrypted` bytes of the output had been encrypted before.
            done += output.encrypted
            output.encrypted = 0
            if done >= len(view) or done >= WRITE_SIZE:
                break
            part = view[done : done + ENCRYPT_SIZE]
            self.unsent = self.engine.encrypt(part)
            if self.engine.error:
                raise OSError(f"TLS: {self.engine.error}")
            output.encrypted = len(part)
        return done

    def handshake(self, data: bytes) -> None:
        """Continue the handshake; the answer is in `unsent`."""
        self.engine.handshake(data)
        self.unsent += self.engine.data_to_send()

    def finish(self) -> bool:
        """Send close_notify after all that waits; True once the kernel has everything. Raises
        OSError."""
        self._discards = True
        if not self._has_closed and self.engine.established and not self.engine.error:
            self._has_closed = True
            self.engine.close()
            self.unsent += self.engine.data_to_send()
        return self._push()

    def shut(self) -> bool:
        """Send close_notify, and continue to read. A FIN of TCP would keep TLS from answering."""
        if not self._has_closed and self.engine.established and not self.engine.error:
            self._has_closed = True
            self.engine.close()
            self.unsent += self.engine.data_to_send()
        return False

    def reset(self) -> None:
        """Close the socket with a reset."""
        reset(self._sock)

    def _push(self) -> bool:
        if self.unsent:
            try:
                size = self._sock.send(self.unsent)
            except (BlockingIOError, InterruptedError):
                return False
            self.unsent = self.unsent[size:]
        return not self.unsent


Transport = PlainTransport | TlsTransport | PumpedTransport


def reset(sock: socket.socket) -> None:
    """Close with a reset: only that tells a raw client that it was not served."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:
        pass
    sock.close()
