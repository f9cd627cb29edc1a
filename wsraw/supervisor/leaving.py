"""I/O. Another program replaces the supervisor and continues the run, before the gateway is
upgraded.

The program is tried out first. Then the supervisor waits for a moment in which nothing is half
done, and becomes that program. If the gateway refuses the new version, the new program goes back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from wsraw.runtime.printable import os_error
from wsraw.supervisor.control import signals
from wsraw.supervisor.control.requests import Requests
from wsraw.supervisor.control.run import ControlledRun
from wsraw.supervisor.decisions import actions as a
from wsraw.supervisor.decisions.policy import UPGRADE
from wsraw.supervisor.processes.children import Children
from wsraw.supervisor.replacing.records import NextRecord, RunRecord, encode
from wsraw.supervisor.replacing.replacement import Trial, become, own_command

log = logging.getLogger("wsraw.supervisor")

LOOK_AGAIN: Final = 0.02
"""Seconds between two checks whether another program can replace us now."""

QUIET_WITHIN: Final = 2.0
"""Seconds within which there is such a moment; then requests that wait for the gateway are cut
off."""

RECONNECTS_WITHIN: Final = 10.0
"""Seconds that the gateway has to connect to the new program before that continues without it."""


class Leaving:
    """Whether and how another program replaces us. `record` returns the state of the children, or
    None if they cannot be held; `settle` is told why an attempt has failed."""

    def __init__(
        self,
        run: ControlledRun,
        children: Children,
        requests: Requests,
        variables: Mapping[str, str],
        record: Callable[[], RunRecord | None],
        settle: Callable[[a.Settled], object],
    ) -> None:
        """`variables`: the ones that the other program gets in addition to ours."""
        self._run = run
        self._children = children
        self._requests = requests
        self._variables = variables
        self._record = record
        self._settle = settle
        self.is_under_way = False
        """Whether another program is about to replace us, or we have replaced one and are not
        done."""
        self._is_going_back = False
        """Whether that program is the one before us."""
        self._came_from: Sequence[str] = ()
        """The command line of the program before us, until the gateway is upgraded, too."""

    def begin(self, command: list[str]) -> None:
        """Become that program, if it can continue the run."""
        self.is_under_way = True
        self._attempt(self._try, command)

    def upgraded(self, ok: bool) -> None:
        """The upgrade of the gateway is over. Supervisor and gateway must have the same version."""
        back, self._came_from = list(self._came_from), ()
        if back and not ok:
            self._soon(self._go_back, back)

    def go_on(self, told: NextRecord, upgrade: Callable[[NextRecord], object]) -> None:
        """We have become that program: upgrade the gateway as soon as it has connected again."""
        if told.upgrades:
            self.is_under_way = True
            self._came_from = [] if told.back == own_command() else told.back
            self._soon(self._wait_for_gateway, partial(upgrade, told), self._run.loop.now)

    def next(
        self, installation: tuple[str, str, str] | None, reload: list[str] | None
    ) -> NextRecord:
        """What the other program must do after the replacement."""
        back = [] if self._is_going_back else own_command()
        return NextRecord(installation, reload, not self._is_going_back, back)

    # --- steps ---

    def _attempt(self, step: Callable[..., object], *args: Any) -> None:
        """Take a step towards another program. A bug in it costs only this upgrade, and not the
        run."""
        try:
            step(*args)
        except Exception as error:
            log.exception("the supervisor was not replaced, by a bug in wsraw")
            self._children.release()
            self.is_under_way = self._is_going_back = False
            # The request may not have been added yet.
            text = f"refused: a bug in wsraw: {error!r}"
            self._run.loop.call_soon_threadsafe(partial(self._refuse, text))

    def _soon(self, step: Callable[..., object], *args: Any) -> None:
        self._run.loop.call_soon_threadsafe(partial(self._attempt, step, *args))

    def _again(self, step: Callable[..., object], *args: Any) -> None:
        self._run.loop.call_later(LOOK_AGAIN, partial(self._attempt, step, *args))

    def _refuse(self, text: str) -> None:
        self._settle(a.Settled(UPGRADE, False, text, UPGRADE, shows_output=False))

    def _try(self, command: list[str]) -> None:
        """Check whether the program understands our state and the settings."""
        record = self._record()
        if record is None:
            self._again(self._try, command)
            return
        self._children.release()
        Trial(
            encode(record),
            command,
            self._run.settings.start_timeout,
            partial(self._soon, self._tried, command),
            self._children.folder,
        )

    def _tried(self, command: list[str], why: str) -> None:
        self._leave_for(command, self._run.loop.now + QUIET_WITHIN, why)

    def _go_back(self, command: list[str]) -> None:
        """Become the program before us: the gateway has refused the new version."""
        if not self.is_under_way and not self._run.policy.refusal_to_upgrade():
            self._run.log.say("info", "the supervisor goes back to the version of the gateway")
            self.is_under_way = self._is_going_back = True
            self._try(command)

    def _leave_for(self, command: list[str], until: float, why: str) -> None:
        """Become that program as soon as nothing is half done."""
        now, run = self._run.loop.now, self._run
        refusal = why or run.policy.refusal_to_upgrade()
        record = None if refusal else self._quiet_record(is_late=now > until)
        if not refusal and record is None and now > until + QUIET_WITHIN:
            refusal = "the supervisor is busy with other requests; try again"
        if refusal:
            was_going_back = self._is_going_back
            self.is_under_way = self._is_going_back = False
            if was_going_back:
                text = f"the supervisor keeps the other version: {refusal}"
                run.log.say("warning", text)
            else:
                self._refuse(f"refused: {refusal}; nothing has changed")
            return
        if record is None:
            self._again(self._leave_for, command, until, "")
            return
        run.log.flush()
        # A symbolic link in the folder's name may lead to another release now.
        folder, data = self._children.folder, encode(record)
        error = become(
            data, command, record.descriptors(), self._variables, signals.handled(), folder
        )
        self._children.release()
        self._leave_for(command, until, os_error(error))

    def _quiet_record(self, *, is_late: bool) -> RunRecord | None:
        """The record of a quiet moment. None if something is half done, or an answer is about to
        come."""
        if not is_late and (self._requests.has_reports or not self._run.control.is_quiet):
            return None
        record = self._record()
        if record is not None and self._run.loop.has_calls:
            self._children.release()
            return None
        if record is not None:
            self._requests.forwarded.end("the supervisor is replaced; try again")
            self._run.control.leave()
        return record

    def _wait_for_gateway(self, upgrade: Callable[[], object], since: float) -> None:
        run = self._run
        if not run.control.has_gateway and run.loop.now < since + RECONNECTS_WITHIN:
            self._again(self._wait_for_gateway, upgrade, since)
            return
        self.is_under_way = False
        upgrade()
