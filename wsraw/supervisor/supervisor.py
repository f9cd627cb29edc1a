"""I/O. The supervisor process: signals, exits and records in, the policy's decisions out.

It does no work for clients, so that it stays simple and alive.
"""

from __future__ import annotations

import logging
import math
import os
import random
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Final

from wsraw.config import pools
from wsraw.config import settings as settings_module
from wsraw.config.programs import WorkerSpec
from wsraw.config.settings import Settings
from wsraw.config.units import human_size, human_time
from wsraw.link.records import (
    AGENT,
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
    Stop,
    Stopped,
    Upgraded,
)
from wsraw.runtime.link.connection import HAS_UNIX
from wsraw.runtime.link.server import endpoint_of
from wsraw.runtime.loop import Loop, Timer
from wsraw.supervisor import status, upgrading
from wsraw.supervisor.control import canaries
from wsraw.supervisor.control.canaries import Canaries
from wsraw.supervisor.control.link import Control, ControlRequest, LinkEnded, Replaced
from wsraw.supervisor.control.requests import CERTIFICATES, SETTINGS, Requests
from wsraw.supervisor.control.signals import Signals
from wsraw.supervisor.decisions import actions as a
from wsraw.supervisor.decisions import policy as p
from wsraw.supervisor.decisions.child import Child, ChildState
from wsraw.supervisor.file_watch import Watching
from wsraw.supervisor.helpers.helpers import Helpers
from wsraw.supervisor.leaving import Leaving
from wsraw.supervisor.listeners import Listeners
from wsraw.supervisor.log import Log, LogHandler, format_for
from wsraw.supervisor.processes import outputs
from wsraw.supervisor.processes.children import CAN_UPGRADE, Children
from wsraw.supervisor.processes.open_files import OpenFiles
from wsraw.supervisor.processes.process import Installation, installation_of
from wsraw.supervisor.recent_log import RecentLine
from wsraw.supervisor.replacing.records import (
    FORMAT,
    NextRecord,
    NotUnderstoodError,
    PendingRecord,
    RunRecord,
    decode,
)
from wsraw.supervisor.replacing.replacement import (
    CAN_REPLACE,
    command_of,
    own_command,
)
from wsraw.supervisor.replacing.state import Freezing, Thawing
from wsraw.supervisor.run_folder import keeper
from wsraw.supervisor.run_folder.folder import Folder, FolderError, count_dead_letters
from wsraw.supervisor.run_folder.keeper import Keeper
from wsraw.supervisor.run_folder.versions import VersionFolders
from wsraw.supervisor.service_manager.notifier import Notifier, ServiceState
from wsraw.supervisor.service_manager.passed_sockets import PassedSocketError, PassedSockets
from wsraw.version import VERSION

LOOK_AT_MEMORY: Final = 5.0
"""Seconds between two checks of the workers' memory, with `max_memory`."""

EXIT_TRY_AGAIN: Final = 1
EXIT_WRONG_USE: Final = 2
EXIT_CANNOT_LISTEN: Final = 3
"""Trying again would fail again."""

FAILURES: Final = (EXIT_TRY_AGAIN, EXIT_WRONG_USE, EXIT_CANNOT_LISTEN)
"""Exit codes of a run that has not ended as it was asked to."""

NOTHING_TO_RELOAD: Final = "the settings have not changed, and there are no workers to reload"


def understood(data: bytes) -> RunRecord:
    """The record of the program before us, if it can be used. Raises NotUnderstoodError."""
    record = decode(data)
    try:
        settings = settings_module.from_json(record.settings)
    except ValueError as error:
        text = f"wsraw {record.version} has settings that are not known here: {error}"
        raise NotUnderstoodError(text) from error
    # The policy that the record is restored into is not used.
    Thawing(record.policy, p.Policy({}, settings, random.random), 0.0)
    return record


class StartError(Exception):
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
    `warning`: a first line of the log. `reread` reads the settings again, for an upgrade. `record`:
    continue the run of the program that we replace. Raises StartError."""
    form = format_for(sys.stderr, settings.log_format)
    log = Log(sys.stderr, settings.log_level, form, settings.log_rate)
    shared, handler = logging.getLogger("wsraw"), LogHandler(log)
    shared.addHandler(handler)
    try:
        if warning:
            log.say("warning", warning)
        notifier = Notifier(os.environ, log.say)
        return Supervisor(settings, log, passed, notifier, reread, record).run()
    except StartError as error:
        if settings.log_format != "json":
            raise
        # Each line is an object, including the last one.
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
    """What asked the run to stop first, or to stop at once."""
    _announced = False
    """Whether the log says that clients are served."""

    def __init__(
        self,
        settings: Settings,
        log: Log,
        passed: PassedSockets | None = None,
        notifier: Notifier | None = None,
        reread: upgrading.Reread | None = None,
        record: RunRecord | None = None,
    ) -> None:
        """Raises StartError, and then leaves nothing behind. Without `notifier` nobody is told."""
        entries = self._entries(settings)
        count = sum(entry.number for each in entries.values() for entry in each)
        self.open_files = OpenFiles(record.limit if record is not None else None, count)
        why = self.open_files.refusal_to_begin(count)
        if why:
            raise StartError(why, EXIT_WRONG_USE)
        self.settings = settings
        self._reread = reread
        self._plan = upgrading.UpgradePlan(settings, record.node if record is not None else "")
        self.log = log
        self.policy = p.Policy(entries if record is None else {}, settings, random.random)
        self._record = record
        """The record of the program before us, until its run is continued."""
        self._open(passed or PassedSockets({}), record)
        self._notifier = notifier or Notifier({}, log.say)
        sock = self._listeners.link
        link = endpoint_of(sock) if sock is not None else ""
        token = record.standalone_token if record is not None else os.urandom(16).hex()
        self._keeper = Keeper(self._folder, self.control, token, log, link)
        self._canaries = Canaries(self, self._children.versions)
        self._requests = Requests(self, self._canaries)
        self._signals = Signals(self)
        self._watching = Watching(
            self.loop, log, lambda: self.act(self.policy.reload(self.loop.now))
        )
        self._leaving = Leaving(
            self,
            self._children,
            self._requests,
            self._notifier.variables,
            self._record_of_run,
            self._settle,
        )
        self._is_reading_certificates = False
        """Whether the gateway was told to reload certificates, and has not answered."""
        self._timer: Timer | None = None
        self._begun = self.loop.now

    def _open(self, passed: PassedSockets, record: RunRecord | None) -> None:
        """Open what the run needs, or take it from the program before us. Raises StartError, and
        then leaves nothing behind."""
        log = self.log
        with ExitStack() as opened:
            try:
                self._listeners = Listeners(self.settings, passed, log, record)
                opened.callback(self._listeners.close)
                if record is None:
                    self._folder = Folder(self.settings.run_dir, log.say)
                else:
                    self._folder = Folder.adopted(record.folder, log.say)
                opened.callback(self._folder.close)
                self.loop = Loop()
                opened.callback(self.loop.close)
                # First, because a run that does not answer here counts as leaving.
                told = record.control if record is not None else None
                self.control = Control(self.loop, self._folder.path, log, told)
                opened.callback(self.control.close)
                self._children = Children(
                    self._folder.lock,
                    log,
                    self.loop.call_soon_threadsafe,
                    self._handle_death,
                    VersionFolders(self._folder.path, _kept(record)),
                    self._settings_of_run(self.settings),
                    self.open_files.given,
                )
                self._helpers = Helpers(self._children, self.loop, log, self.control.tell)
                opened.callback(self._helpers.close)
                if record is None:
                    helpers = partial(self._helpers.open, self.settings)
                    self._listeners.open(self.settings, helpers)
                else:
                    self._listeners.adopt(record, self.settings, self._folder.path)
                    self._helpers.adopt(record, self.settings)
            except FolderError as error:
                raise _cannot_start(error) from error
            except PassedSocketError as error:
                raise StartError(str(error), EXIT_WRONG_USE) from error
            except OSError as error:
                raise StartError(error.strerror or str(error), EXIT_CANNOT_LISTEN) from error
            opened.pop_all()

    def _settings_of_run(self, settings: Settings) -> bytes:
        """The settings that Python children read first, with what this run has chosen itself."""
        changes = {"run_dir": str(self._folder.path)}
        if settings.cluster and not settings.node:
            changes["node"] = self._plan.node
        settings = settings_module.replaced(settings, **changes)
        return settings_module.to_json(settings).encode() + b"\n"

    # --- the run ---

    def run(self) -> int:
        """Serve until stopped; return the exit code. Must run in the main thread (signals)."""
        self._signals.begin()
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
            else:
                self._helpers.begin()
            self._watch_files()
            self._decide()
            self.loop.run()
        except FolderError as error:
            raise _cannot_start(error) from error
        finally:
            self._children.kill_all()
            outputs.end_all()
            self._children.read_rest()
            self._signals.end()
            self._close()
            self._say_end()
        return self.policy.exit_code

    def _close(self) -> None:
        self._listeners.close()
        self._helpers.close()
        self.control.close()
        self.loop.close()
        for kept in self._keeper.close():
            self.log.say("warning", f"dead letters are kept: {kept}")

    def _say_end(self) -> None:
        """Log the last line: what has ended the run, after how long, and its exit code."""
        error = sys.exc_info()[1]
        code = error.code if isinstance(error, StartError) else self.policy.exit_code
        why = f": {self.ended_by}" if self.ended_by else ""
        if error is not None and not isinstance(error, StartError):
            why, code = f": {type(error).__name__}, a bug in wsraw", EXIT_TRY_AGAIN
        time = human_time(self.loop.now - self._begun)
        text = f"the run has ended after {time}{why} (exit code {code})"
        self.log.say("error" if code in FAILURES else "info", text)

    def stop(self, why: str, how: str, seconds: float | None = None) -> None:
        """Stop gracefully; a second call can only bring the deadline forward."""
        self.ended_by = self.ended_by or why
        self.log.say("info", f"{why}: {how}")
        self.act(self.policy.stop(self.loop.now, seconds))

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
                        self._listeners.stop()
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
        if not self._listeners.has_tls or self.policy.gateway.state is not ChildState.READY:
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

    def _settle(self, done: a.Settled) -> None:
        is_upgrade = done.what == p.UPGRADE
        of_pool = f"{done.pool}: " if len(self.policy.pools) > 1 and not is_upgrade else ""
        text = f"{of_pool}{done.text}"
        if is_upgrade:
            self._settle_upgrade(done.ok, text)
        # The log has more about a canary.
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
        self._drop_new()
        self._leaving.upgraded(ok)
        if not ok:
            is_running = self.policy.phase is p.RunPhase.RUNNING
            self.log.say("error" if is_running else "info", f"the upgrade is {text}")
            names, self._plan.reload = self._plan.reload, None
            if names is not None:
                self._refuse_reload(names, f"the upgrade for new settings is {text}")

    def _spawn(self, child: Child) -> None:
        if child is self.policy.upgrades.successor:
            self._spawn_successor(child)
            return
        if child is self.policy.gateway:
            self._folder.next_epoch()
            self._keeper.keep()
            # The first workers start at the same time, and connect as soon as the gateway listens.
            self.policy.endpoint = self.policy.endpoint or self._keeper.expected_link()
            variables = self._of_gateway(self.control.expect())
            sockets = [sock for sock, _ in self._listeners.bound]
            if self._listeners.link is not None:
                sockets.append(self._listeners.link)
            self._children.spawn_gateway(child, variables, sockets)
            return
        self._keep_folder()
        if self.policy.begins_version(child):
            assert child.program is not None
            self._children.versions.forget(child.version.number, child.program)
        child.token = os.urandom(16).hex()
        # Before the worker can send its hello: by then the gateway must know the token.
        self.control.tell(Spawned(child.n, child.token, 0))
        pid = self._children.spawn_worker(child, self.policy.endpoint)
        if pid is not None:
            self.control.tell(Spawned(child.n, child.token, pid))

    def _of_gateway(self, token: str) -> dict[str, str]:
        """Variables with which a gateway finds the control link; the link knows it by this
        token."""
        return {
            "WSRAW_CONTROL": self.control.endpoint,
            "WSRAW_CONTROL_TOKEN": token,
            "WSRAW_EPOCH": str(self._folder.epoch),
            "WSRAW_LINK_FOLDER": str(self._keeper.place().path),
            "WSRAW_EXPECTED": str(len(self.policy.workers)),
        }

    def _handle_death(self, child: Child, code: int, why: str, error: str) -> None:
        is_running = self.policy.phase is p.RunPhase.RUNNING
        if self._helpers.exited(child, why, is_running=is_running):
            return
        if child is self.policy.gateway:
            self._keeper.unlinked()
            self._is_reading_certificates = False
            # The next gateway reads them at its start.
            self._requests.pending.settle("reload", CERTIFICATES, True)
            if self._plan.awaits_figures:
                self._plan.awaits_figures = False
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
        """Apply changed settings and certificates, and reload the workers of these pools. Requests
        for it are settled later."""
        pending = self._requests.pending
        if self.policy.upgrades.is_under_way or self._leaving.is_under_way:
            # The workers follow when the upgrade is done.
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
                # The workers follow when the upgrade is done.
                self._plan.reload = list(names)
            return
        if change.names:
            why = self._helpers.prepare(change.new, self.settings)
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
                pending.settle(
                    "reload", name, True, f"the pool {name} is not in the settings any more"
                )
        wanted = [name for name in names if self.policy.is_wanted(name)]
        self.act(self.policy.reload(self.loop.now, wanted))

    @staticmethod
    def _can_upgrade() -> bool:
        return CAN_UPGRADE and HAS_UNIX

    def _reread_settings(self) -> Settings:
        """The present settings, read again. Raises ValueError, with advice."""
        if self._reread is None:
            return self.settings
        with suppress(OSError):
            # File names refer to the release to which a symbolic link in the name of our folder
            # leads now.
            os.chdir(self._children.folder)
        new = self._reread()
        count, before = (
            sum(entry.number for each in entries.values() for entry in each)
            for entries in map(self._entries, (new, self.settings))
        )
        why = self.open_files.refusal_to_scale(count) if count > before else ""
        if why:
            raise ValueError(f"workers: {why}")
        return new

    @staticmethod
    def _entries(settings: Settings) -> dict[str, tuple[WorkerSpec, ...]]:
        return pools.entries(settings, os.path.isfile)

    def _change_settings(self, settings: Settings) -> None:
        """Use these settings; the gateway already has those that it needs. To be followed by a
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
        self._helpers.change(settings, change.names, self.policy.endpoint)

    def upgrade(self, python: str = "") -> str:
        """Begin to replace the supervisor, where possible, and then the gateway: with new code, the
        present settings, and another `python` if one is given. Returns why that is refused, or "":
        then a request for it is settled later."""
        why = self._refusal_to_upgrade()
        if why:
            return why
        self._plan.reload = None
        if not python:
            return self._begin_upgrade(None, own_command())
        # That Python may be slow, or hang, and the run needs us meanwhile.
        self._leaving.is_under_way = True
        threading.Thread(target=self._ask_python, args=(python,), daemon=True).start()
        return ""

    def _ask_python(self, python: str) -> None:
        """Find the wsraw of another Python, in a thread."""
        found: Installation | str
        try:
            found = installation_of(python)
        except ValueError as error:
            found = str(error)
        self.loop.call_soon_threadsafe(partial(self._handle_python, python, found))

    def _handle_python(self, python: str, found: Installation | str) -> None:
        self._leaving.is_under_way = False
        why = found if isinstance(found, str) else self._refusal_to_upgrade()
        if not why and isinstance(found, Installation):
            why = self._begin_upgrade(found, command_of(python))
        if why:
            text = f"refused: {why}"
            self._settle(a.Settled(p.UPGRADE, False, text, p.UPGRADE, shows_output=False))

    def _begin_upgrade(self, installation: Installation | None, command: list[str]) -> str:
        """Begin an upgrade. Returns why that is refused, or ""."""
        self._plan.installation = installation
        try:
            self._reread_settings()
        except ValueError as error:
            return f"the settings are wrong: {error}"
        if self._reread is None or not CAN_REPLACE:
            return self._upgrade_gateway()
        self._leaving.begin(command)
        return ""

    def _refusal_to_upgrade(self) -> str:
        if not self._can_upgrade():
            return "this platform cannot pass the sockets of clients to another process"
        if self._leaving.is_under_way:
            return "an upgrade is under way"
        return self.policy.refusal_to_upgrade()

    # --- another program in our place ---

    def _record_of_run(self) -> RunRecord | None:
        """What another program must know; the children are held then. None if they cannot be
        held."""
        held = self._children.hold()
        if held is None:
            return None
        processes, unread = held
        now = self.loop.now
        freezing = Freezing(now)
        admin, agent = self._helpers.records(freezing.number)
        policy = freezing.policy(self.policy)
        for child, each in processes.items():
            if child in freezing.children:
                policy.children[freezing.number(child)].process = each
        spare = self._keeper.spare
        other, listeners = self._plan.installation, self._listeners
        return RunRecord(
            format=FORMAT,
            version=VERSION,
            settings=settings_module.to_json(self.settings),
            policy=policy,
            folder=self._folder.record(),
            spare=spare.record() if spare is not None else None,
            control=self.control.record(),
            sockets=[sock.fileno() for sock, _ in listeners.bound],
            passed=sorted(listeners.passed),
            numbers=listeners.given.numbers,
            names=listeners.given.names,
            link=listeners.link.fileno() if listeners.link is not None else -1,
            addresses=listeners.addresses,
            standalone_token=self._keeper.worker_token,
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
            next=self._leaving.next(
                (other.python, other.package, other.path) if other else None, self._plan.reload
            ),
            limit=self.open_files.given,
        )

    def _go_on(self, record: RunRecord) -> None:
        """Continue the run of the program before us."""
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
        self._announced = True
        self._begun = now - record.age
        self.log.go_on(RecentLine(*line) for line in record.log)
        self._requests.go_on(record)
        self._helpers.go_on(record, thawing.children)
        self.log.say("info", f"the supervisor is wsraw {VERSION} now, with the same pid")
        self._leaving.go_on(record.next, self._go_on_with_gateway)

    def _go_on_with_gateway(self, told: NextRecord) -> None:
        """Upgrade the gateway, as the program before us was asked to do."""
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
        """Begin to replace the gateway. Returns why that is refused, or ""."""
        why = self._refusal_to_upgrade()
        if why:
            return why
        try:
            new = self._reread_settings()
        except ValueError as error:
            return f"the settings are wrong: {error}"
        change = upgrading.Change(self.settings, new)
        self._plan.settings = change.new
        why = self._helpers.prepare(change.new, self.settings)
        if why:
            return why
        try:
            self._listeners.prepare(self._plan.settings)
        except OSError as error:
            self._drop_new()
            return error.strerror or str(error)
        self._plan.exited = []
        self._plan.text = change.in_words()
        if self._plan.text:
            self.log.say("info", self._plan.text)
        self.log.say("info", "upgrading the gateway: starting its successor")
        self.act(self.policy.upgrade(self.loop.now))
        return ""

    def _drop_new(self) -> None:
        """Close sockets that were bound for an upgrade that was refused."""
        self._listeners.drop_new()
        self._helpers.drop_next()

    def _spawn_successor(self, child: Child) -> None:
        self._keeper.keep()
        self._children.spawn_gateway(
            child,
            self._of_gateway(self.control.expect_successor()),
            [sock for sock, _ in self._listeners.next],
            self.policy.gateway,
            self._settings_of_run(self._plan.settings),
            self._plan.installation,
        )

    def _handle_replaced(self, now: float) -> None:
        """Handle that the successor of the gateway serves."""
        self._plan.awaits_figures = True
        old = self.settings
        self._listeners.switch()
        self._keeper.unlinked()
        self._is_reading_certificates = False
        self._requests.pending.settle("reload", CERTIFICATES, True)
        if self._plan.installation is not None:
            self._children.installation = self._plan.installation
        self.policy.change_settings(self._plan.settings)
        self.act(self.policy.took_over(now))
        self._change_settings(self._plan.settings)
        self._requests.ask_again()
        names, self._plan.reload = self._plan.reload, None
        if names is not None:
            why = self._changed_meanwhile()
            self._requests.pending.settle("reload", SETTINGS, not why, why or self._plan.text)
            self._reload_workers(names)
        elif upgrading.Change(old, self.settings).needs_workers:
            self.log.say("info", "replacing the workers, for their new settings")
            self.act(self.policy.reload(now, filter(self.policy.is_wanted, self.policy.pools)))
        else:
            self._decide()

    def _changed_meanwhile(self) -> str:
        """The text for requests for a reload during an upgrade that had read the settings before
        they changed; "" if they did not change."""
        try:
            change = upgrading.Change(self.settings, self._reread_settings())
        except ValueError as error:
            return f"the settings are wrong, and not in force: {error}"
        names = [name for name in change.names if name != upgrading.OF_RUN]
        if not names:
            return ""
        return (
            f"{', '.join(names)}: changed during the upgrade, and not in force; run `wsraw reload` "
            "again"
        )

    def _handle_upgraded(self, data: dict[str, Any]) -> None:
        if not self._plan.awaits_figures:
            # The gateway repeats this on each new link.
            return
        self._plan.awaits_figures = False
        pid = self._children.pid(self.policy.gateway)
        text = upgrading.in_words(data, pid, self.settings.upgrade_linger)
        self._settle(a.Settled(p.UPGRADE, True, text, p.UPGRADE))

    # --- the service manager ---

    def _service_state(self) -> ServiceState:
        if self.policy.phase is not p.RunPhase.RUNNING:
            return ServiceState.STOPPING
        if not self.policy.has_been_up:
            return ServiceState.STARTING
        is_reloading = any(pool.is_reloading for pool in self.policy.pools.values())
        is_upgrading = self.policy.upgrades.is_under_way or self._leaving.is_under_way
        if is_reloading or self._is_reading_certificates or is_upgrading:
            return ServiceState.RELOADING
        return ServiceState.READY

    def _keep_alive(self) -> None:
        self._notifier.keep_alive()
        self.loop.call_later(self._notifier.watchdog_interval, self._keep_alive)

    # --- periodic checks ---

    def _watch_files(self) -> None:
        if self.settings.reload:
            # Handlers files, and words of commands that are files.
            words = [word for each in self.policy.programs for word in (each.file, *each.words)]
            self._watching.begin(words, self._children.folder)
        else:
            self._watching.end()

    def _look_at_folder(self) -> None:
        self._keep_folder()
        self._notifier.enter(self._service_state())
        summary = status.summary(self.policy)
        refused = self._requests.refusals.in_words()
        self._notifier.describe(f"{summary}; {refused}" if refused else summary)
        self._listeners.look(self._keeper.place().path)
        self._helpers.look(self.settings.gateway_timeout)
        if os.getpid() == 1:
            self._children.reap_orphans()
        self.loop.call_later(keeper.LOOK, self._look_at_folder)

    def _keep_folder(self) -> None:
        self._keeper.keep()
        is_up = self.policy.gateway.state is ChildState.READY
        if is_up and self._keeper.begin_relinking():
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
        """Handle the records that this turn has read from the control link."""
        while (record := self.control.receive()) is not None:
            self._handle_record(record, now)
        return False

    def _handle_record(
        self, record: FromGateway | ControlRequest | LinkEnded | Replaced, now: float
    ) -> None:
        if not isinstance(record, ControlRequest | LinkEnded | Replaced):
            self.policy.heard(now)
        match record:
            case ControlRequest():
                self._requests.handle(record)
            case LinkEnded():
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
                self._helpers.kill_agent(why)
            case Kill(n, why, abort):
                self.act(self.policy.kill_asked(n, why, abort, now))
            case Recycle(n, why):
                self.act(self.policy.recycle(n, why, now))
            case Raised():
                self._canaries.look()
            case Report(ref, data) if ref == canaries.REF:
                self._canaries.compare(data)
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
        self._listeners.addresses = news.addresses
        self._keeper.linked(news.endpoint)
        self.log.say(
            "debug", f"the gateway is up, pid {news.pid}, epoch {news.epoch}, link {news.endpoint}"
        )
        self.control.tell(
            # Before the hellos of their workers.
            *(record for pool in self.policy.canaries if (record := pool.canary_record())),
            Spawned(0, self._keeper.worker_token, 0),
            *(
                Spawned(child.n, child.token, pid)
                for child in self.policy.all_children()
                if (pid := self._children.pid(child)) is not None
            ),
            *self._plan.exited,
        )
        self._helpers.reached(news.endpoint)
        self._plan.exited = []
        if self._is_reading_certificates:
            # On a new link: our request, or its answer, may have been lost with the old link.
            self.control.tell(Reload())
        self.act(self.policy.listening(news.endpoint, now))
        self._announce()

    def _announce(self) -> None:
        """Log once that clients can be served, which users wait for."""
        if self._announced or not self.policy.has_been_up:
            return
        self._announced = True
        text = status.announcement(self.policy, self._listeners.urls(self.settings))
        ready = f"ready, pid {os.getpid()}, link {self.policy.endpoint}"
        self.log.say("info", f"{text}; {ready}")

    def status(self, report: dict[str, Any] | None) -> dict[str, Any]:
        """The state of the run; `report` is the gateway's part."""
        letters = count_dead_letters(self._folder.path)
        return {
            "run_dir": str(self._folder.path),
            "pid": os.getpid(),
            "age": self.loop.now - self._begun,
            "listen": self._listeners.urls(self.settings),
            "refused": self._requests.refusals.as_list(self.loop.now),
            **self._helpers.status(),
            **status.of_run(self.policy, self._children, report, letters, self.loop.now),
        }


def _kept(record: RunRecord | None) -> set[int]:
    """The versions of handlers that are kept."""
    if record is None:
        return set()
    versions = [pool.versions for pool in record.policy.pools]
    return {number for each in versions for number in (*each.served, each.wanted.number)}


def _cannot_start(error: FolderError) -> StartError:
    return StartError(str(error), EXIT_TRY_AGAIN if error.is_passing else EXIT_WRONG_USE)
