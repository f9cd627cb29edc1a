from __future__ import annotations

import sys
from pathlib import Path

import pytest

from wsraw.commands.checks import check_cluster, check_keys, check_program
from wsraw.commands.failures import WrongUse
from wsraw.config import programs
from wsraw.config.settings import Settings, replaced


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("missing.py", "no such handlers file"),
        ("nobody-has-this x", "is it installed"),
        ("app:app", "as in handlers.py:4"),
        ("nobody-has-this x.py", "there is no handlers file"),
        (".", "is not a file"),
    ],
)
def test_programs_that_cannot_be_started_are_refused(text: str, words: str) -> None:
    with pytest.raises(WrongUse, match=words):
        check_program(programs.parse(text).program)


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
def test_a_command_that_is_not_executable_is_refused(tmp_path: Path) -> None:
    (tmp_path / "worker").touch(mode=0o600)
    with pytest.raises(WrongUse, match="not executable"):
        check_program(programs.parse(f"{tmp_path}/worker").program)


def test_programs_that_are_there_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "handlers.py").touch()
    for text in (f"{tmp_path}/handlers.py", sys.executable):
        check_program(programs.parse(text).program)


def test_key_files_are_checked_if_they_are_set(tmp_path: Path) -> None:
    check_keys(Settings())
    with pytest.raises(WrongUse, match="No such file"):
        check_keys(Settings(link_key=str(tmp_path / "gateway.key"), worker_keys=str(tmp_path)))


def test_what_a_cluster_needs_is_checked_if_it_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_cluster(Settings())
    here = Settings(cluster=("nats://127.0.0.1:4222",))
    missing = replaced(here, cluster_ca=str(tmp_path / "ca.pem"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    check_cluster(here)
    with pytest.raises(WrongUse, match=r"cluster_ca: .*: No such file"):
        check_cluster(missing)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WrongUse, match=r"cluster needs nats-py: pip install 'wsraw\[cluster\]'"):
        check_cluster(here)
    check_cluster(Settings())
