"""I/O. A socket that speaks TLS; to its endpoint it is like any other.

`send` takes plaintext and counts a byte only when the kernel has all of its ciphertext: what waits
here is in the connection's account, and nobody is told too early that it was written. `recv` gives
all the plaintext of what has come: nothing that select would not tell of stays behind in OpenSSL.
"""

from __future__ import annotations

import socket
from typing import Final

from wsraw.gateway.connection.output import WRITE_SIZE, Output
from wsraw.gateway.tls.engine import TlsEngine

ENCRYPT_SIZE: Final = 64 * 1024
"""Bytes of plaintext encrypted at a time; the ciphertext waits for the kernel to take it."""

MOST_OWED: Final = 128 * 1024
"""Bytes of ciphertext that may wait for a peer to read them. Only what TLS itself has to say comes
on top of ENCRYPT_SIZE: a peer that asks for it (key updates) and reads nothing is cut off."""

MOST_TOIL: Final = 3 * 1024
"""Bytes of ciphertext with next to no plaintext in them, read without a gap, above which a peer
queues up with those that send a lot. Changes of keys take OpenSSL 15 µs for 27 bytes, and neither
an event nor a frame tells of them. (A long record that comes in parts takes the same detour.)"""

TRUNCATED: Final = "the TLS connection was cut off: no close_notify came"


class TlsSocket:
    """Joins a socket and its TLS, for the connection whose bytes `output` are."""

    __slots__ = ("_output", "_sock", "discards", "family", "may_truncate", "tls", "toil", "unsent")

    def __init__(self, sock: socket.socket, tls: TlsEngine, output: Output) -> None:
        self._sock = sock
        self._output = output
        self.family = sock.family
        self.tls = tls
        self.unsent = tls.data_to_send()
        """Ciphertext that the kernel has not taken yet."""
        self.may_truncate = False
        """EOF is enough: the protocol inside tells its own end (WebSocket's close frame)."""
        self.discards = False
        """Whatever comes is thrown away, and need not be decrypted."""
        self.toil = 0
        """Bytes read lately that had work in them and next to no plaintext."""

    # --- what an endpoint needs of a socket ---

    def fileno(self) -> int:
        """For the selector."""
        return self._sock.fileno()

    def getsockopt(self, level: int, option: int) -> int:
        """As of a socket."""
        return self._sock.getsockopt(level, option)

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        """As of a socket."""
        self._sock.setsockopt(level, option, value)

    def shutdown(self, how: int) -> None:
        """As of a socket; close_notify is for the endpoint to send before."""
        self._sock.shutdown(how)

    def close(self) -> None:
        """Free the descriptor."""
        self._sock.close()

    # --- bytes ---

    @property
    def is_restless(self) -> bool:
        """`recv` has something to say that select does not tell of."""
        return self.tls.has_more or self.tls.ended or bool(self.tls.error)

    def recv(self, size: int) -> bytes:
        """All the plaintext of the next `size` bytes of ciphertext; nothing at its end.

        Raises BlockingIOError when there is none, and OSError, as sockets do, with what is wrong.
        """
        tls = self.tls
        if self.discards:
            return self._sock.recv(size)
        if tls.error:
            self._try_to_push()
            raise OSError(f"TLS: {tls.error}")
        if tls.ended:
            return b""
        data = b""
        toil, self.toil = self.toil, 0
        if not tls.has_more:
            data = self._sock.recv(size)
            if not data:
                if self.may_truncate:
                    return b""
                raise OSError(TRUNCATED)
        plain = tls.receive_data(data)
        if len(data) > size // 2:
            self.toil = max(0, toil + len(data) - 2 * len(plain))
        self.unsent += tls.data_to_send()
        if len(self.unsent) > MOST_OWED:
            raise OSError("TLS: the peer asks for answers and does not read them")
        if plain or tls.ended:
            return plain
        if tls.error:
            self._try_to_push()
            raise OSError(f"TLS: {tls.error}")
        raise BlockingIOError

    def send(self, data: bytes | memoryview) -> int:
        """How many bytes of the plaintext are gone for good. Raises OSError."""
        output = self._output
        view = memoryview(data)
        done = 0
        while self.push():
            # `encrypted` bytes of it had been encrypted before.
            done += output.encrypted
            output.encrypted = 0
            if done >= len(view) or done >= WRITE_SIZE:
                break
            part = view[done : done + ENCRYPT_SIZE]
            self.unsent = self.tls.encrypt(part)
            if self.tls.error:
                raise OSError(f"TLS: {self.tls.error}")
            output.encrypted = len(part)
        return done

    def push(self) -> bool:
        """Hand on what waits; True if nothing is left. Raises OSError."""
        if self.unsent:
            try:
                size = self._sock.send(self.unsent)
            except (BlockingIOError, InterruptedError):
                return False
            self.unsent = self.unsent[size:]
        return not self.unsent

    def say_goodbye(self) -> None:
        """close_notify, behind all that waits."""
        self.tls.close()
        self.unsent += self.tls.data_to_send()

    def _try_to_push(self) -> None:
        """The alert, for those who can still hear it."""
        try:
            self.push()
        except OSError:
            pass
