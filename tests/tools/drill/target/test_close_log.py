from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.deadline import DEADLINE
from wsraw.tools.drill.target.close_log import VARIABLE, CloseLog
from wsraw.tools.drill.target.close_records import CloseReport


def names(folder: Path) -> list[str]:
    return [report.name for report in CloseLog(folder).read()]


def test_lines_of_the_close_log_are_read_once_and_whole(tmp_path: Path) -> None:
    log = CloseLog(tmp_path)
    assert not log.exists()
    assert log.read() == []
    with open(tmp_path / "7", "a") as stream:
        stream.write("a:1 1000 peer kept 7 1\nb:2 1006 gateway-")
        stream.flush()
        assert log.exists()
        assert log.read() == [CloseReport("a:1", "1000", "peer", "kept")]
        assert log.read() == []
        stream.write("died - 8 1\n")
    assert log.read() == [CloseReport("b:2", "1006", "gateway-died", "-")]


def test_a_folder_that_is_not_there_has_no_reports(tmp_path: Path) -> None:
    log = CloseLog(tmp_path / "closes")
    assert not log.exists()
    assert log.read() == []


def test_reports_of_all_processes_come_in_the_order_of_their_connections(tmp_path: Path) -> None:
    (tmp_path / "1").write_text("b:2 1000 peer - 9 1\na:1 1000 peer - 70 1\n")
    (tmp_path / "2").write_text("c:3 1000 peer - 8 1\na:1 1006 gateway-died - 10 1\n")
    assert names(tmp_path) == ["c:3", "b:2", "a:1", "a:1"]


def test_an_end_that_is_handled_again_with_its_sequence_number_counts_once(tmp_path: Path) -> None:
    (tmp_path / "1").write_text("a:1 1000 peer - 7 1\nb:2 1000 peer - 8 3\n")
    (tmp_path / "2").write_text("a:1 1000 peer - 7 2\n")
    assert names(tmp_path) == ["a:1", "b:2"]


def test_an_end_that_is_handled_again_counts_once_whichever_line_is_read_first(
    tmp_path: Path,
) -> None:
    log = CloseLog(tmp_path)
    (tmp_path / "2").write_text("a:1 1000 peer - 7 2\n")
    assert len(log.read()) == 1
    (tmp_path / "1").write_text("a:1 1000 peer - 7 1\n")
    assert log.read() == []


def test_an_end_that_is_written_twice_counts_twice(tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / name).write_text("a:1 1000 peer - 7 1\n")
    assert names(tmp_path) == ["a:1", "a:1"]


WRITES = 2000
WRITER = f"""
import sys
from wsraw.tools.drill.target.echo import report
print(flush=True)
sys.stdin.readline()
for number in range({WRITES}):
    report(f"{{sys.argv[1]}}:{{number}} 1000 peer - {{number}}{{sys.argv[1]}} 1\\n")
"""


def test_no_line_is_lost_if_several_processes_write_at_once(tmp_path: Path) -> None:
    """Workers write at the same time when their gateway dies."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, writer],
            env={**os.environ, VARIABLE: str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for writer in ("1", "2")
    ]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=DEADLINE)
    assert len(set(names(tmp_path))) == 2 * WRITES
