"""I/O. What remains of an old gateway after an upgrade: TLS connections, which OpenSSL cannot let
go to another process. The pump decrypts and encrypts; everything else about them has moved.

Each connection has a socketpair to the gateway that serves it. Plaintext passes through the pair,
within a bound for each direction: an end that does not read makes the other end wait. The end of a
direction passes as its end, and a reset as a reset (see tls/marks.py); the death of the gateway is
a reset. A pump lives as long as its connections.
"""

from __future__ import annotations

import gc
import logging
import signal
import socket
from collections.abc import Iterable
from functools import partial
from typing import Final

from wsraw.gateway.sockets.transport import MOST_UNSENT, TRUNCATED, reset
from wsraw.gateway.tls.engine import TlsEngine
from wsraw.gateway.tls.marks import PumpMark, receive, send_mark
from wsraw.runtime import launch
from wsraw.runtime.launch import Parent
from wsraw.runtime.loop import Loop, Timer
from wsraw.runtime.printable import os_error

log = logging.getLogger("wsraw.gateway")

PORTION: Final = 64 * 1024
"""Bytes read at a time from either side, as long as nothing waits in that direction."""

LAST_WORDS: Final = 10.0
"""Seconds without progress after which a client that does not read its last data is disconnected,
once the gateway has closed its socket."""


class Pumped:
    """A TLS connection as the old gateway leaves it."""

    __slots__ = ("client", "engine", "gateway", "is_truncated_silently", "unsent")

    def __init__(
        self,
        client: socket.socket,
        gateway: socket.socket,
        engine: TlsEngine,
        unsent: bytes,
        is_truncated_silently: bool,
    ) -> None:
        """`unsent`: ciphertext that the client has not taken. `is_truncated_silently`: an end
        without close_notify counts as a normal end, as for a WebSocket."""
        self.client = client
        self.gateway = gateway
        self.engine = engine
        self.unsent = unsent
        self.is_truncated_silently = is_truncated_silently


class PumpRelay:
    """Forwards between the client and the gateway of one pumped connection."""

    __slots__ = (
        "_client",
        "_client_ended",
        "_engine",
        "_gateway",
        "_gateway_ended",
        "_is_hung_up",
        "_is_silent",
        "_lost",
        "_pump",
        "_resets",
        "_timer",
        "_to_client",
        "_to_gateway",
        "is_over",
    )

    def __init__(self, pump: Pump, pumped: Pumped) -> None:
        self._pump = pump
        self._client = pumped.client
        self._gateway = pumped.gateway
        self._engine = pumped.engine
        self._is_silent = pumped.is_truncated_silently
        self._to_client = pumped.unsent
        """Ciphertext for the client."""
        self._to_gateway = b""
        """Plaintext for the gateway."""
        self._client_ended = False
        """The client is not read any more, and the gateway will be told once `_to_gateway` is
        sent."""
        self._gateway_ended = False
        """The gateway sends nothing more."""
        self._lost = ""
        """Why nothing can be sent to the client any more; the gateway is told after earlier
        data."""
        self._timer: Timer | None = None
        self._resets = False
        self._is_hung_up = False
        """The gateway has closed its socket."""
        self.is_over = False

    def begin(self) -> None:
        # Plaintext that came with the last ciphertext read by the old gateway.
        if self._engine.has_more or self._engine.ended or self._engine.error:
            self._decrypt(b"")
        self._flush()
        self._watch()

    # --- the loop's calls ---

    def on_client(self, readable: bool, writable: bool) -> None:
        if readable and not self._to_gateway and not self._client_ended:
            self._read_client()
        self._flush()
        self._watch()

    def on_gateway(self, readable: bool, writable: bool) -> None:
        if readable and not self._to_client and not self._gateway_ended:
            self._read_gateway()
        elif not readable and not writable:
            # The loop watches neither direction, but the system reports that both are closed.
            self._gateway_is_gone()
        self._flush()
        self._watch()

    def handle_fault(self, error: BaseException) -> None:
        log.error("a TLS connection of the pump ends for a bug", exc_info=error)
        self._reset_client()

    # --- client to gateway ---

    def _read_client(self) -> None:
        try:
            data = self._client.recv(PORTION)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose_client(os_error(error))
            return
        if not data:
            if self._is_silent or self._engine.ended:
                self._client_ended = True
            else:
                self._lose_client(TRUNCATED)
            return
        self._decrypt(data)

    def _decrypt(self, data: bytes) -> None:
        engine = self._engine
        self._to_gateway += engine.receive_data(data)
        # Answers to key updates, and alerts.
        self._to_client += engine.data_to_send()
        if engine.error:
            self._send_to_client()
            self._lose_client(f"TLS: {engine.error}")
        elif engine.ended:
            self._client_ended = True
        elif len(self._to_client) > MOST_UNSENT:
            self._lose_client("TLS: the peer asks for answers and does not read them")

    def _lose_client(self, why: str) -> None:
        """The client is lost. What it sent before is still passed on."""
        self._lost = self._lost or why
        self._client_ended = True
        self._to_client = b""

    def _send_to_gateway(self) -> None:
        if self._to_gateway:
            try:
                size = self._gateway.send(self._to_gateway)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._gateway_is_gone()
                return
            self._to_gateway = self._to_gateway[size:]

    # --- gateway to client ---

    def _read_gateway(self) -> None:
        try:
            data, mark, _ = receive(self._gateway, PORTION)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._reset_client()
            return
        if data and not self._lost:
            self._to_client += self._engine.encrypt(data)
            if self._engine.error:
                self._lose_client(f"TLS: {self._engine.error}")
        if mark is PumpMark.END:
            self._end_output()
        elif mark is not None or not data:
            # Without a mark, the gateway has died in the middle of its output.
            self._send_to_client()
            self._reset_client()

    def _end_output(self) -> None:
        """The gateway sends no more: send close_notify."""
        self._gateway_ended = True
        self._engine.close()
        self._to_client += self._engine.data_to_send()

    def _gateway_is_gone(self) -> None:
        """The gateway has closed its socket, so data from the client is not needed any more. What
        the gateway has sent before is still sent to the client, as long as it reads."""
        self._is_hung_up = True
        self._to_gateway = b""
        self._client_ended = True
        self._wait_for_client()

    def _wait_for_client(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._pump.loop.call_later(LAST_WORDS, self._reset_client)

    def _reset_client(self) -> None:
        self._resets = True
        self._give_up()

    def _send_to_client(self) -> None:
        if self._to_client:
            try:
                size = self._client.send(self._to_client)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._lose_client(os_error(error))
                return
            self._to_client = self._to_client[size:]
            if self._timer is not None:
                self._wait_for_client()

    # --- both ---

    def _flush(self) -> None:
        if self.is_over:
            return
        self._send_to_client()
        self._send_to_gateway()
        if self._to_gateway:
            return
        if self._lost:
            send_mark(self._gateway, PumpMark.LOST, self._lost)
            self._give_up()
        elif self._client_ended and not self._is_hung_up:
            self._shut(self._gateway)
        if self._gateway_ended and self._client_ended and not self._to_client:
            self._give_up()

    def _shut(self, sock: socket.socket) -> None:
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def _watch(self) -> None:
        """Read from each side as long as nothing waits in that direction; write what waits."""
        if self.is_over:
            return
        loop = self._pump.loop
        reads, writes = not self._to_gateway and not self._client_ended, bool(self._to_client)
        if reads or writes:
            loop.watch(self._client, self.on_client, read=reads, write=writes)
        else:
            # Otherwise its hang-up would be reported again and again.
            loop.unwatch(self._client)
        reads, writes = not self._to_client and not self._gateway_ended, bool(self._to_gateway)
        if reads or writes or not self._is_hung_up:
            # Watched for neither, only for its hang-up.
            loop.watch(self._gateway, self.on_gateway, read=reads, write=writes)
        else:
            loop.unwatch(self._gateway)

    def _give_up(self) -> None:
        """Close both sides at the end of the turn."""
        if self._timer is not None:
            self._timer.cancel()
        if not self.is_over:
            self.is_over = True
            self._pump.over.append(self)

    def close(self) -> None:
        for sock in (self._client, self._gateway):
            self._pump.loop.unwatch(sock)
        if self._resets:
            reset(self._client)
        self._client.close()
        self._gateway.close()


class Pump:
    """All moved TLS connections, until the last one has ended or the supervisor is gone."""

    def __init__(self, pumped: Iterable[Pumped]) -> None:
        self.loop = Loop()
        self.over: list[PumpRelay] = []
        """Relays to be closed."""
        self._relays = {PumpRelay(self, each) for each in pumped}

    def serve(self, supervisor: Parent | None) -> int:
        """Run the pump, all that this process does from now on; return its exit code."""
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        # Free what the gateway has left.
        gc.unfreeze()
        gc.collect()
        self.run(supervisor)
        return 0

    def run(self, supervisor: Parent | None) -> None:
        """Run the loop until the last connection has ended."""
        self.loop.before_sleep = self._before_sleep
        if supervisor is not None and launch.HAS_SIGNALS:
            hear = partial(self._hear, supervisor)
            self.loop.watch(supervisor.descriptor, hear, read=True)
        for relay in list(self._relays):
            try:
                relay.begin()
            except Exception as error:
                relay.handle_fault(error)
        self._before_sleep(0.0)
        if self._relays:
            self.loop.run()
        self.loop.close()

    def stop(self) -> None:
        """End all connections; for a signal."""
        self.loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self.over += self._relays

    def _hear(self, supervisor: Parent, readable: bool, writable: bool) -> None:
        if supervisor.line() is None:
            self.loop.unwatch(supervisor.descriptor)
            self._stop()

    def _before_sleep(self, now: float) -> bool:
        over, self.over = self.over, []
        for relay in over:
            if relay in self._relays:
                self._relays.discard(relay)
                relay.close()
        if not self._relays:
            self.loop.stop()
        return False
