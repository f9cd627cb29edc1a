"""I/O. The worker of an App: the real runtime and shell, with a link in memory."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from wsraw.config.settings import Settings
from wsraw.link.worker_end import WorkerEnd
from wsraw.testing.memory import MemoryDealer
from wsraw.workers import api
from wsraw.workers.loading import handlers as handlers_module
from wsraw.workers.loading.handlers import Handlers
from wsraw.workers.runtime import Runtime, log_exception, log_left_out
from wsraw.workers.shells.asyncio_shell import AsyncioShell
from wsraw.workers.shells.shell import Stopper

TOKEN: Final = "token"

TURNS: Final = 100
"""Turns of the gateway within which it answers a question, if at all: one for each page of the
answer."""


class Source:
    """A handlers file, or an object with the functions of one. Each load is as in a new process."""

    def __init__(self, source: object) -> None:
        self.module: Any = source
        """The handlers file as a module, once it is loaded."""
        self._source = source
        self._path = list(sys.path)

    def load(self) -> Handlers:
        """Load the file. Raises LoadError."""
        if not isinstance(self._source, str | os.PathLike):
            handlers_module.offer([])
            return Handlers(self._source)
        self._forget()
        loaded = handlers_module.load(os.fspath(self._source))
        self.module = loaded.module
        return loaded

    def _forget(self, but: object = None) -> None:
        if isinstance(self._source, str | os.PathLike):
            path = os.path.realpath(self._source)
            for name, module in list(sys.modules.items()):
                file = getattr(module, "__file__", None)
                if module is not but and file and os.path.realpath(file) == path:
                    del sys.modules[name]

    def close(self) -> None:
        """Forget the module, and restore the path for imports."""
        self._forget()
        sys.path[:] = self._path


class MemoryWorker:
    """One worker. Errors of its handlers, and rejected commands, are appended to `errors`."""

    def __init__(
        self,
        source: Source,
        settings: Settings,
        pool: str,
        number: int,
        errors: list[BaseException],
        turn: Callable[[], object],
    ) -> None:
        """`turn`: lets the gateway run, while a plain handler waits for its answer."""
        loaded = source.load()
        self.dealer = MemoryDealer(b"\0%d" % number)
        self._stopper = Stopper(self.dealer.bell)
        self._errors = errors
        self._discarded = False
        concurrency = settings.concurrency if loaded.is_async else 1
        link = WorkerEnd(
            pool=pool,
            token=TOKEN,
            instance=self.dealer.identity.hex(),
            language="python/test",
            concurrency=concurrency,
            starting=loaded.on_start is not None,
            events=loaded.asked_events,
        )
        runtime = Runtime(link, loaded, settings.on_exception, threading.get_ident)
        runtime.report = self._handler_failed
        runtime.left_out = self._command_rejected
        if not loaded.is_async:
            runtime.questions.wait = self._wait
        self._runtime, self._turn = runtime, turn
        api.install(runtime, self._stopper.call_soon)
        self._shell = AsyncioShell(runtime, self.dealer, self._stopper, concurrency)
        self.task: asyncio.Task[object]

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self.task = loop.create_task(self._shell.serve())

    @property
    def is_idle(self) -> bool:
        return self.task.done() or self._shell.is_idle

    def stop(self) -> None:
        """Ask the worker to finish, as SIGTERM does."""
        self._stopper.stop()

    def discard(self) -> None:
        """Cancel the worker; later effects of its handlers do not count."""
        self._discarded = True
        self.task.cancel()

    def close(self) -> None:
        api.uninstall()
        self.dealer.close()

    def _wait(self, is_done: Callable[[], bool], seconds: float) -> None:
        """Wait like PlainShell. Only this call moves anything, so it need not wait for time to
        pass."""
        for _ in range(TURNS):
            self._runtime.send_now()
            self._turn()
            while (batch := self.dealer.receive()) is not None:
                self._runtime.receive(batch)
            if is_done():
                break
        # Other batches are for the loop.
        self.dealer.wake()

    def _handler_failed(self, what: str, error: BaseException) -> None:
        if not self._discarded:
            log_exception(what, error)
            error.add_note(f"raised by the handler: {what}")
            self._errors.append(error)

    def _command_rejected(self, why: str) -> None:
        if not self._discarded:
            log_left_out(why)
            self._errors.append(RuntimeError(f"the gateway rejected a command: {why}"))
