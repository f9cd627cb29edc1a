"""I/O. Asks a run for its figures repeatedly, and shows them."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wsraw.supervisor.control import client
from wsraw.supervisor.run_folder import folder as folders
from wsraw.tools.top.rates import Figures, Meter
from wsraw.tools.top.terminal import Terminal
from wsraw.tools.top.view import lines

ANSWER_WITHIN: Final = 3.0
"""Seconds. The supervisor waits a second for the gateway."""

WIDTH: Final = 100
"""Columns of the view if it is not on a terminal, unless COLUMNS is set."""

OK: Final = 0
ENDED: Final = 1
"""Exit code: the run has ended meanwhile."""


SLOW_CLIENTS: Final = {"slow": True, "sort": "output", "limit": 5}
"""The options for the connections that are listed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to show, and for how long."""

    run_dir: str
    interval: float
    """Seconds between two views."""
    count: int
    """Number of views; 0: without end."""
    as_json: bool


class _Source:
    """The last answer of the run, or why there is none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._meter = Meter()
        self.figures: Figures | None = None
        self.at = _now()
        """When the figures came."""
        self.trouble = ""
        """Why there are no newer figures."""
        self.has_ended = False

    def ask(self) -> None:
        self.trouble, self.has_ended = "", False
        try:
            done = client.ask(self._folder, "figures", (), ANSWER_WITHIN)
        except (client.NoRunError, client.RequestRefusedError, TimeoutError) as error:
            self.has_ended = not folders.is_live(self._folder)
            self.trouble = (
                "the run has ended" if self.has_ended else f"the run does not answer: {error}"
            )
            return
        if not done.ok:
            self.trouble = f"the run does not answer: {done.text}"
            return
        figures = self._meter.measure(time.monotonic(), done.data)
        self.figures = {**figures, "slow_clients": self._slow_clients(done.data["gateway"])}
        self.at = _now()

    def _slow_clients(self, gateway: Figures) -> list[Figures]:
        """Connections with the most output waiting, as in `wsraw connections --slow --json`."""
        if not gateway["answers"] or not gateway["unwritten"]:
            return []
        try:
            pages = client.pages(self._folder, "connections", SLOW_CLIENTS, ANSWER_WITHIN)
            return [row for done in pages for row in done.data.get("rows", ())]
        except (client.NoRunError, client.RequestRefusedError, TimeoutError):
            # The figures have come, and the next answer reports the problem.
            return []

    def as_json(self) -> str:
        if self.trouble or self.figures is None:
            return json.dumps({"time": _now().isoformat(), "error": self.trouble})
        return json.dumps({"time": self.at.isoformat(), **self.figures})


def main(plan: Plan) -> int:
    """Show the run until the plan, a key or a signal ends it; returns the exit code. Raises
    NoRunError if there is no run at the beginning."""
    source = _Source(client.find(plan.run_dir))
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    try:
        if is_terminal and not plan.as_json:
            return _live(plan, source)
        return _print(plan, source)
    except BrokenPipeError:
        # The reader of stdout wants no more (`| head -1`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return OK


def _now() -> datetime.datetime:
    return datetime.datetime.now().astimezone()


def _print(plan: Plan, source: _Source) -> int:
    """Print each view below the last one. The first answer gives no rates, so it is not shown."""
    source.ask()
    shown = 0
    due = time.monotonic()
    while not source.has_ended:
        due = max(due + plan.interval, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
        source.ask()
        print(source.as_json() if plan.as_json else _plain(source), flush=True)
        shown += 1
        if shown == plan.count:
            return OK
    return ENDED


def _plain(source: _Source) -> str:
    columns = shutil.get_terminal_size((WIDTH, 0)).columns
    clock = f"{source.at:%Y-%m-%d %H:%M:%S}"
    figures = None if source.has_ended else source.figures
    view = lines(figures, clock, columns, trouble=source.trouble)
    return "".join(f"{line.text}\n" for line in view)


def _live(plan: Plan, source: _Source) -> int:
    """Show the run on a terminal, in place. A run that has ended stays in view, and is shown again
    if another one begins in its folder."""
    source.ask()
    shown = 0
    with Terminal() as terminal:
        due = time.monotonic() + plan.interval
        while True:
            terminal.show(
                lambda width, height: lines(
                    source.figures,
                    f"{source.at:%H:%M:%S}",
                    width,
                    height,
                    trouble=source.trouble,
                    hint="q: quit",
                )
            )
            if shown and shown == plan.count:
                break
            if not terminal.wait(due - time.monotonic()):
                return OK
            if terminal.is_resized:
                continue
            due = max(due + plan.interval, time.monotonic())
            source.ask()
            shown += 1
    # The last view has disappeared with the alternate screen.
    sys.stdout.write(_plain(source))
    return OK
