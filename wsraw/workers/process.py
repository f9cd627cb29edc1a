"""I/O. The worker process: DEALER, event in → handler → commands out.

Two thin shells over one machine (runtime.py): plain_shell.py for plain handlers on a blocking poll,
asyncio_shell.py if any of them is ``async def``. Here stands what comes before and around them.
"""

from __future__ import annotations

import faulthandler
import io
import logging
import math
import os
import platform
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Final

from wsraw.config.settings import Settings
from wsraw.link.worker_end import WorkerEnd
from wsraw.runtime.printable import LogLine
from wsraw.workers import api
from wsraw.workers.loading import handlers, source
from wsraw.workers.reporting import output
from wsraw.workers.reporting.ration import LeftOutError, Rationed
from wsraw.workers.reporting.worker_log import log
from wsraw.workers.runtime import Runtime, log_exception, log_left_out
from wsraw.workers.shells import fork
from wsraw.workers.shells.link_socket import Bell, Dealer, LinkKeys
from wsraw.workers.shells.shell import LEAVE_WITHIN, Shell, Stopper

ORPHAN_GRACE: Final = 5.0
"""Seconds that a handler has left when the supervisor is gone; nobody else could end it then."""

EXIT_WRONG_ENDPOINT: Final = 2
EXIT_DOES_NOT_LOAD: Final = 3
"""The handlers file does not load: trying again would not help."""


def main(
    file: str | None,
    endpoint: str,
    token: str,
    pool: str,
    settings: Settings,
    keys: LinkKeys | None = None,
) -> int:
    """Run a worker until the gateway or a signal ends it; returns the exit code.

    With WSRAW_STDIN=1 in the environment it belongs to a supervisor: it ends when its stdin does,
    and leaves SIGINT to the supervisor, as some who start it send that to everybody.
    """
    faulthandler.enable()
    _line_buffer(settings.log_level)
    bell = Bell()
    stopper = Stopper(bell)
    is_spawned = os.environ.pop("WSRAW_STDIN", "") == "1"
    if is_spawned:
        output.wait_for_nobody(min(output.PATIENCE, settings.handler_timeout / 2 or math.inf))
        _overhear_sigint()
        _watch_stdin(stopper)
    source.install()
    ours = os.getpid()
    try:
        if file is not None:
            handlers.check_written(file)
        loaded = handlers.load(file)
        if os.getpid() != ours:
            fork.end(None)
    except handlers.LoadError as error:
        if os.getpid() != ours:
            fork.end(error.__cause__)
        print(error, file=sys.stderr, flush=True)
        return EXIT_DOES_NOT_LOAD
    for slip in handlers.slips(loaded):
        log.warning("%s", slip)
    concurrency = settings.concurrency if loaded.is_async else 1
    link = WorkerEnd(
        pool=pool,
        token=token,
        instance=os.environ.pop("WSRAW_INSTANCE", "") or secrets.token_hex(8),
        language=f"python/{platform.python_version()}",
        concurrency=concurrency,
        starting=loaded.on_start is not None,
    )
    runtime = Runtime(link, loaded, settings.on_exception, threading.get_ident)
    runtime.report = raised = Rationed(log_exception)
    refused = Rationed(lambda what, error: log_left_out(what))
    runtime.left_out = lambda why: refused(why, LeftOutError())
    stopper.in_session = lambda: runtime.is_ready
    api.install(runtime, stopper.call_soon)
    try:
        dealer = Dealer(endpoint, bell, keys)
    except OSError as error:
        print(f"cannot connect to {endpoint}: {error}", file=sys.stderr, flush=True)
        return EXIT_WRONG_ENDPOINT
    _stop_on_signals(stopper, bell, is_spawned)
    fork.in_child(api.forked)
    fork.in_child(partial(runtime.forked, fork.end))
    fork.in_child(dealer.forked)
    fork.in_child(bell.close)
    shell: Shell
    if loaded.is_async:
        # Here, as asyncio costs a plain worker 30 ms at start.
        from wsraw.workers.shells.asyncio_shell import AsyncioShell

        shell = AsyncioShell(runtime, dealer, stopper, endpoint, bell, concurrency)
    else:
        from wsraw.workers.shells.plain_shell import PlainShell

        shell = PlainShell(runtime, dealer, stopper, endpoint)
    code = shell.run()
    raised.flush()
    refused.flush()
    # Python gives signals their default back before it ends: one that comes then, when all is said,
    # would make a death of it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    bell.close()
    return code


def _line_buffer(log_level: str) -> None:
    """Each line of a handler's print, and of our log, is seen when it is written."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    ours = logging.getLogger("wsraw")
    ours.setLevel(log_level.upper())
    if not ours.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(LogLine("%(levelname)s %(message)s"))
        ours.addHandler(handler)
        # A handlers file that configures the root logger must not get our lines twice.
        ours.propagate = False


_Signalled = Callable[[int, FrameType | None], None]


def _handle_signal(number: int, handler: _Signalled) -> None:
    """Handle a signal in this process, and not in those that are forked from it.

    With a handler even where nothing is to be done: what is ignored stays so in each program that
    handlers start.
    """
    before = signal.getsignal(number)
    ours = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == ours:
            handler(number, frame)
        else:
            # It has come between the fork and `give_back`.
            give_back()
            signal.raise_signal(number)

    def give_back() -> None:
        # A handlers file may have set its own.
        if signal.getsignal(number) is handle:
            signal.signal(number, before)

    signal.signal(number, handle)
    fork.in_child(give_back)


def _overhear_sigint() -> None:
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        _handle_signal(signal.SIGINT, lambda number, frame: None)


def _stop_on_signals(stopper: Stopper, bell: Bell, is_spawned: bool) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        if not is_spawned:
            # The second one is for those who cannot wait for the handler. A supervisor that cannot
            # wait has SIGKILL; a second SIGTERM tells of its death.
            signal.signal(number, signal.SIG_DFL)
            stopper.stop()
        else:
            stopper.leave()

    _handle_signal(signal.SIGTERM, stop)
    if not is_spawned and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        _handle_signal(signal.SIGINT, stop)
    if sys.platform == "win32":
        _handle_signal(signal.SIGBREAK, stop)
    # Python runs signal handlers between bytecodes: a poll inside ZeroMQ or select must be woken.
    signal.set_wakeup_fd(bell.writer, warn_on_full_buffer=False)
    fork.in_child(partial(signal.set_wakeup_fd, -1))


def _watch_stdin(stopper: Stopper) -> None:
    """End with the supervisor: its end of the pipe closes however it dies."""
    ours = os.dup(0)
    os.set_inheritable(ours, False)
    # A handler, or a program it starts, must not take what is not meant for it.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    fork.in_child(partial(os.close, ours))

    def wait_for_eof() -> None:
        try:
            while os.read(ours, 4096):
                pass
        except OSError:
            pass
        stopper.leave()
        time.sleep(LEAVE_WITHIN + ORPHAN_GRACE)
        print("the supervisor is gone, and a handler does not end", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=wait_for_eof, name="wsraw-stdin", daemon=True).start()
