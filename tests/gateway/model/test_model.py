"""The model check, short: hypothesis looks for a history that breaks a promise of the link.

The histories here are the same in each run, so that what fails is the change that is tested and
never a matter of luck. ``make soak`` looks for new ones: ``python -m tests.gateway.model`` takes
another seed each time, and says how to repeat what it finds.
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
from tests.gateway.model.handlers import ACTIONS
from tests.gateway.model.histories import (
    HARM,
    STEPS,
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
    actions=st.lists(st.sampled_from(ACTIONS), max_size=3).map(tuple),
    lies=st.booleans(),
    survivors=st.booleans(),
    delivery=st.sampled_from(("at-least-once", "at-most-once")),
    spawned=st.booleans(),
    deflate=st.booleans(),
    stops=st.booleans(),
)
OFTEN = [name for name, weight in STEPS.items() for _ in range(max(1, min(int(weight), 3)))]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The gateway warns of what workers send here, thousands of times."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


class Machine(RuleBasedStateMachine):
    """Steps as rules; in the end everything must flow."""

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
    """What hypothesis finds; the same histories in each run, so that a failure is yours."""

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
    assert counts["acks"]
    assert counts["sessions"]


def test_shortening_ends_in_time() -> None:
    steps = [*random_steps(random.Random(1), 300), ("no such step", 0, 0)]
    assert shorten(Config(), steps, seconds=0.0) == steps


def test_the_model_finds_a_router_that_forgets_holders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers for one connection: found, and told in a few steps."""

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
