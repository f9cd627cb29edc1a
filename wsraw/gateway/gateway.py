"""I/O. The gateway process: one loop that owns every socket and never runs user code.

One turn, in this order:

1. The loop reads each ready socket, a bounded amount each; events go into the router.
2. before_sleep: (a) commands of workers are drained, up to a budget; (b) pauses are applied and
   what was opened is dialled; (c) each worker gets one batch with all its events of this turn;
   (d) each dirty connection is written once, what is over is closed; (e) the ROUTER is asked
   whether something has come in meanwhile, as its descriptor is edge-triggered.

Deadlines are judged after reading, and a turn that begins late moves them (see loop.py).
"""

from __future__ import annotations

import hmac
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from typing import Final

from wsraw import messages as m
from wsraw.gateway.route import Worker
from wsraw.gateway.router import Router
from wsraw.gateway.sockets import Sockets
from wsraw.gateway.wire import ControlWire, Sent, WorkerWire, new_context
from wsraw.link import LinkState
from wsraw.loop import Loop
from wsraw.settings import Settings, parse_listen

log = logging.getLogger("wsraw.gateway")

DRAIN_BUDGET: Final = 256
"""Batches read from workers in a turn, so that a flood of commands does not starve the sockets."""

TICK: Final = 1.0
"""Seconds between two looks at what is judged by the clock."""

DEATH_CERTAIN_AFTER: Final = 0.25
"""Seconds after a worker's exit was reported within which its last batches must have come."""

ORPHAN_STOP: Final = 5.0
"""Seconds that a gateway without supervisor takes to say goodbye."""

EXIT_CANNOT_START: Final = 3
"""Exit code when it cannot listen: trying again would not help."""


class Gateway:
    """The process's parts, and the stop of it."""

    def __init__(self, settings: Settings, control: str, token: str, epoch: int) -> None:
        self.settings = settings
        self.loop = Loop()
        memory = settings.memory_limit or _quarter_of_memory()
        self.router = Router(settings, epoch, memory, random.random)
        self.sockets = Sockets(self.loop, self.router, settings)
        self._context = new_context()
        self._wire = WorkerWire(self._context, settings.run_dir)
        self._control = ControlWire(self._context, control) if control else None
        self._token = token
        self._epoch = epoch
        self._unsent: dict[Worker, list[bytes]] = {}
        self._dying: dict[Worker, float] = {}
        self._pids: dict[int, int] = {}
        self._phases: list[Callable[[float], bool]] = []
        self._stop_deadline = 0.0
        self._drained = True
        self.loop.watch(self._wire.fd, _wake, read=True)
        if self._control is not None:
            self.loop.watch(self._control.fd, _wake, read=True)
        self.loop.before_sleep = self._before_sleep
        self._decoder = m.Decoder(str, m.FromSupervisor)

    def start(self) -> None:
        """Open the listeners and tell the supervisor. Raises OSError with advice."""
        for text in self.settings.listen:
            self.sockets.listen(parse_listen(text, self.settings))
        addresses = [listener.address for listener in self.sockets.listeners]
        self.router.to_supervisor.append(
            m.Listening(addresses, self._wire.endpoint, self._epoch, os.getpid())
        )
        self._tick()

    def run(self) -> None:
        """Serve until stopped."""
        self.loop.run()

    def close(self) -> None:
        """Free everything."""
        self.sockets.close()
        self._wire.close()
        if self._control is not None:
            self._control.close()
        self._context.term()
        self.loop.close()

    # --- one turn ---

    def _before_sleep(self, now: float) -> bool:
        router, sockets = self.router, self.sockets
        router.flow.now = now
        self._drained = self._wire.drain(self._receive, DRAIN_BUDGET)
        if self._control is not None and self._control.pending():
            self._listen_to_supervisor(now)
        if self._dying:
            self._judge_dying(now)
        sockets.dial()
        sockets.apply_pauses()
        for worker, batch in router.batches(now):
            self._send(worker, batch)
        if router.replies:
            for identity, reply in router.replies:
                self._wire.send(identity, reply)
            router.replies.clear()
        sockets.flush()
        if self._phases:
            self._judge_stop(now)
        sockets.judge_listeners(now)
        if router.to_supervisor:
            self._tell_supervisor()
        # What flushing has brought about (an on_close, a resume) is for a turn that does not wait.
        return bool(
            not self._drained
            or sockets.dirty
            or sockets.doomed
            or router.dispatcher.talked
            or router.flow.changed
            or self._wire.pending()
            or (self._control is not None and self._control.pending())
        )

    def _receive(self, identity: bytes, data: bytes) -> None:
        self.router.receive(identity, data, self.loop.now)

    def _send(self, worker: Worker, batch: bytes) -> None:
        unsent = self._unsent.get(worker)
        if unsent is not None:
            unsent.append(batch)
            return
        sent = self._wire.send(worker.identity, batch)
        if sent is Sent.FULL:
            # The window bounds what can gather here; it goes out in order once there is room.
            self._unsent[worker] = [batch]
            self.loop.call_later(0.01, self._send_rest)
        elif sent is Sent.GONE:
            self._lost(worker)

    def _send_rest(self) -> None:
        for worker, batches in list(self._unsent.items()):
            while batches:
                sent = self._wire.send(worker.identity, batches[0])
                if sent is Sent.FULL:
                    break
                batches.pop(0)
                if sent is Sent.GONE:
                    self._lost(worker)
            if not batches or worker.state is LinkState.GONE:
                del self._unsent[worker]
        if self._unsent:
            self.loop.call_later(0.01, self._send_rest)

    def _tick(self) -> None:
        now = self.loop.now
        for worker in list(self.router.workers.values()):
            if not worker.worker and worker.state is not LinkState.NEW:
                # Nobody reports the exit of a worker started by hand: a batch of no records asks.
                self._send(worker, m.encode([worker.session]))
        self.router.tick(now)
        self.loop.call_later(TICK, self._tick)

    # --- death of a worker: certain, or not at all ---

    def _lost(self, worker: Worker) -> None:
        """EHOSTUNREACH. Its last batches may still wait to be read; for one that was spawned, its
        exit must be reported too."""
        if not worker.worker:
            self._dying.setdefault(worker, self.loop.now)

    def _exited(self, exited: m.Exited, now: float) -> None:
        self._pids.pop(exited.n, None)
        worker = self.router.worker_number(exited.n)
        if worker is not None:
            self._dying[worker] = now

    def _judge_dying(self, now: float) -> None:
        """Dead = it exited (or its link is lost), and a send says EHOSTUNREACH, and after that one
        drain ended in nothing left to read. Until then its acks count."""
        gone = []
        for worker, since in list(self._dying.items()):
            if worker.state is LinkState.GONE:
                # It had said bye, or the drain just now brought its end.
                del self._dying[worker]
            elif (
                self._wire.send(worker.identity, m.encode([worker.session])) is Sent.GONE
                or now - since > DEATH_CERTAIN_AFTER
            ):
                gone.append(worker)
        if gone:
            self._drained = self._wire.drain(self._receive, DRAIN_BUDGET)
        for worker in gone:
            if self._drained and worker.state is not LinkState.GONE:
                died = bool(worker.worker)
                log.warning("%s is gone; its events go to others", self.router.name_of(worker))
                self.router.end_session(worker, now, died=died)
            if worker.state is LinkState.GONE:
                self._dying.pop(worker, None)
        if self._dying:
            self.loop.call_later(0.002, _nothing)

    # --- the supervisor ---

    def _listen_to_supervisor(self, now: float) -> None:
        assert self._control is not None
        while (data := self._control.receive()) is not None:
            try:
                token, records, _ = self._decoder.decode(data)
            except m.LinkError as error:
                log.error("the supervisor sent what is no batch: %s", error)
                continue
            if not hmac.compare_digest(token.encode(), self._token.encode()):
                log.error("a batch with a wrong token on the control link was dropped")
                continue
            for record in records:
                if isinstance(record, m.Spawned):
                    self.router.spawned(record)
                    if record.pid:
                        self._pids[record.n] = record.pid
                elif isinstance(record, m.Exited):
                    self._exited(record, now)
                elif isinstance(record, m.DrainWorker):
                    worker = self.router.worker_number(record.n)
                    if worker is not None:
                        self.router.drain(worker, record.deadline)
                elif isinstance(record, m.Stop):
                    self.stop(record.deadline)

    def _tell_supervisor(self) -> None:
        records = self.router.to_supervisor
        self.router.to_supervisor = []
        if self._control is not None:
            self._control.send(m.encode([self._token, *records]))

    # --- stop ---

    def stop(self, deadline: float) -> None:
        """No new connections; handlers finish; clients get 1001; workers leave; then we do."""
        if self._phases:
            return
        now = self.loop.now
        self._stop_deadline = now + deadline
        self.loop.call_at(self._stop_deadline, _nothing)
        self.sockets.close_listeners()
        self.router.stop()
        self._phases = [self._finish_events, self._close_clients, self._drain_workers]

    def _judge_stop(self, now: float) -> None:
        while self._phases and self._phases[0](now):
            self._phases.pop(0)
        if not self._phases:
            self.router.to_supervisor.append(m.Stopped())
            self._tell_supervisor()
            self.loop.stop()

    def _out_of_time(self, now: float) -> bool:
        return now >= self._stop_deadline

    def _finish_events(self, now: float) -> bool:
        if not (self.router.is_quiet() or self._out_of_time(now)):
            return False
        self.sockets.close_unannounced()
        self.router.close_all(now)
        return True

    def _close_clients(self, now: float) -> bool:
        waiting = self.router.is_waited_for() or self.sockets.endpoints
        return not waiting or self._out_of_time(now)

    def _drain_workers(self, now: float) -> bool:
        busy = False
        for worker in list(self.router.workers.values()):
            if worker.state is LinkState.READY:
                self.router.drain(worker, max(0.0, self._stop_deadline - now))
            busy = busy or worker.state is not LinkState.NEW
        return not busy or self._out_of_time(now)

    def orphaned(self) -> None:
        """The supervisor is gone: say goodbye to everybody, and leave nobody behind."""
        log.error("the supervisor is gone; stopping")
        self.stop(ORPHAN_STOP)

    def kill_spawned(self) -> None:
        """Workers we were told of that are still there although their supervisor is not."""
        for pid in self._pids.values():
            try:
                os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            except OSError:
                pass


def _wake(readable: bool, writable: bool) -> None:
    """The descriptor only ends the wait: the turn itself drains the socket."""


def _nothing() -> None:
    """A timer that only ends the wait."""


def _quarter_of_memory() -> int:
    """The default memory limit; 1 GiB where the platform does not say how much there is."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (AttributeError, ValueError, OSError):
        return 1 << 30


def _raise_descriptor_limit() -> None:
    """Each connection is a descriptor: take all that we may have."""
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError) as error:
            log.warning("open files stay limited to %d: %s", soft, error)


def _watch_stdin(on_eof: Callable[[], object]) -> None:
    """Our parent holds the other end of stdin: its end is the parent's."""
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass
    on_eof()


def main(settings: Settings, control: str, token: str, epoch: int) -> int:
    """Run a gateway as a child of the supervisor; returns its exit code."""
    _raise_descriptor_limit()
    gateway = Gateway(settings, control, token, epoch)
    try:
        gateway.start()
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        print(f"wsraw: {text}", file=sys.stderr, flush=True)
        gateway.close()
        return EXIT_CANNOT_START
    orphan = threading.Event()

    def lost_parent() -> None:
        orphan.set()
        gateway.loop.call_soon_threadsafe(gateway.orphaned)

    if control:
        threading.Thread(target=_watch_stdin, args=(lost_parent,), daemon=True).start()
    # Ctrl-C reaches the whole group; what happens then is for the supervisor to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(
        signal.SIGTERM,
        lambda *_: gateway.loop.call_soon_threadsafe(lambda: gateway.stop(settings.stop_timeout)),
    )
    gateway.run()
    gateway.close()
    if orphan.is_set():
        gateway.kill_spawned()
    return 0
