from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from wsraw import cli
from wsraw.supervisor.run_folder import dead_letters, folder

BOOM: dict[str, Any] = {
    "time": 1_700_000_000.5,
    "con": 68719476737,
    "kind": "websocket",
    "event": "on_message",
    "deaths": 3,
    "deliveries": 3,
    "about": {"peer": "127.0.0.1:1"},
    "inf": {"url": "/"},
    "type": "text",
    "final": True,
    "data": base64.b64encode(b"boom" * 100).decode(),
}
CLOSE: dict[str, Any] = {
    "time": 1_700_000_001, "con": 2, "kind": "raw", "event": "on_close", "code": 1000,
}  # fmt: skip


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    lines = [json.dumps(BOOM), json.dumps(CLOSE), "[1]", '{"cut']
    (tmp_path / folder.DEAD_LETTERS).write_text("\n".join(lines))
    return tmp_path


def test_lines_that_are_not_a_dead_letter_are_skipped(run_dir: Path) -> None:
    assert dead_letters.read(run_dir / folder.DEAD_LETTERS) == [BOOM, CLOSE]
    assert dead_letters.read(run_dir / "none") == []


def test_dead_letters_are_listed(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dead-letters", "--run-dir", str(run_dir)]) == 0
    one, two = capsys.readouterr().out.splitlines()
    assert one.startswith("1  2023-11-1")
    assert "on_message  connection 68719476737 (websocket)  400 bytes  b'boomboom" in one
    assert one.endswith("…")
    assert "on_close  connection 2 (raw)  0 bytes" in two


def test_one_dead_letter_is_shown_in_full(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["dead-letters", "1", "--run-dir", str(run_dir)]) == 0
    text = capsys.readouterr().out
    for line in ("event: on_message", "deaths: 3", "inf.url: /", "about.peer: 127.0.0.1:1"):
        assert f"{line}\n" in text
    assert f"data: {b'boom' * 100!r}" in text, "all of it"


def test_a_missing_dead_letter_is_reported(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["dead-letters", "3", "--run-dir", str(run_dir)]) == 2
    assert "2 dead letters" in capsys.readouterr().err


def test_a_run_without_dead_letters_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["dead-letters", "--run-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no dead letters in {tmp_path}\n"


def test_a_dead_letter_is_shown_without_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Clients choose close reasons and headers: these must not send control characters to a
    terminal or look like another line.
    """
    evil = "\x1b[2J\x07\x9b\u202e\r\nkind: websocket"
    letter = {**CLOSE, "reason": evil, "inf": {evil: evil}, "about": {"peer": f"unix:{evil}"}}
    (tmp_path / "dead-letters.jsonl").write_text(json.dumps(letter) + "\n")
    for number in ((), ("1",)):
        assert cli.main(["dead-letters", *number, "--run-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.split("\n"))
    assert "\nkind: websocket" not in out
    assert r"reason: \x1b[2J\x07\x9b\u202e\r\nkind: websocket" in out


def test_a_damaged_dead_letter_is_shown_as_far_as_possible() -> None:
    letter = {"time": "soon", "data": "%", "state": "abc"}
    assert dead_letters.line(1, letter).startswith("1  ?")
    assert "time: ?" in dead_letters.whole(letter)


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (b"\x81\xa1n\x02", "{'n': 2}"),
        (b"", "None"),
        (b"\xc1", repr(b"\xc1")),
        (b"not MessagePack", repr(b"not MessagePack")),
    ],
)
def test_the_state_in_a_dead_letter_is_shown_as_its_handler_set_it(
    state: bytes, shown: str
) -> None:
    """Workers in other languages may use any bytes as a state."""
    letter = {**CLOSE, "state": base64.b64encode(state).decode()}
    assert f"state: {shown}" in dead_letters.whole(letter).splitlines()


@pytest.mark.parametrize("runs", [0, 1, 2])
def test_without_a_folder_the_only_run_is_used(
    runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for n in range(runs):
        path = folder.base() / f"run{n}"
        path.mkdir(parents=True)
        (path / folder.DEAD_LETTERS).write_text(json.dumps(BOOM))
    assert cli.main(["dead-letters"]) == (2 if runs == 2 else 0)
    told = capsys.readouterr()
    if runs == 2:
        assert "choose with --run-dir" in told.err
    else:
        assert told.out.startswith("1  " if runs else "no dead letters in ")
