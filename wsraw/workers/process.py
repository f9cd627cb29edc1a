"""I/O. The worker process: its set-up, its signals, and its end.

Two shells drive the runtime (runtime.py): plain_shell.py for plain handlers, asyncio_shell.py if
any handler is ``async def``.
"""

from __future__ import annotations

import faulthandler
import io
import json
import math
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from wsraw.config import programs
from wsraw.config.addresses import parse_listen
from wsraw.config.settings import Settings
from wsraw.link.worker_end import WorkerEnd
from wsraw.runtime import launch
from wsraw.runtime.bell import Bell
from wsraw.runtime.launch import Parent
from wsraw.runtime.log.formatters import HAS_LINES, TRACEBACK
from wsraw.runtime.printable import printable_lines
from wsraw.workers import api
from wsraw.workers.loading import handlers, source
from wsraw.workers.loading.versions import KeptVersion, SourceKeeper
from wsraw.workers.reporting import capture, output
from wsraw.workers.reporting.ration import Ration, place_of
from wsraw.workers.reporting.worker_log import log
from wsraw.workers.runtime import Runtime, log_exception, log_left_out
from wsraw.workers.shells import fork
from wsraw.workers.shells.calls import Calls
from wsraw.workers.shells.dealer import Dealer, LinkKeys
from wsraw.workers.shells.shell import EXIT_HANGS, LEAVE_WITHIN, Stopper, connect, is_local

if TYPE_CHECKING:
    from wsraw.workers.shells.asyncio_shell import AsyncioShell
    from wsraw.workers.shells.plain_shell import PlainShell

ORPHAN_GRACE: Final = 5.0
"""Seconds that a handler may still run when the supervisor is gone."""

EXIT_TERMINATED: Final = 143
"""The code that shells use for SIGTERM: the supervisor ended the worker before it had started."""

EXIT_WRONG_ENDPOINT: Final = 2
EXIT_DOES_NOT_LOAD: Final = 3
"""The handlers file does not load; trying again would not help."""


def main(
    file: str | None,
    endpoint: str,
    token: str,
    pool: str,
    settings: Settings,
    keys: LinkKeys | None = None,
    supervisor: Parent | None = None,
    is_known: bool = False,
) -> int:
    """Run a worker until the gateway or a signal ends it; returns the exit code.

    With WSRAW_STDIN=1 in the environment, the worker belongs to a supervisor: it reads the
    supervisor's words, ends with the supervisor, and ignores SIGINT, which a terminal sends to all
    processes. `is_known`: the run folder says that the gateway is on this machine.
    """
    faulthandler.enable()
    _line_buffer()
    formatter = capture.begin(settings.log_level, settings.log_format)
    bell = Bell()
    stopper = Stopper(bell)
    is_spawned = os.environ.pop("WSRAW_STDIN", "") == "1"
    if is_spawned and supervisor is not None:
        longest = min(output.LONGEST_WAIT, settings.handler_timeout / 2 or math.inf)
        output.never_block(longest, lambda: formatter.current())
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            _handle_signal(signal.SIGINT, lambda number, frame: None)
        _watch_stdin(stopper, supervisor)
    if not is_local(endpoint, is_known or is_spawned):
        # `connect` needs it; later a zmq.py beside the handlers file would be taken for libzmq's.
        import wsraw.workers.shells.remote_dealer  # noqa: F401
    try:
        loaded = _load(file, settings.static, os.environ.pop("WSRAW_VERSION", ""))
    except handlers.LoadError as error:
        extra = HAS_LINES | {TRACEBACK: error.traceback}
        log.error("%s", printable_lines(error.summary), extra=extra)
        return EXIT_DOES_NOT_LOAD
    why = _never_asked(loaded, settings) if is_spawned else ""
    if why:
        log.error("%s: %s", file, why)
        return EXIT_DOES_NOT_LOAD
    for slip in handlers.slips(loaded):
        log.warning("%s", slip)
    if is_spawned and file is not None:
        _warn_without_answers(file, loaded, settings)
    concurrency = settings.concurrency if loaded.is_async else 1
    link = WorkerEnd(
        pool=pool,
        token=token,
        # Not from the module secrets, which loads OpenSSL.
        instance=os.environ.pop("WSRAW_INSTANCE", "") or os.urandom(8).hex(),
        language=f"python/{platform.python_version()}",
        concurrency=concurrency,
        starting=loaded.on_start is not None,
        events=loaded.asked_events,
    )
    runtime = Runtime(link, loaded, settings.on_exception, threading.get_ident)
    formatter.current = runtime.subject
    ration = _ration_reports(runtime)
    _report_threads(runtime)
    stopper.in_session = lambda: runtime.is_ready
    api.install(runtime, stopper.call_soon)
    try:
        dealer = connect(endpoint, bell, keys, is_known=is_known or is_spawned)
    except OSError as error:
        log.error("cannot connect to %s: %s", endpoint, error)
        return EXIT_WRONG_ENDPOINT
    _stop_on_signals(stopper, bell, is_spawned)
    shell = _shell(runtime, dealer, stopper, concurrency)
    shell.calls = Calls(settings.handler_timeout, _end_hanging)
    fork.in_child(shell.forked)
    code = shell.run()
    ration.tell()
    # Python restores default signal handlers before it ends; a signal at that moment would look
    # like a crash.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    bell.close()
    return code


def _load(file: str | None, folder: str, version: str = "") -> handlers.Handlers:
    """Load handlers. `folder`: the setting `static`. `version`: the folder in which the sources are
    kept, or, after KEPT, from which they are loaded. Raises LoadError."""
    if file == programs.STATIC.module:
        from wsraw.workers.static import files

        files.serve(folder)
    keeper = None
    if version.startswith(programs.KEPT):
        try:
            source.install(version=KeptVersion(version.removeprefix(programs.KEPT)))
        except OSError as error:
            raise handlers.LoadError(f"{error.filename}: {error.strerror}") from error
    else:
        keeper = SourceKeeper(version) if version else None
        source.install(keeper)
    ours = os.getpid()
    loaded = handlers.load(file)
    if keeper is not None:
        keeper.loaded()
    if os.getpid() != ours:
        # The file has forked, and only one of the processes is the worker.
        fork.end(None)
    return loaded


def _never_asked(loaded: handlers.Handlers, settings: Settings) -> str:
    """Why on_request would not be called in this run."""
    texts = [parse_listen(text, settings).plain_http for text in settings.listen]
    if loaded.on_request is None or "handlers" in texts or loaded.is_static:
        return ""
    return (
        "on_request would never be called: HTTP requests go to it only where plain_http is "
        "'handlers' (--plain-http handlers)"
    )


def _warn_without_answers(file: str, loaded: handlers.Handlers, settings: Settings) -> None:
    """Warn if HTTP requests come to handlers without on_request, and nothing else answers them:
    with pools, routes or files, others may."""
    if loaded.on_request is not None or settings.pools or settings.routes or settings.static:
        return
    texts = [parse_listen(text, settings).plain_http for text in settings.listen]
    if "handlers" in texts:
        text = "%s has no on_request: each HTTP request gets 404 (plain_http is 'handlers')"
        log.warning(text, file)


def check(file: str, settings: Settings) -> int:
    """Load a handlers file like a worker, and no more: its on_start is not called. The result is
    one line of JSON on stdout. Output of the file goes to stderr."""
    faulthandler.enable()
    _line_buffer()
    capture.begin(settings.log_level, settings.log_format)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as result:
        os.dup2(2, 1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        found: dict[str, Any] = {"error": "", "handlers": [], "slips": []}
        try:
            loaded = _load(file, "")
            found["error"] = _never_asked(loaded, settings)
            found["handlers"] = loaded.names
            found["slips"] = handlers.slips(loaded)
            found["timers"] = len(loaded.timers)
            found["is_async"] = loaded.is_async
        except handlers.LoadError as error:
            found["error"] = str(error)
        json.dump(found, result)
    return EXIT_DOES_NOT_LOAD if found["error"] else 0


def _shell(
    runtime: Runtime, dealer: Dealer, stopper: Stopper, concurrency: int
) -> AsyncioShell | PlainShell:
    if runtime.handlers.is_async:
        # Imported here, because asyncio takes 30 ms.
        from wsraw.workers.shells.asyncio_shell import AsyncioShell

        return AsyncioShell(runtime, dealer, stopper, concurrency)
    from wsraw.workers.shells.plain_shell import PlainShell

    return PlainShell(runtime, dealer, stopper)


def _end_hanging() -> None:
    """End this process although a thread still runs; its last line has left."""
    os._exit(EXIT_HANGS)


def _ration_reports(runtime: Runtime) -> Ration:
    ration = Ration()

    def report(what: str, error: BaseException) -> None:
        if ration.allows(place_of(error)):
            log_exception(what, error)

    def left_out(why: str) -> None:
        if ration.allows("rejected commands"):
            log_left_out(why)

    runtime.report = report
    runtime.left_out = left_out
    return ration


def _report_threads(runtime: Runtime) -> None:
    """Log an exception that ends a thread of the handlers as a record, unless the handlers have set
    a hook: Python would print it line by line."""
    if threading.excepthook is not threading.__excepthook__:
        return

    def report(args: threading.ExceptHookArgs) -> None:
        error = args.exc_value
        if error is None or isinstance(error, SystemExit):
            threading.__excepthook__(args)
            return
        name = args.thread.name if args.thread is not None else "that is gone"
        runtime.report(f"thread {name}", error)

    threading.excepthook = report


def _line_buffer() -> None:
    """Flush each line of print and of the log."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


_Signalled = Callable[[int, FrameType | None], None]


def _handle_signal(number: int, handler: _Signalled) -> None:
    """Handle a signal in this process, but not in forks of it.

    A signal handler is set even if it does nothing, because ignored signals stay ignored in
    programs that handlers start.
    """
    before = signal.getsignal(number)
    ours = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == ours:
            handler(number, frame)
        else:
            # The signal came between the fork and `give_back`.
            give_back()
            signal.raise_signal(number)

    def give_back() -> None:
        # Unless a handlers file has set its own.
        if signal.getsignal(number) is handle:
            signal.signal(number, before)

    signal.signal(number, handle)
    fork.in_child(give_back)


def _stop_on_signals(stopper: Stopper, bell: Bell, is_spawned: bool) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        if not is_spawned:
            # A second signal ends a handler that does not return. (A supervisor uses SIGKILL for
            # that; a second SIGTERM means that it has died.)
            signal.signal(number, signal.SIG_DFL)
            stopper.stop()
        else:
            stopper.leave()

    _handle_signal(signal.SIGTERM, stop)
    if not is_spawned and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        _handle_signal(signal.SIGINT, stop)
    if sys.platform == "win32":
        _handle_signal(signal.SIGBREAK, stop)
    # Python runs signal handlers between bytecodes, so a blocking poll must be woken.
    signal.set_wakeup_fd(bell.writer, warn_on_full_buffer=False)
    fork.in_child(partial(signal.set_wakeup_fd, -1))


def _watch_stdin(stopper: Stopper, supervisor: Parent) -> None:
    """Read the supervisor's words, and end with it: its death closes our stdin."""
    ours = supervisor.descriptor = os.dup(0)
    os.set_inheritable(ours, False)
    # Handlers and programs they start must not read this pipe.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    fork.in_child(partial(os.close, ours))

    def hear() -> None:
        while (word := supervisor.line()) is not None:
            if word == launch.STACK:
                # The signal that the word stands for; Python's faulthandler handles it on all
                # systems.
                os.abort()
            elif word == launch.LEAVE:
                _leave(stopper)
        stopper.leave()
        time.sleep(LEAVE_WITHIN + ORPHAN_GRACE)
        print("the supervisor is gone, and a handler does not return", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=hear, name="wsraw-stdin", daemon=True).start()


def _leave(stopper: Stopper) -> None:
    """End like SIGTERM would, which ends a process at once if it has no handler for it yet."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        os._exit(EXIT_TERMINATED)
    stopper.leave()
