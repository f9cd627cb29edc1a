from __future__ import annotations

from wsraw.supervisor.recent_log import LONGEST, MOST_CHARACTERS, MOST_LINES, RecentLines


def test_lines_are_numbered_and_asked_for_by_number() -> None:
    lines = RecentLines()
    for n in range(3):
        lines.add("info", f"line {n}\n")
    assert lines.after(0) == [(1, "info", "line 0"), (2, "info", "line 1"), (3, "info", "line 2")]
    assert lines.after(2) == [(3, "info", "line 2")]
    assert lines.after(3) == []


def test_old_lines_make_room() -> None:
    lines = RecentLines()
    for n in range(MOST_LINES + 5):
        lines.add("info", str(n))
    assert [line.number for line in lines.after(0)] == list(range(6, MOST_LINES + 6))


def test_long_lines_are_bounded_together() -> None:
    lines = RecentLines()
    for _ in range(MOST_LINES):
        lines.add("info", "x" * (2 * LONGEST))
    assert len(lines.after(0)) == MOST_CHARACTERS // LONGEST
