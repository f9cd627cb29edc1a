from __future__ import annotations

import pytest

from wsraw.config import settings as s
from wsraw.config.checks import from_options
from wsraw.config.settings import Settings


def test_json_carries_settings_unchanged() -> None:
    settings = from_options({"listen": ["unix:/tmp/ä"], "stop_timeout": 0.5, "workers": ["x:2"]})
    assert s.from_json(s.to_json(settings)) == settings


@pytest.mark.parametrize("text", ["", "{", '{"ping_interval": -1}', "[]"])
def test_json_that_does_not_hold_settings_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="not settings"):
        s.from_json(text)


def test_replacing_a_setting_leaves_the_others() -> None:
    settings = Settings(stop_timeout=3.0)
    assert s.replaced(settings, run_dir="/x") == Settings(stop_timeout=3.0, run_dir="/x")


def test_json_carries_pools_and_routes_unchanged() -> None:
    settings = Settings(
        pools=(s.PoolSettings(name="a", workers=("x.py",), delivery="at-most-once"),),
        routes=(s.RouteSettings(pool="a", path="/{b}", kind="websocket"),),
    )
    assert s.from_json(s.to_json(settings)) == settings
