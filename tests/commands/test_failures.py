from __future__ import annotations

import pytest

from wsraw.commands.failures import show


def test_control_characters_are_shown_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    show("a\x1b[31m\nb")
    show("c\x07", err=True)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("a\\x1b[31m\nb\n", "c\\x07\n")
