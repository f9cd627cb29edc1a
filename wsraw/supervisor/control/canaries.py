"""I/O. Compares canaries repeatedly with the other workers, by the gateway's counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from wsraw.link.records import Status
from wsraw.supervisor.control.run import ControlledRun
from wsraw.supervisor.decisions.canary import LOOK, CanaryPlan
from wsraw.supervisor.decisions.pool import Pool
from wsraw.supervisor.decisions.verdict import Handled
from wsraw.supervisor.run_folder.versions import VersionFolders

REF: Final = 0
"""The reference of a report that the supervisor itself has asked for."""


class Canaries:
    """The canaries of a run, whose workers keep their handlers in `versions`."""

    def __init__(self, run: ControlledRun, versions: VersionFolders) -> None:
        self._run = run
        self._versions = versions
        self._is_looking = False

    def begin(self, names: Sequence[str], plan: CanaryPlan) -> None:
        """Begin a canary in each of these pools."""
        policy, now = self._run.policy, self._run.loop.now
        for name in names:
            pool = policy.pools[name]
            is_kept = not self._why_not_kept(pool, pool.versions.present)
            self._run.act(policy.try_out(pool, plan, is_kept=is_kept, now=now))
        if not self._is_looking:
            self._is_looking = True
            self._run.loop.call_later(LOOK, self._look_again)

    def _look_again(self) -> None:
        self._is_looking = bool(self._run.policy.canaries)
        if self._is_looking:
            self.look()
            self._run.loop.call_later(LOOK, self._look_again)

    def look(self) -> None:
        """Ask the gateway for the counts to compare."""
        self._run.control.tell(Status(REF, samples=False))

    def compare(self, report: dict[str, Any]) -> None:
        """Compare old and new workers by the gateway's answer."""
        policy, now = self._run.policy, self._run.loop.now
        reports = {each["name"]: each for each in report["pools"]}
        for pool in policy.canaries:
            canary, new = pool.canary, reports.get(f"{pool.name}/canary")
            if canary is not None and new is not None and pool.name in reports:
                is_kept = not self._why_not_kept(pool, canary.version.number)
                old, new = Handled.of(reports[pool.name]), Handled.of(new)
                self._run.act(policy.compare(pool, old, new, is_kept=is_kept, now=now))
            if (record := pool.canary_record()) is not None:
                # The trial continues: the gateway may wait for that.
                self._run.control.tell(record)

    def _why_not_kept(self, pool: Pool, number: int) -> str:
        """Why a version of a pool cannot be loaded again, or ""."""
        whys = [self._versions.problem(number, program) for program in pool.programs]
        return next(filter(None, whys), "")

    def refusal_to_roll_back(self, names: Sequence[str]) -> str:
        """Why these pools cannot go back to their previous versions, or ""."""
        for name in names:
            pool = self._run.policy.pools[name]
            if pool.canary is not None:
                continue
            previous = pool.goes_back_to
            if not previous:
                return f"the pool {name} has no earlier version"
            why = self._why_not_kept(pool, previous)
            if why:
                return why
        return ""
