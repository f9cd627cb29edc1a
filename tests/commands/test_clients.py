from __future__ import annotations

import pytest

from tests.running import wsraw


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["connections", "--idle", "soon"], "wsraw: --idle: 'soon' is not a length of time"),
        (["connections", "--limit", "-1"], "wsraw: Invalid value for '--limit'"),
        (["connections", "--run-dir", "/none"], "wsraw: no run in /none"),
        (["connection", "x"], "wsraw: Invalid value for 'ID'"),
        (["connection"], "wsraw: Missing argument 'ID'"),
    ],
)
def test_wrong_use_is_one_line_with_exit_code_2(arguments: list[str], line: str) -> None:
    done = wsraw(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(line)
    assert len(done.stderr.splitlines()) == 1
