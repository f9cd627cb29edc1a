from __future__ import annotations

import pytest

from wsraw.link.states import (
    DRAINING,
    GONE,
    NEW,
    READY,
    TRANSITIONS,
    LinkState,
    LinkStep,
    after,
)

LEADS_TO = {
    NEW: {"welcome": READY, "who": NEW, "drain": NEW, "bye": GONE},
    READY: {"welcome": READY, "who": NEW, "drain": DRAINING, "bye": GONE},
    DRAINING: {"welcome": READY, "who": NEW, "drain": DRAINING, "bye": GONE},
    GONE: {"welcome": GONE, "who": GONE, "drain": GONE, "bye": GONE},
}


@pytest.mark.parametrize("state", LinkState)
@pytest.mark.parametrize("step", LinkStep)
def test_each_step_in_each_state_leads_to_the_listed_state(
    state: LinkState, step: LinkStep
) -> None:
    assert after(state, step) is LEADS_TO[state][step.value]


def test_nothing_leads_out_of_gone() -> None:
    assert GONE not in {state for state, _ in TRANSITIONS}
