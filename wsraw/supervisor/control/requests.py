"""I/O. Requests of the command line: status, reload, scale, stop, drain; and those about
connections, which the gateway answers."""

from __future__ import annotations

import logging
import re
from functools import partial
from typing import Any, Final

from wsraw.config import programs
from wsraw.config.options import LARGEST
from wsraw.config.pools import in_force, known_pools
from wsraw.link.records import Do, Done, Status
from wsraw.runtime.link.server import Link
from wsraw.supervisor.control.canaries import Canaries
from wsraw.supervisor.control.forwarded import GONE, ForwardedRequests
from wsraw.supervisor.control.link import ControlRequest, LinkEnded
from wsraw.supervisor.control.pending import PendingRequests
from wsraw.supervisor.control.run import ControlledRun
from wsraw.supervisor.decisions import actions as a
from wsraw.supervisor.decisions.canary import CanaryPlan
from wsraw.supervisor.decisions.policy import UPGRADE, RunPhase
from wsraw.supervisor.decisions.refusals import Refusals
from wsraw.supervisor.decisions.selection import NO_WORKERS, which
from wsraw.supervisor.replacing.records import RunRecord

log = logging.getLogger("wsraw.supervisor")

REPORT_TIMEOUT: Final = 1.0
"""Seconds to wait for the gateway's report; then `status` answers without it."""

SETTINGS: Final = "(settings)"
"""The part of a reload that applies changed settings."""

CERTIFICATES: Final = "(certificates)"
"""The part of a reload that the gateway does; a pool cannot have this name."""


OF_GATEWAY: Final = (
    "connections",
    "connection",
    "kick",
    "publish",
    "send",
    "send_to_user",
    "trace",
)
"""Requests that are passed on to the gateway."""


class Requests:
    """Answers each `do` with one `done`, at once or when all of it is done; requests to the gateway
    get one with each page."""

    def __init__(self, run: ControlledRun, canaries: Canaries) -> None:
        self._run = run
        self._canaries = canaries
        self.pending: PendingRequests[ControlRequest] = PendingRequests(self._answer)
        """Requests that are partly done; the supervisor settles their parts."""
        self.refusals = Refusals()
        self.forwarded: ForwardedRequests[Link] = ForwardedRequests(
            run.control.forward, run.control.answer
        )
        """Requests that the gateway works on."""
        self._reports: dict[int, ControlRequest] = {}
        self._ref = 0

    def go_on(self, record: RunRecord) -> None:
        """Continue with the unanswered requests of the program before us."""
        self.refusals.go_on(record.refusals, self._run.loop.now)
        links: dict[int, Link] = {}
        for each in record.pending:
            try:
                who = links.get(each.link) or self._run.control.adopt(each.link, each.pid)
            except OSError:
                continue
            links[each.link] = who
            asked = ControlRequest(who, Do(each.ref, each.asked))
            self.pending.go_on(asked, each.what, each.outcomes)

    def handle(self, asked: ControlRequest) -> None:
        """Carry out a request. A bug in wsraw costs only this request, and not the run."""
        try:
            self._do(asked)
        except Exception as error:
            log.exception("a request for %s was ended by a bug in wsraw", asked.do.what)
            self._answer(asked, False, f"a bug in wsraw: {error!r}; see the log of the run")

    def _do(self, asked: ControlRequest) -> None:
        match asked.do.what:
            case "status":
                self._status(asked)
            case "figures":
                # The same without samples, for programs that ask repeatedly.
                self._status(asked, samples=False)
            case "log":
                self._log(asked)
            case "more":
                self.forwarded.more(asked.who, asked.do.ref)
            case what if what in OF_GATEWAY:
                self.forwarded.begin(asked.who, asked.do)
            case what if self._is_over(what):
                self._answer(asked, False, "the run is stopping")
            case "reload":
                self._reload(asked)
            case "canary":
                self._try_out(asked)
            case "rollback":
                self._roll_back(asked)
            case "scale":
                self._scale(asked)
            case "upgrade":
                self._upgrade(asked)
            case "stop":
                self._stop(asked, "stopping", None)
            case "drain":
                self._stop(asked, "stopping without a deadline", 0.0)
            case what:
                self._answer(asked, False, f"this run does not know the command {what}")

    def ended(self, record: LinkEnded) -> None:
        """A command line, or the gateway, has gone."""
        if record.who is None:
            self.forwarded.end(GONE)
        else:
            self.forwarded.leave(record.who)

    def _is_over(self, what: str) -> bool:
        phase = self._run.policy.phase
        return phase is RunPhase.OVER or (
            phase is not RunPhase.RUNNING and what not in ("stop", "drain")
        )

    def _answer(self, asked: ControlRequest, ok: bool, text: str = "", data: Any = None) -> None:
        self._run.control.answer(asked.who, Done(asked.do.ref, ok, text, data))

    # --- status ---

    def _status(self, asked: ControlRequest, *, samples: bool = True) -> None:
        self._ref += 1
        self._reports[self._ref] = asked
        self._run.control.tell(Status(self._ref, samples))
        self._run.loop.call_later(REPORT_TIMEOUT, partial(self.report, self._ref, None))

    @property
    def has_reports(self) -> bool:
        """Whether a request waits for a report of the gateway."""
        return bool(self._reports)

    def report(self, ref: int, data: dict[str, Any] | None) -> None:
        """Handle the gateway's report; None if it is overdue."""
        asked = self._reports.pop(ref, None)
        if asked is not None:
            self._answer(asked, True, "", self._run.status(data))

    def ask_again(self) -> None:
        """The gateway was replaced: ask the new one for the reports that the old one owes."""
        for ref in self._reports:
            self._run.control.tell(Status(ref))

    def _log(self, asked: ControlRequest) -> None:
        """The last lines of the log, after the line with the given number."""
        text = "".join(asked.do.args[:1])
        after = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
        self._answer(asked, True, "", self._run.log.recent(after))

    # --- reload, scale, stop ---

    def _reload(self, asked: ControlRequest) -> None:
        """Reload all workers and the certificates, or the workers of the given pools."""
        run = self._run
        names = self._pools_of(asked)
        if names is None:
            return
        what = " and ".join(names) or "settings and certificates"
        run.log.say("info", f"wsraw reload: reloading {what}")
        if asked.do.args:
            self.pending.begin(asked, "reload", names)
            run.act(run.policy.reload(run.loop.now, names))
            return
        self.pending.begin(asked, "reload", [SETTINGS, *names, CERTIFICATES])
        run.reload(names)

    def _pools_of(self, asked: ControlRequest) -> list[str] | None:
        """The pools with these names, or all pools. None if the request was answered with an error,
        because one has no workers, or a name is unknown."""
        pools = self._run.policy.pools
        own = [name for name, pool in pools.items() if pool.programs]
        if not own and asked.do.what != "reload":
            # A reload of everything includes settings and certificates.
            self._answer(asked, False, f"this run has {NO_WORKERS}")
            return None
        for name in asked.do.args:
            if name not in own:
                why = f"there is no pool {name!r}; {known_pools(list(pools))}"
                if name in pools:
                    why = f"the pool {name!r} has {NO_WORKERS}"
                self._answer(asked, False, why)
                return None
        return list(asked.do.args) or own or list(pools)

    def _try_out(self, asked: ControlRequest) -> None:
        """Try new handlers with a share of the connections, in all pools or in the given ones."""
        names = self._pools_of(asked)
        if names is None:
            return
        plan = self._plan_of(asked)
        if isinstance(plan, str):
            self._answer(asked, False, plan)
            return
        if self._run.policy.upgrades.is_under_way:
            # The new gateway would not be told of the canary's share.
            self._answer(asked, False, "an upgrade is under way; try again when it is done")
            return
        for name in names:
            pool = self._run.policy.pools[name]
            if pool.canary is not None:
                why = f"a canary of the pool {name} is under way; `wsraw rollback` ends it"
                self._answer(asked, False, why)
                return
            if pool.is_reloading:
                self._answer(asked, False, f"the pool {name} is reloading; try again after that")
                return
            own = in_force(self._run.settings).get(name, self._run.settings)
            if plan.shield and own.delivery == "at-most-once":
                why = (
                    f"the pool {name} has delivery = at-most-once, so none of its messages is "
                    "handled twice: try the new handlers with --no-shield"
                )
                self._answer(asked, False, why)
                return
        self._run.log.say("info", f"wsraw reload: a canary in {' and '.join(names)}")
        self.pending.begin(asked, a.CANARY, names)
        self._canaries.begin(names, plan)

    def _plan_of(self, asked: ControlRequest) -> CanaryPlan | str:
        """The plan of a trial, or why it is impossible."""
        settings, options = self._run.settings, asked.do.options
        percent = options.get("percent", settings.canary_percent)
        seconds = options.get("seconds", settings.canary_time)
        if not (isinstance(percent, int | float) and 0 < percent < 100):
            return "the share of a canary is more than 0 % and less than 100 %"
        if not (isinstance(seconds, int | float) and 0 < seconds < LARGEST):
            return "the time of a canary is more than 0 s"
        shield = options.get("shield", settings.canary_shield)
        return CanaryPlan(percent / 100, float(seconds), shield is True)

    def _roll_back(self, asked: ControlRequest) -> None:
        """Let all workers, or those of the given pools, load the version that they had before."""
        run = self._run
        names = self._pools_of(asked)
        if names is None:
            return
        if not asked.do.args:
            # Workers that have not changed yet stay as they are.
            pools = run.policy.pools
            names = [n for n in names if pools[n].canary or pools[n].goes_back_to] or names
        why = self._canaries.refusal_to_roll_back(names)
        if why:
            self._answer(asked, False, why)
            return
        run.log.say("info", f"wsraw rollback: rolling back {' and '.join(names)}")
        on_trial = [name for name in names if run.policy.pools[name].canary is not None]
        if on_trial:
            # There is nothing else to go back from, and this is done at once.
            run.act(run.policy.roll_back(on_trial, run.loop.now))
            text = f"the old workers serve all connections of {' and '.join(on_trial)} again"
            self._answer(asked, True, text)
            return
        self.pending.begin(asked, "reload", names)
        run.act(run.policy.roll_back(names, run.loop.now))

    def _upgrade(self, asked: ControlRequest) -> None:
        why = self._run.upgrade("".join(asked.do.args[:1]))
        if why:
            self._answer(asked, False, f"refused: {why}")
        else:
            self.pending.begin(asked, UPGRADE, [UPGRADE])

    def _scale(self, asked: ControlRequest) -> None:
        run = self._run
        name, _, count = "".join(asked.do.args[:1]).rpartition("=")
        meant = which(run.policy.pools.values(), name)
        if isinstance(meant, str):
            self._answer(asked, False, meant)
        elif not (re.fullmatch("[0-9]{1,4}", count) and 1 <= int(count) <= programs.MOST):
            self._answer(asked, False, f"the number of workers must be from 1 to {programs.MOST}")
        else:
            pool, program = meant
            others = [c for c in run.policy.workers if (c.pool, c.program) != (pool.name, program)]
            why = run.open_files.refusal_to_scale(len(others) + int(count))
            if why:
                self._answer(asked, False, why)
                return
            run.log.say("info", f"wsraw scale: {program.label} to {count}")
            self.pending.begin(asked, "scale", [pool.name])
            run.act(run.policy.scale(int(count), run.loop.now, pool, program))

    def _stop(self, asked: ControlRequest, how: str, timeout: float | None) -> None:
        self.pending.begin(asked, "stop", ["all"])
        self._run.stop(f"wsraw {asked.do.what}", how, timeout)

    def finish(self, code: int) -> None:
        """The run is over: answer every request."""
        self.pending.end("stop", True, f"stopped, exit code {code}")
        for what in ("reload", "scale", a.CANARY, UPGRADE):
            self.pending.end(what, False, "the run has stopped")
        self.forwarded.end("the run has stopped")
        for ref in list(self._reports):
            self.report(ref, None)
