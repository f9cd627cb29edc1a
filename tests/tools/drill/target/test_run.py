"""The settings of the drill's own run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wsraw.tools.drill.plan import Plan
from wsraw.tools.drill.target.run import ECHO, MOST_DELIVERIES, _settings


@pytest.mark.parametrize(("hang_every", "most"), [(0.0, MOST_DELIVERIES), (5.0, 3)])
def test_events_are_taken_for_poison_only_if_some_are_meant_to_hang(
    hang_every: float, most: int, tmp_path: Path
) -> None:
    """Other events meet kills at random, and the same event may do so three times."""
    settings = json.loads(_settings(Plan(hang_every=hang_every), tmp_path, ECHO, None))
    assert settings["max_deliveries"] == most
