"""I/O. One drill: the run, the load, the faults, the report."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from wsraw.supervisor.run_folder.folder import count_dead_letters
from wsraw.tools.drill.faults import CAN_SUSPEND, FaultInjection
from wsraw.tools.drill.load.load import Load
from wsraw.tools.drill.plan import Plan
from wsraw.tools.drill.report import Report
from wsraw.tools.drill.target.close_log import CloseLog
from wsraw.tools.drill.target.control import RunControl
from wsraw.tools.drill.target.run import Run

BREACH: Final = 1
"""The exit code after a broken promise."""

PROGRESS_ON_TERMINAL: Final = 1.0
"""Seconds between two lines of progress."""
PROGRESS_ELSEWHERE: Final = 10.0
"""Seconds between two lines of progress that are not on a terminal."""


def main(plan: Plan, as_json: bool) -> int:
    """Run the drill and print the report; returns the exit code. Raises DrillError."""
    # SIGTERM ends the drill like Ctrl-C, so that no run folder is left.
    old = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        report = drill(plan, progress=not as_json or sys.stderr.isatty())
    finally:
        signal.signal(signal.SIGTERM, old)
    print(report.json() if as_json else report.table())
    return BREACH if report.breaches() else 0


def drill(plan: Plan, *, progress: bool = False, timeouts: float = 1.0) -> Report:
    """Drill a run of its own, or that of the plan. Raises DrillError.

    `timeouts` is a factor of the time limits of the load.
    """
    if plan.connect:
        folder = Path(plan.run_dir) if plan.run_dir else None
        return _drill(plan, plan.address(), folder, None, progress, timeouts)
    run = Run(plan)
    try:
        report = _drill(plan, run.address, run.folder, run, progress, timeouts)
        letters, expected = (report.figures[f"dead_letters{end}"] for end in ("", "_expected"))
        code = run.stop(keep_folder=letters != expected)
    except BaseException:
        run.kill()
        raise
    if code:
        report.failures.append(f"the run ended with code {code}:\n{run.last_lines()}")
    report.failures += run.failures
    if letters != expected:
        report.notes.append(f"the dead letters are in {run.folder}")
    return report


def _drill(
    plan: Plan,
    address: tuple[str, int],
    folder: Path | None,
    run: Run | None,
    progress: bool,
    timeouts: float,
) -> Report:
    load = Load(plan, address, timeouts, CloseLog(run.close_log) if run is not None else None)
    control: RunControl | None = None
    letters_before = 0
    if folder is not None:
        letters_before = count_dead_letters(folder)
        control = run.control() if run is not None else RunControl(folder)
        # Fail now if the run cannot be controlled.
        control.workers()
    faults = FaultInjection(plan, control)

    async def run_load() -> None:
        shown = asyncio.create_task(_show_progress(load, faults)) if progress else None
        await load.run(faults.start, faults.load_ended)
        if shown is not None:
            shown.cancel()

    try:
        with _interrupted_by_signals(load):
            asyncio.run(run_load())
    finally:
        faults.stop()
        if progress and sys.stderr.isatty():
            print(file=sys.stderr)
    figures = _figures(plan, load, faults)
    figures["dead_letters"] = (
        None if folder is None else count_dead_letters(folder) - letters_before
    )
    return Report(plan, figures, faults.failures, _notes(plan, load, folder))


@contextmanager
def _interrupted_by_signals(load: Load) -> Iterator[None]:
    both = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # An ignored signal (SIGINT, with & in a script) stays ignored.
    old = {number: handler for number, handler in both.items() if handler != signal.SIG_IGN}
    for number in old:
        signal.signal(number, lambda *_: load.interrupt())
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _notes(plan: Plan, load: Load, folder: Path | None) -> list[str]:
    notes = []
    if plan.stop_every and not CAN_SUSPEND:
        notes.append("no worker was stopped: this platform has no SIGSTOP")
    if folder is None:
        notes.append("load only: faults need the run folder (--run-dir)")
    if not load.checks_closes:
        notes.append("on_close is not checked: that needs the drill's own run and handlers")
    return notes


def _figures(plan: Plan, load: Load, faults: FaultInjection) -> dict[str, Any]:
    """All figures of the report, by their names in JSON."""
    seen, closes, checked = load.figures, load.close_records, load.checks_closes
    wrong, promised = closes.disconnected(plan.delivery)
    unfinished = int(load.hang_client is not None and load.hang_client.busy)
    seconds = load.stopped - load.schedule.started
    return {
        "seconds": seconds,
        "sent": seen.sent,
        "unsent": seen.unsent,
        "answered": seen.answered,
        "achieved_rate": seen.answered / seconds if seconds else 0.0,
        "lost": seen.lost,
        "duplicated": seen.duplicated,
        "reordered": seen.reordered,
        "corrupted": seen.corrupted,
        "cut_off": seen.cut_off,
        "disconnected": dict(wrong),
        "disconnected_as_promised": dict(promised),
        "disconnected_with_gateway": dict(closes.lost_with_gateway()),
        "refused": dict(seen.refused),
        "connects_lost": seen.connects_lost,
        "closes_missing": closes.missing if checked else None,
        "closes_duplicated": closes.duplicated if checked else None,
        "closes_unheld": closes.unheld if checked else None,
        "states_lost": closes.states_lost if checked else None,
        "longest_pause": seen.pause.longest,
        "longest_pause_of_a_connection": seen.connection_pause,
        "latency_p50": seen.latency.percentile(0.5),
        "latency_p99": seen.latency.percentile(0.99),
        "latency_max": seen.latency.longest,
        "late": seen.late,
        "kills": faults.kills,
        "stops": faults.stops,
        "reloads": faults.reloads,
        "gateway_kills": faults.gateway_kills,
        "upgrades": faults.upgrades,
        "hangs": seen.hangs,
        "hangs_unfinished": unfinished,
        # With at-most-once, the message that hung is not repeated, and never becomes a dead letter.
        "dead_letters_expected": (
            seen.hangs - unfinished if plan.delivery == "at-least-once" else 0
        ),
    }


async def _show_progress(load: Load, faults: FaultInjection) -> None:
    """Print a line on stderr from time to time; on a terminal it replaces the last one."""
    terminal = sys.stderr.isatty()
    start, end = ("\r\x1b[K", "") if terminal else ("", "\n")
    while True:
        await asyncio.sleep(PROGRESS_ON_TERMINAL if terminal else PROGRESS_ELSEWHERE)
        seen, started = load.figures, load.schedule.started
        elapsed = time.monotonic() - started if started else 0.0
        text = (
            f"{load.phase.value}: {elapsed:.0f} s, {seen.sent} sent, {seen.answered} answered, "
            f"{seen.duplicated} duplicated, {seen.reordered} reordered, "
            f"{load.close_records.count_disconnected()} disconnected, longest pause "
            f"{seen.pause.longest * 1000:.0f} ms, {faults.kills} kills, {faults.stops} stops, "
            f"{faults.reloads} reloads"
        )
        if load.plan.kill_gateway_every:
            text += f", {faults.gateway_kills} kills of the gateway"
        if load.plan.upgrade_every:
            text += f", {faults.upgrades} upgrades"
        print(f"{start}{text}", end=end, file=sys.stderr, flush=True)
