from __future__ import annotations

import pytest

from wsraw.supervisor.decisions.child import TRANSITIONS, Child, ChildState, ChildStep


@pytest.mark.parametrize("state", ChildState)
@pytest.mark.parametrize("step", ChildStep)
def test_every_step_outside_the_table_raises(state: ChildState, step: ChildStep) -> None:
    child = Child(None)
    child.state = state
    if (state, step) in TRANSITIONS:
        child.take(step)
        assert child.state is TRANSITIONS[state, step]
    else:
        with pytest.raises(KeyError):
            child.take(step)
        assert child.state is state


@pytest.mark.parametrize("state", ChildState)
def test_every_live_state_can_exit(state: ChildState) -> None:
    child = Child(None)
    child.state = state
    assert child.alive == ((state, ChildStep.EXIT) in TRANSITIONS)
