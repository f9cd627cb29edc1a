from __future__ import annotations

from pathlib import Path

import pytest

from wsraw import cli


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["reload"], ["scale", "2"], ["stop"], ["drain"], ["dead-letters"]],
    ids=lambda arguments: arguments[0],
)
def test_commands_hear_which_run_is_meant_from_the_environment(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("WSRAW_RUN_DIR", str(tmp_path / "one"))
    cli.main(arguments)
    told = capsys.readouterr()
    assert str(tmp_path / "one") in told.out + told.err
    cli.main([*arguments, "--run-dir", str(tmp_path / "two")])
    told = capsys.readouterr()
    assert str(tmp_path / "two") in told.out + told.err


def test_every_command_with_a_run_folder_hears_it_from_the_environment() -> None:
    """Commands with settings read all of them from the environment, and the drill does so only
    with --connect.
    """
    silent = {
        name
        for name, command in cli.commands().items()
        for option in command.params
        if "--run-dir" in option.opts and option.envvar != "WSRAW_RUN_DIR"
    }
    assert silent == {"run", "bridge", "settings", "check", "drill"}
