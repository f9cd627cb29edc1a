from __future__ import annotations

from pathlib import Path

import pytest

from tests.needs import unix_sockets
from wsraw import cli


@pytest.fixture
def handlers(tmp_path: Path) -> str:
    file = tmp_path / "handlers.py"
    file.write_text("def on_message(msg, con):\n    return msg\n")
    return str(file)


def test_a_worker_needs_an_endpoint_and_a_token(
    handlers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["worker", handlers, "--connect", "here"]) == 2
    assert "write ipc://DIR/link.sock or tcp://HOST:PORT" in capsys.readouterr().err
    assert cli.main(["worker", handlers, "--connect", "tcp://127.0.0.1:1"]) == 2
    assert "give --token or WSRAW_TOKEN" in capsys.readouterr().err
    assert cli.main(["worker", handlers, "--connect", f"ipc://{tmp_path}/link.sock"]) == 2
    assert "is `wsraw run` running there" in capsys.readouterr().err


@unix_sockets
def test_a_worker_started_by_hand_takes_its_run_from_the_environment(
    handlers: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WSRAW_RUN_DIR", str(tmp_path / "one"))
    for arguments in ([], ["--run-dir", str(tmp_path / "two")]):
        assert cli.main(["worker", handlers, *arguments]) == 2
        place = tmp_path / ("two" if arguments else "one")
        assert f"{place}/token" in capsys.readouterr().err
