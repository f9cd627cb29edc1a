"""I/O. The gateway process: one loop that owns every socket and never runs user code.

One turn, in this order:

1. The loop reads each ready socket, a bounded amount each; events go into the router. Where there
   are many, midway: commands are drained, and workers get what has been read so far.
2. before_sleep: (a) commands of workers are drained, up to a budget, and a share of what an earlier
   turn has left of them is done; (b) pauses are applied, what
   was opened is dialled, and TLS handshakes get their share; (c) each worker gets one batch with
   all its events of this turn; (d) each dirty connection is written once, what is over is closed;
   (e) the ROUTER is asked whether something has come in meanwhile, as its descriptor is
   edge-triggered.

Deadlines are judged after reading, and a turn that begins late moves them (see loop.py).
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from wsraw.config.addresses import parse_listen
from wsraw.config.settings import Settings
from wsraw.gateway import system
from wsraw.gateway.admission.per_address import most_connections
from wsraw.gateway.garbage import Collector
from wsraw.gateway.sessions.dead_letters import FILE_NAME
from wsraw.gateway.sessions.links import Links
from wsraw.gateway.sessions.orphans import Orphans
from wsraw.gateway.sessions.remote import Remote
from wsraw.gateway.sessions.router import Router
from wsraw.gateway.sessions.transport import ControlSocket, WorkerSocket, new_context
from wsraw.gateway.sockets.descriptors import Descriptors
from wsraw.gateway.sockets.sockets import Sockets
from wsraw.gateway.status import report
from wsraw.gateway.stop import Stop
from wsraw.gateway.turns import ASKED_BY, MeasuringLoop
from wsraw.link import records as rec
from wsraw.runtime.descriptors import raise_limit
from wsraw.runtime.loop import Loop
from wsraw.runtime.printable import os_error
from wsraw.runtime.sockets import adopt

log = logging.getLogger("wsraw.gateway")

TICK: Final = 1.0
"""Seconds between two looks at what is judged by the clock."""

MIDWAY_DRAIN: Final = 0.0003
"""Seconds for what workers have sent, in the middle of reading."""

ORPHAN_STOP: Final = 5.0
"""Seconds that a gateway without supervisor takes to say goodbye."""

EXIT_CANNOT_START: Final = 3
"""Exit code when it cannot listen: trying again would not help."""


class Gateway:
    """The process's parts, joined in one turn."""

    def __init__(
        self,
        settings: Settings,
        control: str,
        token: str,
        epoch: int,
        descriptors: Descriptors | None = None,
        folder: str = "",
    ) -> None:
        """`folder`: where the link's socket is, if not in the run folder. Raises OSError when that
        cannot be bound."""
        self.settings = settings
        self.loop = MeasuringLoop() if os.environ.get(ASKED_BY) else Loop()
        limit = settings.memory_limit or system.quarter()
        self.router = Router(settings, epoch, limit, random.random)
        self._descriptors = descriptors or Descriptors()
        most = most_connections(self._descriptors.limit) if descriptors is not None else 0
        self.sockets = Sockets(
            self.loop, self.router, settings, most, descriptors=self._descriptors
        )
        self.stopping = Stop(self.loop, self.router, self.sockets)
        self.collector = Collector()
        self._context = new_context()
        self._wire = WorkerSocket(self._context, folder or settings.run_dir)
        self._links = Links(self.loop, self.router, self._wire)
        self._remote: Remote | None = None
        self._control = ControlSocket(self._context, control) if control else None
        self._decoder = rec.Decoder(str, rec.FromSupervisor)
        self._token = token
        self._spawned = Orphans()
        self._introduced = self._control is None
        """The supervisor has told us of its workers: before that nobody's hello can be judged."""
        self._tick_due = False
        if self._control is not None:
            self.loop.watch(self._control.fd, self._control.wake, read=True)
        self.loop.before_sleep = self._before_sleep
        self.loop.midway = self._midway

    def start(self, given: Sequence[int] = ()) -> None:
        """Listen and tell the supervisor. `given` are descriptors of its sockets, one for each
        listener; without them they are opened here. Raises OSError or ValueError with advice."""
        for index, text in enumerate(self.settings.listen):
            sock = adopt(given[index]) if given else None
            self.sockets.listen(parse_listen(text, self.settings), sock)
        if self.settings.worker_listen:
            self._remote = Remote(self.loop, self.router, self._context, self.settings)
            self._links.remote = self._remote
        if self.sockets.admission.most and not self.settings.max_connections:
            admission = self.sockets.admission
            admission.most = self._descriptors.most_connections(admission.most)
        self._say_where()
        self._tick()

    def _say_where(self) -> None:
        addresses = [listener.address for listener in self.sockets.listeners]
        self.router.to_supervisor.append(
            rec.Listening(addresses, self._wire.endpoint, self.router.epoch, os.getpid())
        )

    def _relink(self, folder: str) -> None:
        try:
            self._wire.bind(folder)
        except OSError as error:
            log.error("new workers cannot connect: %s", error.strerror)
        # In any case: the supervisor looks whether it is there, and asks again.
        self._say_where()

    def _tick(self) -> None:
        self.loop.call_later(TICK, self._tick)
        self._tick_due = True

    def close(self) -> None:
        """Free everything."""
        self.sockets.close()
        self._wire.close()
        if self._remote is not None:
            self._remote.close()
        if self._control is not None:
            self._control.close()
        self._context.term()
        self.loop.close()

    # --- one turn ---

    def _midway(self, now: float) -> None:
        self.router.flow.now = now
        if self._introduced:
            self._links.drain(MIDWAY_DRAIN)
        self._links.send(now)

    def _before_sleep(self, now: float) -> bool:
        router, sockets, links, control = self.router, self.sockets, self._links, self._control
        router.flow.now = now
        if self.loop.is_behind:
            links.stir()
            if control is not None:
                control.stir()
        if control is not None and control.pending():
            self._listen_to_supervisor(control, now)
        if self._introduced:
            links.drain()
        if router.go_on(now):
            self.loop.give_way()
        links.judge_dying(now)
        ticks, self._tick_due = self._tick_due, False
        if ticks:
            # After reading: an ack that has come must not be missed.
            links.ask_unwatched()
            self._tick_due = router.tick(now)
        elif router.flow.wants_judgement:
            router.judge_memory(now)
        sockets.write_over_limit()
        sockets.dial()
        sockets.apply_pauses()
        shaking = sockets.shake_hands()
        links.send(now)
        sockets.flush()
        if self.stopping.under_way and self.stopping.judge(now):
            self.loop.stop()
        sockets.judge_listeners(now)
        if router.dead_letters:
            self._write_dead_letters()
        if router.to_supervisor:
            records, router.to_supervisor = router.to_supervisor, []
            if control is not None:
                control.send(rec.encode([self._token, *records]))
        # What flushing has brought about (an on_close, a resume) is for a turn that does not wait.
        busy = bool(
            sockets.dirty
            or sockets.doomed
            or sockets.going_on
            or self._tick_due
            or shaking
            or router.is_restless
            # Asked in any case: else its descriptor would wake us again at once.
            or (links.pending() and self._introduced)
            or (control is not None and control.pending())
        )
        if ticks:
            quiet = not busy and not self.loop.is_behind
            self.collector.judge(sockets.came, len(sockets.endpoints), quiet)
        return busy

    def _write_dead_letters(self) -> None:
        letters, self.router.dead_letters = self.router.dead_letters, []
        if not self.settings.run_dir:
            return
        path = os.path.join(self.settings.run_dir, FILE_NAME)
        for letter in letters:
            try:
                line = json.dumps({"time": time.time(), **letter}) + "\n"
                _append(path, line.encode())
            except OSError as error:
                text = "a dead letter could not be written to %s: %s; lost is %s of connection %s"
                log.error(text, path, error.strerror, letter.get("event"), letter.get("con"))
            except Exception as error:
                self.router.limits.fault("a dead letter", error)

    # --- the supervisor ---

    def _listen_to_supervisor(self, control: ControlSocket, now: float) -> None:
        while (data := control.receive()) is not None:
            try:
                token, records, _ = self._decoder.decode(data)
            except rec.LinkError as error:
                log.error("the supervisor sent what is no batch: %s", error)
                continue
            if not hmac.compare_digest(token.encode(), self._token.encode()):
                log.error("a batch with a wrong token on the control link was dropped")
                continue
            self._introduced = True
            for record in records:
                try:
                    self._obey(record, now)
                except Exception as error:
                    self._fail_to_obey(record, error)

    def _fail_to_obey(self, record: rec.FromSupervisor | None, error: Exception) -> None:
        """A fault of ours; who waits for an answer gets one."""
        self.router.limits.fault(f"what the supervisor said, {type(record).__name__},", error)
        if isinstance(record, rec.Reload):
            self.router.to_supervisor.append(rec.Reloaded(f"a fault of wsraw itself: {error!r}"))

    def _obey(self, record: rec.FromSupervisor | None, now: float) -> None:
        match record:
            case rec.Spawned():
                self.router.spawned(record)
                if record.pid:
                    self._spawned.add(record.n, record.pid)
                self._descriptors.expect(max(len(self._spawned), len(self.router.workers)))
            case rec.Exited():
                self._spawned.discard(record.n)
                self._links.exited(record.n, now)
            case rec.DrainWorker():
                worker = self.router.worker_number(record.n)
                if worker is not None:
                    self.router.drain(worker, record.deadline)
            case rec.Status():
                sockets = self.sockets
                data = report(self.router, len(sockets.endpoints), now, sockets.admission.most)
                data["tls"] = sockets.handshakes.figures()
                if isinstance(self.loop, MeasuringLoop):
                    data["turns"] = self.loop.figures()
                self.router.to_supervisor.append(rec.Report(record.ref, data))
            case rec.Check():
                self.router.to_supervisor.append(rec.Alive())
            case rec.Stop():
                self.stopping.begin(record.deadline)
            case rec.Relink():
                self._relink(record.folder)
            case rec.Reload():
                _return_to_folder()
                why = self.sockets.reload_certificates()
                self.router.to_supervisor.append(rec.Reloaded(why))

    def orphaned(self) -> None:
        """The supervisor is gone: say goodbye to everybody, and leave nobody behind."""
        log.error("the supervisor is gone; stopping")
        self.stopping.begin(ORPHAN_STOP)

    def kill_spawned(self) -> None:
        """Workers we were told of that are still there although their supervisor is not."""
        self._spawned.kill_all()


def _return_to_folder() -> None:
    """A link in the name of our folder may have moved: relative names of files are meant where it
    leads now."""
    try:
        os.chdir(os.environ.get("PWD", "."))
    except OSError:
        # Gone: what can still be found is where we are.
        pass


def _append(path: str, line: bytes) -> None:
    """Add a line, or nothing: half a line would take the next one along. Raises OSError."""
    # What clients have sent is nobody else's business.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if size:
            os.lseek(descriptor, -1, os.SEEK_END)
            if os.read(descriptor, 1) != b"\n":
                # Cut short by a crash.
                line = b"\n" + line
        try:
            written = 0
            while written < len(line):
                written += os.write(descriptor, line[written:])
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def _watch_stdin(on_eof: Callable[[], object]) -> None:
    """Our parent holds the other end of stdin: its end is the parent's."""
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass
    on_eof()


def main(
    settings: Settings,
    control: str,
    token: str,
    epoch: int,
    given: Sequence[int] = (),
    folder: str = "",
    workers: int = 0,
) -> int:
    """Run a gateway as a child of the supervisor; returns its exit code. `folder`: as above;
    `workers`: how many are to come."""
    limit = raise_limit()
    if settings.max_connections > limit:
        text = "max_connections is %d, but only %d files may be open; raise that (ulimit -Hn)"
        log.warning(text, settings.max_connections, limit)
    descriptors = Descriptors(limit, workers)
    gateway: Gateway | None = None
    try:
        gateway = Gateway(settings, control, token, epoch, descriptors, folder)
        gateway.start(given)
    except (OSError, ValueError) as error:
        text = os_error(error) if isinstance(error, OSError) else str(error)
        print(f"error: {text}", file=sys.stderr, flush=True)
        if gateway is not None:
            gateway.close()
        return EXIT_CANNOT_START
    orphan = threading.Event()

    def lost_parent() -> None:
        orphan.set()
        gateway.loop.call_soon_threadsafe(gateway.orphaned)

    if control:
        try:
            threading.Thread(target=_watch_stdin, args=(lost_parent,), daemon=True).start()
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            gateway.close()
            return 1
    # Ctrl-C reaches the whole group; what happens then is for the supervisor to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(
        signal.SIGTERM,
        lambda *_: gateway.loop.call_soon_threadsafe(
            lambda: gateway.stopping.begin(settings.stop_timeout)
        ),
    )
    gateway.collector.begin()
    gateway.loop.run()
    gateway.close()
    if orphan.is_set():
        gateway.kill_spawned()
    return 0
