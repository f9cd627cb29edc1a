from __future__ import annotations

import pytest

from wsraw import settings as s
from wsraw.checks import from_options
from wsraw.settings import Settings


def test_json_carries_settings_unchanged() -> None:
    settings = from_options({"listen": ["unix:/tmp/ä"], "stop_timeout": 0.5, "workers": ["x:2"]})
    assert s.from_json(s.to_json(settings)) == settings


@pytest.mark.parametrize("text", ["", "{", '{"ping_interval": -1}', "[]"])
def test_json_that_is_no_settings_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="not settings"):
        s.from_json(text)


def test_with_run_dir_changes_that_alone() -> None:
    settings = Settings(stop_timeout=3.0)
    assert s.with_run_dir(settings, "/x") == Settings(stop_timeout=3.0, run_dir="/x")
