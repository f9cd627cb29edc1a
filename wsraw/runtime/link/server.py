"""I/O. The listening end of the worker link, in a loop: the gateway's for workers of this machine,
and the supervisor's for the gateway and the command line.

It listens on a unix socket that only this user can reach, or on a port of the loopback interface
where there are no unix sockets. A connection that has sent no valid first batch within some seconds
is closed, and the number of such connections is bounded.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Final

from wsraw.config.addresses import Listen
from wsraw.link.batches import LARGEST_BATCH, Batch
from wsraw.link.zmtp import ZmtpPeer, ready_peer
from wsraw.runtime import sockets
from wsraw.runtime.clock import monotonic
from wsraw.runtime.link.connection import HAS_UNIX, READ_BUDGET, READ_SIZE, LinkSocket, tune
from wsraw.runtime.link.user import credentials, is_ours
from wsraw.runtime.loop import Loop
from wsraw.runtime.selector import READ, WRITE, Selector

log = logging.getLogger("wsraw.link")

STRANGER_LIMIT: Final = 2 * 1024 * 1024
"""Bytes of a batch from a connection that is not admitted yet."""

HELLO_TIMEOUT: Final = 10.0
"""Seconds for a connection to be admitted, and before that for its ZMTP handshake."""

MOST_GREETING: Final = 256
"""Connections before the end of their ZMTP handshake. A further one closes the oldest."""

MOST_STRANGERS: Final = 1000
"""Connections that are not admitted yet. A further one closes the oldest."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds in which last words, such as the reason of an end, must be sent and read by the peer."""

MOST_BATCHES: Final = 256
"""Batches of one connection that are handed out in a turn."""

LAST_READS: Final = 2048
"""Reads of the data that a peer has left behind. Each read takes at least 4 KiB as long as there is
more: the system holds a few megabytes. Of batches as short as two bytes, one read takes no more
than that."""

ACCEPT_BUDGET: Final = 16
"""Connections accepted in a turn."""

ACCEPT_PAUSE: Final = 0.5
"""Seconds without accepting after the system has refused a descriptor or memory."""

COMPLAIN_EVERY: Final = 10.0
"""Seconds between two lines in the log about strangers, and between two about descriptors."""

EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC}
"""ENOSPC is epoll's: the user watches too many descriptors."""


LOOPBACK: Final = Listen(name="127.0.0.1", host="127.0.0.1")
"""The address of a server without a unix socket; the system chooses the port."""


def endpoint_of(sock: socket.socket) -> str:
    """The endpoint of a listening socket."""
    return f"tcp://{LOOPBACK.host}:{sock.getsockname()[1]}"


class SocketState(Enum):
    """State of the socket of a Link."""

    OPEN = "open"
    CLOSING = "closing"
    """It receives nothing more; its last words are being sent."""
    CLOSED = "closed"
    """It is freed, or about to be."""


_OPEN: Final = SocketState.OPEN
_CLOSING: Final = SocketState.CLOSING


class Link:
    """A connection of a LinkServer. Its owner knows it by identity: it can be a key of a dict."""

    __slots__ = (
        "_is_paused",
        "_left",
        "_parting",
        "_server",
        "_socket",
        "_state",
        "_watched",
        "has_spoken",
        "identity",
        "is_admitted",
        "pid",
    )

    def __init__(
        self, server: LinkServer, sock: socket.socket, limit: int, number: int, pid: int
    ) -> None:
        self.identity = number.to_bytes(9, "big")
        """The identity; no other link of this server ever has the same one. It begins with a zero
        byte, like libzmq's."""
        self.pid = pid
        """The process that has connected; 0 where the system does not tell."""
        self.is_admitted = False
        self.has_spoken = False
        """Whether a batch has come from it."""
        self._server = server
        self._socket = LinkSocket(sock, ZmtpPeer("ROUTER", ("DEALER",), limit, as_server=True))
        self._state = _OPEN
        self._is_paused = False
        self._watched = (False, False)
        """What the loop waits for: (reading, writing)."""
        self._left: list[Batch] = []
        """Batches that were received and are not handed out yet."""
        self._parting = ""
        """Why it must end, if it was told to leave."""

    @property
    def ended(self) -> bool:
        """Whether nothing more is received, and sent data is discarded."""
        return self._state is not _OPEN

    @property
    def unsent(self) -> int:
        """Bytes that the system has not taken."""
        return self._socket.unsent

    def fileno(self) -> int:
        """The descriptor."""
        return self._socket.fileno()

    @property
    def is_ready(self) -> bool:
        """Whether the ZMTP handshake is done."""
        return self._socket.peer.is_ready

    def admit(self, limit: int = LARGEST_BATCH) -> None:
        """Keep a link whose first batch was valid, and accept batches of up to `limit` bytes."""
        self.is_admitted = True
        self._socket.peer.limit = limit
        self._server._forget_stranger(self)

    def dismiss(self) -> None:
        """The peer has said goodbye: close the link like one that was never admitted, unless it is
        admitted again. Batches in transit may still be as long as before."""
        if self.is_admitted and self._state is _OPEN:
            self.is_admitted = False
            self._server._silent.add(self)

    def part(self, batch: bytes, why: str) -> None:
        """Send a last batch in place of unsent ones, and let the peer close. A peer that does not
        is cut off, with this reason, as late as one that was never admitted: libzmq drops unread
        data when a connection ends. Data that the peer sends meanwhile is received."""
        if self._state is _OPEN:
            self._socket.drop()
            self.send(batch)
            self._parting = why
            self.dismiss()

    def _start(self) -> None:
        """Send the greeting. Raises OSError if the loop cannot watch the socket."""
        self._socket.flush()
        self._watch()

    # --- out ---

    def send(self, batch: bytes) -> bool:
        """Write a batch now, after unsent data. True if the system has taken all of it; the rest is
        `unsent`, and written when there is room. Once the connection has ended, nothing is sent."""
        if self._state is not _OPEN:
            return False
        if self._socket.send(batch):
            return True
        self._wrote()
        return False

    def unsent_batches(self, *, begun: bool = True) -> list[bytes]:
        """The batches that the system has not taken whole, the oldest first: the peer cannot have
        seen them. If not `begun`, without one that is partly sent: even `cut` sends the rest of
        that. They are known until the link is cut, or its `ended` has returned."""
        return self._socket.unsent_batches(begun=begun)

    def _wrote(self) -> None:
        """Handle a write that may have been incomplete."""
        if self._socket.broken:
            # Reading finds out what has happened to the peer.
            self._server._read_later(self)
        self._watch()

    # --- in ---

    def _handle(self, readable: bool, writable: bool) -> None:
        """Called by the loop."""
        if writable and self._socket.unsent:
            self._socket.flush()
            self._wrote()
        if self._state is _OPEN:
            if readable:
                self._server.readable(self)
        elif self._state is _CLOSING:
            if self._socket.broken or (readable and not self._socket.discard()):
                self._free()
            elif writable and not self._socket.unsent:
                self._socket.finish()

    def read(self, budget: int = READ_BUDGET) -> bool:
        """Receive what has come, `budget` bytes or a little more: the server's `receive` and
        `ended` are called. The link need not be readable: this is also used for the last batches of
        a process whose exit was reported. True if there may be more already."""
        if self._state is not _OPEN or self._is_paused:
            return False
        socket = self._socket
        again = bool(self._left)
        batches, self._left = self._left or socket.receive(budget), []
        if batches:
            self.has_spoken = True
            receive = self._server.receive
            for number, batch in enumerate(batches, 1):
                receive(self, batch)
                if self._state is not _OPEN:
                    return False
                if self._is_paused or number == MOST_BATCHES:
                    self._left = batches[number:]
                    break
        if socket.unsent and not self._watched[1]:
            # The answer to a greeting, to a PING, or to an error.
            socket.flush()
            self._wrote()
        if not self.is_admitted:
            self._server._look_at_stranger(self)
        if self._is_paused or self._state is not _OPEN:
            return False
        if self._left:
            self._server._read_later(self)
            return True
        if socket.ended:
            self._end(socket.why)
            return False
        return again or socket.has_more

    def read_out(self) -> None:
        """Receive everything from a peer that sends no more; a peer that still sends is not read
        for ever (LAST_READS)."""
        for _ in range(LAST_READS):
            again = self.read(READ_SIZE)
            while again and self._left:
                again = self.read()
            if not again:
                break

    def pause(self) -> None:
        """Read nothing, not even an end, until `resume`."""
        self._is_paused = True
        self._watch()

    def resume(self) -> None:
        """Read again, from the next turn on."""
        self._is_paused = False
        self._watch()
        self._server._read_later(self)

    def _watch(self) -> None:
        """Tell the loop what to wait for."""
        socket, state = self._socket, self._state
        reading = state is _CLOSING or (state is _OPEN and not self._is_paused)
        writing = socket.unsent > 0 and not socket.broken and state is not SocketState.CLOSED
        if (reading, writing) != self._watched:
            self._watched = (reading, writing)
            if reading or writing:
                self._server.loop.watch(socket, self._handle, read=reading, write=writing)
            else:
                self._server.loop.unwatch(socket)

    # --- the end ---

    def _end(self, why: str) -> None:
        """The peer has gone, or has made an error."""
        self._stop_reading()
        server, fault = self._server, self._socket.peer.why
        try:
            if self.has_spoken:
                server.ended(self, fault)
            elif fault:
                server._complain(self.pid, why)
        finally:
            self._socket.drop()
            self._leave()

    def cut(self, why: str) -> None:
        """End the link for a reason that the peer's log will show (an ERROR command), and drop
        unsent batches. `ended` is not called. The socket is closed when the reason is sent, or
        after some seconds."""
        if self._state is _OPEN:
            self._stop_reading()
            self._socket.fail(why)
            self._leave()

    def _stop_reading(self) -> None:
        self._state = _CLOSING
        self._left = []
        self._server._forget_stranger(self)

    def _leave(self) -> None:
        """Send the last words. An admitted peer gets some seconds to read them and to close: if we
        closed first, with unread data of the peer, it could lose them."""
        socket = self._socket
        written = socket.flush()
        is_gone = bool(socket.broken) or (socket.ended and not socket.peer.why)
        if is_gone or not self.is_admitted:
            self._free()
            return
        self._server.loop.call_later(CLOSE_TIMEOUT, self._free)
        if written:
            socket.finish()
        self._watch()

    def _refuse(self, why: str) -> None:
        """Refuse a stranger. During its handshake it is not told why: libzmq never connects again
        after an ERROR there, and the next time it may be welcome."""
        why = self._parting or why
        if self.is_ready:
            self._socket.fail(why)
        else:
            self._server._complain(self.pid, why)
        self._end(why)

    def _free(self) -> None:
        """Release the socket, after the loop's handlers: they close nothing."""
        if self._state is not SocketState.CLOSED:
            self._state = SocketState.CLOSED
            self._watch()
            self._server._free_later(self)

    def _release(self) -> None:
        """Close the socket."""
        self._state = SocketState.CLOSED
        self._watch()
        self._socket.close()

    def _has_written(self) -> bool:
        """Write; return whether nothing is left that could be written."""
        return self._socket.flush() or bool(self._socket.broken)

    def handle_fault(self, error: BaseException) -> None:
        """End the link because of a bug in wsraw."""
        log.error("closed a connection of the link because of a bug in wsraw", exc_info=error)
        if self._state is _OPEN:
            self._refuse("a bug in wsraw; the log of the run has the details")


class _Waiting:
    """Connections that must make progress within some time: a bounded number, the oldest first. A
    late one is read once more before it is refused: its data may have come long ago, and not have
    been read for lack of time."""

    def __init__(
        self,
        loop: Loop,
        seconds: float,
        most: int,
        what: str,
        read_later: Callable[[Link], object],
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._most = most
        self._what = what
        self._read_later = read_later
        self._until: dict[Link, float] = {}
        self._late: dict[Link, None] = {}
        """Links whose time is over, until they are read."""
        self._is_armed = False

    def __contains__(self, link: Link) -> bool:
        return link in self._until or link in self._late

    def add(self, link: Link) -> None:
        if len(self._late) + len(self._until) >= self._most:
            oldest = next(iter(self._late or self._until))
            self._refuse(oldest, f"more than {self._most:,} connections are waiting")
        self._until[link] = self._loop.now + self._seconds
        self._arm()

    def remove(self, link: Link) -> None:
        self._until.pop(link, None)
        self._late.pop(link, None)

    def _arm(self) -> None:
        if self._until and not self._is_armed:
            self._is_armed = True
            self._loop.call_at(next(iter(self._until.values())), self._find_late_ones)

    def _find_late_ones(self) -> None:
        self._is_armed = False
        now = self._loop.now
        for link, until in list(self._until.items()):
            if until > now:
                break
            del self._until[link]
            self._late[link] = None
            self._read_later(link)
        self._arm()

    def refuse_if_late(self, link: Link) -> None:
        """Refuse a link that was read and has made no progress."""
        if link in self._late:
            self._refuse(link, f"it took longer than {self._seconds:g} s")

    def _refuse(self, link: Link, why: str) -> None:
        self.remove(link)
        link._refuse(f"{self._what}: {why}")


class LinkServer:
    """Listens, accepts, and reads. Raises OSError if that is not possible.

    The callbacks are called by handlers and timers of the loop, and may use every method of a link,
    and of the server all but `close`.
    """

    def __init__(
        self,
        loop: Loop,
        folder: str,
        name: str,
        *,
        receive: Callable[[Link, Batch], object],
        ended: Callable[[Link, str], object],
        readable: Callable[[Link], object] = Link.read,
        stranger_limit: int = STRANGER_LIMIT,
        most_strangers: int = MOST_STRANGERS,
        hello_timeout: float = HELLO_TIMEOUT,
        given: socket.socket | None = None,
        listens: bool = True,
    ) -> None:
        """Listens on the socket `name`.sock in that folder; on loopback TCP without a folder, or
        where there are no unix sockets: there on the socket that was `given`, if one was. Without
        `listens` it begins with `take_over`.

        `receive` gets each batch, also the empty one that libzmq sends on connect (PROBE_ROUTER).
        `ended` is called once for each link from which a batch came, unless its owner has cut
        it: after all its batches, with what was wrong, or "" if the peer has just gone.
        `readable` is called instead of reading a link that has something to be read, for owners
        that call `read` later: it is called again in the next turn if they do not.
        """
        self.loop = loop
        self.receive = receive
        self.ended = ended
        self.readable = readable
        self.endpoint = ""
        """ipc:///…/link.sock or tcp://127.0.0.1:port."""
        self._name = name
        self._stranger_limit = stranger_limit
        self._links: dict[Link, None] = {}
        self._accepted = 0
        self._greeting = _Waiting(
            loop, hello_timeout, MOST_GREETING, "no ZMTP handshake", self._read_later
        )
        self._silent = _Waiting(
            loop, hello_timeout, most_strangers, "no good first batch", self._read_later
        )
        self._to_read: dict[Link, None] = {}
        self._to_free: list[Link] = []
        self._has_chores = False
        self._said: dict[int, float] = {}
        """When something of a level was last logged."""
        self._given = given
        self._listen: Listen
        self._sock: socket.socket | None = None
        if listens:
            self.bind(folder)

    # --- listening ---

    def bind(self, folder: str) -> None:
        """Listen in that folder again, after the socket's file was removed; does nothing if the
        file is there. Connections stay. If this raises OSError, the server continues as before."""
        if folder and HAS_UNIX:
            path = os.path.join(folder, f"{self._name}.sock")
            endpoint = f"ipc://{path}"
            listen = Listen(name=path, path=path, mode=0o600)
            if self._sock is not None and sockets.is_intact(self._sock, listen):
                return
        elif self._sock is None:
            listen = LOOPBACK
        else:
            return
        sock = self._given if self._given is not None and not listen.path else sockets.bind(listen)
        if not listen.path:
            endpoint = endpoint_of(sock)
        try:
            self.loop.watch(sock, self._accept, read=True)
        except OSError:
            sockets.close(sock, listen)
            raise
        self._stop_listening()
        self._sock, self._listen, self.endpoint = sock, listen, endpoint

    def listener(self) -> tuple[socket.socket, str]:
        """The listening socket, and the path of its file, or "" if it has none: another process
        needs these to take it over."""
        assert self._sock is not None
        return self._sock, self._listen.path

    def take_over(self, sock: socket.socket, path: str) -> None:
        """Listen on the socket of another process that accepts no more clients. Raises OSError."""
        if path:
            self._listen = Listen(name=path, path=path, mode=0o600)
            self.endpoint = f"ipc://{path}"
            sock = sockets.of_file(sock, path)
        else:
            self._listen, self.endpoint = LOOPBACK, endpoint_of(sock)
        self._sock = sock
        self.loop.watch(sock, self._accept, read=True)

    def _stop_listening(self) -> None:
        if self._sock is not None:
            self.loop.unwatch(self._sock)
            sockets.close(self._sock, self._listen)
            self._sock = None

    def _accept(self, readable: bool, writable: bool) -> None:
        for _ in range(ACCEPT_BUDGET):
            if self._sock is None:
                return
            try:
                sock, _address = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._pause(self._sock, error)
                    return
                # accept(2) also reports errors of a connection that ended in the queue.
                continue
            try:
                self._add(sock)
            except OSError as error:
                # The peer is already gone, or the loop takes no more descriptors.
                sock.close()
                if error.errno in EXHAUSTED:
                    self._pause(self._sock, error)
                    return
            except Exception:
                log.exception("lost a connection to %s", self.endpoint)
                sock.close()

    def _add(self, sock: socket.socket) -> None:
        who = credentials(sock)
        pid, user = who if who is not None else (0, None)
        if user is not None and not is_ours(user):
            self._complain(pid, f"it belongs to another user, {user}")
            sock.close()
            return
        tune(sock)
        self._accepted += 1
        link = Link(self, sock, self._stranger_limit, self._accepted, pid)
        link._start()
        self._links[link] = None
        self._greeting.add(link)

    def adopt(self, sock: socket.socket, pid: int, limit: int) -> Link:
        """Take over an admitted connection that is between two batches. Raises OSError."""
        tune(sock)
        self._accepted += 1
        link = Link(self, sock, limit, self._accepted, pid)
        link._socket = LinkSocket(sock, ready_peer(limit))
        link.is_admitted = link.has_spoken = True
        link._watch()
        self._links[link] = None
        return link

    def _pause(self, sock: socket.socket, error: OSError) -> None:
        """Out of descriptors or memory: connections wait in the queue of the socket."""
        self._say(
            logging.ERROR,
            f"cannot accept at {self.endpoint}: {error.strerror}; trying again every "
            f"{ACCEPT_PAUSE} s. Raise the limit of open files (ulimit -n)",
        )
        self.loop.unwatch(sock)
        self.loop.call_later(ACCEPT_PAUSE, partial(self._accept_again, sock))

    def _accept_again(self, sock: socket.socket) -> None:
        if self._sock is sock:
            try:
                self.loop.watch(sock, self._accept, read=True)
            except OSError as error:
                self._pause(sock, error)

    def _complain(self, pid: int, why: str) -> None:
        """Log a line about a stranger."""
        process = f" by process {pid}" if pid else ""
        self._say(logging.WARNING, f"closed a connection to {self.endpoint}{process}: {why}")

    def _say(self, level: int, text: str) -> None:
        now = self.loop.now
        if now - self._said.get(level, -COMPLAIN_EVERY) >= COMPLAIN_EVERY:
            self._said[level] = now
            log.log(level, "%s", text)

    # --- links ---

    def _look_at_stranger(self, link: Link) -> None:
        """Handle a read of a connection that is not admitted."""
        if link in self._greeting and link.is_ready:
            self._greeting.remove(link)
            self._silent.add(link)
        elif not link._socket.ended:
            self._greeting.refuse_if_late(link)
            self._silent.refuse_if_late(link)

    def _forget_stranger(self, link: Link) -> None:
        self._greeting.remove(link)
        self._silent.remove(link)

    def _read_later(self, link: Link) -> None:
        """In a timer of this turn, or of the next one; neither sleeps before that."""
        self._to_read[link] = None
        self._chores_wait()

    def _free_later(self, link: Link) -> None:
        self._to_free.append(link)
        self._chores_wait()

    def _chores_wait(self) -> None:
        if not self._has_chores:
            self._has_chores = True
            self.loop.call_at(self.loop.now, self._do_chores)

    def _do_chores(self) -> None:
        self._has_chores = False
        to_read, self._to_read = self._to_read, {}
        for link in to_read:
            try:
                if not link.ended:
                    self.readable(link)
            except Exception as error:
                link.handle_fault(error)
        to_free, self._to_free = self._to_free, []
        for link in to_free:
            link._release()
            self._links.pop(link, None)

    def free_spares(self) -> None:
        """Free buffers that are kept for the next large batches. To be called from time to time."""
        for link in self._links:
            link._socket.peer.free_spare()

    # --- the end ---

    def close(self, linger: float = 0.0) -> None:
        """Close everything when unsent batches were written, after this many seconds at the latest;
        remove the socket's file if it is still ours. Blocks. `ended` is not called."""
        self._stop_listening()
        waiting = [link for link in self._links if not link._has_written() or link._socket.is_tcp]
        if waiting and linger:
            _see_off([link._socket for link in waiting], monotonic() + linger)
        for link in self._links:
            link._release()
            self._forget_stranger(link)
        self._links.clear()


def _see_off(waiting: list[LinkSocket], until: float) -> None:
    """Write unsent batches. Then wait for a TCP peer: if we closed with unread data of the peer, it
    could lose what it has not read."""
    with Selector() as selector:
        for each in waiting:
            selector.register(each, WRITE, each)
        while selector.get_map() and (left := until - monotonic()) > 0:
            for key, events in selector.select(left):
                each = key.data
                if events & WRITE:
                    if not each.flush() and not each.broken:
                        continue
                    each.finish()
                    if each.is_tcp and not each.broken:
                        selector.modify(each, READ, each)
                        continue
                elif each.discard():
                    continue
                selector.unregister(each)
