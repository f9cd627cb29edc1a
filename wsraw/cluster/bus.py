"""I/O. The connection to NATS, by nats-py: subscriptions, and messages both ways.

Nothing here waits for NATS. While it is not connected, or too much waits for a slow server,
messages are refused, and the caller counts them.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from nats.aio.client import Client
from nats.errors import Error

from wsraw.cluster.core import MOST_WAITING
from wsraw.runtime.clock import monotonic

log = logging.getLogger("wsraw.cluster")

PING_INTERVAL: Final = 1
"""Seconds between two pings to the server (nats-py accepts whole numbers only)."""

MOST_PINGS: Final = 2
"""Pings without an answer after which the connection is given up: three seconds."""

RETRY: Final = 0.5
"""Seconds between two attempts to connect to the same server."""

CONNECT_TIMEOUT: Final = 3
"""Seconds for an attempt."""

ROOM: Final = 4096
"""Bytes of NATS's limit for a message that are left for the envelope."""

SAY_EVERY: Final = 30.0
"""Seconds until the same error is logged again."""


class Servers(NamedTuple):
    """Where NATS is, and how we prove who we are."""

    urls: tuple[str, ...]
    name: str
    """This gateway's name in NATS's monitoring."""
    credentials: str = ""
    """File with a JWT and a seed; "" for none."""
    ca: str = ""
    """File with the authorities for TLS; "" for those of the system."""


class _Sink(asyncio.Future[Any]):
    """A future that gets the messages of all subscriptions, as the argument `future` of
    `subscribe`. With a callback, nats-py would run a task for each subscription, and a node may
    have tens of thousands. nats-py's own future would be done after the first message."""

    def __init__(self, received: Callable[[str, bytes], object]) -> None:
        super().__init__()
        self._received = received

    def set_result(self, result: Any) -> None:
        """Hand on a message."""
        self._received(result.subject, result.data)


class Bus:
    """The connection, which is made again whenever it is lost. `received` gets each message,
    `connected` is called whenever there is a connection again."""

    def __init__(
        self,
        servers: Servers,
        received: Callable[[str, bytes], object],
        connected: Callable[[], object],
        subjects: Callable[[], list[str]],
    ) -> None:
        """`subjects`: gives the subjects to subscribe to after a new client has connected."""
        self.why = ""
        """Why the connection is down, as far as known."""
        self._servers = servers
        self._received = received
        self._connected = connected
        self._subjects = subjects
        self._client: Client | None = None
        self._subscribed: dict[str, Any] = {}
        self._out: deque[tuple[str, bytes] | tuple[str, bool]] = deque()
        """Messages to send, and subjects to subscribe to or unsubscribe from, in order."""
        self._waiting = 0
        """Bytes of the messages in `_out`."""
        self._later: dict[str, bool] = {}
        """Subjects to subscribe to or unsubscribe from once there is a connection."""
        self._wake = asyncio.Event()
        self._closed = asyncio.Event()
        self._sink: _Sink
        self._no_queue: asyncio.Queue[Any]
        self._said: dict[str, float] = {}
        self._most = 0
        self._is_up = False

    @property
    def is_connected(self) -> bool:
        """Whether messages can be sent."""
        return self._is_up and self._client is not None and self._client.is_connected

    @property
    def server(self) -> str:
        """The server to which we are connected."""
        url = self._client.connected_url if self._client is not None else None
        return f"{url.hostname}:{url.port}" if url is not None and self.is_connected else ""

    def refusal(self, size: int) -> str:
        """Why a message with this many bytes of data cannot be sent now, as the name of its
        counter; "" if it can."""
        client = self._client
        if client is None or not self.is_connected:
            return "not_sent"
        if size > self._most:
            text = (
                f"a message of {size} bytes is not sent to other nodes: the NATS server accepts at "
            )
            text += f"most {self._most}; raise its max_payload"
            self._say("warning", text, "max_payload")
            return "too_large"
        return "not_sent" if self._waiting + client.pending_data_size > MOST_WAITING else ""

    def publish(self, subject: str, data: bytes) -> None:
        """Send a message. The caller has asked `refusal` before."""
        self._out.append((subject, data))
        self._waiting += len(data)
        self._wake.set()

    def subscribe(self, subject: str, on: bool) -> None:
        """Subscribe to a subject, or unsubscribe from it."""
        if self.is_connected:
            self._out.append((subject, on))
            self._wake.set()
        elif on is (subject in self._subscribed):
            self._later.pop(subject, None)
        else:
            # Not handed to nats-py now, which keeps all commands until it is connected.
            self._later[subject] = on

    # --- the connection ---

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            try:
                await self._serve()
            except (OSError, Error, ValueError) as error:
                await self._error(error)
            await asyncio.sleep(RETRY)

    async def _serve(self) -> None:
        """Run one client of nats-py, which reconnects by itself, until it gives up."""
        client = self._client = Client()
        self._sink = _Sink(self._received)
        self._no_queue = asyncio.Queue()
        self._closed.clear()
        self._out.clear()
        self._waiting = 0
        self._later = {}
        self._subscribed = {}
        options: dict[str, Any] = {}
        if self._servers.credentials:
            options["user_credentials"] = self._servers.credentials
        if self._servers.ca or any(url.startswith("tls://") for url in self._servers.urls):
            options["tls"] = ssl.create_default_context(cafile=self._servers.ca or None)
        try:
            await client.connect(
                list(self._servers.urls),
                name=self._servers.name,
                no_echo=True,
                error_cb=self._error,
                disconnected_cb=self._disconnected,
                reconnected_cb=self._reconnected,
                closed_cb=self._ended,
                connect_timeout=CONNECT_TIMEOUT,
                reconnect_time_wait=RETRY,  # type: ignore[arg-type, unused-ignore]
                max_reconnect_attempts=-1,
                ping_interval=PING_INTERVAL,
                max_outstanding_pings=MOST_PINGS,
                **options,
            )
            for subject in self._subjects():
                await self._listen(client, subject, True)
            await self._reconnected()
            loop = asyncio.get_running_loop()
            tasks = [loop.create_task(self._write(client)), loop.create_task(self._closed.wait())]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
        finally:
            self._is_up = False
            await client.close()

    async def _write(self, client: Client) -> None:
        """Hand what is to be sent to nats-py, in order."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._out:
                subject, what = self._out.popleft()
                if isinstance(what, bool):
                    await self._listen(client, subject, what)
                    continue
                self._waiting -= len(what)
                if client.is_connected:
                    await client.publish(subject, what)
                # Otherwise the message is lost, like what NATS had not read: subscribers will count
                # it as missed.

    async def _listen(self, client: Client, subject: str, on: bool) -> None:
        if on and subject not in self._subscribed:
            found = await client.subscribe(subject, future=self._sink)
            # With a future, nothing is ever put into the queue; one for each subscription would be
            # nine tenths of the memory. If nats-py renames the attribute one day, only the memory
            # is lost.
            found._pending_queue = self._no_queue
            self._subscribed[subject] = found
        elif not on and subject in self._subscribed:
            await self._subscribed.pop(subject).unsubscribe()

    async def _reconnected(self) -> None:
        client = self._client
        assert client is not None
        self._most = max(0, client.max_payload - ROOM)
        self._is_up = True
        self.why = ""
        self._said.clear()
        log.info("connected to NATS at %s", self.server)
        later, self._later = self._later, {}
        for subject, on in later.items():
            self.subscribe(subject, on)
        self._connected()

    async def _disconnected(self) -> None:
        if self._is_up:
            self._is_up = False
            log.warning("the connection to NATS is lost; clients of this node are served as before")

    async def _ended(self) -> None:
        self._is_up = False
        self._closed.set()

    async def _error(self, error: Exception) -> None:
        unsaid = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
        text = str(error) or unsaid
        self.why = text[:200]
        self._say("warning", f"NATS: {self.why}", self.why)

    def _say(self, level: str, text: str, key: str) -> None:
        """Log a text, unless it was logged a moment ago."""
        now = monotonic()
        if now - self._said.get(key, -SAY_EVERY) >= SAY_EVERY:
            if len(self._said) > 100:
                self._said.clear()
            self._said[key] = now
            getattr(log, level)("%s", text)
