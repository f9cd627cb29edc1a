from __future__ import annotations

from typing import Any

import pytest

from wsraw import cli
from wsraw.commands.failures import WrongUse
from wsraw.commands.options import (
    OF_WORKERS,
    bridge_options,
    gather,
    gather_bridge,
    setting_options,
)
from wsraw.config import options


def test_help_shows_settings_under_their_headings(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--help"]) == 0
    shown = capsys.readouterr().out
    places = [shown.index(f"\n{heading}:\n") for heading in options.SECTIONS.values()]
    assert places == sorted(places)
    for (first, _), place in zip(options.SECTIONS.items(), places, strict=True):
        flag = options.option(first).flag
        assert shown[place:].split("\n")[2].strip().startswith(f"--{flag} ")


@pytest.mark.parametrize("command", ["run", "bridge"])
def test_help_names_what_each_option_takes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--help"]) == 0
    assert " TEXT" not in capsys.readouterr().out


def test_only_options_that_are_given_are_gathered() -> None:
    values: dict[str, Any] = {"reload": None, "listen": (), "deflate": False, "max_events": "0"}
    assert gather(values).sources == {"deflate": "--deflate", "max_events": "--max-events"}


def test_a_bridge_reads_its_settings_again() -> None:
    """The settings are read again at each reload and each upgrade."""
    values: dict[str, Any] = {param.name: None for param in bridge_options()} | {"to": "h:1"}
    first, second = gather_bridge(values), gather_bridge(values)
    assert first.settings == second.settings
    assert first.settings.bridges[0].to == "h:1"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"proxy": "ftp://u:p@h:1"}, "^--proxy: write a proxy as"),
        ({"type": "text"}, "^--type: text needs framing line or length"),
        ({"path": "/x/{"}, "^'/x/{': a {name} must be a whole segment"),
        ({"tokens": "tokens.cfg"}, "^--to: a bridge has either to or tokens, and not both"),
        ({"to": "h"}, "^--to: cannot open 'h'"),
    ],
)
def test_what_is_wrong_with_a_bridge_names_its_option(wrong: dict[str, Any], why: str) -> None:
    values: dict[str, Any] = {param.name: None for param in bridge_options()} | {"to": "h:1"}
    with pytest.raises(WrongUse, match=why):
        gather_bridge(values | wrong)


def test_wrong_values_are_wrong_use() -> None:
    with pytest.raises(WrongUse, match="--max-events: 'x'"):
        gather({"max_events": "x"})


def test_a_command_can_have_some_of_the_settings() -> None:
    assert {param.name for param in setting_options(OF_WORKERS)} == set(OF_WORKERS)
