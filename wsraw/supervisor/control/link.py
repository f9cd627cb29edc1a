"""I/O. The control link: between supervisor and gateway, and from the command line.

The supervisor listens, so that each new gateway finds it. A batch is `[token, record, …]`. Each
gateway has a token of its own; the command line finds its token in the run folder. A connection
whose first batch has neither token is cut off, and so is one that sends data that is not a batch;
other connections are not affected.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Final, NamedTuple

from wsraw.link.batches import Batch
from wsraw.link.records import (
    Decoder,
    Do,
    Done,
    FromGateway,
    FromSupervisor,
    Kill,
    Left,
    LinkError,
    Ready,
    Recycle,
    encode,
)
from wsraw.link.rules import is_same_secret
from wsraw.link.zmtp import REPLACED
from wsraw.runtime.link.server import Link, LinkServer
from wsraw.runtime.loop import Loop
from wsraw.runtime.printable import os_error
from wsraw.runtime.sockets import adopt
from wsraw.supervisor.log import Log
from wsraw.supervisor.replacing.records import ControlRecord
from wsraw.supervisor.run_folder.folder import FolderError

MOST_RECORDS: Final = 1 << 16
"""Records in one batch; the longest is a gateway's report about a thousand workers."""

REQUEST_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of a batch from the command line; a gateway's may be as long as a worker's."""

UNREAD_LIMIT: Final = 4 * 1024 * 1024
"""Bytes that may wait for a link that does not read, before another batch. A gateway that was
stopped for so long comes back on a new connection, and is told everything."""

FORWARD_LIMIT: Final = 1024 * 1024
"""Bytes that may wait for the gateway before a request of the command line is passed on to it: far
fewer than UNREAD_LIMIT, which ends the gateway's link."""

LAST_WORDS: Final = 0.5
"""Seconds for the last answers to be sent."""

TELL_EVERY: Final = 10.0
"""Seconds between two log lines about links that were cut off."""


class ControlRequest(NamedTuple):
    """A request of the command line; the answer goes to `who`."""

    who: Link
    do: Do


class LinkEnded(NamedTuple):
    """A link has ended: one of a command line, or the gateway's if `who` is None."""

    who: Link | None


class Replaced(NamedTuple):
    """The successor of the gateway has sent its first record: from now on it is the gateway."""


LAST_WORDS_OF_GATEWAY: Final = (Ready, Left, Kill, Recycle)
"""Records about workers that a replaced gateway may still send."""


class Control:
    """The supervisor's end of the link. Raises FolderError if the endpoint cannot be bound."""

    def __init__(
        self, loop: Loop, folder: Path, log: Log, record: ControlRecord | None = None
    ) -> None:
        """`record`: the one of the program that we replace."""
        self.client_token = record.client_token if record else os.urandom(16).hex()
        """Token of the command line."""
        self._loop = loop
        self._log = log
        self._token = record.token if record else os.urandom(16).hex()
        self._gateway: Link | None = None
        self._successor_token = ""
        """The token of a gateway that may take over; "" if there is none."""
        self._old_token = record.old_token if record else ""
        """The token of the gateway that was replaced last."""
        self._decoder = Decoder(str, FromGateway | Do, MOST_RECORDS)
        self._received: deque[FromGateway | ControlRequest | LinkEnded | Replaced] = deque()
        self._cut_off = 0
        """Connections cut off since the last line about them."""
        self._tell_at = 0.0
        try:
            self._server = LinkServer(
                loop,
                str(folder),
                "control",
                receive=self._receive,
                ended=self._ended,
                listens=record is None,
            )
            if record is not None:
                self._server.take_over(adopt(str(record.listener)), record.path)
        except OSError as error:
            raise _folder_error(folder, error) from error

    # --- another program in our place ---

    def record(self) -> ControlRecord:
        """What the program that replaces us must know."""
        sock, path = self._server.listener()
        return ControlRecord(sock.fileno(), path, self.client_token, self._token, self._old_token)

    def adopt(self, descriptor: int, pid: int) -> Link:
        """Take over a connection of the command line that waits for an answer. Raises OSError."""
        return self._server.adopt(adopt(str(descriptor)), pid, REQUEST_LIMIT)

    def leave(self) -> None:
        """The gateway must connect again, to the program that replaces us."""
        if self._gateway is not None:
            self._gateway.cut(REPLACED)
            self._lose_gateway()

    @property
    def has_gateway(self) -> bool:
        """Whether there is a gateway that can be told something."""
        return self._gateway is not None

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is partly sent, or not handled yet."""
        is_written = self._gateway is None or not self._gateway.unsent
        return is_written and not self._received

    @property
    def endpoint(self) -> str:
        """The address at which the gateway and the command line find us."""
        return self._server.endpoint

    def bind(self, folder: Path) -> None:
        """Bind the socket in that folder, also again after its file was removed; existing
        connections stay. Raises FolderError."""
        try:
            self._server.bind(str(folder))
        except OSError as error:
            raise _folder_error(folder, error) from error

    def expect(self) -> str:
        """A token for the gateway that is about to start; it replaces the last one."""
        if self._gateway is not None:
            self._gateway.cut("another gateway is started")
            self._lose_gateway()
        self._token = os.urandom(16).hex()
        return self._token

    def expect_successor(self) -> str:
        """A token for the gateway that may take over from the present one. That gateway sends
        nothing before it has taken over."""
        self._successor_token = os.urandom(16).hex()
        return self._successor_token

    # --- in ---

    def receive(self) -> FromGateway | ControlRequest | LinkEnded | Replaced | None:
        """The next received record, or None."""
        return self._received.popleft() if self._received else None

    def _receive(self, link: Link, batch: Batch) -> None:
        if not batch:
            # The empty message of libzmq's PROBE_ROUTER.
            return
        try:
            token, records, _ = self._decoder.decode(batch)
        except LinkError as error:
            self._cut(link, f"this is not a batch: {error}")
            return
        if _is(token, self._successor_token):
            self._replace()
        if _is(token, self._token):
            if link is not self._gateway:
                link.admit()
                self._gateway = link
            self._received += [r for r in records if r is not None and not isinstance(r, Do)]
        elif _is(token, self._old_token):
            self._received += [r for r in records if isinstance(r, LAST_WORDS_OF_GATEWAY)]
        elif _is(token, self.client_token):
            link.admit(REQUEST_LIMIT)
            self._received += [
                ControlRequest(link, record) for record in records if isinstance(record, Do)
            ]
        else:
            self._cut(link, "the token is wrong")

    def _replace(self) -> None:
        self._old_token, self._token = self._token, self._successor_token
        self._successor_token = ""
        # Requests to the old gateway are not answered.
        self._lose_gateway()
        self._received.append(Replaced())

    def _ended(self, link: Link, why: str) -> None:
        if link is self._gateway:
            # If the gateway has died, that is reported next. If not, it comes back and reports
            # everything.
            self._lose_gateway()
        else:
            self._received.append(LinkEnded(link))
        if why:
            self._complain(why)

    def _cut(self, link: Link, why: str) -> None:
        """Cut off a link that breaks the rules; it is told why."""
        link.cut(why)
        if link is self._gateway:
            self._lose_gateway()
        else:
            self._received.append(LinkEnded(link))
        self._complain(why)

    def _lose_gateway(self) -> None:
        self._gateway = None
        self._received.append(LinkEnded(None))

    def _complain(self, why: str) -> None:
        """Log that a connection was cut off, but do not flood the log."""
        self._cut_off += 1
        now = self._loop.now
        if now >= self._tell_at:
            self._tell_at = now + TELL_EVERY
            more = f" ({self._cut_off} since the last such line)" if self._cut_off > 1 else ""
            self._log.say("warning", f"closed a connection of the control link: {why}{more}")
            self._cut_off = 0

    # --- out ---

    def tell(self, *records: FromSupervisor) -> None:
        """Send records to the gateway, if there is one; a new gateway is told everything anyway."""
        if self._gateway is not None:
            self._send(self._gateway, [self._token, *records])

    def forward(self, record: FromSupervisor) -> bool:
        """Pass a request of the command line on to the gateway. False if there is no gateway, or
        more than FORWARD_LIMIT bytes already wait for it."""
        gateway = self._gateway
        if gateway is None or gateway.unsent > FORWARD_LIMIT:
            return False
        self._send(gateway, [self._token, record])
        return True

    def answer(self, who: Link, done: Done) -> None:
        """Answer the command line, which may be gone by now."""
        self._send(who, [self.client_token, done])

    def _send(self, link: Link, batch: list[object]) -> None:
        if link.unsent > UNREAD_LIMIT:
            self._cut(link, "it does not read what is sent to it")
        link.send(encode(batch))

    def close(self) -> None:
        """Close the link; what was queued before is sent, if that takes no longer than
        LAST_WORDS."""
        self._server.close(LAST_WORDS)


def _is(token: str, known: str) -> bool:
    return bool(known) and is_same_secret(token, known)


def _folder_error(folder: Path, error: OSError) -> FolderError:
    return FolderError(f"run folder {folder}: {os_error(error)}")
