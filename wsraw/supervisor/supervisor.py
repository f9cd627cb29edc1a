"""I/O. The parent process: signals, exits and news in, the policy's decisions out.

It does no work for clients; it must stay alive and simple.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Final

from wsraw import messages as m
from wsraw import settings as settings_module
from wsraw.loop import Loop, Timer
from wsraw.settings import Settings
from wsraw.supervisor import policy as p
from wsraw.supervisor.control import Control, ControlError
from wsraw.supervisor.folder import Folder, FolderError
from wsraw.supervisor.life import Child
from wsraw.supervisor.log import Log
from wsraw.supervisor.process import Process, command, reason

MEANINGS: Final = {
    "gateway": {p.DOES_NOT_LOAD: "it cannot listen"},
    "worker": {
        p.DOES_NOT_LOAD: "its handlers file does not load",
        4: "the gateway did not let it in",
    },
}
"""What exit codes of our own children say."""

BATCHES_A_TURN: Final = 100
"""Of the gateway: more wait for the next turn, so that signals and exits get theirs."""


class CannotStart(Exception):  # noqa: N818
    """The run cannot begin; the text says what to do."""


def run(settings: Settings) -> int:
    """Serve until a signal; returns the exit code. Raises CannotStart."""
    return Supervisor(settings, Log(sys.stderr, settings.log_level)).run()


class Supervisor:
    """One run: a gateway, its workers, and the folder they meet in."""

    def __init__(self, settings: Settings, log: Log) -> None:
        """Raises CannotStart, and then leaves nothing behind."""
        files: list[str | None] = []
        for text in settings.workers:
            file, count = settings_module.parse_workers(text)
            files += [file] * count
        self._settings = settings
        self._log = log
        self._policy = p.Policy(files or [None], settings.stop_timeout, random.random)
        try:
            self._folder = Folder(settings.run_dir)
        except FolderError as error:
            raise CannotStart(str(error)) from error
        self._child_settings = settings_module.to_json(
            settings_module.with_run_dir(settings, str(self._folder.path))
        )
        self._loop = Loop()
        try:
            self._control = Control(self._folder.path)
        except ControlError as error:
            self._loop.close()
            self._folder.close()
            raise CannotStart(f"run folder {error}") from error
        self._standalone_token = secrets.token_hex(16)
        self._endpoint = ""
        self._addresses: list[str] = []
        self._tokens: dict[int, str] = {}
        self._processes: dict[Child, Process] = {}
        self._killed: set[Child] = set()
        self._timer: Timer | None = None
        self._signals = 0
        self._code = 0
        self._announced = False

    def run(self) -> int:
        """Serve; returns the exit code. Only in the main thread, for the signals' sake."""
        old = {number: signal.signal(number, self._catch) for number in _stop_signals()}
        try:
            self._folder.write_token(self._standalone_token)
            self._loop.watch(self._control.fd, _ignore, read=True)
            self._loop.before_sleep = self._before_sleep
            self._act(self._policy.start(self._loop.now))
            self._loop.run()
        except FolderError as error:
            raise CannotStart(str(error)) from error
        finally:
            # After an error of our own, too: what lives is told by the end of its stdin, but
            # `kill` is certain.
            for process in self._processes.values():
                process.kill()
            for number, handler in old.items():
                signal.signal(number, handler)
            self._close()
        return self._code

    def _close(self) -> None:
        self._loop.close()
        self._control.close()
        self._folder.close()

    # --- signals: the handler only enqueues ---

    def _catch(self, number: int, frame: object) -> None:
        self._loop.call_soon_threadsafe(partial(self.handle_signal, number))

    def handle_signal(self, number: int) -> None:
        """The first one stops in good order, the second at once."""
        name = signal.Signals(number).name
        self._signals += 1
        now = self._loop.now
        if self._signals == 1:
            self._log.say("info", f"{name}: stopping; once more stops at once")
            self._act(self._policy.stop(now))
        elif self._signals == 2:
            self._log.say("warning", f"{name} again: stopping at once")
            self._act(self._policy.stop_now(128 + number, now))

    # --- the policy's decisions ---

    def _act(self, actions: list[p.Action]) -> None:
        for action in actions:
            match action:
                case p.Say(level, text):
                    self._log.say(level, text)
                case p.Spawn(child):
                    self._spawn(child)
                case p.TellStop(deadline):
                    self._control.tell(m.Stop(deadline))
                case p.Terminate(child):
                    self._processes[child].terminate()
                case p.Kill(child):
                    self._killed.add(child)
                    self._processes[child].kill()
                case p.Finish(code):
                    self._code = code
                    self._loop.stop()
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        when = self._policy.wake_at()
        if when is not None:
            self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._act(self._policy.tick(self._loop.now))

    def _spawn(self, child: Child) -> None:
        name = self._policy.name(child)
        variables = {
            "WSRAW_PARENT": str(os.getpid()),
            "WSRAW_LOCK": str(self._folder.lock),
            "WSRAW_STDIN": "1",
            "WSRAW_SETTINGS": self._child_settings,
        }
        if child is self._policy.gateway:
            arguments = ["gateway"]
            variables |= {
                "WSRAW_CONTROL": self._control.endpoint,
                "WSRAW_CONTROL_TOKEN": self._control.expect(),
                "WSRAW_EPOCH": str(self._folder.next_epoch()),
            }
        else:
            arguments = ["worker"] if child.file is None else ["worker", child.file]
            token = self._tokens[child.n] = secrets.token_hex(16)
            # Before it can speak: its hello must find the token known.
            self._control.tell(m.Spawned(child.n, token, 0))
            variables |= {
                "WSRAW_ENDPOINT": self._endpoint,
                "WSRAW_TOKEN": token,
                "WSRAW_POOL": "default",
            }
        post = self._loop.call_soon_threadsafe
        try:
            process = Process(
                command(*arguments),
                variables,
                on_line=partial(self._log.relay, name),
                on_exit=lambda code: post(partial(self._handle_exit, child, code)),
                keep_open=[self._folder.lock],
            )
        except OSError as error:
            why = f"could not be started: {error.strerror or error}"
            post(partial(self._bury, child, 1, why))
            return
        self._processes[child] = process
        self._log.say("debug", f"{name} started, pid {process.pid}")
        if child is not self._policy.gateway:
            self._control.tell(m.Spawned(child.n, self._tokens[child.n], process.pid))

    def _handle_exit(self, child: Child, code: int) -> None:
        del self._processes[child]
        kind = "gateway" if child is self._policy.gateway else "worker"
        why = reason(code, MEANINGS[kind], killed=child in self._killed)
        self._killed.discard(child)
        self._bury(child, code, why)

    def _bury(self, child: Child, code: int, why: str) -> None:
        if child is self._policy.gateway:
            self._control.forget()
        else:
            del self._tokens[child.n]
            self._control.tell(m.Exited(child.n, why))
        self._act(self._policy.exited(child, code, why, self._loop.now))

    # --- the gateway ---

    def _before_sleep(self, now: float) -> bool:
        """Hear the gateway out, up to a budget; True if there may be more."""
        for _ in range(BATCHES_A_TURN):
            try:
                records = self._control.receive()
            except m.LinkError as error:
                self._log.say("error", f"the control link was sent no batch: {error}")
                continue
            if records is None:
                return False
            for record in records:
                self._hear(record, now)
        return True

    def _hear(self, record: m.FromGateway, now: float) -> None:
        match record:
            case m.Listening():
                self._handle_listening(record, now)
            case m.Ready(n):
                self._act(self._policy.ready(n, now))
                self._announce()
            case m.Left(n):
                self._act(self._policy.left(n, now))
            case m.Kill(n, why):
                self._act(self._policy.kill_asked(n, why, now))
            case m.Stopped():
                self._act(self._policy.stopped(now))

    def _handle_listening(self, news: m.Listening, now: float) -> None:
        self._endpoint = news.endpoint
        self._addresses = news.addresses
        self._log.say(
            "debug", f"the gateway is up, pid {news.pid}, epoch {news.epoch}, link {news.endpoint}"
        )
        self._control.tell(
            m.Spawned(0, self._standalone_token, 0),
            *(
                m.Spawned(child.n, self._tokens[child.n], self._processes[child].pid)
                for child in self._policy.workers
                if child in self._processes
            ),
        )
        self._act(self._policy.listening(news.endpoint, now))

    def _announce(self) -> None:
        """Once, when the first worker is ready: what a user waits for."""
        if self._announced or not self._policy.has_been_up:
            return
        self._announced = True
        workers = self._policy.workers
        what = "worker" if len(workers) == 1 else "workers"
        file = Path(workers[0].file).name if workers[0].file else "no handlers: events are printed"
        where = " and ".join(
            _in_words(settings_module.parse_listen(text).protocol, address)
            for text, address in zip(self._settings.listen, self._addresses, strict=False)
        )
        self._log.say(
            "info",
            f"listening on {where} ({len(workers)} {what}, {file}); "
            f"ready, pid {os.getpid()}, link {self._endpoint}",
        )


def _stop_signals() -> list[signal.Signals]:
    """Those that mean: stop. nohup ignores SIGHUP on purpose, so it stays ignored."""
    names = ["SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP"]
    numbers = [signal.Signals[name] for name in names if name in signal.Signals.__members__]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def _in_words(protocol: str, address: str) -> str:
    """An address as a client is told it."""
    if address.startswith("unix:"):
        return address
    schemes = {"any": ("ws", "tcp"), "websocket": ("ws",), "raw": ("tcp",)}[protocol]
    return " and ".join(f"{scheme}://{address}" for scheme in schemes)


def _ignore(readable: bool, writable: bool) -> None:
    """To wake up was all: `_before_sleep` reads (Control.fd says why)."""
