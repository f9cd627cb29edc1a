"""I/O. The parent process: signals, exits and news in, the policy's decisions out.

It does no work for clients; it must stay alive and simple.
"""

from __future__ import annotations

import hmac
import os
import random
import secrets
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Final

import zmq

from wsraw import messages as m
from wsraw import settings as settings_module
from wsraw.loop import Loop, Timer
from wsraw.settings import Settings
from wsraw.supervisor import policy as p
from wsraw.supervisor.folder import Folder, FolderError
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

LARGEST_BATCH: Final = 1024 * 1024


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
        self._context = zmq.Context()
        self._control = self._context.socket(zmq.ROUTER)
        self._control.setsockopt(zmq.LINGER, 0)
        self._control.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._control.setsockopt(zmq.MAXMSGSIZE, LARGEST_BATCH)
        self._control_endpoint = self._bind_control()
        self._decoder = m.Decoder(str, m.FromGateway)
        self._standalone_token = secrets.token_hex(16)
        self._gateway_token = ""
        self._gateway_identity: bytes | None = None
        self._endpoint = ""
        self._addresses: list[str] = []
        self._tokens: dict[int, str] = {}
        self._processes: dict[p.Child, Process] = {}
        self._killed: set[p.Child] = set()
        self._timer: Timer | None = None
        self._signals = 0
        self._code = 0
        self._announced = False

    def _bind_control(self) -> str:
        if zmq.has("ipc"):
            endpoint = f"ipc://{self._folder.path / 'control.sock'}"
        else:
            endpoint = "tcp://127.0.0.1:*"
        try:
            self._control.bind(endpoint)
        except zmq.ZMQError as error:
            self._close()
            raise CannotStart(f"run folder {self._folder.path}: {error.strerror}") from error
        return self._control.getsockopt_string(zmq.LAST_ENDPOINT)

    def run(self) -> int:
        """Serve; returns the exit code. Only in the main thread, for the signals' sake."""
        old = {number: signal.signal(number, self._catch) for number in _stop_signals()}
        try:
            self._folder.write_token(self._standalone_token)
            self._loop.watch(self._control.getsockopt(zmq.FD), _ignore, read=True)
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
        self._context.term()
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
                    self._tell(m.Stop(deadline))
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

    def _spawn(self, child: p.Child) -> None:
        name = self._policy.name(child)
        variables = {
            "WSRAW_PARENT": str(os.getpid()),
            "WSRAW_LOCK": str(self._folder.lock),
            "WSRAW_STDIN": "1",
            "WSRAW_SETTINGS": self._child_settings,
        }
        if child is self._policy.gateway:
            arguments = ["gateway"]
            self._gateway_token = secrets.token_hex(16)
            self._gateway_identity = None
            variables |= {
                "WSRAW_CONTROL": self._control_endpoint,
                "WSRAW_CONTROL_TOKEN": self._gateway_token,
                "WSRAW_EPOCH": str(self._folder.next_epoch()),
            }
        else:
            arguments = ["worker"] if child.file is None else ["worker", child.file]
            token = self._tokens[child.n] = secrets.token_hex(16)
            # Before it can speak: its hello must find the token known.
            self._tell(m.Spawned(child.n, token, 0))
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
            self._tell(m.Spawned(child.n, self._tokens[child.n], process.pid))

    def _handle_exit(self, child: p.Child, code: int) -> None:
        del self._processes[child]
        kind = "gateway" if child is self._policy.gateway else "worker"
        why = reason(code, MEANINGS[kind], killed=child in self._killed)
        self._killed.discard(child)
        self._bury(child, code, why)

    def _bury(self, child: p.Child, code: int, why: str) -> None:
        if child is self._policy.gateway:
            self._gateway_identity = None
        else:
            del self._tokens[child.n]
            self._tell(m.Exited(child.n, why))
        self._act(self._policy.exited(child, code, why, self._loop.now))

    # --- the gateway ---

    def _tell(self, *records: m.FromSupervisor) -> None:
        """To the gateway, if there is one: a new one is told everything when it listens."""
        if self._gateway_identity is None:
            return
        batch = m.encode([self._gateway_token, *records])
        try:
            self._control.send_multipart([self._gateway_identity, batch], zmq.NOBLOCK)
        except zmq.ZMQError:
            # It died a moment ago; its exit is on the way, and the next one is told anew.
            pass

    def _before_sleep(self, now: float) -> bool:
        """Drain the control socket. Its descriptor is edge-triggered, and a send of ours may have
        swallowed the edge of what came in: so ask before every sleep, whatever woke us."""
        for _ in range(BATCHES_A_TURN):
            try:
                frames = self._control.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return False
            self._receive(frames, now)
        return True

    def _receive(self, frames: list[bytes], now: float) -> None:
        if len(frames) != 2:
            return
        identity, batch = frames
        try:
            token, records, wrong = self._decoder.decode(batch)
        except m.LinkError as error:
            self._log.say("error", f"the control endpoint was sent no batch: {error}")
            return
        if not hmac.compare_digest(token.encode(), self._gateway_token.encode()):
            # The last word of a gateway that is gone, or not a gateway at all.
            return
        for index, why in wrong:
            self._log.say("error", f"record {index} of the gateway: {why}")
        for record in records:
            match record:
                case m.Listening():
                    self._handle_listening(identity, record, now)
                case m.Ready(n):
                    self._act(self._policy.ready(n, now))
                    self._announce()
                case m.Left(n):
                    self._act(self._policy.left(n, now))
                case m.Kill(n, why):
                    self._act(self._policy.kill_asked(n, why, now))
                case m.Stopped():
                    self._act(self._policy.stopped(now))

    def _handle_listening(self, identity: bytes, news: m.Listening, now: float) -> None:
        self._gateway_identity = identity
        self._endpoint = news.endpoint
        self._addresses = news.addresses
        self._log.say(
            "debug", f"the gateway is up, pid {news.pid}, epoch {news.epoch}, link {news.endpoint}"
        )
        self._tell(
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
    """To wake up was all; `_before_sleep` reads."""
