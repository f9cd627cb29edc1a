"""Sans-I/O. ZMTP 3.1, the protocol of ZeroMQ on the wire (ZeroMQ RFC 37), for links on one machine.

Any ZeroMQ library can be the other end: it sees a ROUTER or a DEALER. The security mechanism is
NULL; peers that speak 3.0 are served too. A message is one frame, as a batch is.

::

    greeting   FF, 8 bytes, 7F, version 3 and 1, "NULL" in 20 bytes, 32 bytes of zeros
    frame      flags, size (1 byte; 8 with LONG), body
    command    a frame with the flag COMMAND: size of its name, name, data

The client sends READY after the greetings, and the server answers with READY, or with ERROR.
"""

from __future__ import annotations

from collections.abc import Collection
from struct import Struct
from typing import Final

from wsraw.link.batches import NO_BATCH, READ_IN_PLACE, Batch

MORE: Final = 1
LONG: Final = 2
COMMAND: Final = 4

SIGNATURE: Final = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03"
"""The beginning of a greeting, from which each peer can tell whether it speaks our version. A peer
with ZMTP 1.0 takes it for an identity, and answers with its own. The rest of the greeting follows
when the peer's has come, as in libzmq: otherwise some peers would close the connection before they
identify themselves."""

GREETING_SIZE: Final = 64
GREETING: Final = (SIGNATURE + b"\x01NULL").ljust(GREETING_SIZE, b"\0")

COMMAND_LIMIT: Final = 8192
"""Bytes of a command that a peer may send. READY is the longest: a name or two, an identity of 255
bytes, and what an application adds."""

ODD_FRAMES: Final = 1000
"""Frames of one message that are skipped, and commands and such frames that are read at once,
before their sender is refused: each costs time, and no peer needs so many."""

LONGEST_CONTEXT: Final = 16
"""Bytes of a PING that its PONG repeats (RFC 37)."""

REFUSED: Final = "refused by the peer: "
"""Prefix of a reason that the peer has given in an ERROR command."""

LONGEST_REASON: Final = 255
"""Bytes of the reason in an ERROR command."""

FIRST_PART: Final = 64 * 1024
GROWTH: Final = 4
"""Bytes of memory that the size of a frame alone makes us allocate, and the factor by which the
memory may exceed what the peer has sent of this frame or an earlier one. So peers that announce
much and send little cost little."""

SPARE_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of a buffer that is kept for the next message: fresh memory costs more than receiving into
it, because the system clears it page by page."""

_TOO_OLD: Final = "the peer speaks ZMTP {}: 3.0 or newer is needed (libzmq 4)"
_HTTP: Final = frozenset((b"GET ", b"HEAD", b"POST", b"PUT ", b"OPTI", b"DELE", b"PATC", b"HTTP"))

_SIZE: Final = Struct(">Q")
_LONG_HEADER: Final = Struct(">BQ")
_SHORT: Final = [bytes((0, size)) for size in range(256)]


def header(size: int) -> bytes:
    """The bytes before a message of this size."""
    return _SHORT[size] if size < 256 else _LONG_HEADER.pack(LONG, size)


REPLACED: Final = "the supervisor is replaced by another version of itself"
"""A reason to close a connection that must then be made again."""


class _WrongError(Exception):
    """The peer has broken the protocol; the text says how."""


class _RefusedError(Exception):
    """The peer reports that we have broken the protocol."""


class ZmtpPeer:
    """One end of a ZMTP connection: bytes in, messages and bytes out.

    No input of a peer raises: `why` then says what was wrong with it, and the connection must be
    closed once `data_to_send` (usually an ERROR command) was sent. Earlier messages are still
    handed out.
    """

    def __init__(
        self, socket_type: str, takes: Collection[str], limit: int, *, as_server: bool
    ) -> None:
        """A socket of type `socket_type` ("ROUTER" or "DEALER"), for peers of the types in `takes`.
        The listening end is the server: it sends READY only after it has accepted the client's."""
        self.limit = limit
        """The longest message, in bytes, at least 255; may be changed at any time, and counts for
        frames that begin later."""
        self.is_ready = False
        """Whether both READY commands were exchanged: from now on messages may be sent and
        received."""
        self.why = ""
        """Why the connection must be closed; empty while it is good."""
        self._type = socket_type
        self._takes = takes
        self._as_server = as_server
        self.output = SIGNATURE
        """What `data_to_send` will return: after the handshake, only PONG and ERROR."""
        self._greeted = False
        self._head = b""
        """The beginning of a greeting or of a frame's header."""
        self._part: bytearray | None = None
        """The frame that is being received; `_filled` of its `_size` bytes are there."""
        self._size = 0
        self._filled = 0
        self._is_command = False
        self._longest = 0
        """Bytes of the longest message that was received in parts."""
        self._spare: bytearray | None = None
        """The buffer of the last large message, for the next if nobody has a view of it then."""
        self._frames = 0
        """Frames of the message of several frames that is being skipped; 0 if there is none."""
        self._skip = 0
        """Bytes of its current frame that must still be skipped."""
        self._between = False
        """Whether the next byte begins a frame, so that a message may be taken as it is."""

    def receive_data(self, data: bytes) -> list[Batch]:
        """The messages that end in these newly received bytes. A message of several frames, which
        is not a batch, is `NO_BATCH`.

        From READ_IN_PLACE on a message is a view of `data`, or of a buffer of its own. Two bytes of
        `data` can be a message, and all are read: receive little at once from a peer whose messages
        are small.
        """
        if not self._between:
            return self._receive(data, 0, [])
        size = len(data)
        # One short message and nothing else: what sparse traffic consists of.
        if size > 1 and not data[0] and size == data[1] + 2:
            return [data[2:]]
        messages: list[Batch] = []
        at = self._whole(data, 0, messages)
        return messages if at == size else self._receive(data, at, messages)

    def rest(self) -> memoryview | None:
        """For a large message that is being received: where its next bytes belong (for
        `recv_into`). None if it is better to receive into a buffer and call `receive_data`, which
        may be called in any case. Release the view before `received` is called."""
        part = self._part
        if part is None or self._is_command or self._size - self._filled < READ_IN_PLACE:
            return None
        return memoryview(part)[self._filled : self._size]

    def received(self, count: int) -> Batch | None:
        """Count bytes that were received into `rest`; return the message once it is complete."""
        self._filled += count
        if self._filled == self._size:
            return self._finish()
        self._grow(self._filled + 1)
        return None

    def data_to_send(self) -> bytes:
        """Bytes to send before any further message; empty if there are none."""
        out = self.output
        self.output = b""
        return out

    def fail(self, why: str) -> None:
        """Refuse the peer: `why` becomes the reason of an ERROR command, which the peer's log may
        show, and no more of its data is read. A peer that has not greeted gets no ERROR.

        libzmq never connects again after an ERROR before READY. So use it then only for permanent
        errors, and close the connection without it for errors that may pass (RFC 37, "Error
        Handling").
        """
        if not self.why and self._greeted:
            reason = _shown(why.encode("ascii", "replace")).encode()
            self.output += _command(b"ERROR", bytes((len(reason),)) + reason)
        self._end(why)

    def _end(self, why: str) -> None:
        self.why = self.why or why
        self._between = False
        self._part = None
        self._head = b""

    # --- from bytes to frames ---

    def _whole(self, data: bytes, at: int, messages: list[Batch]) -> int:
        """Take messages as long as they are complete; return the place of the first other bytes."""
        end = len(data)
        limit = self.limit
        while at + 1 < end:
            flags = data[at]
            if flags == 0:
                start = at + 2
                stop = start + data[at + 1]
                if stop > end:
                    break
                messages.append(data[start:stop])
            elif flags == LONG:
                start = at + 9
                if start > end:
                    break
                size: int = _SIZE.unpack_from(data, at + 1)[0]
                stop = start + size
                if stop > end or size > limit:
                    break
                messages.append(
                    data[start:stop] if size < READ_IN_PLACE else memoryview(data)[start:stop]
                )
            else:
                break
            at = stop
        return at

    def _receive(self, data: bytes, at: int, messages: list[Batch]) -> list[Batch]:
        """Do the work of `receive_data`, for any input."""
        if self.why:
            return messages
        try:
            self._read(data, at, messages)
        except _WrongError as error:
            self.fail(str(error))
        except _RefusedError as refusal:
            self._end(str(refusal))
        self._between = (
            self.is_ready
            and not self.why
            and not self._head
            and self._part is None
            and not self._frames
            and not self._skip
        )
        return messages

    def _read(self, data: bytes, at: int, messages: list[Batch]) -> None:
        known = len(self._head)
        if known:
            data = self._head + data
            self._head = b""
        if not self._greeted:
            _check_signature(data)
            if known < len(SIGNATURE) <= len(data):
                self.output += GREETING[len(SIGNATURE) :]
            _check_mechanism(data)
            if len(data) < GREETING_SIZE:
                self._head = data
                return
            self._greeted = True
            if not self._as_server:
                self.output += self._ready()
            at = GREETING_SIZE
        elif self._part is not None:
            at = self._fill(data, messages)
        elif self._skip:
            at = min(self._skip, len(data))
            self._skip -= at
        for _ in range(ODD_FRAMES + 1):
            if self.is_ready and not self._frames:
                at = self._whole(data, at, messages)
            if at == len(data):
                return
            at = self._frame(data, at, messages)
        raise _WrongError(
            f"more than {ODD_FRAMES:,} commands, or frames of longer messages, at once"
        )

    def _frame(self, data: bytes, at: int, messages: list[Batch]) -> int:
        """Begin a frame that is not a whole message. Returns the place after it."""
        flags = data[at]
        if flags > 7:
            raise _WrongError(f"a frame begins with the byte {flags:#04x}: this is not ZMTP")
        if flags & COMMAND and flags & MORE:
            raise _WrongError("a command has the flag MORE")
        start = at + (9 if flags & LONG else 2)
        end = len(data)
        if start > end:
            self._head = data[at:]
            return end
        size = int.from_bytes(data[at + 1 : start], "big")
        stop = start + size
        if flags & COMMAND:
            if size > COMMAND_LIMIT:
                raise _WrongError(f"a command of {size:,} bytes; the limit is {COMMAND_LIMIT:,}")
            if stop <= end:
                self._obey(data[start:stop])
                return stop
        elif not self.is_ready:
            raise _WrongError("a message came before READY")
        elif size > self.limit:
            raise _WrongError(
                f"a batch of {size:,} bytes; the limit is {self.limit:,}: send it in several"
            )
        elif flags & MORE or self._frames:
            self._pass_over(flags, messages)
            self._skip = max(0, stop - end)
            return min(stop, end)
        self._begin(data, start, size, flags)
        return end

    def _pass_over(self, flags: int, messages: list[Batch]) -> None:
        """Skip a frame of a message that has several."""
        if not self._frames:
            messages.append(NO_BATCH)
        self._frames += 1
        if self._frames > ODD_FRAMES:
            raise _WrongError(f"a message of more than {ODD_FRAMES:,} frames; a batch is one")
        if not flags & MORE:
            self._frames = 0

    def _begin(self, data: bytes, start: int, size: int, flags: int) -> None:
        """Make room for a frame that does not end in `data`."""
        count = len(data) - start
        part = self._take_spare(size)
        if part is None:
            part = bytearray(min(size, max(count + 1, FIRST_PART, GROWTH * self._longest)))
        part[:count] = data[start:]
        self._part = part
        self._size = size
        self._filled = count
        self._is_command = flags & COMMAND != 0

    def _take_spare(self, size: int) -> bytearray | None:
        spare = self._spare
        if spare is None or size < READ_IN_PLACE or len(spare) < size:
            return None
        self._spare = None
        try:
            # The buffer cannot change its size while there is a view of it.
            spare.append(0)
            spare.pop()
        except BufferError:
            return None
        return spare

    def _fill(self, data: bytes, messages: list[Batch]) -> int:
        """Continue the frame that was begun; return how many bytes of `data` belong to it."""
        count = min(len(data), self._size - self._filled)
        filled = self._filled + count
        # One byte more, if it is incomplete: `rest` must have room.
        self._grow(min(filled + 1, self._size))
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
        size = self._size
        self._longest = max(self._longest, size)
        if size < READ_IN_PLACE:
            return bytes(part)
        if len(part) <= SPARE_LIMIT:
            self._spare = part
        return memoryview(part)[:size]

    def free_spare(self) -> None:
        """Give back the memory that is kept for the next large message."""
        self._spare = None

    # --- commands ---

    def _ready(self) -> bytes:
        value = self._type.encode()
        return _command(b"READY", b"\x0bSocket-Type" + len(value).to_bytes(4, "big") + value)

    def _obey(self, body: bytes) -> None:
        name, data = _split(body)
        if name == "ERROR":
            reason = data[1 : 1 + data[0]] if data else b""
            raise _RefusedError(REFUSED + _shown(reason))
        if not self.is_ready:
            if name != "READY":
                raise _WrongError(f"the command {name} came before READY")
            self._take(_socket_type(data))
        elif name == "READY":
            raise _WrongError("READY came twice")
        elif name == "PING":
            # Its time to live is ignored: on one machine, the end of a process ends its connection,
            # and a suspended process is not dead.
            context = data[2:]
            if len(data) < 2 or len(context) > LONGEST_CONTEXT:
                raise _WrongError(f"a PING of {len(data)} bytes; it has 2 to {2 + LONGEST_CONTEXT}")
            self.output += _command(b"PONG", context)
        # Other commands have no meaning for these types of sockets (SUBSCRIBE), or belong to a
        # later version.

    def _take(self, peer: str) -> None:
        if peer not in self._takes:
            takes = " or ".join(sorted(self._takes))
            raise _WrongError(f"Socket-Type is {peer or 'missing'}, and must be {takes}")
        if self._as_server:
            self.output += self._ready()
        self.is_ready = True


def _command(name: bytes, data: bytes) -> bytes:
    size = 1 + len(name) + len(data)
    head = bytes((COMMAND, size)) if size < 256 else b"\x06" + size.to_bytes(8, "big")
    return b"".join((head, bytes((len(name),)), name, data))


def _shown(text: bytes) -> str:
    """A reason of the peer, in a form that an ERROR command and a log can hold."""
    return "".join(chr(c) if 0x20 <= c < 0x7F else "?" for c in text[:LONGEST_REASON])


def _split(body: bytes) -> tuple[str, bytes]:
    """The name and the data of a command."""
    end = 1 + body[0] if body else 0
    if end < 2 or end > len(body):
        raise _WrongError("a command without a name")
    return _shown(body[1:end]), body[end:]


def _socket_type(metadata: bytes) -> str:
    """The Socket-Type of a READY; other properties are ignored."""
    found = ""
    at = 0
    while at < len(metadata):
        name_end = at + 1 + metadata[at]
        start = name_end + 4
        end = start + int.from_bytes(metadata[name_end:start], "big")
        if name_end == at + 1:
            raise _WrongError("READY has a property without a name")
        if end > len(metadata):
            raise _WrongError("READY ends in the middle of a property")
        if metadata[at + 1 : name_end].lower() == b"socket-type":
            found = _shown(metadata[start:end])
        at = end
    return found


def _check_signature(data: bytes) -> None:
    """Check the part of a greeting that has come, up to the version."""
    if data and data[0] != 0xFF:
        _check_stranger(data)
    elif len(data) > 9 and not data[9] & 1:
        raise _WrongError(_TOO_OLD.format("1.0 (libzmq 2)"))
    elif len(data) > 10 and data[10] < 3:
        raise _WrongError(_TOO_OLD.format("2.0 (libzmq 3)"))


def _check_mechanism(data: bytes) -> None:
    mechanism = data[12:32].rstrip(b"\0")
    if len(data) >= 32 and mechanism != b"NULL":
        name = _shown(mechanism)
        raise _WrongError(
            f"the peer wants the mechanism {name}, and this socket has NULL: leave out the keys"
        )


def _check_stranger(data: bytes) -> None:
    if len(data) < 2:
        return
    if data[0] and not data[1]:
        # The size of a frame and its flags: an identity of ZMTP 1.0, most likely an empty one.
        raise _WrongError(_TOO_OLD.format("1.0 (libzmq 2)"))
    if data[1] == 3 and data[0] in (0x15, 0x16):
        raise _WrongError("the peer speaks TLS; this is a ZeroMQ socket without encryption")
    if len(data) < 4:
        return
    if data[:4] in _HTTP:
        raise _WrongError("the peer speaks HTTP; this is a ZeroMQ socket")
    raise _WrongError(f"the peer does not speak ZMTP: it begins with {data[:4]!a}")


def ready_peer(limit: int) -> ZmtpPeer:
    """A ROUTER whose handshake was done by another process, and which is between two messages."""
    ours = ZmtpPeer("ROUTER", ("DEALER",), limit, as_server=True)
    theirs = ZmtpPeer("DEALER", ("ROUTER",), limit, as_server=False)
    while not (ours.is_ready and theirs.is_ready):
        ours.receive_data(theirs.data_to_send())
        theirs.receive_data(ours.data_to_send())
    ours.data_to_send()
    return ours
