from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import wsraw
from wsraw.commands.clients import MOST_READ
from wsraw.gateway.inspection.actions import MOST_DATA


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["connections", "--idle", "soon"], "wsraw: --idle: 'soon' is not a length of time"),
        (["connections", "--limit", "-1"], "wsraw: Invalid value for '--limit'"),
        (["connections", "--run-dir", "/none"], f"wsraw: no run in {Path('/none').resolve()}"),
        (["connection", "x"], "wsraw: Invalid value for 'ID'"),
        (["connection"], "wsraw: Missing argument 'ID'"),
        (["kick"], "wsraw: say which connections: an ID, --address, --slow, …, or --all"),
        (["kick", "5", "--slow"], "wsraw: give an ID or options that choose connections, not both"),
        (["kick", "5", "--all"], "wsraw: give an ID or options that choose connections, not both"),
        (["kick", "--idle", "x"], "wsraw: --idle: 'x' is not a length of time"),
        (["publish", "room"], "wsraw: give DATA, - for the standard input, or --file"),
        (["publish", "room", "x", "--file", "y"], "wsraw: give DATA, - for the standard input"),
        (["send", "5", "--file", "none.bin"], "wsraw: none.bin: No such file or directory"),
        (["send", "x", "y"], "wsraw: Invalid value for 'ID'"),
    ],
)
def test_wrong_use_is_one_line_with_exit_code_2(arguments: list[str], line: str) -> None:
    done = wsraw(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(line)
    assert len(done.stderr.splitlines()) == 1


def test_what_is_sent_must_be_utf_8_unless_it_is_binary(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"ab\xff")
    done = wsraw("send", "5", "--file", str(file))
    assert done.stderr == "wsraw: byte 2 is not UTF-8; send it with --binary\n"
    done = wsraw("send", "5", "--file", str(file), "--binary", "--run-dir", str(tmp_path))
    assert done.stderr.startswith(f"wsraw: no run in {tmp_path}")


def test_what_is_sent_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(bytes(MOST_READ + 1))
    done = wsraw("publish", "room", "--file", str(file))
    assert done.stderr == f"wsraw: more than {MOST_READ} bytes cannot be sent at once\n"
    assert MOST_READ == MOST_DATA
