"""I/O. Workers on other machines: a ROUTER of their own, keys, heartbeats."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from typing import Any

from wsraw.gateway.counters import STRANGERS
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.delivery.worker import RemoteWorker
from wsraw.gateway.remote.transport import Gatekeeper, RemoteSocket, new_context
from wsraw.runtime.keys import AllowedKeys, KeyFileError, from_z85, read_secret, to_z85
from wsraw.runtime.loop import Loop

log = logging.getLogger("wsraw.gateway")


class Remote:
    """The ROUTER for remote workers, and the workers that it lets in."""

    def __init__(
        self,
        loop: Loop,
        registry: Registry,
        known: Container[bytes],
        add: Callable[[bytes, RemoteWorker, float], bool],
    ) -> None:
        """`known`: identities that have been added; `add` says whether to listen to a worker.
        Raises OSError or ValueError, with a text that says what to do."""
        settings = registry.settings
        self._loop = loop
        self._counters = registry.counters
        self._add = add
        self._keys: AllowedKeys | None = None
        self._keeper: Gatekeeper | None = None
        secret = ""
        if settings.link_key:
            try:
                secret = read_secret(settings.link_key)
                self._keys = AllowedKeys(settings.worker_keys)
            except KeyFileError as error:
                raise ValueError(str(error)) from error
        self._context = new_context()
        if secret:
            # Before anything is bound: without a Gatekeeper, libzmq would let every peer in.
            self._keeper = Gatekeeper(self._context)
        try:
            self.router = RemoteSocket(
                self._context,
                settings.worker_listen,
                secret,
                settings.worker_heartbeat,
                known,
                self._meet,
            )
        except OSError:
            if self._keeper is not None:
                self._keeper.close()
            self._context.term()
            raise
        self.wires = [self.router] if self._keeper is None else [self.router, self._keeper]
        for wire in self.wires:
            loop.watch(wire.fd, wire.wake, read=True)
        how = "with keys" if secret else "NOT encrypted, with the token"
        where = " and ".join(self.router.endpoints)
        log.info("workers on other machines connect to %s (%s)", where, how)

    def answer_handshakes(self) -> None:
        """Let in the workers whose key is known, and reject others."""
        if self._keeper is not None:
            self._keeper.answer(self._lets_in, self._refused)

    def _lets_in(self, public: bytes) -> str | None:
        return to_z85(public) if self._find(public) is not None else None

    def _find(self, public: bytes) -> Any:
        assert self._keys is not None
        try:
            return self._keys.find(public)
        except KeyFileError as error:
            self._counters.say(
                "error", "no remote worker can connect: the keys cannot be read: %s", error
            )
            return None

    def _refused(self, address: str) -> None:
        self._counters.say(
            "warning",
            "a worker at %s was rejected: its key is not in worker_keys",
            address,
            of=STRANGERS,
        )

    def _meet(self, identity: bytes, address: str, user: str) -> bool:
        # The form in which an IPv6 listener reports an IPv4 address (RFC 4291, section 2.5.5.2).
        address = address.removeprefix("::ffff:")
        remote = RemoteWorker(address)
        if self._keys is not None:
            # Checked again, because the files may have changed since its handshake.
            key = self._find(from_z85(user)) if user else None
            if key is None:
                return False
            remote = RemoteWorker(address, key.name, key.pools)
        return self._add(identity, remote, self._loop.now)

    def close(self) -> None:
        """Close the sockets at once."""
        for wire in self.wires:
            wire.close()
        self._context.term()
