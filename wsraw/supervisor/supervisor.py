"""I/O. The supervisor process: signals, exits and records in, the policy's decisions out.

It does no work for clients, so that it stays simple and alive.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from wsraw.config import pools, programs
from wsraw.config import settings as settings_module
from wsraw.config.addresses import Listen, parse_admin, parse_listen
from wsraw.config.programs import Entry
from wsraw.config.settings import Settings
from wsraw.config.units import human_size, human_time
from wsraw.link.records import (
    AGENT,
    DEFAULT_POOL,
    DrainWorker,
    Exited,
    FromGateway,
    Kept,
    Kill,
    Left,
    Listening,
    Page,
    Raised,
    Ready,
    Recycle,
    Relink,
    Reload,
    Reloaded,
    Report,
    Spawned,
    Status,
    Stop,
    Stopped,
    Upgraded,
)
from wsraw.runtime import descriptors, launch
from wsraw.runtime import sockets as listening
from wsraw.runtime.link.connection import HAS_UNIX
from wsraw.runtime.link.server import LOOPBACK, endpoint_of
from wsraw.runtime.loop import Loop, Timer
from wsraw.runtime.printable import os_error
from wsraw.supervisor import session_end, status, upgrading
from wsraw.supervisor.admin import Admin
from wsraw.supervisor.agent import Agent
from wsraw.supervisor.control.link import Asked, Control, Ended, Replaced
from wsraw.supervisor.control.requests import CERTIFICATES, SETTINGS, Requests
from wsraw.supervisor.decisions import actions as a
from wsraw.supervisor.decisions import policy as p
from wsraw.supervisor.decisions.canary import LOOK, Plan
from wsraw.supervisor.decisions.child import Child, ChildState
from wsraw.supervisor.decisions.pool import Pool, in_words
from wsraw.supervisor.decisions.selection import NO_WORKERS, which
from wsraw.supervisor.decisions.verdict import Handled
from wsraw.supervisor.file_watch import Watch
from wsraw.supervisor.log import Log, LogHandler, format_for
from wsraw.supervisor.processes.children import CAN_UPGRADE, Children
from wsraw.supervisor.processes.process import Installation, installation_of
from wsraw.supervisor.recent import Line
from wsraw.supervisor.replacing.records import (
    FORMAT,
    NextRecord,
    NotUnderstoodError,
    PendingRecord,
    RunRecord,
    decode,
    encode,
)
from wsraw.supervisor.replacing.replacement import (
    CAN_REPLACE,
    Trial,
    become,
    command_of,
    own_command,
)
from wsraw.supervisor.replacing.state import Freezing, Thawing
from wsraw.supervisor.run_folder import folder as folders
from wsraw.supervisor.run_folder import keeper, socket_files
from wsraw.supervisor.run_folder.folder import Folder, FolderError, count_dead_letters
from wsraw.supervisor.run_folder.keeper import Keeper
from wsraw.supervisor.run_folder.socket_files import SocketFiles
from wsraw.supervisor.run_folder.versions import VersionFolders
from wsraw.supervisor.service_manager.notifier import Notifier, ServiceState
from wsraw.supervisor.service_manager.passed_sockets import PassedSocketError, PassedSockets
from wsraw.version import VERSION

shared_log = logging.getLogger("wsraw.supervisor")
"""Writes to the log of a run, too; with tracebacks."""

LOOK_AT_FILES: Final = 1.0
"""Seconds between two scans of the handlers' files, with `reload`."""

LOOK_AT_FILES_PAUSE: Final = 20.0
"""Pause after a scan, as a multiple of its duration, because signals and exits wait for it."""

LOOK_AT_MEMORY: Final = 5.0
"""Seconds between two checks of the workers' memory, with `max_memory`."""

EXIT_TRY_AGAIN: Final = 1
EXIT_WRONG_USE: Final = 2
EXIT_CANNOT_LISTEN: Final = 3
"""Trying again would fail again."""

FAILURES: Final = (EXIT_TRY_AGAIN, EXIT_WRONG_USE, EXIT_CANNOT_LISTEN)
"""Exit codes of a run that has not ended as somebody wanted."""

NOTHING_TO_RELOAD: Final = "the settings have not changed, and there are no workers to reload"

LOOK_AGAIN: Final = 0.02
"""Seconds between two looks for a moment in which another program can take our place."""

QUIET_WITHIN: Final = 2.0
"""Seconds within which there is one; then requests that wait for the gateway are cut off."""

RECONNECTS_WITHIN: Final = 10.0
"""Seconds that the gateway has to connect to the program in our place, before that goes on."""

OF_CANARIES: Final = 0
"""The reference of a report that nobody has asked for but we."""

REPEATED_SIGNAL: Final = 0.1
"""Seconds within which a second signal repeats the first one."""


def understood(data: bytes) -> RunRecord:
    """The record of the program before us, if it can be used. Raises NotUnderstoodError."""
    record = decode(data)
    try:
        settings = settings_module.from_json(record.settings)
    except ValueError as error:
        text = f"wsraw {record.version} has settings that are not known here: {error}"
        raise NotUnderstoodError(text) from error
    # Into a policy that is thrown away.
    Thawing(record.policy, p.Policy({}, settings, random.random), 0.0)
    return record


class CannotStart(Exception):  # noqa: N818
    """The run cannot begin; the text says what to do, and `code` is the exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def run(
    settings: Settings,
    passed: PassedSockets | None = None,
    warning: str = "",
    reread: upgrading.Reread | None = None,
    record: RunRecord | None = None,
) -> int:
    """Serve until a signal; returns the exit code. `passed`: the sockets of a service manager.
    `warning`: a first line of the log. `reread` reads the settings anew, for an upgrade. `record`:
    go on with the run of the program whose place we take. Raises CannotStart."""
    form = format_for(sys.stderr, settings.log_format)
    log = Log(sys.stderr, settings.log_level, form, settings.log_rate)
    shared, handler = logging.getLogger("wsraw"), LogHandler(log)
    shared.addHandler(handler)
    try:
        if warning:
            log.say("warning", warning)
        notifier = Notifier(os.environ, log.say)
        return Supervisor(settings, log, passed, notifier, reread, record).run()
    except CannotStart as error:
        if settings.log_format != "json":
            raise
        # Each line is an object, the last one, too.
        log.say("error", str(error))
        return error.code
    finally:
        shared.removeHandler(handler)
        log.close()


class Supervisor:
    """One run: a gateway, its workers, and the folder they meet in.

    It has more than 20 attributes because it owns all parts of a run, and closes them in order.
    """

    ended_by = ""
    """What has asked the run to stop first, or now."""
    _is_comparing = False
    """Whether the gateway is asked again and again what canaries do."""
    _announced = False
    """Whether the log says that clients are served."""
    _is_going_back = False
    """Whether that is the program before us."""
    _came_from: Sequence[str] = ()
    """The command line of the program before us, until the gateway is upgraded, too."""
    _awaits_figures = False
    """Whether a new gateway is to say how its upgrade was."""
    _is_leaving = False
    """Whether another program is to take our place, or we have taken it and are not done."""

    def __init__(
        self,
        settings: Settings,
        log: Log,
        passed: PassedSockets | None = None,
        notifier: Notifier | None = None,
        reread: upgrading.Reread | None = None,
        record: RunRecord | None = None,
    ) -> None:
        """Raises CannotStart, and then leaves nothing behind. Without `notifier` nobody is told."""
        entries = self._entries(settings)
        count = sum(entry.number for each in entries.values() for entry in each)
        given = self._limit = _limit_before(record)
        self.most_workers = _most_workers(count)
        """Limited by the number of open files."""
        self.settings = settings
        self._reread = reread
        self._plan = upgrading.Plan(settings, record.node if record is not None else "")
        self.log = log
        self.policy = p.Policy(entries if record is None else {}, settings, random.random)
        self._record = record
        """What the program before us has told, until we go on with it."""
        self._sockets: list[tuple[socket.socket, Listen]] = []
        self._socket_files = SocketFiles(self.log.say)
        self._epoch = 0
        self._link: socket.socket | None = None
        """Where workers find each gateway, if there are no unix sockets. So nobody else can listen
        there between two gateways, and be told the workers' tokens."""
        self._admin: Admin | None = None
        self._dismissed: set[Child] = set()
        """Processes beside the run that are to end."""
        self._watch: Watch | None = None
        self._open(passed or PassedSockets({}), record)
        self._notifier = notifier or Notifier({}, log.say)
        self._standalone_token = (
            record.standalone_token if record is not None else os.urandom(16).hex()
        )
        link = endpoint_of(self._link) if self._link is not None else ""
        self._keeper = Keeper(self._folder, self.control, self._standalone_token, log, link)
        self._agent = Agent(self.loop, log) if settings.cluster else None
        self._children = Children(
            self._folder.lock,
            log,
            self.loop.call_soon_threadsafe,
            self._handle_death,
            VersionFolders(self._folder.path, _kept(record)),
            self._settings_of_run(settings),
            given,
        )
        self._requests = Requests(self)
        self._has_tls = any(parse_listen(text, settings).tls != "off" for text in settings.listen)
        self._is_relinking = False
        self._is_reading_certificates = False
        """Whether the gateway was told to reload them, and has not answered."""
        self._addresses: list[str] = []
        self._timer: Timer | None = None
        self._begun = self.loop.now
        self._is_reload_due = False
        """Whether a SIGHUP has come that is not handled yet."""
        self._signals = 0
        self._signalled_at = 0.0

    def _open(self, passed: PassedSockets, record: RunRecord | None) -> None:
        """Open what the run needs, or take it from the program before us. Raises CannotStart, and
        then leaves nothing behind."""
        log = self.log
        with ExitStack() as opened:
            try:
                self._passed = self._take_passed(passed, record)
                opened.callback(self._close_passed)
                if record is None:
                    self._folder = Folder(self.settings.run_dir, log.say)
                else:
                    self._folder = Folder.adopted(record.folder, log.say)
                opened.callback(self._folder.close)
                self.loop = Loop()
                opened.callback(self.loop.close)
                # First, because a run that does not answer here is taken for one that is leaving.
                told = record.control if record is not None else None
                self.control = Control(self.loop, self._folder.path, log, told)
                opened.callback(self.control.close)
                if record is None:
                    self._listen()
                else:
                    self._adopt_sockets(record)
                opened.callback(self._close_sockets)
                if not HAS_UNIX and self._link is None:
                    self._link = listening.bind(LOOPBACK)
            except FolderError as error:
                raise _cannot_start(error) from error
            except PassedSocketError as error:
                raise CannotStart(str(error), EXIT_WRONG_USE) from error
            except OSError as error:
                raise CannotStart(error.strerror or str(error), EXIT_CANNOT_LISTEN) from error
            opened.pop_all()
        self._passed_names |= set(self._passed)
        self._close_passed()

    def _settings_of_run(self, settings: Settings) -> bytes:
        """What Python children read first: the settings, with what this run has chosen itself."""
        changes = {"run_dir": str(self._folder.path)}
        if settings.cluster and not settings.node:
            changes["node"] = self._plan.node
        settings = settings_module.replaced(settings, **changes)
        return settings_module.to_json(settings).encode() + b"\n"

    # --- listening sockets, which are shared with each gateway ---

    def _take_passed(
        self, passed: PassedSockets, record: RunRecord | None
    ) -> dict[str, socket.socket]:
        """To be called before anything else is opened: its descriptors are told from ours. Raises
        PassedSocketError."""
        settings = self.settings
        self._given = passed
        self._passed_names = set(record.passed) if record is not None else set()
        if record is not None:
            return {}
        return passed.assign([parse_listen(text, settings) for text in settings.listen])

    def _close_passed(self) -> None:
        """Close what `_listen` has duplicates of."""
        for sock in self._passed.values():
            sock.close()

    def _listen(self) -> None:
        """Raises OSError."""
        until = time.monotonic() + folders.LEAVING
        has_said = False
        while True:
            try:
                for text in self.settings.listen:
                    listen = parse_listen(text, self.settings)
                    given = self._passed.get(listen.name)
                    sock = given.dup() if given is not None else listening.bind(listen)
                    self._sockets.append((sock, listen))
                if self.settings.admin:
                    address = parse_admin(self.settings.admin)
                    self._admin = Admin(address, self.loop, self.log)
                return
            except OSError as error:
                self._stop_listening()
                is_late = time.monotonic() > until
                if error.errno != errno.EADDRINUSE or is_late or not folders.are_leaving():
                    raise
            if not has_said:
                text = "waiting for the gateway of an earlier run to leave its address"
                self.log.say("info", text)
                has_said = True
            time.sleep(folders.LOOK_AGAIN)

    def _stop_listening(self) -> None:
        """Refuse new connections from here on, as no gateway would accept them."""
        for sock, listen in self._sockets:
            listening.close(sock, listen)
        self._sockets = []

    def _close_sockets(self) -> None:
        self._stop_listening()
        if self._admin is not None:
            self._admin.close()
        if self._link is not None:
            self._link.close()

    # --- the run ---

    def run(self) -> int:
        """Serve until stopped; return the exit code. Must run in the main thread (signals)."""
        old = {number: signal.signal(number, self._catch) for number in _signals()}
        launch.unblock_signals()
        if sys.platform == "win32":
            session_end.watch(self._handle_session_end)
        try:
            if self._record is None:
                self._keeper.begin()
            self.loop.before_sleep = self._before_sleep
            self.loop.call_later(LOOK_AT_MEMORY, self._look_at_memory)
            self.loop.call_later(keeper.LOOK, self._look_at_folder)
            if self._notifier.watchdog_interval:
                self._keep_alive()
            if self._record is not None:
                self._go_on(self._record)
                self._record = None
            elif self._admin is not None:
                self._admin.begin(self._children)
            self._watch_files()
            self._decide()
            self.loop.run()
        except FolderError as error:
            raise _cannot_start(error) from error
        finally:
            self._children.kill_all()
            self._children.read_rest()
            for number, handler in old.items():
                signal.signal(number, handler)
            self._close()
            self._say_end()
        return self.policy.exit_code

    def _close(self) -> None:
        self._close_sockets()
        self.control.close()
        self.loop.close()
        for kept in self._keeper.close():
            self.log.say("warning", f"dead letters are kept: {kept}")

    def _say_end(self) -> None:
        """The last line of the log: what has ended the run, after how long, and its exit code."""
        error = sys.exc_info()[1]
        code = error.code if isinstance(error, CannotStart) else self.policy.exit_code
        why = f": {self.ended_by}" if self.ended_by else ""
        if error is not None and not isinstance(error, CannotStart):
            why, code = f": {type(error).__name__}, a bug in wsraw", EXIT_TRY_AGAIN
        time = human_time(self.loop.now - self._begun)
        text = f"the run has ended after {time}{why} (exit code {code})"
        self.log.say("error" if code in FAILURES else "info", text)

    # --- signals: the handler only enqueues ---

    def _catch(self, number: int, frame: object) -> None:
        if signal.Signals(number).name == "SIGHUP":
            # One reload serves all signals that came before it began; one by one, each would start
            # a worker and end the one before.
            if self._is_reload_due:
                return
            self._is_reload_due = True
        self.loop.call_soon_threadsafe(partial(self.handle_signal, number))

    def handle_signal(self, number: int) -> None:
        """Handle a signal. The first SIGINT or SIGTERM stops gracefully, the second at once."""
        name = signal.Signals(number).name
        now = self.loop.now
        if name in ("SIGHUP", "SIGUSR2", "SIGTTIN", "SIGTTOU"):
            try:
                self._change_by(name)
            except Exception:
                # As for a request: the run goes on.
                shared_log.exception("%s was not handled, by a bug in wsraw", name)
            return
        self._signals += 1
        if self._signals == 1:
            self._signalled_at = now
            self.ended_by = self.ended_by or name
            self.log.say("info", f"{name}: stopping; once more stops at once")
            self.act(self.policy.stop(now))
        elif now - self._signalled_at < REPEATED_SIGNAL:
            # GNU timeout signals the process and then its group; so do some service managers.
            self._signals = 1
        elif self._signals == 2:
            self.ended_by = f"a second {name}"
            self.log.say("warning", f"{name} again: stopping at once")
            self.act(self.policy.stop_now(128 + number, now))

    def _change_by(self, name: str) -> None:
        """Handle a signal that asks for other workers, or another gateway."""
        if name == "SIGHUP":
            self._is_reload_due = False
            self.log.say("info", "SIGHUP: reloading")
            self.reload([name for name, pool in self.policy.pools.items() if pool.programs])
        elif name == "SIGUSR2":
            why = self.upgrade()
            if why:
                self.log.say("error", f"SIGUSR2: no upgrade: {why}")
        else:
            self._scale_by_one(name, 1 if name == "SIGTTIN" else -1)

    def _handle_session_end(self, why: str, seconds: float | None) -> None:
        """In another thread. `seconds`: the deadline of the stop, if it is not the usual one."""
        self.loop.call_soon_threadsafe(partial(self.stop, why, seconds))

    def stop(self, why: str, seconds: float | None = None) -> None:
        """Stop gracefully; a second time can only make it sooner."""
        if seconds is not None and self.settings.stop_timeout:
            seconds = min(seconds, self.settings.stop_timeout)
        self.ended_by = self.ended_by or why
        self.log.say("info", f"{why}: stopping")
        self.act(self.policy.stop(self.loop.now, seconds))

    def _scale_by_one(self, name: str, change: int) -> None:
        meant = which(self.policy.pools.values(), "")
        if isinstance(meant, str):
            self.log.say("warning", f"{name}: {meant}; use `wsraw scale`")
            return
        count = max(1, len(self.policy.workers) + change)
        why = self.refusal_to_scale(count) if change > 0 else ""
        if why:
            self.log.say("warning", f"{name}: {why}")
            return
        self.log.say("info", f"{name}: scaling to {count}")
        self.act(self.policy.scale(count, self.loop.now, *meant))

    def refusal_to_scale(self, count: int) -> str:
        """Why this many workers in all are too many, or ""."""
        if count <= self.most_workers:
            return ""
        if self.most_workers == programs.MOST:
            return f"there can be {programs.MOST} workers at most"
        return (
            f"there are open files for {self.most_workers} workers at most; raise their limit "
            "(ulimit -Hn) and start the run again"
        )

    # --- the policy's decisions ---

    def act(self, actions: list[a.Action]) -> None:
        """Carry out what the policy has decided."""
        for action in actions:
            match action:
                case a.Say(level, text):
                    self.log.say(level, text)
                case a.Spawn(child):
                    self._spawn(child)
                case a.Tell(record):
                    if isinstance(record, DrainWorker):
                        self.log.say("debug", f"draining worker {record.n}")
                    elif isinstance(record, Stop):
                        self._stop_listening()
                    self.control.tell(record)
                case a.End(child, how):
                    self._children.end(child, how)
                case a.Settled():
                    self._settle(action)
                case a.Finish(code):
                    self._requests.finish(code)
                    self.loop.stop()
        self._notifier.enter(self._service_state())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        when = self.policy.wake_at(self.loop.now)
        if when < math.inf:
            self._timer = self.loop.call_at(when, self._decide)

    def _decide(self) -> None:
        self.act(self.policy.decide(self.loop.now))

    def read_certificates(self) -> bool:
        """Tell the gateway to reload its certificates. False if it has none."""
        if not self._has_tls or self.policy.gateway.state is not ChildState.READY:
            return False
        self._is_reading_certificates = True
        self.control.tell(Reload())
        return True

    def _handle_reloaded(self, why: str) -> None:
        self._is_reading_certificates = False
        if why:
            why = f"certificates refused, the old ones stay in use: {why}"
        self.log.say("error" if why else "info", why or "certificates reloaded")
        self._requests.refusals.settled(CERTIFICATES, not why, why, self.loop.now)
        self._requests.pending.settle("reload", CERTIFICATES, not why, why)

    def try_out(self, names: Sequence[str], plan: Plan) -> None:
        """Begin a canary in each of these pools."""
        for name in names:
            pool = self.policy.pools[name]
            is_kept = not self._why_not_kept(pool, pool.versions.present)
            self.act(self.policy.try_out(pool, plan, is_kept=is_kept, now=self.loop.now))
        if not self._is_comparing:
            self._is_comparing = True
            self.loop.call_later(LOOK, self._look_at_canaries)

    def _look_at_canaries(self) -> None:
        """Ask the gateway what is to be compared."""
        self._is_comparing = bool(self.policy.canaries)
        if self._is_comparing:
            self._look_now()
            self.loop.call_later(LOOK, self._look_at_canaries)

    def _look_now(self) -> None:
        self.control.tell(Status(OF_CANARIES, samples=False))

    def _compare(self, report: dict[str, Any]) -> None:
        reports = {each["name"]: each for each in report["pools"]}
        for pool in self.policy.canaries:
            canary, new = pool.canary, reports.get(f"{pool.name}/canary")
            if canary is not None and new is not None and pool.name in reports:
                is_kept = not self._why_not_kept(pool, canary.version.number)
                old = Handled.of(reports[pool.name])
                now = self.loop.now
                self.act(self.policy.compare(pool, old, Handled.of(new), is_kept=is_kept, now=now))
            if (record := pool.canary_record()) is not None:
                # It goes on: the gateway may wait for that.
                self.control.tell(record)

    def _why_not_kept(self, pool: Pool, number: int) -> str:
        """Why that version of a pool cannot be loaded again, or ""."""
        whys = [self._children.versions.problem(number, program) for program in pool.programs]
        return next(filter(None, whys), "")

    def refusal_to_roll_back(self, names: Sequence[str]) -> str:
        """Why these pools cannot go back to their previous versions, or ""."""
        for name in names:
            pool = self.policy.pools[name]
            if pool.canary is not None:
                continue
            previous = pool.goes_back_to
            if not previous:
                return f"the pool {name} has no version before the present one"
            why = self._why_not_kept(pool, previous)
            if why:
                return why
        return ""

    def _settle(self, done: a.Settled) -> None:
        is_upgrade = done.what == p.UPGRADE
        of_pool = f"{done.pool}: " if len(self.policy.pools) > 1 and not is_upgrade else ""
        text = f"{of_pool}{done.text}"
        if is_upgrade:
            self._settle_upgrade(done.ok, text)
        # Of a canary the log has more.
        if done.ok and done.what != a.CANARY:
            told = f"{of_pool}scaled to {done.text}" if done.what == "scale" else text
            self.log.say("info", told)
        if not done.ok and self._children.last_output and done.shows_output:
            text = f"{text}\n{self._children.last_output}"
        if done.what in ("reload", a.CANARY):
            kept = [pool.kept_versions for pool in self.policy.pools.values()]
            self._children.versions.keep(set().union(*kept))
            self._requests.refusals.settled(done.pool, done.ok, text, self.loop.now)
        self._requests.pending.settle(done.what, done.pool, done.ok, text)

    def _settle_upgrade(self, ok: bool, text: str) -> None:
        self._plan.drop_new()
        back, self._came_from = list(self._came_from), ()
        if back and not ok:
            # Supervisor and gateway are to be of one version.
            self.loop.call_soon_threadsafe(partial(self._attempt, self._go_back, back))
        if not ok:
            self.log.say("error", f"the upgrade is {text}")
            names, self._plan.reload = self._plan.reload, None
            if names is not None:
                self._refuse_reload(names, f"the upgrade for new settings is {text}")

    def _spawn(self, child: Child) -> None:
        if child is self.policy.upgrades.successor:
            self._spawn_successor(child)
            return
        if child is self.policy.gateway:
            self._epoch = self._folder.next_epoch()
            self._keeper.keep()
            # The first workers start beside it, and connect as soon as it listens.
            self.policy.endpoint = self.policy.endpoint or self._keeper.expected_link()
            variables = self._of_gateway(self.control.expect())
            sockets = [sock for sock, _ in self._sockets]
            if self._link is not None:
                sockets.append(self._link)
            self._children.spawn_gateway(child, variables, sockets)
            return
        self._keep_folder()
        child.token = os.urandom(16).hex()
        # Before the worker can send its hello: the gateway must know the token by then.
        self.control.tell(Spawned(child.n, child.token, 0))
        pid = self._children.spawn_worker(child, self.policy.endpoint)
        if pid is not None:
            self.control.tell(Spawned(child.n, child.token, pid))

    def _of_gateway(self, token: str) -> dict[str, str]:
        """Variables of a gateway that finds the control link, and is known there, by that token."""
        return {
            "WSRAW_CONTROL": self.control.endpoint,
            "WSRAW_CONTROL_TOKEN": token,
            "WSRAW_EPOCH": str(self._epoch),
            "WSRAW_LINK_FOLDER": str(self._keeper.place().path),
            "WSRAW_EXPECTED": str(len(self.policy.workers)),
        }

    def _handle_death(self, child: Child, code: int, why: str, error: str) -> None:
        if self._admin is not None and child is self._admin.child:
            self._admin.exited(why)
            return
        if self._agent is not None and child is self._agent.child:
            if self.policy.phase is not p.Phase.RUNNING:
                # Its end is that of the run.
                self._agent.leave()
            self._agent.exited(why)
            return
        if child in self._dismissed:
            self._dismissed.discard(child)
            return
        if child is self.policy.gateway:
            self._is_relinking = self._is_reading_certificates = False
            # The next gateway reads them at its start.
            self._requests.pending.settle("reload", CERTIFICATES, True)
            if not self.policy.upgrades.is_under_way:
                text = "the new gateway has ended right after it took over"
                self._requests.pending.settle(p.UPGRADE, p.UPGRADE, False, text)
        elif child.program is not None:
            exited = Exited(child.n, why)
            self.control.tell(exited)
            if self.policy.upgrades.is_under_way or not self.control.has_gateway:
                self._plan.exited.append(exited)
        self.act(self.policy.exited(child, code, why, self.loop.now, error))

    # --- settings that have changed, and an upgrade of the gateway ---

    def reload(self, names: Sequence[str]) -> None:
        """Reload settings that have changed, certificates, and the workers of these pools. Requests
        for it are settled later."""
        pending = self._requests.pending
        if self.policy.upgrades.is_under_way or self._is_leaving:
            # The workers follow when it is done.
            self._plan.reload = list(dict.fromkeys([*(self._plan.reload or ()), *names]))
            return
        try:
            new = self._reread_settings()
        except ValueError as error:
            why = f"the settings are wrong, and nothing is reloaded: {error}"
            self.log.say("error", why)
            self._refuse_reload(names, why)
            return
        change = upgrading.Change(self.settings, new, self._can_upgrade())
        if change.needs_gateway:
            why = self.upgrade()
            if why:
                self._refuse_reload(names, f"new settings need an upgrade, which is refused: {why}")
            else:
                # The workers follow when it is done.
                self._plan.reload = list(names)
            return
        if change.names:
            why = self._prepare_admin(change.new)
            if why:
                self._refuse_reload(names, f"new settings are refused: {why}")
                return
            text = change.in_words()
            self.log.say("info", text)
            self._change_settings(change.new)
            pending.settle("reload", SETTINGS, True, text)
        self._reload_workers(names)

    def _refuse_reload(self, names: Sequence[str], why: str) -> None:
        for name in (*names, CERTIFICATES):
            self._requests.pending.settle("reload", name, False)
        self._requests.pending.settle("reload", SETTINGS, False, why)

    def _reload_workers(self, names: Sequence[str]) -> None:
        pending = self._requests.pending
        pending.settle("reload", SETTINGS, True, "" if names else NOTHING_TO_RELOAD)
        if not self.read_certificates():
            pending.settle("reload", CERTIFICATES, True)
        for name in names:
            if name not in self.policy.pools:
                pending.settle("reload", name, True, f"the pool {name} is no more")
        wanted = [name for name in names if self.policy.is_wanted(name)]
        self.act(self.policy.reload(self.loop.now, wanted))

    @staticmethod
    def _can_upgrade() -> bool:
        return CAN_UPGRADE and HAS_UNIX

    def _reread_settings(self) -> Settings:
        """As they are now. Raises ValueError, with advice."""
        if self._reread is None:
            return self.settings
        with suppress(OSError):
            # Names of files mean the release to which a link in the name of our folder leads now.
            os.chdir(self._children.folder)
        new = self._reread()
        count, before = (
            sum(entry.number for each in entries.values() for entry in each)
            for entries in map(self._entries, (new, self.settings))
        )
        why = self.refusal_to_scale(count) if count > before else ""
        if why:
            raise ValueError(f"workers: {why}")
        return new

    @staticmethod
    def _entries(settings: Settings) -> dict[str, tuple[Entry, ...]]:
        return pools.entries(settings, os.path.isfile)

    def _change_settings(self, settings: Settings) -> None:
        """Go on with these; the gateway has them, as far as it needs them. To be followed by a
        decision of the policy."""
        old, self.settings = self.settings, settings
        change = upgrading.Change(old, settings)
        self._children.set_input(self._settings_of_run(settings))
        form = format_for(sys.stderr, settings.log_format)
        self.log.change(settings.log_level, form, settings.log_rate)
        self.policy.change_settings(settings)
        before, after = self._entries(old), self._entries(settings)
        self.policy.change_pools(before, after, self.loop.now)
        if before != after or old.reload != settings.reload:
            self._watch_files()
        self._change_admin(change.names)
        self._change_agent(change.names)

    def _prepare_admin(self, settings: Settings) -> str:
        """Bind a new address of the admin process. Returns why that failed, or ""."""
        if settings.admin and settings.admin != self.settings.admin:
            try:
                self._plan.admin = Admin(parse_admin(settings.admin), self.loop, self.log)
            except OSError as error:
                return error.strerror or str(error)
        return ""

    def _change_admin(self, names: Sequence[str]) -> None:
        """Have the admin process of the present settings, if some with these names have changed."""
        new, self._plan.admin = self._plan.admin, None
        if "admin" in names:
            if self._admin is not None:
                self._dismiss(self._admin)
            self._admin = new
            if new is not None:
                new.begin(self._children)
        elif self._admin is not None and not upgrading.OF_ADMIN.isdisjoint(names):
            self._admin.restart()

    def _change_agent(self, names: Sequence[str]) -> None:
        """The same for the agent of a cluster."""
        if upgrading.OF_AGENT.isdisjoint(names):
            return
        if self._agent is not None and self.settings.cluster:
            self._agent.restart()
        elif self._agent is not None:
            self._dismiss(self._agent)
            self._agent = None
        elif self.settings.cluster:
            self._agent = Agent(self.loop, self.log)
            self.control.tell(self._agent.known(self._children, self.policy.endpoint))

    def _dismiss(self, helper: Admin | Agent) -> None:
        """End a process beside the run, which nobody misses."""
        if self._children.pid(helper.child) is not None:
            self._dismissed.add(helper.child)
        helper.leave()

    def upgrade(self, python: str = "") -> str:
        """Begin to replace the supervisor, where it can be, and then the gateway, by ones with new
        code and the settings as they are now; with that of another `python`, if one is given.
        Returns why not, or "": then a request for it is settled later."""
        why = self._refusal_to_upgrade()
        if why:
            return why
        try:
            self._plan.installation = installation_of(python) if python else None
        except ValueError as error:
            return str(error)
        try:
            self._reread_settings()
        except ValueError as error:
            return f"the settings are wrong: {error}"
        self._plan.reload = None
        if self._reread is None or not CAN_REPLACE:
            return self._upgrade_gateway()
        self._is_leaving = True
        self._attempt(self._try_other_program, command_of(python) if python else own_command())
        return ""

    def _refusal_to_upgrade(self) -> str:
        if not self._can_upgrade():
            return "this platform cannot pass the sockets of clients to another process"
        if self._is_leaving:
            return "an upgrade is under way"
        return self.policy.refusal_to_upgrade()

    # --- another program in our place ---

    def _attempt(self, step: Callable[..., object], *args: Any) -> None:
        """Take a step to another program. A bug in it costs this upgrade alone, and not the run."""
        try:
            step(*args)
        except Exception as error:
            shared_log.exception("the supervisor was not replaced, by a bug in wsraw")
            self._children.release()
            self._is_leaving = self._is_going_back = False
            text = f"refused: a bug in wsraw: {error!r}"
            # The request may not be there yet.
            settled = a.Settled(p.UPGRADE, False, text, p.UPGRADE, shows_output=False)
            self.loop.call_soon_threadsafe(partial(self._settle, settled))

    def _try_other_program(self, command: list[str]) -> None:
        """See whether it understands our state and the settings, and then become it."""
        state = self._state()
        if state is None:
            again = partial(self._attempt, self._try_other_program, command)
            self.loop.call_later(LOOK_AGAIN, again)
            return
        self._children.release()
        post, go = self.loop.call_soon_threadsafe, partial(self._attempt, self._tried)
        timeout = self.settings.start_timeout
        folder = self._children.folder
        Trial(state[0], command, timeout, lambda why: post(partial(go, command, why)), folder)

    def _tried(self, command: list[str], why: str) -> None:
        self._leave_for(command, self.loop.now + QUIET_WITHIN, why)

    def _go_back(self, command: list[str]) -> None:
        """Become the program before us: the gateway has refused the new version."""
        if not self._is_leaving and not self.policy.refusal_to_upgrade():
            self.log.say("info", "the supervisor goes back to the version of the gateway")
            self._is_leaving = self._is_going_back = True
            self._try_other_program(command)

    def _leave_for(self, command: list[str], until: float, why: str) -> None:
        """Become that program as soon as nothing is half done."""
        refusal = why or self.policy.refusal_to_upgrade()
        state = None if refusal else self._quiet_state(is_late=self.loop.now > until)
        if not refusal and state is None and self.loop.now > until + QUIET_WITHIN:
            refusal = "the supervisor had no quiet moment"
        if refusal and self._is_going_back:
            self._is_leaving = self._is_going_back = False
            self.log.say("warning", f"the supervisor stays of the other version: {refusal}")
            return
        if refusal:
            self._is_leaving = False
            text = f"refused: {refusal}; nothing has changed"
            self._settle(a.Settled(p.UPGRADE, False, text, p.UPGRADE, shows_output=False))
            return
        if state is None:
            again = partial(self._attempt, self._leave_for, command, until, "")
            self.loop.call_later(LOOK_AGAIN, again)
            return
        self.log.flush()
        # A link in the name of the folder may lead to another release by now.
        data, numbers = state
        variables, folder = self._notifier.variables, self._children.folder
        error = become(data, command, numbers, variables, _signals(), folder)
        self._children.release()
        self._leave_for(command, until, os_error(error))

    def _quiet_state(self, *, is_late: bool) -> tuple[bytes, list[int]] | None:
        """What the program that takes our place is to know, and the descriptors that it gets. None:
        something is half done, or was asked and is about to be answered."""
        if not is_late and (self._requests.has_reports or not self.control.is_quiet):
            return None
        state = self._state()
        if state is None:
            return None
        if self.loop.has_calls:
            self._children.release()
            return None
        self._requests.forwarded.end("the supervisor is replaced; try again")
        self.control.leave()
        return state

    def _state(self) -> tuple[bytes, list[int]] | None:
        """Our state as it is, and its descriptors; the children are held then. None: they cannot
        be."""
        held = self._children.hold()
        if held is None:
            return None
        processes, unread = held
        now = self.loop.now
        freezing = Freezing(now)
        admin = self._admin.record(freezing.number) if self._admin is not None else None
        agent = self._agent.record(freezing.number) if self._agent is not None else None
        policy = freezing.policy(self.policy)
        for child, each in processes.items():
            if child in freezing.children:
                policy.children[freezing.number(child)].process = each
        spare = self._keeper.spare
        other = self._plan.installation
        record = RunRecord(
            format=FORMAT,
            version=VERSION,
            settings=settings_module.to_json(self.settings),
            policy=policy,
            folder=self._folder.record(),
            spare=spare.record() if spare is not None else None,
            control=self.control.record(),
            sockets=[sock.fileno() for sock, _ in self._sockets],
            passed=sorted(self._passed_names),
            numbers=self._given.numbers,
            names=self._given.names,
            link=self._link.fileno() if self._link is not None else -1,
            addresses=self._addresses,
            standalone_token=self._standalone_token,
            node=self._plan.node,
            age=now - self._begun,
            admin=admin,
            agent=agent,
            unread=unread,
            last_output=self._children.last_output,
            pending=[
                PendingRecord(
                    asked.who.fileno(), asked.who.pid, asked.do.ref, what, asked.do.what, parts
                )
                for asked, what, parts in self._requests.pending.waiting()
                if not asked.who.ended
            ],
            refusals=self._requests.refusals.told(now),
            log=[(line.number, line.level, line.text) for line in self.log.recent(0)],
            next=NextRecord(
                installation=(other.python, other.package, other.path) if other else None,
                reload=self._plan.reload,
                upgrades=not self._is_going_back,
                back=[] if self._is_going_back else own_command(),
            ),
            limit=self._limit,
        )
        folders = [record.folder, *([record.spare] if record.spare is not None else [])]
        numbers = [
            *record.sockets,
            record.link,
            record.control.listener,
            *(number for each in folders for number in (each.lock, each.shield)),
            *(
                number
                for each in (*processes.values(), *unread)
                for number in (each.stdin, each.stdout, each.offers)
            ),
            *(each.link for each in record.pending),
            record.admin.socket if record.admin is not None else -1,
        ]
        return encode(record), [number for number in numbers if number >= 0]

    def _adopt_sockets(self, record: RunRecord) -> None:
        """Those of the program before us. Raises OSError."""
        for text, number in zip(self.settings.listen, record.sockets, strict=True):
            listen = parse_listen(text, self.settings)
            sock = listening.adopt(str(number))
            if listen.path and listen.name not in record.passed:
                sock = socket_files.adopted(sock, listen, self._folder.path)
            self._sockets.append((sock, listen))
        if record.link >= 0:
            self._link = listening.adopt(str(record.link))
        if record.admin is not None:
            address = parse_admin(self.settings.admin)
            sock = listening.adopt(str(record.admin.socket))
            self._admin = Admin(address, self.loop, self.log, sock)

    def _go_on(self, record: RunRecord) -> None:
        """With the run of the program before us."""
        now = self.loop.now
        thawing = Thawing(record.policy, self.policy, now)
        for child, told in zip(thawing.children, record.policy.children, strict=True):
            if told.process is not None:
                self._children.adopt(child, told.process)
        for each in record.unread:
            self._children.adopt_output(each)
        self._children.last_output = record.last_output
        spare = Folder.adopted(record.spare, self.log.say) if record.spare is not None else None
        self._keeper.go_on(spare, record.policy.endpoint)
        self._addresses, self._announced = record.addresses, True
        self._begun = now - record.age
        self._epoch = record.folder.epoch
        self.log.go_on(Line(*line) for line in record.log)
        self._requests.go_on(record)
        if self._admin is not None and record.admin is not None:
            self._admin.go_on(self._children, thawing.children[record.admin.child])
        if self._agent is not None and record.agent is not None:
            child = thawing.children[record.agent.child]
            self._agent.go_on(self._children, child, record.agent.endpoint)
        self.log.say("info", f"the supervisor is wsraw {VERSION} now, with the same pid")
        if record.next.upgrades:
            self._is_leaving = True
            self._came_from = [] if record.next.back == own_command() else record.next.back
            go = partial(self._attempt, self._go_on_with_gateway, record.next, now)
            self.loop.call_soon_threadsafe(go)

    def _go_on_with_gateway(self, told: NextRecord, since: float) -> None:
        """Upgrade the gateway, as soon as it has connected again."""
        if not self.control.has_gateway and self.loop.now < since + RECONNECTS_WITHIN:
            again = partial(self._attempt, self._go_on_with_gateway, told, since)
            self.loop.call_later(LOOK_AGAIN, again)
            return
        self._is_leaving = False
        more, names = self._plan.reload, told.reload
        if more is not None:
            names = list(dict.fromkeys([*(names or ()), *more]))
        other = told.installation
        self._plan.installation = Installation(*other) if other is not None else None
        why = self._upgrade_gateway()
        self._plan.reload = names
        if why:
            self._settle(a.Settled(p.UPGRADE, False, f"refused: {why}", p.UPGRADE))

    def _upgrade_gateway(self) -> str:
        """Begin to replace the gateway. Returns why not, or ""."""
        why = self._refusal_to_upgrade()
        if why:
            return why
        try:
            new = self._reread_settings()
        except ValueError as error:
            return f"the settings are wrong: {error}"
        change = upgrading.Change(self.settings, new)
        self._plan.settings = change.new
        why = self._prepare_admin(change.new)
        if why:
            return why
        try:
            found = upgrading.sockets_for(self._plan.settings, self._sockets)
        except OSError as error:
            self._plan.drop_new()
            return error.strerror or str(error)
        self._plan.sockets, self._plan.new_sockets = found
        self._plan.exited = []
        self._plan.text = change.in_words()
        if self._plan.text:
            self.log.say("info", self._plan.text)
        self.log.say("info", "upgrading the gateway: starting its successor")
        self.act(self.policy.upgrade(self.loop.now))
        return ""

    def _spawn_successor(self, child: Child) -> None:
        self._keeper.keep()
        self._children.spawn_gateway(
            child,
            self._of_gateway(self.control.expect_successor()),
            [sock for sock, _ in self._plan.sockets],
            self.policy.gateway,
            self._settings_of_run(self._plan.settings),
            self._plan.installation,
        )

    def _handle_replaced(self, now: float) -> None:
        """The successor of the gateway serves."""
        self._awaits_figures = True
        old = self.settings
        kept = {sock for sock, _ in self._plan.sockets}
        upgrading.close([each for each in self._sockets if each[0] not in kept])
        self._sockets, self._plan.new_sockets = self._plan.sockets, []
        self._has_tls = any(listen.tls != "off" for _, listen in self._sockets)
        self._is_relinking = self._is_reading_certificates = False
        self._requests.pending.settle("reload", CERTIFICATES, True)
        if self._plan.installation is not None:
            self._children.installation = self._plan.installation
        self.policy.change_settings(self._plan.settings)
        self.act(self.policy.took_over(now))
        self._change_settings(self._plan.settings)
        self._requests.ask_again()
        names, self._plan.reload = self._plan.reload, None
        if names is not None:
            self._requests.pending.settle("reload", SETTINGS, True, self._plan.text)
            self._reload_workers(names)
        elif upgrading.Change(old, self.settings).needs_workers:
            self.log.say("info", "replacing the workers, for their new settings")
            self.act(self.policy.reload(now, filter(self.policy.is_wanted, self.policy.pools)))
        else:
            self._decide()

    def _handle_upgraded(self, data: dict[str, Any]) -> None:
        if not self._awaits_figures:
            # It says so again on each new link.
            return
        self._awaits_figures = False
        pid = self._children.pid(self.policy.gateway)
        text = upgrading.in_words(data, pid, self.settings.upgrade_linger)
        self._settle(a.Settled(p.UPGRADE, True, text, p.UPGRADE))

    # --- the service manager ---

    def _service_state(self) -> ServiceState:
        if self.policy.phase is not p.Phase.RUNNING:
            return ServiceState.STOPPING
        if not self.policy.has_been_up:
            return ServiceState.STARTING
        is_reloading = any(pool.is_reloading for pool in self.policy.pools.values())
        is_upgrading = self.policy.upgrades.is_under_way or self._is_leaving
        if is_reloading or self._is_reading_certificates or is_upgrading:
            return ServiceState.RELOADING
        return ServiceState.READY

    def _keep_alive(self) -> None:
        self._notifier.keep_alive()
        self.loop.call_later(self._notifier.watchdog_interval, self._keep_alive)

    # --- periodic checks ---

    def _watch_files(self) -> None:
        """Look at the files of the present programs, with `reload`, and at no others."""
        self._watch = None
        if not self.settings.reload:
            return
        # Handlers files, and words of commands that are files.
        words = [word for each in self.policy.programs for word in (each.file, *each.words)]
        paths = [Path(self._children.folder, word) for word in words if word]
        files = [path for path in paths if os.path.isfile(path)]
        if not files:
            self.log.say("warning", "--reload: no worker is given as a file; nothing to watch")
            return
        self._watch = Watch(files, partial(self.log.say, "warning"))
        self.loop.call_later(LOOK_AT_FILES, partial(self._look_at_files, self._watch))

    def _look_at_files(self, watch: Watch) -> None:
        if watch is not self._watch:
            return
        began = time.monotonic()
        changed = watch.changed()
        took = time.monotonic() - began
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            self.log.say("info", f"{changed[0].name}{more} changed: reloading")
            self.act(self.policy.reload(self.loop.now))
        wait = max(LOOK_AT_FILES, LOOK_AT_FILES_PAUSE * took)
        self.loop.call_later(wait, partial(self._look_at_files, watch))

    def _look_at_folder(self) -> None:
        self._keep_folder()
        self._notifier.enter(self._service_state())
        summary = status.summary(self.policy)
        refused = self._requests.refusals.in_words()
        self._notifier.describe(f"{summary}; {refused}" if refused else summary)
        self._look_at_unix_sockets()
        if self._admin is not None:
            self._admin.look(self.settings.gateway_timeout)
        if os.getpid() == 1:
            self._children.reap_orphans()
        self.loop.call_later(keeper.LOOK, self._look_at_folder)

    def _look_at_unix_sockets(self) -> None:
        ours = [
            (sock, listen)
            for sock, listen in self._sockets
            if listen.path and listen.name not in self._passed_names
        ]
        if ours:
            self._socket_files.look(ours, self._keeper.place().path)

    def _keep_folder(self) -> None:
        self._keeper.keep()
        is_up = self.policy.gateway.state is ChildState.READY
        if is_up and not self._is_relinking and self._keeper.is_link_gone():
            self._is_relinking = True
            self.control.tell(Relink(str(self._keeper.place().path)))

    def _look_at_memory(self) -> None:
        most = self.settings.max_memory
        for child in list(self.policy.workers) if most else ():
            memory = self._children.memory(child) or 0
            if memory > most > 0 and child.state is ChildState.READY:
                why = f"it holds {human_size(memory)} of memory, more than max_memory"
                self.act(self.policy.recycle(child.n, why, self.loop.now))
        self.loop.call_later(LOOK_AT_MEMORY, self._look_at_memory)

    # --- the gateway, and the command line ---

    def _before_sleep(self, now: float) -> bool:
        """Handle what this turn has read of the control link."""
        while (record := self.control.receive()) is not None:
            self._handle_record(record, now)
        return False

    def _handle_record(self, record: FromGateway | Asked | Ended | Replaced, now: float) -> None:
        if not isinstance(record, Asked | Ended | Replaced):
            self.policy.heard(now)
        match record:
            case Asked():
                self._requests.handle(record)
            case Ended():
                self._requests.ended(record)
            case Page():
                self._requests.forwarded.page(record)
            case Listening():
                self._handle_listening(record, now)
            case Ready(n):
                self.act(self.policy.ready(n, now))
                self._announce()
            case Left(n, acked, unfinished):
                self.act(self.policy.left(n, acked + unfinished, now))
            case Kill(n, why) if n == AGENT:
                self.log.say("warning", f"killing the agent of the cluster: {why}")
                if self._agent is not None:
                    self._children.end(self._agent.child, a.Ending.KILL)
            case Kill(n, why, abort):
                self.act(self.policy.kill_asked(n, why, abort, now))
            case Recycle(n, why):
                self.act(self.policy.recycle(n, why, now))
            case Raised():
                self._look_now()
            case Report(ref, data) if ref == OF_CANARIES:
                self._compare(data)
            case Report(ref, data):
                self._requests.report(ref, data)
            case Stopped():
                self.act(self.policy.stopped(now))
            case Reloaded(why):
                self._handle_reloaded(why)
            case Replaced():
                self._handle_replaced(now)
            case Upgraded(data):
                self._handle_upgraded(data)
            case Kept(why):
                self.act(self.policy.kept(why, now))

    def _handle_listening(self, news: Listening, now: float) -> None:
        self._addresses = news.addresses
        self._is_relinking = False
        self._keeper.linked(news.endpoint)
        self.log.say(
            "debug", f"the gateway is up, pid {news.pid}, epoch {news.epoch}, link {news.endpoint}"
        )
        self.control.tell(
            # Before the hellos of their workers.
            *(record for pool in self.policy.canaries if (record := pool.canary_record())),
            Spawned(0, self._standalone_token, 0),
            *(
                Spawned(child.n, child.token, pid)
                for child in self.policy.all_children()
                if (pid := self._children.pid(child)) is not None
            ),
            *self._plan.exited,
        )
        if self._agent is not None:
            self.control.tell(self._agent.known(self._children, news.endpoint))
        self._plan.exited = []
        if self._is_reading_certificates:
            # On a new link: what we had told it, or its answer, may be lost with the old one.
            self.control.tell(Reload())
        self.act(self.policy.listening(news.endpoint, now))
        self._announce()

    def _announce(self) -> None:
        """Log once that clients can be served, which is what a user waits for."""
        if self._announced or not self.policy.has_been_up:
            return
        self._announced = True
        count = len(self.policy.workers)
        pools = self.policy.pools
        is_one = list(pools) == [DEFAULT_POOL]
        runs = ", ".join(
            ("" if is_one else f"{name}: ")
            + (" and ".join(program.label for program in pool.programs) or NO_WORKERS)
            for name, pool in pools.items()
        )
        who = f"{in_words(count)}, {runs}" if count else NO_WORKERS
        where = " and ".join(self._urls())
        self.log.say(
            "info",
            f"listening on {where} ({who}); ready, pid {os.getpid()}, link {self.policy.endpoint}",
        )

    def _urls(self) -> list[str]:
        return [
            url
            for text, address in zip(self.settings.listen, self._addresses, strict=False)
            for url in _urls_of(parse_listen(text, self.settings), address)
        ]

    def status(self, report: dict[str, Any] | None) -> dict[str, Any]:
        """The state of the run; `report` is the gateway's part."""
        letters = count_dead_letters(self._folder.path)
        return {
            "run_dir": str(self._folder.path),
            "pid": os.getpid(),
            "age": self.loop.now - self._begun,
            "listen": self._urls(),
            "admin": self._admin.url if self._admin is not None else None,
            "refused": self._requests.refusals.as_list(self.loop.now),
            "agent": self._agent.status(self._children) if self._agent is not None else None,
            **status.of_run(self.policy, self._children, report, letters, self.loop.now),
        }


def _limit_before(record: RunRecord | None) -> tuple[int, int] | None:
    """The limit of open files before the run has raised it, for its workers."""
    if record is not None and record.limit is not None:
        return record.limit
    return descriptors.soft_limit()


def _most_workers(count: int) -> int:
    """How many there may be, if a run begins with so many. Raises CannotStart."""
    limit = descriptors.raise_limit()
    if count and descriptors.reserve(limit, count) + descriptors.LEAST > limit:
        need = descriptors.EACH_WORKER * count + descriptors.LEAST
        raise CannotStart(
            f"{count} workers need more than {need} open files, and {limit} may be open; raise "
            "that (ulimit -Hn), or start fewer",
            EXIT_WRONG_USE,
        )
    return min(programs.MOST, descriptors.most_workers(limit, count))


def _kept(record: RunRecord | None) -> set[int]:
    """The versions of handlers that are kept."""
    if record is None:
        return set()
    versions = [pool.versions for pool in record.policy.pools]
    return {number for each in versions for number in (*each.served, each.wanted.number)}


def _cannot_start(error: FolderError) -> CannotStart:
    return CannotStart(str(error), EXIT_TRY_AGAIN if error.is_passing else EXIT_WRONG_USE)


def _signals() -> list[signal.Signals]:
    """The signals we handle. nohup ignores SIGHUP on purpose, so it stays ignored."""
    names = ["SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP", "SIGTTIN", "SIGTTOU", "SIGUSR2"]
    numbers = [signal.Signals[name] for name in names if name in signal.Signals.__members__]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def _urls_of(listen: Listen, address: str) -> list[str]:
    if address.startswith("unix:"):
        return [address]
    secure = {"any": ["wss", "tls"], "websocket": ["wss"], "raw": ["tls"]}[listen.protocol]
    plain = {"any": ["ws", "tcp"], "websocket": ["ws"], "raw": ["tcp"]}[listen.protocol]
    schemes = {"off": plain, "optional": secure + plain, "required": secure}[listen.tls]
    return [f"{scheme}://{address}" for scheme in schemes]
