from __future__ import annotations

import pytest

from wsraw.tools.drill.plan import DrillError, Plan


@pytest.mark.parametrize(
    ("text", "address"),
    [("localhost:80", ("localhost", 80)), ("[::1]:8000", ("::1", 8000))],
)
def test_an_address_to_connect_to_is_parsed(text: str, address: tuple[str, int]) -> None:
    assert Plan(connect=text).address() == address


@pytest.mark.parametrize("text", ["8000", ":8000", "host:", "host:x", "host:0", "host:65536"])
def test_text_that_is_not_host_and_port_is_refused(text: str) -> None:
    with pytest.raises(DrillError, match="HOST:PORT"):
        Plan(connect=text)


def test_a_plan_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(DrillError, match="both 0"):
        Plan(websockets=0, raw=0)
    with pytest.raises(DrillError, match="--connect"):
        Plan(run_dir="/tmp/x")
    with pytest.raises(DrillError, match="leave out --connect"):
        Plan(connect="h:1", hang_every=1.0)
    with pytest.raises(DrillError, match="--hang-every"):
        Plan(hang_every=1.0, kill_gateway_every=1.0)
