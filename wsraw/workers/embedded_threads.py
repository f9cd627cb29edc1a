"""I/O. A worker for programs without asyncio: embedded_asyncio.py in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from wsraw.workers import embedded_asyncio as inner
from wsraw.workers.connection import AnyConnection, Connection, Message
from wsraw.workers.runtime import log_exception
from wsraw.workers.shells.asyncio_shell import run

T = TypeVar("T")


class Worker:
    """Like `wsraw.workers.embedded_asyncio.Worker`, but with blocking methods for any thread::

        with Worker(run_dir="/run/chat") as worker:
            worker.publish("room", "hello", timeout=5)

    Arguments are the same, and `timeout`: seconds until TimeoutError is raised (and nothing was
    sent); None has no limit. Handlers run in the worker's thread; they must not call these methods,
    but ``con.send`` and the functions of wsraw.
    """

    def __init__(self, handlers: object = None, **options: Any) -> None:
        self._worker = inner.Worker(handlers, **options)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._over: asyncio.Event

    def __enter__(self) -> Worker:
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="wsraw-worker", daemon=True
        )
        self._thread.start()
        started.result()
        return self

    def __exit__(self, *error: object) -> None:
        """Let running handlers return, end the session, and wait for the thread."""
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _run(self, started: Future[None]) -> None:
        ours = os.getpid()

        def escaped(what: str, error: BaseException) -> None:
            if os.getpid() != ours:
                # This is a process that a handler has forked.
                raise error
            log_exception(what, error)

        run(self._main(started), escaped)

    async def _main(self, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        try:
            async with self._worker:
                started.set_result(None)
                await self._over.wait()
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)

    def ready(self, timeout: float | None = None) -> None:
        self._wait(self._worker.ready(), timeout)

    @property
    def is_ready(self) -> bool:
        return self._worker.is_ready

    def send(
        self, con: AnyConnection | int | str, msg: Message, *, timeout: float | None = None
    ) -> None:
        self._wait(self._worker.send(con, msg), timeout)

    def publish(
        self,
        group: str,
        msg: Message,
        *,
        exclude: Connection | int | Iterable[Connection | int] = (),
        timeout: float | None = None,
    ) -> None:
        self._wait(self._worker.publish(group, msg, exclude=exclude), timeout)

    def send_to_user(
        self,
        user: str,
        msg: Message,
        *,
        exclude: Connection | int | Iterable[Connection | int] = (),
        timeout: float | None = None,
    ) -> None:
        self._wait(self._worker.send_to_user(user, msg, exclude=exclude), timeout)

    def close(
        self,
        con: AnyConnection | int | str,
        code: int = 1000,
        reason: str = "",
        *,
        timeout: float | None = None,
    ) -> None:
        self._wait(self._worker.close(con, code, reason), timeout)

    def join(self, group: str, con: Connection | int, *, timeout: float | None = None) -> None:
        self._wait(self._worker.join(group, con), timeout)

    def leave(self, group: str, con: Connection | int, *, timeout: float | None = None) -> None:
        self._wait(self._worker.leave(group, con), timeout)

    def members(self, group: str, *, timeout: float | None = None) -> list[int | str]:
        return self._wait(self._worker.members(group), timeout)

    def count(self, group: str, *, timeout: float | None = None) -> int:
        return self._wait(self._worker.count(group), timeout)

    def open(self, target: str, *, timeout: float | None = None, **options: Any) -> Connection:
        return self._wait(self._worker.open(target, **options), timeout)

    def call_soon_threadsafe(self, function: Callable[..., Any], *args: Any) -> None:
        self._worker.call_soon_threadsafe(function, *args)

    def _wait(self, coroutine: Coroutine[Any, Any, T], timeout: float | None) -> T:
        if self._thread is None or not self._thread.is_alive():
            coroutine.close()
            raise ConnectionError("the worker is not running")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise
