"""Compare wsraw with other servers, one after the other on this machine.

``python -m benchmarks`` runs the usual works with all contenders in five rounds (A B C A B C …),
and prints Markdown tables; ``--help`` has the options.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.contenders import BUILD, build
from benchmarks.serving import measure
from benchmarks.table import machine, table
from benchmarks.works import WORKS, Work


def main() -> int:
    """Run the command; its exit code is 1 if a run of ours failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("works", nargs="*", help=f"which: {', '.join(WORKS)}")
    parser.add_argument("--all", action="store_true", help="the long ones too")
    parser.add_argument("--only", default="", metavar="A,B", help="these contenders alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured in each run")
    parser.add_argument("--out", type=Path, help="write the tables to this file too")
    parser.add_argument("--reports", type=Path, help="append each run's report to this file")
    given = parser.parse_args()
    for name in given.works:
        if name not in WORKS:
            parser.error(f"{name}: there is no such work; there are {', '.join(WORKS)}")
    works = [WORKS[name] for name in given.works] or [
        work for work in WORKS.values() if given.all or not work.long
    ]
    wsload = build("wsload", "-lm")
    if wsload is None:
        print("a C compiler is needed: the load generator is benchmarks/c/wsload.c")
        return 2
    only = [name for name in given.only.split(",") if name]
    known = {contender.name: None for work in WORKS.values() for contender in work.who}
    for name in only:
        if name not in known:
            parser.error(f"{name}: there is no such contender; there are {', '.join(known)}")
    results: dict[tuple[str, str], list[dict[str, Any] | None]] = {}
    wrong = _left_out(works, only)
    ours_failed = False
    for round_ in range(given.rounds):
        for work in works:
            for contender in work.who:
                if contender.name in wrong or (only and contender.name not in only):
                    continue
                log = BUILD / f"{contender.name}.log"
                report = None
                try:
                    report = measure(work, contender, wsload, log, given.seconds)
                except RuntimeError as error:
                    print(f"{work.name}, {contender.name}: {error}", file=sys.stderr, flush=True)
                    ours_failed |= contender.name.startswith("wsraw")
                results.setdefault((work.name, contender.name), []).append(report)
                if given.reports:
                    with given.reports.open("a") as stream:
                        line = {"work": work.name, "who": contender.name, "report": report}
                        stream.write(json.dumps(line) + "\n")
            print(f"round {round_ + 1} of {given.rounds}: {work.name}", file=sys.stderr, flush=True)
    text = "\n".join(
        [
            f"{machine()} Medians of {given.rounds} rounds of {given.seconds:g} s, taken in turn; "
            "the ratio is the median of the ratios of each round.",
            "",
            *(f"Left out: {name} ({why}).\n" for name, why in wrong.items()),
            *(table(results, work) for work in works),
        ]
    )
    print(text)
    if given.out:
        given.out.write_text(f"{text}\n")
    return 1 if ours_failed else 0


def _left_out(works: list[Work], only: list[str]) -> dict[str, str]:
    who = {contender.name: contender for work in works for contender in work.who}
    return {
        name: why
        for name, contender in who.items()
        if (not only or name in only) and (why := contender.needs())
    }


if __name__ == "__main__":
    sys.exit(main())
