from __future__ import annotations

from pathlib import Path

import pytest

from wsraw import cli
from wsraw.commands.keys import public_of
from wsraw.runtime import keys


def test_keygen_makes_a_pair_and_explains_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["keygen", str(tmp_path), "--name", "alice"]) == 0
    told = capsys.readouterr().out
    secret, public = tmp_path / "alice.key", tmp_path / "alice.pub"
    assert told == f"{secret}: secret; {public}: for the other side\n"
    assert cli.main(["keygen", str(tmp_path), "--name", "alice"]) == 2
    assert "choose another --name" in capsys.readouterr().err


def test_the_public_key_of_a_secret_one_is_that_of_its_pair(tmp_path: Path) -> None:
    assert cli.main(["keygen", str(tmp_path), "--name", "alice"]) == 0
    secret = keys.read_secret(str(tmp_path / "alice.key"))
    assert public_of(secret) == keys.read_public(str(tmp_path / "alice.pub"))
