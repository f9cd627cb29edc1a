from __future__ import annotations

from pathlib import Path

import pytest

from tests.needs import HAS_UNIX
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


def test_a_worker_on_loopback_takes_the_token_of_its_run_folder(
    handlers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    arguments = ["worker", handlers, "--run-dir", str(folder), "--connect"]
    assert cli.main([*arguments, "tcp://127.0.0.1:1"]) == 2
    assert f"{folder / 'token'}: No such file" in capsys.readouterr().err
    # The token of the run is in the folder of the socket.
    assert cli.main([*arguments, f"ipc://{tmp_path}/link.sock"]) == 2
    assert f"{tmp_path / 'token'}: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("endpoint", ["tcp://192.0.2.1:7788", "tcp://gateway.example:7788"])
def test_the_token_of_a_run_folder_is_not_sent_to_another_machine(
    handlers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], endpoint: str
) -> None:
    (tmp_path / "token").write_text("secret\n")
    arguments = ["--run-dir", str(tmp_path), "--connect", endpoint]
    assert cli.main(["worker", handlers, *arguments]) == 2
    assert "no token: give --token" in capsys.readouterr().err


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
        assert str(place / "token") in capsys.readouterr().err


def test_a_worker_with_a_run_folder_needs_all_that_it_reads_there(
    handlers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["token"] if HAS_UNIX else ["token", "link"]
    for file in files:
        (tmp_path / file).write_bytes(b"\xff")
        assert cli.main(["worker", handlers, "--run-dir", str(tmp_path)]) == 2
        assert f"{tmp_path / file}: it is damaged; is `wsraw run`" in capsys.readouterr().err
        (tmp_path / file).write_text("tcp://127.0.0.1:9\n")


def test_a_worker_with_a_run_folder_needs_no_keys(
    handlers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text("t\n")
    (tmp_path / "link").write_text("tcp://127.0.0.1:9\n")
    keys = ["--key", "k", "--gateway-key", "g"]
    assert cli.main(["worker", handlers, "--run-dir", str(tmp_path), *keys]) == 2
    assert "keys are for tcp:// endpoints" in capsys.readouterr().err
