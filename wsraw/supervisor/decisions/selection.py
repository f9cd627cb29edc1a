"""Sans-I/O. The program that the NAME of `wsraw scale NAME=N` means."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from wsraw.config import programs
from wsraw.config.programs import Program
from wsraw.supervisor.decisions.pool import Pool

NO_WORKERS: Final = "no workers of its own"


def which(pools: Iterable[Pool], name: str) -> tuple[Pool, Program] | str:
    """The program of that name and its pool; or a text that says what to write instead.

    `name` is a pool that has one program, a program of one pool alone (`programs.find`), or
    `POOL/PROGRAM`; it may be empty where there is one of both.
    """
    known = [(pool, program) for pool in pools for program in pool.programs]
    if len(known) == 1 and name in ("", known[0][0].name):
        return known[0]
    of_pool = [each for each in known if each[0].name == name]
    if len(of_pool) == 1:
        return of_pool[0]
    meant = []
    for pool in dict.fromkeys(pool for pool, _ in known):
        for said in dict.fromkeys((name, name.removeprefix(f"{pool.name}/"))):
            program = programs.find(pool.programs, said)
            if program is not None:
                meant.append((pool, program))
                break
    return meant[0] if len(meant) == 1 else _hint(known, name, bool(of_pool))


def _hint(known: list[tuple[Pool, Program]], name: str, is_pool: bool) -> str:
    if not known:
        return f"this run has {NO_WORKERS}; start and stop workers where they run"
    if len(known) == 1:
        return f"there is no pool {name!r}; the only one is {known[0][0].name!r}"
    several_pools = len({pool.name for pool, _ in known}) > 1
    each = ", ".join(
        repr(f"{pool.name}/{program.label}" if several_pools else program.label)
        for pool, program in known
    )
    several = not name or is_pool
    what = "there are several" if several else f"there is no {name!r}, or more than one"
    return f"{what}; say which, as NAME=N, of {each}"
