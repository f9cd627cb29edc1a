"""I/O. Handlers in this process, with the real worker machine and the real gateway around them.

Only the sockets are missing, between the gateway and its clients and between the gateway and the
worker; one thread drives it all, so that everything a call brings about has happened when it
returns.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from wsraw.config import pools
from wsraw.config.addresses import Listen, parse_listen
from wsraw.config.checks import from_options
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.delivery.deadlines import Deadlines
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.http import answer
from wsraw.gateway.sessions.sessions import Sessions
from wsraw.link.records import DEFAULT_POOL, Kill
from wsraw.link.worker_end import WorkerEnd
from wsraw.testing.memory import ForwardLoop, MemoryDealer, Teller
from wsraw.testing.peers import Peer, RawPeer, WebSocketPeer, client, server
from wsraw.testing.pipe import Pipe
from wsraw.workers import api
from wsraw.workers.loading import handlers as handlers_module
from wsraw.workers.loading.handlers import Handlers
from wsraw.workers.runtime import Runtime
from wsraw.workers.shells.asyncio_shell import AsyncioShell
from wsraw.workers.shells.link_socket import Bell
from wsraw.workers.shells.shell import Stopper

TOKEN: Final = "token"
MEMORY: Final = 1 << 30
QUIET_TURNS: Final = 10
"""Turns of the loop in which nothing moves, after which nothing will: no step takes more."""
TICK: Final = 1.0


class App:
    """Handlers, and clients for them::

        app = App("handlers.py")
        client = app.websocket("/chat")
        client.send("x")
        assert client.received == ["X"]

    `handlers`: a handlers file, or any object with the functions of one (a module that is imported
    already). `settings`: those of `wsraw run`, with units if you like: ``idle_timeout="5m"``, and
    routes as on the command line: ``routes=["/rooms/{room}=default"]``. `pool`: with several
    `pools` among the settings, whose handlers these are; those of the others are not there.
    `timeout`: seconds that handlers may take until `settle` raises TimeoutError.

    What a handler raises is raised by the call that has brought it about, when everything that
    follows has happened (the connection is closed by then). One App at a time; close it, or use it
    in a ``with`` block. Not for use inside a running asyncio loop.
    """

    def __init__(
        self,
        handlers: object,
        *,
        timeout: float = 5.0,
        pool: str = DEFAULT_POOL,
        **settings: Any,
    ) -> None:
        """Raises LoadError, ValueError for a wrong setting, and what on_start raises."""
        if api.installed():
            raise RuntimeError("there is an App, or a worker, in this process; close it first")
        self.settings = from_options(settings)
        known = pools.in_force(self.settings)
        if pool not in known:
            raise ValueError(f"pool {pool!r}: these handlers can be those of {' or '.join(known)}")
        self._pool = pool
        self.now = 1000.0
        """The gateway's clock; `advance` moves it."""
        self.opened: list[Peer] = []
        """The other ends of what handlers have opened, in order."""
        self.refused: set[str] = set()
        """Targets that cannot be connected to."""
        self.rejected: dict[str, tuple[int, Mapping[str, str], bytes]] = {}
        """WebSocket targets whose server answers with this status, these headers and this body in
        place of the 101: what handlers see as `con.response`."""
        self.module: Any = handlers
        """The handlers file as a module: its variables can be looked at."""
        self._source = handlers
        self._timeout = timeout
        self._registry = Registry(self.settings, 1, self.settings.memory_limit or MEMORY)
        self._sessions = Sessions(self._registry)
        self._deadlines = Deadlines(self._registry)
        self._sessions.tokens.add(TOKEN, 1)
        self._listen = parse_listen(self.settings.listen[0], self.settings)
        self._peers: list[Peer] = []
        self._pipes: list[Pipe] = []
        self._later: list[Any] = []
        self._errors: list[BaseException] = []
        self._dealers: dict[bytes, MemoryDealer] = {}
        self._identities = itertools.count(1)
        self._ports = itertools.count(50000)
        self._path = list(sys.path)
        self._loop = ForwardLoop()
        self._closed = False
        try:
            self._join()
        except BaseException:
            self._free()
            raise

    def __enter__(self) -> App:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- the worker ---

    def _join(self, wait: bool = True) -> None:
        """A worker loads the handlers and says hello."""
        loaded = self._load()
        self._bell = Bell()
        self._stopper = Stopper(self._bell)
        identity = b"\0%d" % next(self._identities)
        dealer = self._dealers[identity] = MemoryDealer(identity)
        concurrency = self.settings.concurrency if loaded.is_async else 1
        link = WorkerEnd(
            pool=self._pool,
            token=TOKEN,
            instance=identity.hex(),
            language="python/test",
            concurrency=concurrency,
            starting=loaded.on_start is not None,
        )
        self._runtime = Runtime(link, loaded, self.settings.on_exception, threading.get_ident)
        self._runtime.report = self._teller = Teller(self._errors)
        self._runtime.left_out = self._teller.left_out
        api.install(self._runtime, self._stopper.call_soon)
        self._shell = AsyncioShell(
            self._runtime, dealer, self._stopper, "memory", self._bell, concurrency
        )
        self._task = self._loop.create_task(self._shell.serve())
        self._sessions.receive(identity, b"", self.now)
        self.settle(wait)

    def _load(self) -> Handlers:
        source = self._source
        if not isinstance(source, str | os.PathLike):
            handlers_module.offer([])
            return Handlers(source)
        writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        try:
            loaded = handlers_module.load(os.fspath(source))
        finally:
            sys.dont_write_bytecode = writes
        self._forget_module(but=loaded.module)
        self.module = loaded.module
        return loaded

    def _forget_module(self, but: object = None) -> None:
        if isinstance(self._source, str | os.PathLike):
            path = os.path.realpath(self._source)
            for name, module in list(sys.modules.items()):
                file = getattr(module, "__file__", None)
                if module is not but and file and os.path.realpath(file) == path:
                    del sys.modules[name]

    def reload(self, *, wait: bool = True) -> None:
        """As `wsraw reload`: the worker finishes and leaves, the next one loads the file anew.
        Connections stay, with their state; variables of the module do not. For `wait`, which is
        about the next one, see `settle`."""
        (worker,) = self._sessions.workers.values()
        self._sessions.drain(worker, self.settings.drain_timeout)
        self._run(self._until_left())
        self._leave()
        self._join(wait)

    def kill_worker(self, *, wait: bool = True) -> None:
        """As kill -9: what its handlers have not finished comes again, with `delivery` 2, to a new
        worker. A handler must be under way for that: ``client.send("x", wait=False)``. With
        ``wait=False`` the same handler may wait in the new worker as well: `advance` is next."""
        self._teller.over = True
        (worker,) = self._sessions.workers.values()
        self._task.cancel()
        self._run(self._cancelled())
        self._dealers.pop(worker.session.identity).close()
        self._sessions.end(worker, self.now, died=True)
        self._leave()
        self._join(wait)

    async def _until_left(self) -> None:
        until = time.monotonic() + self._timeout
        while not self._task.done():
            self._turn()
            await asyncio.sleep(0)
            self._judge_time(until)
        self._turn()

    async def _cancelled(self) -> None:
        current = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _leave(self) -> None:
        api.uninstall()
        self._bell.close()
        for dealer in self._dealers.values():
            dealer.close()
        self._dealers.clear()

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

        `peer`: its address, as ``con.peer`` shows it. For `wait` see `settle`.
        """
        pipe = self._accept(peer)
        made = client(self, pipe, url, host, headers or {}, subprotocols)
        self._peers.append(made)
        self.settle(wait)
        return made

    def raw(self, data: bytes | str = b"", *, peer: str = "", wait: bool = True) -> RawPeer:
        """A raw client, and what it says first: before that nobody hears of it."""
        made = RawPeer(self, self._accept(peer))
        self._peers.append(made)
        if data:
            made.send(data, wait=wait)
        return made

    def _accept(self, peer: str) -> Pipe:
        if self._closed:
            raise RuntimeError("this App is closed")
        listen: Listen = self._listen
        con = accepted(
            self._registry.ids.new(),
            listen,
            self.settings,
            {"peer": peer or f"127.0.0.1:{next(self._ports)}", "listener": listen.name},
            self.now,
            self._registry.policy,
        )
        pipe = Pipe(self._registry, con)
        self._pipes.append(pipe)
        self._registry.take(con, con.first_events(self.now), self.now)
        return pipe

    def _dial(self) -> bool:
        """Connect what handlers have opened; whether there was anything."""
        entries = self._later + self._registry.to_dial
        self._registry.to_dial.clear()
        due = [entry for entry in entries if entry.dial_at <= self.now]
        self._later = [entry for entry in entries if entry.dial_at > self.now]
        for entry in due:
            con = entry.con
            if con.target in self.refused:
                events = con.connect_failed("refused, says the test", self.now)
                self._registry.take(con, events, self.now)
                continue
            rejected = self.rejected.get(con.target)
            if rejected is not None and con.kind == "websocket":
                status, headers, body = rejected
                con.connected(self.now)
                events = con.receive_data(answer(status, "", headers, body), self.now)
                self._registry.take(con, events, self.now)
                continue
            pipe = Pipe(self._registry, con)
            self._pipes.append(pipe)
            peer = server(self, pipe)
            self._peers.append(peer)
            self.opened.append(peer)
            self._registry.take(con, con.connected(self.now), self.now)
        return bool(due)

    # --- time ---

    def settle(self, wait: bool = True) -> None:
        """Let everything happen that follows from what has happened.

        With `wait` that includes the end of every handler that runs; it raises TimeoutError if
        they take longer than the `timeout`. Without, those that wait for something are left so.
        Raises what handlers have raised.
        """
        self._run(self._settle(wait))
        self._raise()

    def advance(self, seconds: float) -> None:
        """Set the clock forward, of the gateway and of asyncio: timers are called as often as they
        should be, timeouts come, sleeps end. Handlers that still wait are left so."""
        until = self.now + seconds
        self._run(self._settle(wait=False))
        while self.now < until:
            deadlines = [pipe.deadline for pipe in self._pipes if pipe.deadline > self.now]
            deadlines += [entry.dial_at for entry in self._later]
            tick = (self.now // TICK + 1) * TICK
            when = min(until, tick, self.now + self._loop.until_next(), *deadlines)
            self._loop.forward(when - self.now)
            self.now = when
            self._registry.flow.now = when
            for pipe in self._pipes:
                pipe.handle_timeout(when)
            if when == tick:
                self._sessions.tick(when)
                self._deadlines.tick(when)
            self._run(self._settle(wait=False))
        self._raise()

    def _run(self, coroutine: Any) -> None:
        if self._closed:
            coroutine.close()
            raise RuntimeError("this App is closed")
        self._loop.run_until_complete(coroutine)

    async def _settle(self, wait: bool) -> None:
        until = time.monotonic() + self._timeout
        quiet = 0
        while quiet < QUIET_TURNS:
            if self._turn():
                quiet = 0
            elif wait and self._is_busy():
                quiet = 0
                # Perhaps for a thread, or for another server.
                await asyncio.sleep(0.0005)
            else:
                quiet += 1
            await asyncio.sleep(0)
            self._judge_time(until)

    def _is_busy(self) -> bool:
        if self._task.done():
            return False
        return not self._shell.is_idle or any(
            w.window.in_flight for w in self._sessions.workers.values()
        )

    def _judge_time(self, until: float) -> None:
        if time.monotonic() > until:
            held = [
                e.event
                for w in self._sessions.workers.values()
                for e in w.window.in_flight.values()
            ]
            names = [f"{type(e).__struct_config__.tag} of {e.con}" for e in held]
            raise TimeoutError(
                f"not done within {self._timeout:g} s: {', '.join(names) or 'on_start or a timer'}"
                "; to go on while a handler waits: wait=False, then advance(seconds)"
            )

    def _turn(self) -> bool:
        """One turn of the gateway; whether anything has moved."""
        registry, sessions, now, moved = self._registry, self._sessions, self.now, False
        registry.flow.now = now
        for identity, dealer in self._dealers.items():
            while dealer.sent:
                moved = True
                sessions.receive(identity, dealer.sent.popleft(), now)
        moved |= self._dial()
        if registry.flow.is_check_due:
            self._deadlines.check_memory(now)
        for pipe in self._pipes:
            moved |= pipe.step(now)
        for peer in self._peers:
            moved |= peer.step()
        for entry in list(registry.flow.changed):
            registry.flow.changed.pop(entry, None)
            if isinstance(entry.con.endpoint, Pipe):
                entry.con.endpoint.apply_pause(now)
        sessions.backlog.go_on(now)
        registry.outgoing.close_overflowing(now)
        batches = [(worker.session.identity, batch) for worker, batch in sessions.batches(now)]
        for identity, batch in batches + sessions.replies:
            moved = True
            if identity in self._dealers:
                self._dealers[identity].put(batch)
        sessions.replies = []
        registry.dirty.clear()
        self._hear_gateway()
        self._pipes = [pipe for pipe in self._pipes if not pipe.closed]
        self._peers = [peer for peer in self._peers if not peer.is_done]
        return moved

    def _hear_gateway(self) -> None:
        for record in self._sessions.to_supervisor:
            if isinstance(record, Kill):
                self._errors.append(
                    AssertionError(f"the gateway would have this worker killed: {record.why}")
                )
        self._sessions.to_supervisor = []

    def _raise(self) -> None:
        errors = list(self._errors)
        self._errors.clear()
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise BaseExceptionGroup("handlers have raised", errors)

    # --- the end ---

    def close(self) -> None:
        """on_stop, and the end of it all. Raises what was raised and not seen yet."""
        if self._closed:
            return
        try:
            if not self._task.done():
                self._stopper.stop()
                self._run(self._until_left())
            self._raise()
        finally:
            self._free()

    def _free(self) -> None:
        self._closed = True
        if hasattr(self, "_runtime"):
            self._teller.over = True
            self._loop.run_until_complete(self._cancelled())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._leave()
        self._loop.close()
        self._forget_module()
        sys.path[:] = self._path
