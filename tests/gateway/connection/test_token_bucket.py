from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw.gateway.connection.token_bucket import Bucket


def test_a_burst_is_let_through_and_then_the_rate_holds() -> None:
    bucket = Bucket(10.0, 20.0, 0.0)
    assert [bucket.take(1, 0.0) for _ in range(20)] == [0.0] * 20
    assert bucket.take(1, 0.0) == pytest.approx(0.1)
    assert bucket.take(1, 0.2) == 0.0
    assert bucket.take(5, 0.2) == pytest.approx(0.5)
    # However long the silence: no more than a burst.
    assert bucket.take(20, 100.0) == 0.0
    assert bucket.take(1, 100.0) > 0.0


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 100)), max_size=50))
def test_a_user_that_waits_as_told_never_exceeds_the_rate(steps: list[tuple[float, int]]) -> None:
    bucket, now, taken = Bucket(10.0, 20.0, 0.0), 0.0, 0
    for pause, tokens in steps:
        now += pause
        wait = bucket.take(tokens, now)
        taken += tokens
        now += wait
        assert taken <= 20.0 + 10.0 * now + 1e-6
        assert wait <= tokens / 10.0 + 1e-6
