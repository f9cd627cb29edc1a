"""I/O. One drill: the run, the load, the trouble, the report."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from wsraw.runtime.loop import Loop
from wsraw.supervisor.run_folder.folder import count_dead_letters
from wsraw.tools.drill.load.load import Load, LoadError
from wsraw.tools.drill.plan import Plan
from wsraw.tools.drill.report import Report, as_counts
from wsraw.tools.drill.target.ledger import Ledger
from wsraw.tools.drill.target.run import Run, RunError
from wsraw.tools.drill.trouble import CAN_STOP, Trouble, TroubleError

BREACH: Final = 1

ON_A_TERMINAL: Final = 1.0
"""Seconds between two lines of progress; elsewhere they are kept and read later."""
ELSEWHERE: Final = 10.0


class CannotDrill(Exception):  # noqa: N818
    """There is nothing to report; the text says why."""


def main(plan: Plan, as_json: bool) -> int:
    """Do what the plan says and print the report; returns the exit code. Raises CannotDrill."""
    # A service manager's word, or timeout(1)'s: as Ctrl-C, so that no folder is left behind.
    old = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        report = drill(plan, Progress() if not as_json or sys.stderr.isatty() else None)
    except (LoadError, RunError, TroubleError) as error:
        raise CannotDrill(str(error)) from error
    finally:
        signal.signal(signal.SIGTERM, old)
    print(report.json() if as_json else report.table())
    return BREACH if report.breaches() else 0


def drill(plan: Plan, progress: Progress | None = None, timeouts: float = 1.0) -> Report:
    """One drill, on a run of its own or on that of the plan. Raises LoadError, RunError,
    and TroubleError where the run cannot be reached.

    `timeouts` stretches or shortens the time limits of the load.
    """
    if plan.connect:
        folder = Path(plan.run_dir) if plan.run_dir else None
        return _drill(plan, plan.address(), folder, progress, timeouts)
    run = Run(plan)
    try:
        report = _drill(plan, run.address, run.folder, progress, timeouts, run)
        unexpected = report.dead_letters != report.dead_letters_expected
        code = run.stop(keep_folder=unexpected)
    except BaseException:
        run.kill()
        raise
    if code:
        report.failures.append(f"the run ended with code {code}:\n{run.last_lines()}")
    if run.orphaned:
        report.failures.append("a process of the run is left at its end")
    if unexpected:
        report.notes.append(f"the dead letters are in {run.folder}")
    report.restarts = run.deaths
    return report


def _drill(
    plan: Plan,
    address: tuple[str, int],
    folder: Path | None,
    progress: Progress | None,
    timeouts: float,
    run: Run | None = None,
) -> Report:
    loop = Loop()
    ledger = Ledger(run.ledger) if run is not None and plan.everybody_dies else None
    load = Load(plan, address, loop, timeouts, ledger)
    trouble: Trouble | None = None
    before = 0
    if folder is not None:
        before = count_dead_letters(folder)
        # Only here: a load alone needs no ZeroMQ.
        from wsraw.tools.drill.target.control import Controlled

        target = Controlled(folder, run)
        target.workers()
        trouble = Trouble(plan, target)
    both = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # What is ignored (SIGINT, with & in a script) stays so.
    old = {number: handler for number, handler in both.items() if handler != signal.SIG_IGN}
    for number in old:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(load.interrupt))
    if progress is not None:
        progress.begin(loop, load, trouble)
    try:
        if trouble is not None:
            load.run(trouble.start, trouble.calm)
        else:
            load.run()
    finally:
        if trouble is not None:
            trouble.stop()
        for number, handler in old.items():
            signal.signal(number, handler)
        loop.close()
        if progress is not None:
            progress.end()
    report = _report(plan, load, trouble)
    if folder is not None:
        report.dead_letters = count_dead_letters(folder) - before
    return report


def _nothing() -> None:
    """No trouble."""


def _report(plan: Plan, load: Load, trouble: Trouble | None) -> Report:
    wrong, promised = load.ends.disconnected(plan.delivery)
    if load.witness_lost:
        wrong[f"the witness: {load.witness_lost}"] += 1
    hanger = load.hanger
    notes = []
    if plan.stop_every and not CAN_STOP:
        notes.append("no worker was stopped: this platform has no SIGSTOP")
    if trouble is None:
        notes.append("load only: without the run folder the workers are not known")
    if plan.everybody_dies and plan.connect:
        notes.append("on_close is not checked: the witness would die with the gateway")
    elif not load.hears_ends:
        notes.append(
            "no witness: the run has other handlers than the drill's, or is on another machine"
        )
    checked = load.hears_ends
    hangs = hanger.sent if hanger is not None else 0
    unfinished = int(hanger is not None and hanger.busy)
    return Report(
        plan=plan,
        seconds=load.stopped - load.started,
        sent=load.sent,
        answered=load.findings.answered,
        unsent=load.unsent,
        lost=load.lost,
        doubled=load.findings.doubled,
        reordered=load.findings.reordered,
        corrupted=load.findings.corrupted,
        cut_off=load.cut_off,
        disconnected=dict(wrong),
        disconnected_as_promised=dict(promised),
        disconnected_with_gateway=dict(load.ends.lost()),
        refused=as_counts(load.refused),
        connects_lost=load.connects_lost,
        closes_checked=checked,
        closes_missing=load.ends.closes_missing if checked else 0,
        closes_doubled=load.ends.closes_doubled if checked else 0,
        closes_unheld=load.ends.closes_unheld if checked else 0,
        states_lost=load.ends.states_lost if checked else 0,
        longest_pause=load.pause.longest,
        longest_pause_of_a_connection=load.connection_pause,
        latency_p50=load.latency.percentile(0.5),
        latency_p99=load.latency.percentile(0.99),
        latency_max=load.latency.longest,
        late=load.late,
        kills=trouble.kills if trouble is not None else 0,
        hangs=hangs,
        hangs_unfinished=unfinished,
        stops=trouble.stops if trouble is not None else 0,
        reloads=trouble.reloads if trouble is not None else 0,
        scales=trouble.scales if trouble is not None else 0,
        gateway_kills=trouble.gateway_kills if trouble is not None else 0,
        supervisor_kills=trouble.supervisor_kills if trouble is not None else 0,
        restarts=None,
        dead_letters=None,
        # At most once: the message that hung is not repeated, so it is no poison either.
        dead_letters_expected=hangs - unfinished if plan.delivery == "at-least-once" else 0,
        failures=list(trouble.failures) if trouble is not None else [],
        notes=notes,
    )


class Progress:
    """A line on stderr now and then: each second in place on a terminal, else each ten."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._every = ON_A_TERMINAL if self._terminal else ELSEWHERE
        self._tell: Callable[[], None] = _nothing

    def begin(self, loop: Loop, load: Load, trouble: Trouble | None) -> None:
        """Tell of these from now on."""
        self._tell = partial(self._show, loop, load, trouble)
        loop.call_later(self._every, self._tell)

    def end(self) -> None:
        """Leave the line."""
        if self._terminal:
            print(file=sys.stderr)

    def _show(self, loop: Loop, load: Load, trouble: Trouble | None) -> None:
        loop.call_later(self._every, self._tell)
        gone = time.monotonic() - load.started if load.started else 0.0
        done = load.findings
        disconnected = sum(bool(life.how) for life in load.ends.lives)
        text = (
            f"{load.phase.value}: {gone:.0f} s, {load.sent} sent, {done.answered} answered, "
            f"{done.doubled} doubled, {done.reordered} reordered, {disconnected} "
            f"disconnected, longest pause {load.pause.longest * 1000:.0f} ms"
        )
        if trouble is not None:
            text += f", {trouble.kills} kills, {trouble.stops} stops, {trouble.reloads} reloads"
            if load.plan.everybody_dies:
                above = trouble.gateway_kills + trouble.supervisor_kills
                text += f", {above} kills of gateway and supervisor"
        if self._terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)
