from __future__ import annotations

import pyte
import pytest

from wsraw.tools.connect.screen import above, rows
from wsraw.tools.display_width import cells

WIDTH, HEIGHT = 10, 4


def shown(before: str, *texts: str) -> tuple[list[str], tuple[int, int]]:
    """The screen and the cursor after `before` was typed and the texts were shown."""
    screen = pyte.Screen(WIDTH, HEIGHT)
    stream = pyte.Stream(screen)
    stream.feed(before)
    for text in texts:
        stream.feed(above(text, WIDTH, HEIGHT))
    return [row.rstrip() for row in screen.display], (screen.cursor.x, screen.cursor.y)


def test_a_line_is_shown_above_the_one_that_is_typed() -> None:
    assert shown("> abc", "news") == (["news", "> abc", "", ""], (5, 1))


def test_the_cursor_stays_within_the_line_that_is_typed() -> None:
    assert shown("> abc\x1b[2D", "news") == (["news", "> abc", "", ""], (3, 1))


def test_a_full_screen_scrolls() -> None:
    texts = [f"news {n}" for n in range(5)]
    assert shown("> abc", *texts) == (["news 2", "news 3", "news 4", "> abc"], (5, 3))


def test_a_long_line_takes_several_rows() -> None:
    assert shown("> a", "0123456789abc") == (["0123456789", "abc", "> a", ""], (3, 2))


def test_a_line_of_exactly_the_width_takes_one_row() -> None:
    assert shown("> a", "0123456789", "x") == (["0123456789", "x", "> a", ""], (3, 2))


def test_a_line_longer_than_the_screen_is_shown_to_its_end() -> None:
    text = "".join(chr(ord("a") + n // 10) for n in range(65))
    assert shown("> a", text) == (["e" * 10, "f" * 10, "g" * 5, "> a"], (3, 3))


def test_lines_of_one_text_are_shown_below_each_other() -> None:
    assert shown("> a", "one\n\ntwo") == (["one", "", "two", "> a"], (3, 3))


@pytest.mark.parametrize(("char", "size"), [("a", 1), ("é", 1), ("語", 2), ("\u0301", 0)])
def test_wide_characters_take_two_cells_and_combining_ones_none(char: str, size: int) -> None:
    assert cells(char) == size


def test_a_wide_character_is_not_cut_in_two() -> None:
    assert list(rows("a語語", 4)) == ["a語", "語"]
    assert shown("> a", "a" + "語" * 5)[1] == (3, 2)


def test_an_empty_line_takes_a_row() -> None:
    assert list(rows("", 4)) == [""]
