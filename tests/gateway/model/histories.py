"""The model check: the gateway, and workers at the other ends of its links, compared with
reference.py.

A step is a name and two numbers, which choose among what is possible at that moment; any list of
steps is a valid history, so a failing history can be shortened by leaving steps out. hypothesis
does that in test_model.py; ``python -m tests.gateway.model`` runs long random histories.

system.py has the gateway and its peers, workers.py the workers, handlers.py their handlers,
faults.py the faults, and model.py all of them together and the end of a history.

Links to workers are local or remote (`Config.remote`). In the model they differ in what the end of
a link means: whether an old link was read to its end before a new one, whether batches have left
the gateway, and whether a death is certain. Detecting an end needs sockets, and is tested in
tests/gateway/sessions/test_links.py for local links and in tests/gateway/remote/test_links.py for
remote ones.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator

from tests.gateway.model.handlers import ACTIONS, OF_USERS
from tests.gateway.model.model import Model
from tests.gateway.model.system import Config

Step = tuple[str, int, int]

SHORTEN = 60.0
"""Seconds to shorten a failing history: it can be repeated, and a run must end."""

STEPS = {
    "accept": 4,
    "say": 30,
    "half_close": 1,
    "reset": 1,
    "read": 8,
    "write": 6,
    "turn": 14,
    "to_worker": 10,
    "start": 18,
    "finish": 8,
    "put": 10,
    "to_gateway": 12,
    "flow": 24,
    "work": 34,
    "arrive": 2,
    "lose": 3,
    "drain": 1,
    "dialled": 2,
    "open_outside": 1,
    "garbage": 1,
    "repeat": 1,
    "lie": 3,
    "supervise": 8,
    "canary": 0.7,
    "impostor": 0.5,
    "gateway_dies": 0.7,
    "pass_time": 2,
}
"""The steps, and how often each is chosen."""


UPGRADE: Step = ("upgrade", 0, 0)
"""The gateway continues in another process."""

HARM = {
    "half_close",
    "reset",
    "lose",
    "canary",
    "drain",
    "open_outside",
    "garbage",
    "repeat",
    "lie",
    "impostor",
    "gateway_dies",
    "pass_time",
}
"""Faults, which some histories leave out."""


def random_config(choose: random.Random) -> Config:
    """A random configuration."""
    return Config(
        sticky=choose.random() < 0.3,
        concurrency=choose.choice((1, 1, 3)),
        window=choose.choice((1, 2, 4, 8, 64)),
        window_bytes=choose.choice((600, 4096, 1 << 20)),
        high_water_mark=choose.choice((1200, 3000, 100_000)),
        output_limit=choose.choice((2000, 6000, 1_000_000)),
        memory_limit=choose.choice((60_000, 1_000_000)),
        actions=choose.choice(
            (
                (),
                tuple(choose.choices(ACTIONS, k=2)),
                tuple(choose.choices(ACTIONS, k=6)),
                ("publish", "fragments here flushed", "fragments there flushed"),
            )
        ),
        lies=choose.random() < 0.2,
        survivors=choose.random() < 0.5,
        delivery="at-most-once" if choose.random() < 0.25 else "at-least-once",
        spawned=choose.random() < 0.5,
        deflate=choose.random() < 0.2,
        stops=choose.random() < 0.3,
    )


def random_steps(choose: random.Random, count: int) -> Iterator[Step]:
    """A random history. In each one, some steps are frequent and some never happen."""
    weights = [
        weight * (choose.choice((0, 0.3, 1)) if name in HARM else choose.uniform(0.3, 2))
        for name, weight in STEPS.items()
    ]
    yield "arrive", 0, 0
    for name in choose.choices(list(STEPS), weights, k=count - 1):
        yield name, choose.randrange(64), choose.randrange(4096)


def run(config: Config, steps: list[Step]) -> Model:
    """Run one history to its end. Raises AssertionError if a guarantee is broken."""
    model = Model(config)
    for step in steps:
        model.step(*step)
    model.finish_all()
    return model


def history(seed: object, number: int, length: int) -> tuple[Config, list[Step]]:
    """The history with that number; the same for the same seed on every machine."""
    choose = random.Random(f"{seed}.{number}")
    config = random_config(choose)
    # Each feature that was added later has a generator of its own, so that older histories keep
    # their steps.
    room = random.Random(f"{seed}.{number} room").choice((0, 0, 300, 600, 1500))
    remote = random.Random(f"{seed}.{number} remote").random() < 0.5
    upgrades = random.Random(f"{seed}.{number} upgrades")
    # For a worker on another machine each upgrade is the end of its link.
    often = upgrades.choice((0.0, 0.01, 0.1, 0.5) if config.spawned or not remote else (0.0, 0.01))
    fails = random.Random(f"{seed}.{number} fails")
    usual = fails.choice((0.0, 0.02, 0.1, 0.3))
    steps: list[Step] = []
    for step in random_steps(choose, length):
        steps.append(step)
        if fails.random() < usual:
            steps.append(("fail", fails.randrange(64), fails.randrange(4096)))
        if fails.random() < usual / 10:
            # The canary gets a worker and a share at once.
            steps.append(("canary", 1, fails.randrange(4096) | 1))
            steps += [("arrive", 0, 0), *[("flow", 0, fails.randrange(4096))] * 3]
        if upgrades.random() < often:
            steps.append(UPGRADE)
    users = random.Random(f"{seed}.{number} users")
    if users.random() < 0.3:
        config = config._replace(actions=(*config.actions, *users.choices(OF_USERS, k=2)))
    return config._replace(room=room, remote=remote), steps


def shorten(config: Config, steps: list[Step], seconds: float = SHORTEN) -> list[Step]:
    """Leave out steps that the failure does not need, as far as the time allows."""
    until = time.monotonic() + seconds
    wanted = failure(config, steps)
    size = len(steps) // 2
    while size:
        start = 0
        while start < len(steps):
            if time.monotonic() >= until:
                return steps
            shorter = steps[:start] + steps[start + size :]
            if failure(config, shorter) == wanted:
                steps = shorter
            else:
                start += size
        size //= 2
    return steps


def tell(seed: object, number: int, length: int) -> str:
    """The report of a failing history: the command that repeats it, and its shortest form."""
    config, steps = history(seed, number, length)
    again = f"python -m tests.gateway.model --seed {seed} --history {number} --length {length}"
    steps = shorten(config, steps)
    return "\n".join((again, str(config), *(f"    {step}," for step in steps)))


def failure(config: Config, steps: list[Step]) -> tuple[str, int] | None:
    """The file and the line where a history fails, or None if it does not fail."""
    try:
        run(config, steps)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return frame.filename, frame.lineno or 0
    return None


def main() -> int:
    """Run histories until that many steps are done, or a guarantee is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", default=None, help="default: another one each time")
    parser.add_argument("--history", type=int, default=None, help="only the one of this number")
    parser.add_argument("--length", type=int, default=500, help="steps of one history")
    given = parser.parse_args()
    logging.disable()
    seed = random.randrange(10**6) if given.seed is None else given.seed
    counts: Counter[str] = Counter()
    began = time.monotonic()
    while counts["steps"] < given.steps:
        number = counts["histories"] if given.history is None else given.history
        config, steps = history(seed, number, given.length)
        try:
            model = run(config, steps)
        except Exception:
            traceback.print_exc(file=sys.stdout)
            print(tell(seed, number, given.length))
            return 1
        counts.update(model.system.reference.counts)
        counts.update(histories=1, steps=len(steps))
        if given.history is not None:
            break
    spent = time.monotonic() - began
    print(f"seed {seed}: " + ", ".join(f"{n} {what}" for what, n in sorted(counts.items())))
    print(f"{spent:.1f} s, {counts['steps'] / spent:.0f} steps/s: every promise kept")
    return 0
