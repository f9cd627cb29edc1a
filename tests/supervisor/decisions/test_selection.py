from __future__ import annotations

import pytest

from wsraw.config import programs
from wsraw.supervisor.decisions.pool import Pool
from wsraw.supervisor.decisions.restarts import Restarts
from wsraw.supervisor.decisions.selection import which


def pools(**workers: list[str]) -> list[Pool]:
    def ignore(action: object) -> None:
        """Accept any action."""

    return [
        Pool(
            name,
            programs.parse_all(texts) if texts else (),
            1.0,
            Restarts(5, lambda: 1.0),
            ignore,
        )
        for name, texts in workers.items()
    ]


ONE = pools(default=["x.py"])
SEVERAL = pools(default=["chat.py", "node src/chat.mjs"])
TWO = pools(chat=["chat.py:2", "node chat.mjs"], feed=["feed.py"], far=[])
SAME = pools(a=["x.py"], b=["x.py"])


@pytest.mark.parametrize(
    ("known", "name", "meant"),
    [
        (ONE, "", "default x.py"),
        (ONE, "default", "default x.py"),
        (ONE, "x.py", "default x.py"),
        (SEVERAL, "chat.py", "default chat.py"),
        (SEVERAL, "chat.mjs", "default node src/chat.mjs"),
        (SEVERAL, "src/chat.mjs", "default node src/chat.mjs"),
        (TWO, "feed", "feed feed.py"),
        (TWO, "feed.py", "feed feed.py"),
        (TWO, "chat.mjs", "chat node chat.mjs"),
        (TWO, "chat/chat.py", "chat chat.py"),
        (SAME, "b", "b x.py"),
        (SAME, "a/x.py", "a x.py"),
    ],
)
def test_a_name_selects_its_pool_or_workers(known: list[Pool], name: str, meant: str) -> None:
    found = which(known, name)
    assert not isinstance(found, str), found
    pool, program = found
    assert f"{pool.name} {program.label}" == meant


@pytest.mark.parametrize(
    ("known", "name", "hint"),
    [
        (ONE, "web", "there is no pool 'web'; the only one is 'default'"),
        (SEVERAL, "", "there are several; say which, as NAME=N, of 'chat.py', 'node src/chat.mjs'"),
        (SEVERAL, "default", "there are several; say which"),
        (SEVERAL, "web", "there is no 'web', or more than one; say which"),
        (TWO, "", "of 'chat/chat.py', 'chat/node chat.mjs', 'feed/feed.py'"),
        (TWO, "chat", "there are several; say which"),
        (TWO, "far", "there is no 'far'"),
        (TWO, "feed/chat.py", "there is no 'feed/chat.py'"),
        (SAME, "x.py", "there is no 'x.py', or more than one; say which, as NAME=N, of 'a/x.py'"),
        (pools(far=[]), "", "this run has no workers of its own"),
    ],
)
def test_an_unknown_name_is_refused(known: list[Pool], name: str, hint: str) -> None:
    said = which(known, name)
    assert isinstance(said, str)
    assert hint in said
