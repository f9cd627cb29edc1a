"""I/O. The gateway process: one loop that owns every socket and never runs user code.

One turn, in this order:

1. The loop reads from ready sockets and accepts from listeners, a bounded amount each. Where there
   is much to read, `_midway` lets workers begin with what has been read so far.
2. Timers that are due. They come after reading, so that no deadline is checked before what has
   already arrived was seen, and a turn that begins late moves them (see loop.py).
3. `_before_sleep`, the end of the turn. Its steps are its lines, in their order; each is bounded,
   and what does not fit is for the next turn.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Final

from wsraw.config.addresses import parse_listen
from wsraw.config.settings import Settings
from wsraw.gateway import system
from wsraw.gateway.cluster.cluster import Cluster
from wsraw.gateway.delivery.deadlines import Deadlines
from wsraw.gateway.delivery.pools import canary
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.frozen.gateway import Parts
from wsraw.gateway.frozen.links import Ends
from wsraw.gateway.handover.dialog import GOES_ON
from wsraw.gateway.handover.handover import Handover
from wsraw.gateway.handover.pump import Pump
from wsraw.gateway.inspection import kernel
from wsraw.gateway.inspection.inspection import Inspection
from wsraw.gateway.sessions.control import ControlLink
from wsraw.gateway.sessions.dead_letters import FILE_NAME
from wsraw.gateway.sessions.links import Links
from wsraw.gateway.sessions.sessions import Sessions
from wsraw.gateway.sockets.descriptors import Descriptors
from wsraw.gateway.sockets.sockets import Sockets
from wsraw.gateway.status import of_loop, report
from wsraw.gateway.stop import GracefulStop
from wsraw.gateway.system import Collector, TurnTimes, keep_freed_memory
from wsraw.link import records as rec
from wsraw.runtime import launch, private
from wsraw.runtime.descriptors import ARE_NUMBERED, raise_limit
from wsraw.runtime.launch import Parent
from wsraw.runtime.loop import Loop
from wsraw.runtime.printable import os_error
from wsraw.runtime.sockets import adopt

log = logging.getLogger("wsraw.gateway")

TICK: Final = 1.0
"""Seconds between two checks of deadlines."""

MIDWAY_DRAIN: Final = 0.0003
"""Seconds for commands of workers, in the middle of reading."""

LAGS_KEPT: Final = 15
"""Ticks over which the greatest delay is reported: as many seconds as usually lie between two
scrapes."""

REMOTE_TRIES: Final = 50
REMOTE_PAUSE: Final = 0.1
"""Attempts, and the seconds between them, to bind the address of workers on other machines, until
the upgraded gateway has released it."""

ORPHAN_STOP: Final = 5.0
"""Seconds that a gateway may take to stop once its supervisor is gone."""

EXIT_NOT_WANTED: Final = 1
"""Exit code of a successor that took over nothing."""

EXIT_CANNOT_START: Final = 3
"""Exit code if the gateway cannot listen: trying again would not help."""


class Gateway:
    """The parts of the process, and their order in a turn."""

    def __init__(
        self,
        settings: Settings,
        control: str,
        token: str,
        epoch: int,
        descriptors: Descriptors | None = None,
        folder: str = "",
        given: Sequence[str] = (),
        is_successor: bool = False,
    ) -> None:
        """`folder`: the folder of the link's socket, if it is not the run folder. `given`: sockets
        of the supervisor, one for each listener, and one for the link if it is on TCP; without
        them, the gateway opens its own. `is_successor`: see `take_over`. Raises OSError if the
        link's socket cannot be bound there."""
        self.settings = settings
        self.loop = Loop()
        limit = settings.memory_limit or system.quarter()
        self.registry = Registry(settings, epoch, limit, os.urandom(4).hex())
        self.sessions = Sessions(self.registry, random.random)
        if settings.bridges:
            # Few gateways need it.
            from wsraw.gateway.splices.bridges import Bridges

            Bridges(self.registry, self.sessions.splices, settings, self.loop.call_later)
        self.deadlines = Deadlines(self.registry)
        self.sockets = Sockets(self.loop, self.registry, settings, descriptors)
        self.deadlines.undelivered = self.sockets.undelivered
        self.stopping = GracefulStop(self.loop, self.registry, self.sessions, self.sockets)
        self.inspection = Inspection(
            self.registry, kernel.look, self.loop.clock, time.time, self._tell_supervisor
        )
        self.collector = Collector()
        self._times: TurnTimes | None = None
        count = len(settings.listen)
        self._given = given[:count]
        link = adopt(given[count]) if len(given) > count else None
        folder = folder or settings.run_dir
        self._links = Links(self.loop, self.registry, self.sessions, folder, link, not is_successor)
        self.cluster: Cluster | None = None
        if settings.cluster:
            self.cluster = Cluster(self.registry, settings.node, self._tell_supervisor)
        self._link_trouble = ""
        """Why the link's socket could not be opened again, the last time that this was tried."""
        self.sockets.shared.newcomer = self.inspection.tracer.newcomer
        self._control: ControlLink | None = None
        if control and not is_successor:
            self._connect(control, token)
        ends = Ends(self.sockets, self._links)
        self.handover = Handover(
            self.loop,
            Parts(self.registry, self.sessions, self.deadlines, ends),
            self.registry,
            self.sessions,
            self.sockets,
            self._links,
            self.stopping,
        )
        self.is_orphaned = False
        if not control:
            self._links.open()
        self._tick_due = False
        self._tick_at = self.loop.clock()
        self._lags: deque[float] = deque(maxlen=LAGS_KEPT)
        """Seconds by which the last ticks were late."""
        measures = os.environ.get(system.ASKED_BY)
        self.loop.before_sleep = self._measured if measures else self._before_sleep
        self.loop.midway = self._midway

    def start(self) -> None:
        """Listen and tell the supervisor. Raises OSError or ValueError, with advice."""
        self._listen()
        if self.settings.worker_listen:
            self._listen_for_remote()
        self._report_addresses()
        self._tick()

    def _connect(self, control: str, token: str) -> None:
        self._control = ControlLink(self.loop, control, token, self.inspection.forget)

    def take_over(self, predecessor: Sequence[str], control: str, token: str) -> str:
        """Instead of `start`: become the successor of the gateway at the other end of two sockets,
        once it has handed over everything. Blocks. Returns why that failed, or "". Raises OSError
        or ValueError, with advice."""
        self._listen()
        words, records = map(adopt, predecessor)
        told = self.handover.take(words, records)
        if isinstance(told, str):
            return told
        self.collector.adopted()
        self._connect(control, token)
        self._links.open()
        if self.settings.worker_listen:
            self._listen_for_remote_soon(REMOTE_TRIES)
        self._report_addresses()
        self._tell_supervisor(rec.Upgraded(told))
        self._tick()
        return ""

    def _listen(self) -> None:
        for index, text in enumerate(self.settings.listen):
            sock = adopt(self._given[index]) if self._given else None
            self.sockets.listen(parse_listen(text, self.settings), sock)
        if not self.settings.max_connections:
            self.sockets.admission.most = self.sockets.descriptors.most_connections()

    def _listen_for_remote(self) -> None:
        # Imported only here: libzmq takes memory and threads.
        from wsraw.gateway.remote.links import ZmqLinks

        self._links.remote = ZmqLinks(self.loop, self.registry, self.sessions)

    def _listen_for_remote_soon(self, tries: int) -> None:
        """Listen for workers on other machines as soon as the gateway before this one has released
        the address."""
        try:
            self._listen_for_remote()
        except (OSError, ValueError) as error:
            if tries == 1:
                text = os_error(error) if isinstance(error, OSError) else str(error)
                log.error("workers on other machines cannot connect: %s", text)
            again = partial(self._listen_for_remote_soon, max(1, tries - 1))
            self.loop.call_later(REMOTE_PAUSE * (1 if tries > 1 else 10), again)

    def _report_addresses(self) -> None:
        addresses = [listener.address for listener in self.sockets.listeners]
        self.sessions.to_supervisor.append(
            rec.Listening(addresses, self._links.endpoint, self.registry.ids.epoch, os.getpid())
        )

    def _relink(self, folder: str) -> None:
        before, self._link_trouble = self._link_trouble, ""
        try:
            self._links.relink(folder)
        except OSError as error:
            self._link_trouble = os_error(error)
            # The request comes again each second; the same problem is not logged again.
            if self._link_trouble != before:
                log.error("new workers cannot connect: %s", self._link_trouble)
        else:
            if before:
                log.info("new workers can connect again")
        # In any case: the supervisor checks that the socket exists, and asks again if it does not.
        self._report_addresses()

    def _tick(self) -> None:
        now = self.loop.clock()
        self._lags.append(max(0.0, now - self._tick_at))
        self._tick_at = now + TICK
        self.loop.call_later(TICK, self._tick)
        self._tick_due = True

    def close(self) -> None:
        if self.handover.has_left:
            # The sockets now belong to the successor.
            if self._control is not None:
                self._control.close()
            self.loop.close()
            return
        self.sockets.close()
        self._links.close()
        if self._control is not None:
            self._control.close()
        self.loop.close()

    # --- one turn ---

    def _midway(self, now: float) -> None:
        """Apply received commands, and send workers the events that were read so far: on other
        cores they can begin before everything is read."""
        self.registry.flow.now = now
        self._links.drain(MIDWAY_DRAIN)
        self._links.send(now)
        self.registry.sum_totals(long_only=True)

    def _before_sleep(self, now: float) -> bool:
        """The end of a turn. True: the next turn must not sleep. A step without anything to do is
        not called: most turns have one message."""
        registry, sessions, sockets = self.registry, self.sessions, self.sockets
        registry.flow.now = now
        if self._control is not None and self._control.is_due:
            self._read_supervisor(self._control, now)
        self._read_workers(now)
        is_tick = self._check_deadlines(now)
        if registry.outgoing.over_limit:
            sockets.write_over_limit()
        if registry.to_dial:
            sockets.dial()
        if registry.flow.changed or sockets.shared.read_queue or sockets.overdrawn:
            sockets.apply_pauses()
        if sockets.handshakes.waiting:
            sockets.handshakes.work()
        if self.inspection.running:
            self.inspection.go_on()
        self._links.send(now)
        sockets.flush()
        if sessions.splices.to_shut:
            sockets.shut(sessions.splices.take_shut())
        if self.inspection.tracer.taps:
            self.inspection.look()
        if self.stopping.phases and self.stopping.advance(now):
            self.loop.stop()
        if self.handover.giving is not None and self.handover.giving.is_due:
            return self._hand_over(now)
        sockets.update_listeners()
        if sessions.dead_letters:
            self._write_dead_letters()
        if sessions.to_supervisor:
            self._write_supervisor()
        busy = self._is_busy()
        if is_tick:
            quiet = not busy and not self.loop.is_behind
            self.collector.collect_if_due(sockets.total, len(sockets.endpoints), quiet)
        return busy

    def _hand_over(self, now: float) -> bool:
        """Let a successor take over, or go on with turns until all can move."""
        if self.sessions.to_supervisor:
            self._write_supervisor()
        if self.sessions.dead_letters:
            self._write_dead_letters()
        self.handover.advance(now)
        if self.sessions.to_supervisor:
            self._write_supervisor()
        self.sockets.update_listeners()
        return not self.handover.has_left

    def _measured(self, now: float) -> bool:
        busy = self._before_sleep(now)
        if self._times is None:
            # The first turn includes the start.
            self._times = TurnTimes()
        else:
            self._times.end_turn()
        return busy

    def _read_supervisor(self, control: ControlLink, now: float) -> None:
        """Called first, because a hello may come from a worker that the supervisor has just
        started."""
        while (records := control.receive()) is not None:
            # Before the supervisor has told us its workers, no hello can be checked.
            self._links.open()
            for record in records:
                try:
                    self._apply(record, now)
                except Exception as error:
                    self._fail_to_apply(record, error)

    def _read_workers(self, now: float) -> None:
        """Apply commands of workers, then a share of what earlier turns have left. Then end the
        sessions of dead workers: everything they sent has been read."""
        links = self._links
        if self.loop.is_behind:
            links.look_again()
        if links.ready or links.remote is not None:
            links.drain()
        if links.strangers:
            control = self._control
            # The loop may not have looked at the control link yet. Strangers wait until everything
            # there is read.
            if control is not None and control.read_now():
                self._read_supervisor(control, now)
            else:
                links.meet()
        if self.sessions.backlog.go_on(now):
            self.loop.give_way()
        if links.dying or links.remote is not None:
            links.end_dead(now)

    def _check_deadlines(self, now: float) -> bool:
        """Check deadlines once a second, and the memory as soon as it has grown. This comes after
        all reading, so that no received ack is missed. Returns whether a second was over."""
        is_tick, self._tick_due = self._tick_due, False
        if is_tick:
            self.registry.sum_totals()
            self._links.tick()
            self.sessions.tick(now)
            if self.cluster is not None:
                self.cluster.tick(now)
            self.deadlines.tick(now)
            self.handover.pumps.tick(now, self.loop.clock())
        elif self.deadlines.late:
            self.deadlines.end_late(now)
        else:
            flow = self.registry.flow
            if flow.total > flow.check_above or (flow.crowded and flow.is_check_due):
                self.deadlines.check_memory(now)
        return is_tick

    def _tell_supervisor(self, record: rec.FromGateway) -> None:
        self.sessions.to_supervisor.append(record)

    def _write_supervisor(self) -> None:
        """Report to the supervisor what the other steps have found."""
        records, self.sessions.to_supervisor = self.sessions.to_supervisor, []
        if self._control is not None:
            self._control.tell(records)

    def _is_busy(self) -> bool:
        """Whether the next turn must not wait: the rest of a share is left, or writing has caused
        something (an on_close, a resume). This is the last step, because libzmq's descriptors, for
        remote workers, are edge-triggered: a send can consume the edge, and the loop would sleep
        although a message waits."""
        links = self._links
        return bool(
            self.sockets.is_busy
            or self.deadlines.late
            or self.sessions.is_busy
            or self.inspection.running
            or links.pending()
        )

    def _write_dead_letters(self) -> None:
        """Write events that have killed workers to a file, for people to examine."""
        letters, self.sessions.dead_letters = self.sessions.dead_letters, []
        if not self.settings.run_dir:
            return
        path = os.path.join(self.settings.run_dir, FILE_NAME)
        for letter in letters:
            try:
                line = json.dumps({"time": time.time(), **letter}) + "\n"
                _append(path, line.encode())
            except OSError as error:
                text = "cannot write a dead letter to %s: %s; %s of connection %s is lost"
                log.error(text, path, error.strerror, letter.get("event"), letter.get("con"))
            except Exception as error:
                self.registry.counters.fault("a dead letter", error)

    # --- the supervisor ---

    def _fail_to_apply(self, record: rec.FromSupervisor, error: Exception) -> None:
        """A bug in wsraw. If the supervisor waits for an answer, it gets one."""
        self.registry.counters.fault(f"the supervisor's {type(record).__name__}", error)
        if isinstance(record, rec.Reload):
            self.sessions.to_supervisor.append(rec.Reloaded(f"a bug in wsraw: {error!r}"))

    def _apply(self, record: rec.FromSupervisor, now: float) -> None:
        match record:
            case rec.Spawned():
                self.sessions.tokens.add(record.token, record.n)
                if record.pid:
                    self.handover.spawned.add(record.n, record.pid)
                self.sockets.descriptors.expect(
                    max(len(self.handover.spawned), len(self.sessions.workers))
                )
            case rec.Exited():
                self.handover.spawned.discard(record.n)
                self._links.exited(record.n)
            case rec.DrainWorker():
                worker = self.sessions.numbered(record.n)
                if worker is not None:
                    self.sessions.drain(worker, record.deadline)
            case rec.Status():
                sockets = self.sockets
                most = sockets.admission.most
                count = len(sockets.endpoints)
                data = report(self.registry, self.sessions, count, now, most, record.samples)
                data["tls"] = sockets.handshakes.figures()
                data["certificates"] = sockets.certificates()
                data["accepted"] = {each.listen.name: each.accepted for each in sockets.listeners}
                data["pumps"] = self.handover.pumps.report(self.loop.clock())
                data["loop"] = of_loop(self.loop.turns, max(self._lags, default=0.0))
                if self.cluster is not None:
                    data["cluster"] = self.cluster.report()
                if self._times is not None:
                    data["turns"] = self._times.figures()
                self.sessions.to_supervisor.append(rec.Report(record.ref, data))
            case rec.Ask():
                self.inspection.ask(record)
            case rec.More():
                self.inspection.more(record)
            case rec.Enough():
                self.inspection.enough(record)
            case rec.Check():
                self.sessions.to_supervisor.append(rec.Alive())
            case rec.Stop():
                self._stop(record.deadline)
            case rec.Canary():
                canary.change(self.registry, record)
            case rec.Relink():
                self._relink(record.folder)
            case rec.Reload():
                _return_to_folder()
                why = self.sockets.reload_certificates()
                self.sessions.to_supervisor.append(rec.Reloaded(why))

    def leave(self) -> None:
        """The supervisor tells us to stop."""
        self._stop(self.settings.stop_timeout)

    def stop_orphaned(self) -> None:
        """The supervisor is gone: stop, and leave no worker behind."""
        self.is_orphaned = True
        log.error("the supervisor is gone; stopping")
        self._stop(ORPHAN_STOP)

    def _stop(self, deadline: float) -> None:
        self.stopping.begin(deadline)
        self.handover.stop()


def _return_to_folder() -> None:
    """Resolve the name of our folder again: relative file names are relative to the folder to which
    a symbolic link in that name leads now."""
    try:
        os.chdir(os.environ.get("PWD", "."))
    except OSError:
        # The folder is gone: relative names still work from the folder that we are in.
        pass


def _append(path: str, line: bytes) -> None:
    """Append a whole line or nothing: half a line would spoil the next one. Raises OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
    # Only its owner may read the file: it contains data of clients.
    descriptor = private.open_file(path, flags)
    try:
        size = os.fstat(descriptor).st_size
        if os.write(descriptor, line) < len(line):
            os.ftruncate(descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)


def _watch_stdin(gateway: Gateway, supervisor: Parent) -> None:
    """Listen to the supervisor, and notice when it is gone. Raises OSError or RuntimeError."""
    if launch.HAS_SIGNALS:
        gateway.loop.watch(supervisor.descriptor, partial(_hear, gateway, supervisor), read=True)
    else:
        # On Windows, select does not work on pipes.
        arguments = (gateway, supervisor)
        threading.Thread(target=_hear_all, args=arguments, daemon=True).start()


def _hear(gateway: Gateway, supervisor: Parent, readable: bool, writable: bool) -> None:
    """Where the supervisor has signals, it is silent until its end."""
    if supervisor.line() is None:
        gateway.loop.unwatch(supervisor.descriptor)
        # In a handler of the loop, nothing may be closed.
        gateway.loop.call_soon_threadsafe(gateway.stop_orphaned)


def _hear_all(gateway: Gateway, supervisor: Parent) -> None:
    while (word := supervisor.line()) is not None:
        if word == launch.STACK:
            os.abort()
        elif word == launch.LEAVE:
            gateway.loop.call_soon_threadsafe(gateway.leave)
    gateway.loop.call_soon_threadsafe(gateway.stop_orphaned)


def main(
    settings: Settings,
    control: str,
    token: str,
    epoch: int,
    given: Sequence[str] = (),
    folder: str = "",
    workers: int = 0,
    supervisor: Parent | None = None,
    offers: str = "",
    predecessor: Sequence[str] = (),
) -> int:
    """Run a gateway as a child of the supervisor; returns its exit code. `given` and `folder`: as
    for `Gateway`; `workers`: how many are expected. `offers`: a socket of the supervisor for
    upgrades; `predecessor`: two sockets of the gateway that this one is to replace."""
    limit = raise_limit()
    if ARE_NUMBERED and settings.max_connections > limit:
        text = "max_connections is %d, but only %d files may be open; raise that limit (ulimit -Hn)"
        log.warning(text, settings.max_connections, limit)
    descriptors = Descriptors(limit, workers)
    gateway: Gateway | None = None
    try:
        gateway = Gateway(
            settings, control, token, epoch, descriptors, folder, given, bool(predecessor)
        )
        why = ""
        if predecessor:
            gateway.collector.begin()
            why = gateway.take_over(predecessor, control, token)
        else:
            gateway.start()
    except (OSError, ValueError) as error:
        text = os_error(error) if isinstance(error, OSError) else str(error)
        print(f"error: {text}", file=sys.stderr, flush=True)
        if gateway is not None:
            gateway.close()
        return EXIT_CANNOT_START
    if why:
        # Not `close`: what was restored here does not belong to us.
        if why != GOES_ON:
            print(f"error: {why}", file=sys.stderr, flush=True)
        return EXIT_NOT_WANTED
    if offers:
        gateway.handover.listen(adopt(offers))
    if supervisor is not None:
        try:
            _watch_stdin(gateway, supervisor)
        except (OSError, RuntimeError) as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            gateway.close()
            return 1
    # Ctrl-C reaches the whole process group; the supervisor decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave = gateway.leave
    call = gateway.loop.call_soon_threadsafe
    signal.signal(signal.SIGTERM, lambda *_: call(leave))
    if not predecessor:
        gateway.collector.begin()
    keep_freed_memory()
    gateway.loop.run()
    gateway.close()
    if gateway.is_orphaned:
        gateway.handover.spawned.kill_all()
    if gateway.handover.pumped:
        pump = Pump(gateway.handover.pumped)
        del gateway, leave, call
        return pump.serve(supervisor)
    return 0
