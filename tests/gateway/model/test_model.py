"""The short model check: hypothesis looks for a history that breaks a guarantee of the link.

The histories are the same in each run, so that only a change of the code can make a test fail.
``make soak`` looks for new ones: ``python -m tests.gateway.model`` takes another seed each time,
and says how to repeat a failure.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.gateway.model import histories
from tests.gateway.model.handlers import ACTIONS, OF_USERS
from tests.gateway.model.histories import (
    HARM,
    STEPS,
    Step,
    failure,
    history,
    random_steps,
    run,
    shorten,
    tell,
)
from tests.gateway.model.model import Model
from tests.gateway.model.system import Config

CONFIGS = st.builds(
    Config,
    sticky=st.booleans(),
    concurrency=st.sampled_from((1, 3)),
    window=st.sampled_from((1, 2, 8)),
    window_bytes=st.sampled_from((600, 1 << 20)),
    high_water_mark=st.sampled_from((1200, 100_000)),
    output_limit=st.sampled_from((2000, 1_000_000)),
    memory_limit=st.sampled_from((15_000, 1_000_000)),
    actions=st.lists(st.sampled_from((*ACTIONS, *OF_USERS)), max_size=3).map(tuple),
    lies=st.booleans(),
    survivors=st.booleans(),
    delivery=st.sampled_from(("at-least-once", "at-most-once")),
    spawned=st.booleans(),
    remote=st.booleans(),
    deflate=st.booleans(),
    stops=st.booleans(),
    room=st.sampled_from((0, 300, 1000)),
)
OFTEN = [name for name, weight in STEPS.items() for _ in range(max(1, min(int(weight), 3)))]
OFTEN += ["upgrade", "fail", "canary"] * 3


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Silence the gateway's warnings about workers, which come by the thousands."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


class Machine(RuleBasedStateMachine):
    """Steps as rules of hypothesis; at the end everything must be handled."""

    model: Model

    @initialize(config=CONFIGS, harm=st.sets(st.sampled_from(sorted(HARM))))
    def begin(self, config: Config, harm: set[str]) -> None:
        self.harm = harm
        self.model = Model(config)
        self.model.step("arrive", 0, 0)

    @rule(name=st.sampled_from(OFTEN), a=st.integers(0, 7), b=st.integers(0, 255))
    def step(self, name: str, a: int, b: int) -> None:
        if name not in HARM or name in self.harm:
            self.model.step(name, a, b)

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.model.finish_all()


class TestMachine(Machine.TestCase):  # type: ignore[misc]
    """The test of hypothesis, with the same histories in each run, so that a failure is due to a
    change.
    """

    settings = settings(
        max_examples=60,
        stateful_step_count=60,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize(
    ("number", "length"), [*((n, 1500) for n in range(5)), *((n, 300) for n in range(5, 25))]
)
def test_a_random_history_keeps_every_promise(number: int, length: int) -> None:
    config, steps = history("ci", number, length)
    try:
        counts = run(config, steps).system.reference.counts
    except Exception:
        print(tell("ci", number, length))
        raise
    # In a short history it may be that no client connects.
    assert counts["acks"] or "accept" not in {name for name, _, _ in steps}
    assert counts["sessions"]


def test_an_event_may_break_the_links_of_a_worker_that_comes_back_until_it_is_poison() -> None:
    config = Config(sticky=True, window=2, output_limit=2000, memory_limit=60_000, survivors=True)
    steps: list[Step] = [
        ("accept", 3, 816),
        ("arrive", 55, 3953),
        ("flow", 32, 505),
        ("to_worker", 12, 3344),
        ("put", 35, 271),
        ("say", 28, 1153),
        ("flow", 30, 2021),
        ("lose", 12, 1519),
        ("lose", 16, 1828),
        ("lose", 52, 408),
        ("to_gateway", 54, 817),
    ]
    counts = run(config, steps).system.reference.counts
    assert counts["poison"] == 1


def test_an_idle_connection_is_not_given_to_a_worker_that_is_stuck() -> None:
    config = Config(
        window=2,
        window_bytes=1 << 20,
        high_water_mark=100_000,
        output_limit=2000,
        memory_limit=60_000,
        delivery="at-most-once",
        spawned=True,
        stops=True,
        survivors=True,
    )
    steps: list[Step] = [
        ("arrive", 0, 0),
        ("accept", 63, 748),
        ("flow", 2, 3448),
        ("accept", 8, 3282),
        ("arrive", 18, 276),
        ("work", 47, 863),
        ("say", 15, 61),
        ("flow", 17, 3629),
        ("work", 42, 482),
        ("work", 35, 3424),
        ("pass_time", 4, 95),
        ("work", 26, 4027),
        ("flow", 60, 90),
        ("pass_time", 0, 146),
        ("supervise", 7, 1377),
    ]
    counts = run(config, steps).system.reference.counts
    assert counts["stops"]


def test_shortening_ends_in_time() -> None:
    steps = [*random_steps(random.Random(1), 300), ("no such step", 0, 0)]
    assert shorten(Config(), steps, seconds=0.0) == steps


def test_the_model_finds_a_router_that_forgets_holders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers for one connection must be found, and reported in a few steps."""

    class Forgetful(Model):
        def step(self, name: str, a: int, b: int) -> None:
            super().step(name, a, b)
            for entry in self.system.registry.entries.values():
                if not entry.in_flight:
                    entry.holder = None

    monkeypatch.setattr(histories, "Model", Forgetful)
    config = Config()
    for seed in range(50):
        steps = list(random_steps(random.Random(seed), 300))
        if failure(config, steps) is not None:
            assert len(shorten(config, steps)) < 60
            return
    pytest.fail("a dispatcher that forgets who holds a connection was not caught")
