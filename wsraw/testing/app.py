"""I/O. Handlers in this process, with the real worker and the real gateway around them.

Only the sockets are missing, between the gateway and its clients and between the gateway and the
worker. One thread does it all, so that all consequences of a call have happened when it returns.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import time
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Final

from wsraw.config import pools
from wsraw.config.checks import from_options
from wsraw.link.records import DEFAULT_POOL
from wsraw.testing.checks import check
from wsraw.testing.gateway import MemoryGateway
from wsraw.testing.memory import AdvancingLoop
from wsraw.testing.peers import RawPeer, WebSocketPeer, client
from wsraw.testing.pipe import Pipe
from wsraw.testing.responses import HttpResponse, read_response, request_bytes
from wsraw.testing.worker import MemoryWorker, Source
from wsraw.workers import api

QUIET_TURNS: Final = 10
"""Turns without any movement after which nothing more can move: no step takes longer."""


class App:
    """Handlers, and clients for them::

        app = App("handlers.py")
        client = app.websocket("/chat")
        client.send("x")
        assert client.received == ["X"]

    `handlers`: a handlers file, or any object with the functions of one (a module that is imported
    already). `settings`: those of `wsraw run`, also with units: ``idle_timeout="5m"``, and routes
    as on the command line: ``routes=["/rooms/{room}=default"]``. `pool`: if there are several
    `pools`, the one that these handlers belong to; the others have no worker. `timeout`: seconds
    that handlers may take until `settle` raises TimeoutError.

    An exception of a handler is raised by the call that caused it, after all its consequences (by
    then the connection is closed). One App at a time; close it, or use it in a ``with`` block. Not
    for use inside a running asyncio loop.
    """

    def __init__(
        self,
        handlers: object,
        *,
        timeout: float = 5.0,
        pool: str = DEFAULT_POOL,
        **settings: Any,
    ) -> None:
        """Raises LoadError, ValueError for a setting that is wrong or needs a real run, and
        exceptions of on_start."""
        if api.installed():
            raise RuntimeError("there is an App, or a worker, in this process; close it first")
        self.settings = from_options(settings)
        check(self.settings)
        known = pools.in_force(self.settings)
        if pool not in known:
            raise ValueError(f"pool {pool!r}: these handlers can be those of {' or '.join(known)}")
        self.now = 1000.0
        """The gateway's clock; `advance` moves it."""
        self._pool = pool
        self._timeout = timeout
        self._errors: list[BaseException] = []
        self._gateway = MemoryGateway(self, self.settings, self._errors)
        self.opened = self._gateway.opened
        """The other ends of connections that handlers have opened, in order."""
        self.refused = self._gateway.refused
        """Targets that cannot be connected to."""
        self.rejected = self._gateway.rejected
        """WebSocket targets whose server refuses the handshake with this status, these headers and
        this body: handlers see them as `con.response`."""
        self._numbers = itertools.count(1)
        self._source = Source(handlers)
        self._worker: MemoryWorker | None = None
        self._loop = AdvancingLoop()
        self._closed = False
        try:
            self._start_worker()
        except BaseException:
            self._free()
            raise

    def __enter__(self) -> App:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def module(self) -> Any:
        """The handlers file as a module, to look at its variables."""
        return self._source.module

    # --- the worker ---

    def _start_worker(self, wait: bool = True) -> None:
        worker = MemoryWorker(
            self._source,
            self.settings,
            self._pool,
            next(self._numbers),
            self._errors,
            self._gateway.turn,
        )
        self._worker = worker
        worker.start(self._loop)
        self._gateway.dealer = worker.dealer
        self._gateway.sessions.receive(worker.dealer.identity, b"", self.now)
        self.settle(wait)

    def _close_worker(self) -> None:
        if self._worker is not None:
            self._worker.close()
        self._worker = self._gateway.dealer = None

    def reload(self, *, wait: bool = True) -> None:
        """Do what `wsraw reload` does: the worker finishes and leaves, the next one loads the file
        again. Connections keep their state; variables of the module are lost. `wait` is about the
        next worker; see `settle`."""
        sessions = self._gateway.sessions
        (worker,) = sessions.workers.values()
        sessions.drain(worker, self.settings.drain_timeout)
        self._run(self._until_left())
        self._close_worker()
        self._start_worker(wait)

    def kill_worker(self, *, wait: bool = True) -> None:
        """Kill the worker like kill -9: a new worker gets its unfinished events again, with
        `delivery` 2. For this, a handler must be running: ``client.send("x", wait=False)``. With
        ``wait=False``, the same handler may wait in the new worker, too: then call `advance`."""
        assert self._worker is not None
        self._worker.discard()
        self._run(_cancel_all())
        sessions = self._gateway.sessions
        (worker,) = sessions.workers.values()
        self._gateway.dealer = None
        sessions.end(worker, self.now, died=True)
        self._close_worker()
        self._start_worker(wait)

    async def _until_left(self) -> None:
        until = time.monotonic() + self._timeout
        assert self._worker is not None
        while not self._worker.task.done():
            self._gateway.turn()
            await asyncio.sleep(0)
            self._check_time(until)
        self._gateway.turn()

    # --- clients ---

    def websocket(
        self,
        url: str = "/",
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: Iterable[str] = (),
        host: str = "testserver",
        peer: str = "",
        wait: bool = True,
    ) -> WebSocketPeer:
        """A WebSocket client. If it is refused, its `status` says so, and it is `closed`.

        `peer`: the client's address, as in ``con.peer``. For `wait`, see `settle`.
        """
        pipe = self._accept(peer)
        made = client(self, pipe, url, host, headers or {}, subprotocols)
        self._gateway.add(made)
        self.settle(wait)
        return made

    def raw(self, data: bytes | str = b"", *, peer: str = "", wait: bool = True) -> RawPeer:
        """Connect a raw client, and send its first data: only then handlers see it."""
        made = RawPeer(self, self._accept(peer))
        self._gateway.add(made)
        if data:
            made.send(data, wait=wait)
        return made

    def request(
        self,
        method: str = "GET",
        target: str = "/",
        body: bytes | str = b"",
        *,
        headers: Mapping[str, str] | None = None,
        host: str = "testserver",
        peer: str = "",
    ) -> HttpResponse:
        """The response to an HTTP request, of on_request or of the gateway.

        Needs the setting ``plain_http="handlers"``. Raises what the handler raises, and
        ConnectionError if the connection ends without a whole response.
        """
        data = body.encode() if isinstance(body, str) else body
        client = self.raw(peer=peer)
        client.send(request_bytes(method, target, headers or {}, data, host))
        try:
            return read_response(client.data, method)
        except http.client.HTTPException as error:
            why = "plain_http is not 'handlers'" if not client.closed else "it was cut short"
            raise ConnectionError(
                f"{method} {target}: there is no whole response: {why}"
            ) from error

    def _accept(self, peer: str) -> Pipe:
        if self._closed:
            raise RuntimeError("this App is closed")
        return self._gateway.accept(peer)

    # --- time ---

    def settle(self, wait: bool = True) -> None:
        """Run until nothing more happens.

        With `wait`, this includes the end of every running handler; TimeoutError is raised if that
        takes longer than the `timeout`. Without `wait`, handlers that wait for something are left
        waiting. Raises the exceptions of handlers.
        """
        self._run(self._settle(wait))
        self._raise()

    def advance(self, seconds: float) -> None:
        """Set the clocks of the gateway and of asyncio forward: timers are called each time that
        they are due, timeouts happen, sleeps end. Handlers that still wait are left waiting."""
        until = self.now + seconds
        self._run(self._settle(wait=False))
        while self.now < until:
            when = min(until, self.now + self._loop.until_next(), *self._gateway.deadlines())
            self._loop.advance(when - self.now)
            self.now = when
            self._gateway.pass_time()
            self._run(self._settle(wait=False))
        self._raise()

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        if self._closed:
            coroutine.close()
            raise RuntimeError("this App is closed")
        self._loop.run_until_complete(coroutine)

    async def _settle(self, wait: bool) -> None:
        until = time.monotonic() + self._timeout
        quiet = 0
        while quiet < QUIET_TURNS:
            if self._gateway.turn():
                quiet = 0
            elif wait and self._is_busy():
                quiet = 0
                # A handler may wait for a thread, or for another server.
                await asyncio.sleep(0.0005)
            else:
                quiet += 1
            await asyncio.sleep(0)
            self._check_time(until)

    def _in_flight(self) -> list[Any]:
        workers = self._gateway.sessions.workers.values()
        return [held.event for worker in workers for held in worker.window.in_flight.values()]

    def _is_busy(self) -> bool:
        worker = self._worker
        if worker is None or worker.task.done():
            return False
        return not worker.is_idle or bool(self._in_flight())

    def _check_time(self, until: float) -> None:
        if time.monotonic() > until:
            names = [f"{type(e).__struct_config__.tag} of {e.con}" for e in self._in_flight()]
            raise TimeoutError(
                f"not done within {self._timeout:g} s: {', '.join(names) or 'on_start or a timer'}"
                "; to go on while a handler waits: wait=False, then advance(seconds)"
            )

    def _raise(self) -> None:
        errors = list(self._errors)
        self._errors.clear()
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise BaseExceptionGroup("several handlers have failed", errors)

    # --- the end ---

    def close(self) -> None:
        """Call on_stop and free everything. Raises exceptions that were not raised yet."""
        if self._closed:
            return
        try:
            if self._worker is not None and not self._worker.task.done():
                self._worker.stop()
                self._run(self._until_left())
            self._raise()
        finally:
            self._free()

    def _free(self) -> None:
        self._closed = True
        if self._worker is not None:
            self._worker.discard()
            self._loop.run_until_complete(_cancel_all())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._close_worker()
        self._loop.close()
        self._source.close()


async def _cancel_all() -> None:
    current = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task is not current]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
