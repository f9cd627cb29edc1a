"""I/O. A worker inside another asyncio program, to push to sockets or to serve them.

It works like `wsraw worker` without the process: no signals, no stdin, no exit code. After a drain
it connects to the next gateway.
"""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from wsraw.link.records import DEFAULT_POOL, PUSHING_POOL
from wsraw.link.states import LinkState
from wsraw.link.window import LARGEST_WINDOW
from wsraw.link.worker_end import WorkerEnd
from wsraw.runtime.bell import Bell
from wsraw.runtime.link import place
from wsraw.workers import api, values
from wsraw.workers.connection import (
    FORKED,
    AnyConnection,
    Connection,
    Message,
    close_command,
    parse_message,
    to_id,
    to_place,
)
from wsraw.workers.loading import handlers as handlers_module
from wsraw.workers.loading.handlers import Handlers
from wsraw.workers.reporting.worker_log import log
from wsraw.workers.runtime import Runtime
from wsraw.workers.shells import fork
from wsraw.workers.shells.asyncio_shell import AsyncioShell
from wsraw.workers.shells.dealer import LinkKeys
from wsraw.workers.shells.shell import Stopper, connect

T = TypeVar("T")

CONCURRENCY: Final = 100
"""Default number of events handled at the same time."""

RECONNECT_AFTER: Final = 1.0
"""Seconds until the next attempt to connect. Not at once, because a gateway that stops waits until
all workers have left."""


class Worker:
    """A worker of a run that is up::

        async with Worker(run_dir="/run/chat") as worker:
            await worker.publish("room", "hello")

    `handlers`: a handlers file, or any object with such functions as attributes; without it the
    worker only sends commands. `run_dir`: the run folder of a run on this machine; or else
    `endpoint` (``ipc://…`` or ``tcp://…``) with `token`, or, for a gateway on another machine, with
    `keys`. `pool`: the pool to join (default: `default`; without handlers `push`, which gets no
    events). `concurrency`: events handled at the same time. `on_exception`: as the setting.

    A process has one worker at a time; in its handlers and in its loop the functions of wsraw
    (``wsraw.publish`` and so on) use it. Entering does not wait for the gateway, and the link
    reconnects by itself; see `ready`.
    """

    def __init__(
        self,
        handlers: object = None,
        *,
        run_dir: str | Path = "",
        endpoint: str = "",
        token: str = "",
        keys: LinkKeys | None = None,
        pool: str = "",
        concurrency: int = CONCURRENCY,
        on_exception: str = "close",
    ) -> None:
        """Raises LoadError for handlers that cannot be loaded, ValueError or TypeError for other
        arguments."""
        if bool(run_dir) == bool(endpoint):
            raise ValueError("give the gateway's place: run_dir=…, or endpoint=… with token=…")
        if endpoint and not (token or keys):
            raise ValueError("an endpoint needs a token (RUN_DIR/token), or keys")
        if on_exception not in ("close", "keep"):
            raise ValueError(f"on_exception {on_exception!r} is neither 'close' nor 'keep'")
        if keys is not None and not isinstance(keys, LinkKeys):
            raise TypeError(f"keys must be LinkKeys(secret, gateway), not {values.kind_of(keys)}")
        self._run_dir = Path(run_dir).absolute() if run_dir else None
        self._endpoint = values.text(endpoint, "endpoint")
        self._token = values.text(token, "token")
        self._keys = keys
        pool = values.text(pool, "pool")
        self._pool = pool or (DEFAULT_POOL if handlers is not None else PUSHING_POOL)
        self._concurrency = values.whole(concurrency, "concurrency")
        if not 0 < self._concurrency <= LARGEST_WINDOW:
            raise ValueError(f"concurrency must be from 1 to {LARGEST_WINDOW}")
        self._on_exception = on_exception
        if isinstance(handlers, str | os.PathLike):
            self._handlers = handlers_module.load(os.fspath(handlers))
        else:
            self._handlers = Handlers(handlers)
        self._shell: AsyncioShell | None = None
        self._task: asyncio.Task[None] | None = None
        self._leaving: asyncio.Event
        self._changed: asyncio.Event
        self._error = ""

    async def __aenter__(self) -> Worker:
        if api.installed():
            raise RuntimeError("this process has a wsraw worker already: one process, one worker")
        loop = asyncio.get_running_loop()
        if type(loop).add_reader is asyncio.AbstractEventLoop.add_reader:
            raise RuntimeError(
                f"{type(loop).__name__} cannot wait for a link. On Windows use "
                "asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) instead of asyncio.run, "
                "or wsraw.workers.embedded_threads.Worker"
            )
        self._leaving = asyncio.Event()
        self._changed = asyncio.Event()
        self._error = ""
        self._task = loop.create_task(self._live())
        # Let it begin, so that an invalid endpoint raises here.
        await asyncio.sleep(0)
        if self._task.done():
            await self._task
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Let running handlers return, end the session, and wait until that is sent."""
        assert self._task is not None
        if self._error == FORKED:
            # Our task and the loop belong to the other process: here nothing would wake the one,
            # and to close the other would make that process deaf.
            fork.end(error)
        self._leaving.set()
        if self._shell is not None:
            self._shell.stopper.stop()
        await self._task

    # --- commands ---

    async def ready(self) -> None:
        """Wait until a gateway has accepted the worker. Raises ConnectionError if it rejects it."""
        await self._ready_shell()

    async def _ready_shell(self) -> AsyncioShell:
        while (shell := self._shell) is None or not self.is_ready:
            if self._error or self._task is None or self._task.done():
                raise ConnectionError(self._error or "the worker is not running")
            await self._changed.wait()
        return shell

    @property
    def is_ready(self) -> bool:
        """Whether there is a session with a gateway."""
        shell = self._shell
        return shell is not None and shell.runtime.link.state is LinkState.READY

    async def send(
        self,
        con: AnyConnection | int | str,
        msg: Message,
        type: str | None = None,
        final: bool | None = None,
    ) -> None:
        """Send to a connection, whichever worker serves it; arguments as for ``con.send``. With a
        reference (`con.ref`) also at another gateway of the cluster, then as a whole message.

        Like the methods below it waits for a gateway and returns when the link has taken the
        command, so a slow gateway slows the caller. Commands are sent at most once: those under way
        when the link breaks are lost. Within a handler they belong to its event instead.
        """
        # Wrong arguments raise here, also without a gateway.
        number = to_place(con)
        message = parse_message(msg, type, final)
        if not message[2] and isinstance(number, str):
            raise ValueError("only a whole message can be sent there; this one has final=False")
        await self._do(lambda runtime: _send(runtime.reached(number), message))

    async def publish(
        self,
        group: str,
        msg: Message,
        *,
        exclude: Connection | int | Iterable[Connection | int] = (),
    ) -> None:
        command = api.publish_command(group, msg, exclude)
        await self._do(lambda runtime: runtime.command(*command))

    async def send_to_user(
        self,
        user: str,
        msg: Message,
        *,
        exclude: Connection | int | Iterable[Connection | int] = (),
    ) -> None:
        command = api.send_to_user_command(user, msg, exclude)
        await self._do(lambda runtime: runtime.command(*command))

    async def close(
        self, con: AnyConnection | int | str, code: int = 1000, reason: str = ""
    ) -> None:
        number = to_place(con)
        close_command(0, code, reason)
        await self._do(lambda runtime: runtime.reached(number).close(code, reason))

    async def join(self, group: str, con: Connection | int) -> None:
        number, name = to_id(con), values.group(group)
        await self._do(lambda runtime: runtime.connection(number).join(name))

    async def leave(self, group: str, con: Connection | int) -> None:
        number, name = to_id(con), values.group(group)
        await self._do(lambda runtime: runtime.connection(number).leave(name))

    async def members(self, group: str) -> list[int | str]:
        """The ids of all connections of a group, in the order in which they joined; of those at
        other gateways of the cluster, which come last, the references. Raises
        ConnectionError if the gateway is lost before it has answered."""
        name = values.group(group)
        return await (await self._ready_shell()).runtime.questions.members(name)

    async def count(self, group: str) -> int:
        """How many connections are in a group; otherwise like `members`."""
        name = values.group(group)
        return await (await self._ready_shell()).runtime.questions.count(name)

    async def open(self, target: str, **options: Any) -> Connection:
        """Open a connection; arguments as for `open_client_connection`. For workers with handlers,
        which get its events."""
        return await self._do(lambda _: api.open_client_connection(target, **options))

    def call_soon_threadsafe(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a function, plain or async, in our loop between handlers; for other threads.

        Raises ConnectionError while there is no gateway.
        """
        values.function(function, "what call_soon_threadsafe calls")
        shell = self._shell
        if shell is None:
            raise ConnectionError(self._error or "there is no gateway")
        shell.stopper.call_soon(function, args)

    async def _do(self, command: Callable[[Runtime], T]) -> T:
        """Queue a command once there is a gateway, and wait until it is sent."""
        shell = await self._ready_shell()
        result = command(shell.runtime)
        while shell is self._shell and shell.has_unsent:
            await self._changed.wait()
        return result

    # --- connecting ---

    async def _live(self) -> None:
        try:
            while not self._leaving.is_set():
                where = self._where()
                if where is not None:
                    await self._serve(*where)
                    if self._error and where == self._where():
                        break
                    self._error = ""
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._leaving.wait(), RECONNECT_AFTER)
        except Exception as error:
            self._error = str(error)
            raise
        finally:
            self._wake()

    def _where(self) -> tuple[str, str] | None:
        """Endpoint and token, which is new for each run; None while there is no run."""
        if self._run_dir is None:
            return self._endpoint, self._token
        try:
            token = place.token(self._run_dir)
            return place.endpoint(self._run_dir), token
        except OSError:
            return None

    async def _serve(self, endpoint: str, token: str) -> None:
        """Serve until we leave or the gateway drains us. Sets `_error` if the end is final."""
        link = WorkerEnd(
            pool=self._pool,
            token=token,
            instance=secrets.token_hex(8),
            language=f"python/{platform.python_version()}",
            concurrency=self._concurrency,
            starting=self._handlers.on_start is not None,
            events=self._handlers.asked_events,
        )
        bell = Bell()
        try:
            dealer = connect(endpoint, bell, self._keys, is_known=self._run_dir is not None)
        except OSError:
            bell.close()
            raise
        runtime = Runtime(link, self._handlers, self._on_exception, threading.get_ident)
        stopper = Stopper(bell)
        shell = AsyncioShell(runtime, dealer, stopper, self._concurrency)
        shell.turned = self._wake
        api.install(runtime, stopper.call_soon)
        self._shell = shell
        forget = fork.in_child(partial(self._forked, shell))
        try:
            await shell.serve()
        finally:
            forget()
            self._shell = None
            api.uninstall()
            # Closing waits until the last batch is sent, and must not block this loop.
            await asyncio.to_thread(dealer.close, after_bye=True)
            bell.close()
            self._wake()
        if shell.failed:
            self._error = "on_start raised; the log has the traceback"
        elif runtime.rejection:
            self._error = f"the gateway rejected this worker: {runtime.rejection}"
        if self._error:
            log.error("%s", self._error)

    def _forked(self, shell: AsyncioShell) -> None:
        self._shell, self._error = None, FORKED
        shell.forked()

    def _wake(self) -> None:
        """Wake everything that waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()


def _send(con: AnyConnection, message: tuple[bytes, str, bool]) -> None:
    data, kind, final = message
    con.send({"data": data, "type": kind, "final": final})
