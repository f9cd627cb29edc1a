"""I/O. The listening sockets of a run. They stay open from one gateway to the next."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from wsraw.config.addresses import Listen, parse_listen
from wsraw.config.settings import Settings
from wsraw.runtime import sockets as listening
from wsraw.runtime.link.connection import HAS_UNIX
from wsraw.runtime.link.server import LOOPBACK
from wsraw.supervisor.log import Log
from wsraw.supervisor.replacing.records import RunRecord
from wsraw.supervisor.run_folder import folder as folders
from wsraw.supervisor.run_folder import socket_files
from wsraw.supervisor.run_folder.socket_files import SocketFiles
from wsraw.supervisor.service_manager.passed_sockets import PassedSockets

Bound = list[tuple[socket.socket, Listen]]


class Listeners:
    """The listeners of the gateway, and of its successor in an upgrade."""

    def __init__(
        self, settings: Settings, passed: PassedSockets, log: Log, record: RunRecord | None
    ) -> None:
        """To be made before anything else is opened, so that passed descriptors can be told from
        ours. With a `record`, the sockets are those of the program before us. Raises
        PassedSocketError."""
        self.given = passed
        self._passed: dict[str, socket.socket] = {}
        """By name, the service manager's sockets, until they are duplicated."""
        if record is None:
            self._passed = passed.assign([parse_listen(each, settings) for each in settings.listen])
        self.passed = set(record.passed) if record is not None else set(self._passed)
        """Names of the sockets that the service manager has bound."""
        self.bound: Bound = []
        self.next: Bound = []
        """The sockets of the successor."""
        self._new: Bound = []
        """The successor's sockets on which no gateway has listened before."""
        self.link: socket.socket | None = None
        """Where workers find each gateway, if there are no unix sockets. So nobody else can listen
        there between two gateways, and be told the workers' tokens."""
        self.addresses: list[str] = []
        """The addresses that the gateway has reported."""
        self._log = log
        self._files = SocketFiles(log.say)

    def open(self, settings: Settings, also: Callable[[], object]) -> None:
        """Bind all sockets, and what `also` binds, as soon as an earlier run has left. Raises
        OSError."""
        until = time.monotonic() + folders.LEAVING
        has_said = False
        while True:
            try:
                self.prepare(settings)
                self.switch()
                also()
                break
            except OSError as error:
                self.stop()
                is_late = time.monotonic() > until
                if error.errno != errno.EADDRINUSE or is_late or not folders.are_leaving():
                    raise
            if not has_said:
                text = "waiting for the gateway of an earlier run to leave its address"
                self._log.say("info", text)
                has_said = True
            time.sleep(folders.LOOK_AGAIN)
        self._open_link()
        self._close_passed()

    def adopt(self, record: RunRecord, settings: Settings, folder: Path) -> None:
        """Take over the sockets of the program before us. Raises OSError."""
        for text, number in zip(settings.listen, record.sockets, strict=True):
            listen = parse_listen(text, settings)
            sock = listening.adopt(str(number))
            if listen.path and listen.name not in self.passed:
                sock = socket_files.adopted(sock, listen, folder)
            self.bound.append((sock, listen))
        if record.link >= 0:
            self.link = listening.adopt(str(record.link))
        self._open_link()
        self.addresses = record.addresses

    def _open_link(self) -> None:
        if not HAS_UNIX and self.link is None:
            self.link = listening.bind(LOOPBACK)

    # --- upgrades ---

    def prepare(self, settings: Settings) -> None:
        """Prepare the sockets of the next gateway: those that are already bound, and new ones. If
        this raises OSError, with advice, nothing new stays open."""
        free = {_place(listen): sock for sock, listen in self.bound}
        self.next = []
        try:
            for text in settings.listen:
                listen = parse_listen(text, settings)
                sock = free.pop(_place(listen), None)
                if sock is None:
                    given = self._passed.get(listen.name)
                    sock = given.dup() if given is not None else listening.bind(listen)
                    self._new.append((sock, listen))
                self.next.append((sock, listen))
        except BaseException:
            self.drop_new()
            raise

    def drop_new(self) -> None:
        """Close sockets that were bound only for a next gateway, because that gateway does not
        come."""
        _close(self._new)
        self._new = []

    def switch(self) -> None:
        """The next gateway serves."""
        kept = {sock for sock, _ in self.next}
        _close(each for each in self.bound if each[0] not in kept)
        self.bound, self._new = self.next, []

    # --- what they are ---

    @property
    def has_tls(self) -> bool:
        """Whether clients may use TLS on any of the listeners."""
        return any(listen.tls != "off" for _, listen in self.bound)

    def urls(self, settings: Settings) -> list[str]:
        """The URLs to which clients connect."""
        return [
            url
            for text, address in zip(settings.listen, self.addresses, strict=False)
            for url in _urls_of(parse_listen(text, settings), address)
        ]

    def look(self, folder: Path) -> None:
        """Restore the files of unix sockets that were removed. `folder`: where second names are
        kept."""
        ours = [each for each in self.bound if each[1].path and each[1].name not in self.passed]
        if ours:
            self._files.look(ours, folder)

    # --- the end ---

    def stop(self) -> None:
        """Refuse new connections from now on, because no gateway would accept them."""
        _close(self.bound)
        self.bound = []

    def close(self) -> None:
        """Close all sockets."""
        self.stop()
        self._close_passed()
        if self.link is not None:
            self.link.close()

    def _close_passed(self) -> None:
        for sock in self._passed.values():
            sock.close()


def _place(listen: Listen) -> tuple[object, ...]:
    return (listen.fd, listen.path, listen.host, listen.port)


def _close(bound: Iterable[tuple[socket.socket, Listen]]) -> None:
    for sock, listen in bound:
        listening.close(sock, listen)


def _urls_of(listen: Listen, address: str) -> list[str]:
    if address.startswith("unix:"):
        return [address]
    secure = {"any": ["wss", "tls"], "websocket": ["wss"], "raw": ["tls"]}[listen.protocol]
    plain = {"any": ["ws", "tcp"], "websocket": ["ws"], "raw": ["tcp"]}[listen.protocol]
    schemes = {"off": plain, "optional": secure + plain, "required": secure}[listen.tls]
    return [f"{scheme}://{address}" for scheme in schemes]
