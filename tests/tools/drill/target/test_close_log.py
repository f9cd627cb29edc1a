from __future__ import annotations

from pathlib import Path

from wsraw.tools.drill.target.close_log import CloseLog
from wsraw.tools.drill.target.close_records import CloseReport


def test_lines_of_the_close_log_are_read_once_and_whole(tmp_path: Path) -> None:
    file = tmp_path / "close-log"
    log = CloseLog(file)
    assert log.read() == []
    with open(file, "a") as stream:
        stream.write("a:1 1000 peer kept 7 1\nb:2 1006 gateway-")
        stream.flush()
        assert log.read() == [CloseReport("a:1", "1000", "peer", "kept")]
        assert log.read() == []
        stream.write("died - 8 1\n")
    assert log.read() == [CloseReport("b:2", "1006", "gateway-died", "-")]


def test_an_end_that_is_handled_again_with_its_sequence_number_counts_once(tmp_path: Path) -> None:
    file = tmp_path / "close-log"
    file.write_text("a:1 1000 peer - 7 1\na:1 1000 peer - 7 2\nb:2 1000 peer - 8 3\n")
    assert [report.name for report in CloseLog(file).read()] == ["a:1", "b:2"]


def test_an_end_that_is_written_twice_counts_twice(tmp_path: Path) -> None:
    file = tmp_path / "close-log"
    file.write_text("a:1 1000 peer - 7 1\na:1 1000 peer - 7 1\n")
    assert [report.name for report in CloseLog(file).read()] == ["a:1", "a:1"]
