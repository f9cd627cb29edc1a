"""Sans-I/O. ZMTP 3.1, the protocol of ZeroMQ on the wire (ZeroMQ RFC 37), for links on one machine.

Any ZeroMQ library can be the other end: it sees a ROUTER or a DEALER. The security mechanism is
NULL; peers that speak 3.0 are served too. A message is one frame, as a batch is.

::

    greeting   FF, 8 bytes, 7F, version 3.1, "NULL" in 20 bytes, 32 bytes of zeros
    frame      flags, size (1 byte; 8 with LONG), body
    command    a frame with the flag COMMAND: size of its name, name, data

The client sends READY after the greetings, and the server answers with READY, or with ERROR.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from wsraw.link.batches import NO_BATCH, READ_IN_PLACE, Batch

MORE: Final = 1
LONG: Final = 2
COMMAND: Final = 4

GREETING_SIZE: Final = 64
GREETING: Final = (b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL").ljust(GREETING_SIZE, b"\0")

COMMAND_LIMIT: Final = 8192
"""Bytes of a command that a peer may send. READY is the longest: a name or two, an identity of 255
bytes, and what an application may add."""

MOST_FRAMES: Final = 1000
"""Frames of one message that are skipped before its sender is refused."""

LONGEST_CONTEXT: Final = 16
"""Bytes of a PING that its PONG repeats (RFC 37)."""

LONGEST_REASON: Final = 255
"""Bytes of the reason in an ERROR command."""

FIRST_PART: Final = 256 * 1024
"""Bytes of memory that the size of a frame alone makes us take. The rest is taken as bytes arrive,
so that many peers that promise much and send little cost little."""

GROWTH: Final = 4

_SHORT: Final = [bytes((0, size)) for size in range(256)]


def header(size: int) -> bytes:
    """What is sent before a message of that many bytes."""
    return _SHORT[size] if size < 256 else b"\x02" + size.to_bytes(8, "big")


class _WrongError(Exception):
    """The peer has broken the protocol; says how."""


class Peer:
    """One end of a connection: bytes in, messages and bytes out.

    Nothing that a peer sends raises: `why` then says what was wrong with it, and the connection is
    to be closed once `data_to_send` (an ERROR command, in most cases) was sent. What came before is
    handed out all the same.
    """

    def __init__(
        self, socket_type: str, takes: Collection[str], limit: int, *, as_server: bool
    ) -> None:
        """A socket of type `socket_type` ("ROUTER" or "DEALER"), for peers of the types in `takes`.
        The server is who listens: it sends READY only when it has taken that of the client."""
        self.limit = limit
        """The longest message, in bytes, at least 255; may be changed at any time, and counts for
        frames that begin later."""
        self.is_ready = False
        """Whether both READY commands were exchanged: messages may be sent and come from now on."""
        self.why = ""
        """Why the connection must be closed; empty as long as it is good."""
        self._type = socket_type
        self._takes = takes
        self._as_server = as_server
        self._out = GREETING
        self._greeted = False
        self._head = b""
        """The beginning of a greeting or of a frame's header."""
        self._part: bytearray | None = None
        """The frame that is being received; `_filled` of its `_size` bytes are there."""
        self._size = 0
        self._filled = 0
        self._is_command = False
        self._frames = 0
        """Of the message of several frames that is being skipped; 0 if there is none."""
        self._skip = 0
        """Bytes of its current frame that are still to come."""
        self._between = False
        """Whether the next byte begins a frame, and a message may be taken as it is."""

    def receive_data(self, data: bytes) -> list[Batch]:
        """The messages that end in these bytes, which were received next. One of several frames,
        which is no batch, is `NO_BATCH`.

        From READ_IN_PLACE on a message is a view of `data`, or of a buffer of its own. Each byte of
        `data` can be a frame, and all are read: receive little at once from a peer whose frames are
        small.
        """
        # One short message and nothing else: what sparse traffic consists of.
        if self._between and len(data) > 1 and not data[0] and len(data) == data[1] + 2:
            return [data[2:]]
        messages: list[Batch] = []
        if self.why:
            return messages
        try:
            self._receive(data, messages)
        except _WrongError as error:
            self.fail(str(error))
        self._between = (
            self.is_ready
            and not self.why
            and not self._head
            and self._part is None
            and not self._frames
            and not self._skip
        )
        return messages

    def rest(self) -> memoryview | None:
        """Of a large message that is being received: where its next bytes belong (for `recv_into`).
        None if it is better to receive into a buffer and call `receive_data`, which may be called
        in any case. Let go of the view before `received` is called."""
        part = self._part
        if part is None or self._size - self._filled < READ_IN_PLACE:
            return None
        return memoryview(part)[self._filled :]

    def received(self, count: int) -> Batch | None:
        """So many bytes were put where `rest` said; the message, once all of it is there."""
        self._filled += count
        if self._filled == self._size:
            self._between = True
            return self._finish()
        self._grow(self._filled + 1)
        return None

    def data_to_send(self) -> bytes:
        """What is to be sent before any further message; empty if there is nothing."""
        out = self._out
        self._out = b""
        return out

    def fail(self, why: str) -> None:
        """Refuse the peer: `why` becomes the reason of an ERROR command, which its log may show,
        and nothing that it sends is read any more."""
        if not self.why and self._greeted:
            reason = _printable(why)
            self._out += _command(b"ERROR", bytes((len(reason),)) + reason)
        self._end(why)

    def _end(self, why: str) -> None:
        self.why = self.why or why
        self._between = False
        self._part = None
        self._head = b""

    # --- from bytes to frames ---

    def _receive(self, data: bytes, messages: list[Batch]) -> None:
        if self._head:
            data = self._head + data
            self._head = b""
        at = 0
        if not self._greeted:
            check_greeting(data)
            if len(data) < GREETING_SIZE:
                self._head = data
                return
            self._greeted = True
            if not self._as_server:
                self._out += self._ready()
            at = GREETING_SIZE
        end = len(data)
        if self._part is not None:
            at = self._fill(data, messages)
        elif self._skip:
            at = min(self._skip, end)
            self._skip -= at
        while at < end:
            flags = data[at]
            if flags & LONG:
                start = at + 9
                if start > end and flags < 8:
                    break
                size = int.from_bytes(data[at + 1 : start], "big")
            else:
                start = at + 2
                if start > end and flags < 8:
                    break
                size = data[at + 1] if start <= end else 0
            stop = start + size
            if (flags == 0 or flags == LONG) and self.is_ready and not self._frames:
                if size > self.limit:
                    raise _WrongError(self._too_long(size))
                if stop > end:
                    self._begin(data, start, size, is_command=False)
                    return
                messages.append(
                    data[start:stop] if size < READ_IN_PLACE else memoryview(data)[start:stop]
                )
            elif self._keeps(flags, size, messages):
                if stop > end:
                    self._begin(data, start, size, is_command=True)
                    return
                self._obey(data[start:stop])
                if self.why:
                    return
            elif stop > end:
                self._skip = stop - end
            at = stop
        self._head = data[at:]

    def _keeps(self, flags: int, size: int, messages: list[Batch]) -> bool:
        """Judge a frame that is no whole message. True for a command; others are skipped."""
        if flags > 7:
            raise _WrongError(f"a frame begins with the byte {flags:#04x}; this is not ZMTP")
        if flags & COMMAND:
            if flags & MORE:
                raise _WrongError("a command has the flag MORE")
            if size > COMMAND_LIMIT:
                raise _WrongError(f"a command of {size:,} bytes; the limit is {COMMAND_LIMIT:,}")
            return True
        if not self.is_ready:
            raise _WrongError("a message came before READY")
        if size > self.limit:
            raise _WrongError(self._too_long(size))
        if not self._frames:
            messages.append(NO_BATCH)
        self._frames += 1
        if self._frames > MOST_FRAMES:
            raise _WrongError(
                f"a message of more than {MOST_FRAMES:,} frames; a batch is one frame"
            )
        if not flags & MORE:
            self._frames = 0
        return False

    def _too_long(self, size: int) -> str:
        return f"a batch of {size:,} bytes; the limit is {self.limit:,}: send it in several"

    def _begin(self, data: bytes, start: int, size: int, *, is_command: bool) -> None:
        """The frame does not end in `data`."""
        count = len(data) - start
        self._part = bytearray(min(size, max(count, FIRST_PART)))
        self._part[:count] = data[start:]
        self._size = size
        self._filled = count
        self._is_command = is_command

    def _fill(self, data: bytes, messages: list[Batch]) -> int:
        """Go on with the frame that was begun; how many bytes of `data` belong to it."""
        count = min(len(data), self._size - self._filled)
        filled = self._filled + count
        self._grow(filled)
        assert self._part is not None
        self._part[self._filled : filled] = memoryview(data)[:count]
        self._filled = filled
        if filled == self._size:
            if self._is_command:
                body = bytes(self._part)
                self._part = None
                self._obey(body)
            else:
                messages.append(self._finish())
        return count

    def _grow(self, needed: int) -> None:
        part = self._part
        assert part is not None
        size = len(part)
        if size < needed:
            more = min(self._size, max(needed, size * GROWTH)) - size
            part += bytes(more)

    def _finish(self) -> Batch:
        part = self._part
        assert part is not None
        self._part = None
        return bytes(part) if self._size < READ_IN_PLACE else memoryview(part)

    # --- commands ---

    def _ready(self) -> bytes:
        value = self._type.encode()
        return _command(b"READY", b"\x0bSocket-Type" + len(value).to_bytes(4, "big") + value)

    def _obey(self, body: bytes) -> None:
        name, data = _split(body)
        if name == "ERROR":
            # No answer: it would be one to the answer of the other.
            reason = data[1 : 1 + data[0]] if data else b""
            self._end(f"refused by the peer: {_printable(reason.decode('latin-1')).decode()}")
        elif not self.is_ready:
            if name != "READY":
                raise _WrongError(f"the command {name} came before READY")
            self._take(socket_type(data))
        elif name == "READY":
            raise _WrongError("READY came twice")
        elif name == "PING":
            # Its time to live is not for us: on one machine the end of a process is the end of its
            # connection, and one that is suspended is not dead.
            context = data[2:]
            if len(data) < 2 or len(context) > LONGEST_CONTEXT:
                raise _WrongError(f"a PING of {len(data)} bytes; it has 2 to {2 + LONGEST_CONTEXT}")
            self._out += _command(b"PONG", context)
        # Others mean nothing to sockets of these types (SUBSCRIBE), or are of a later version.

    def _take(self, peer: str) -> None:
        if peer not in self._takes:
            takes = " or ".join(sorted(self._takes))
            raise _WrongError(f"the socket is a {peer or 'nameless one'}; use a {takes}")
        if self._as_server:
            self._out += self._ready()
        self.is_ready = True


def _command(name: bytes, data: bytes) -> bytes:
    size = 1 + len(name) + len(data)
    head = bytes((COMMAND, size)) if size < 256 else b"\x06" + size.to_bytes(8, "big")
    return b"".join((head, bytes((len(name),)), name, data))


def _printable(text: str) -> bytes:
    """The text as VCHAR and spaces."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:LONGEST_REASON]).encode()


def _split(body: bytes) -> tuple[str, bytes]:
    """Name and data of a command."""
    end = 1 + body[0] if body else 0
    if end < 2 or end > len(body):
        raise _WrongError("a command without a name")
    return _printable(body[1:end].decode("latin-1")).decode(), body[end:]


def socket_type(metadata: bytes) -> str:
    """The Socket-Type of a READY; other properties are ignored."""
    found = ""
    at = 0
    while at < len(metadata):
        name_end = at + 1 + metadata[at]
        start = name_end + 4
        end = start + int.from_bytes(metadata[name_end:start], "big")
        if name_end == at + 1 or end > len(metadata):
            raise _WrongError("READY has a property without a name or an end")
        if metadata[at + 1 : name_end].lower() == b"socket-type":
            found = _printable(metadata[start:end].decode("latin-1")).decode()
        at = end
    return found


def check_greeting(data: bytes) -> None:
    """Judge what is there of a greeting."""
    if not data:
        return
    if data[0] != 0xFF:
        _check_stranger(data)
    elif len(data) > 9 and not data[9] & 1:
        raise _WrongError("the peer speaks ZMTP 1.0 (libzmq 2); use libzmq 4 or newer")
    elif len(data) > 10 and data[10] < 3:
        raise _WrongError("the peer speaks ZMTP 2.0 (libzmq 3); use libzmq 4 or newer")
    elif len(data) >= 32:
        mechanism = data[12:32].rstrip(b"\0")
        if mechanism != b"NULL":
            shown = _printable(mechanism.decode("latin-1")).decode()
            raise _WrongError(f"the peer wants the mechanism {shown}; this socket has NULL only")


def _check_stranger(data: bytes) -> None:
    if len(data) < 2:
        return
    if data[1] < 2:
        raise _WrongError("the peer speaks ZMTP 1.0 (libzmq 2); use libzmq 4 or newer")
    if data[1] == 3 and data[0] in (0x15, 0x16):
        raise _WrongError("the peer speaks TLS; this is a ZeroMQ socket without encryption")
    if len(data) < 4:
        return
    if data[:4] in (
        b"GET ",
        b"HEAD",
        b"POST",
        b"PUT ",
        b"OPTI",
        b"DELE",
        b"PATC",
        b"CONN",
        b"HTTP",
    ):
        raise _WrongError("the peer speaks HTTP; this is a ZeroMQ socket")
    raise _WrongError(f"the peer does not speak ZMTP: it begins with {data[:4]!a}")
