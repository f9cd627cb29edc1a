from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deadline import DEADLINE
from tests.needs import unix_sockets
from tests.running import command, environment, wsraw
from wsraw import cli
from wsraw.cli import is_compiled
from wsraw.config import options
from wsraw.version import VERSION

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")


@pytest.fixture
def handlers(tmp_path: Path) -> str:
    file = tmp_path / "handlers.py"
    file.write_text("def on_message(msg, con):\n    return msg\n")
    return str(file)


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield f"127.0.0.1:{sock.getsockname()[1]}"


# --- output ---


@pytest.mark.parametrize("encoding", ["", "latin-1", "utf-8"])
def test_characters_that_the_output_does_not_have_are_escaped(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    done = wsraw("settings", "--run-dir=/tmp/šnek-蛇")
    assert done.returncode == 0, done.stderr
    shown = {"latin-1": r"\u0161nek-\u86c7"}.get(encoding, "šnek-蛇")
    assert re.search(f'^run_dir = ".*{re.escape(shown)}"', done.stdout, re.M)
    done = wsraw("run", "--workers=蛇.py")
    assert done.returncode == 2
    assert (r"\u86c7.py" if encoding == "latin-1" else "蛇.py") in done.stderr


def test_a_command_needs_no_output() -> None:
    """Under pythonw, for example, or with both streams closed."""
    lines = "import sys; sys.stdout = sys.stderr = None; from wsraw.cli import main; "
    for arguments, code in ([["settings"], 0], [["run", "--workers=none.py"], 2]):
        done = subprocess.run(
            [sys.executable, "-P", "-c", f"{lines}sys.exit(main({arguments}))"], env=environment()
        )
        assert done.returncode == code


# --- help ---


def test_a_reader_that_leaves_is_told_nothing() -> None:
    """`| head -1`, and `| more` on Windows."""
    with subprocess.Popen(
        command("settings"), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(DEADLINE) == 1


def test_help_shows_every_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in options.options():
        assert f"--{option.flag}" in text
        # click breaks long words; the beginning of the meaning shows that it is the right one.
        assert " ".join(option.meaning.split()[:3]) in text
    assert "[default: 127.0.0.1:8000]" in text
    assert "[default: on]" in text
    assert "[default: 20s]" in text
    assert "[default: 256KiB]" in text


def test_help_lists_only_options_as_options(capsys: pytest.CaptureFixture[str]) -> None:
    """This also holds for click 8.5.1, where arguments have a row, too."""
    assert cli.main(["worker", "--help"]) == 0
    help_text = capsys.readouterr().out
    assert "FILE|COMMAND" in help_text
    assert not re.search(r"^  FILE", help_text, re.M)


def test_without_a_command_the_help_is_shown_with_exit_code_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main([]) == 2
    assert "Usage: wsraw" in capsys.readouterr().err


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    shown = capsys.readouterr().out
    assert shown.split()[:2] == ["wsraw", VERSION]
    assert shown.endswith(" (compiled)\n") == is_compiled()


def test_children_do_not_import_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gateway"]) == 2


# --- wrong use: one line, exit code not zero ---


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["serve"], "wsraw: No such command 'serve'"),
        (["run", "--colour"], "wsraw: No such option '--colour'"),
        (["run", "handlers.py"], "wsraw: handlers.py: --workers is missing; write wsraw run"),
        (["run", "wsraw.toml"], "wsraw: wsraw.toml: --config is missing; write"),
        (["run", "serve"], "wsraw: Got unexpected extra argument"),
        (["run", "--ping-interval", "soon"], "wsraw: --ping-interval: 'soon': write a number of"),
        (["run", "--ping-interval", "-1"], "wsraw: --ping-interval: '-1': write a number of"),
        (["run", "--ping-interval", "inf"], "wsraw: --ping-interval: 'inf': write a number of"),
        (["run", "--max-events", "some"], "wsraw: --max-events: 'some': write a whole number"),
        (["run", "--config", "none.toml"], "wsraw: none.toml: there is no such settings file"),
        (["run", "--dispatch", "some"], "wsraw: --dispatch: 'some': write any or sticky"),
        (["run", "--listen", "8000"], "wsraw: --listen: '8000': write HOST:PORT"),
        (["run", "--listen", "h:99999"], "wsraw: --listen: 'h:99999': write HOST:PORT"),
        (["run", "--workers", "none.py"], "wsraw: none.py: there is no such handlers file"),
        (["run", "--workers", "none.py:2"], "wsraw: none.py: there is no such handlers file"),
        (["run", "--workers", "a.py:0"], "wsraw: --workers: 'a.py:0': the number of processes"),
        (["run", "--workers", "a.py:app"], "wsraw: --workers: 'a.py:app': 'app' is not a number"),
        (["run", "--workers", "a.py:-1"], "wsraw: --workers: 'a.py:-1': '-1' is not a number"),
        (["run", "--workers", "a.py:2:3"], "wsraw: --workers: 'a.py:2:3': '2:3' is not a number"),
        (
            ["run", "--workers", "a:app"],
            "wsraw: --workers 'a:app': a:app: no such program; a handlers file is given by",
        ),
        (["run", "--workers", "."], "wsraw: . is not a file"),
        (["run", "--pool", "a=none.py"], "wsraw: none.py: there is no such handlers file"),
        (["run", "--pool", "a=no-such x"], "wsraw: --pool a='no-such x': no-such: no such program"),
        (["run", "--pool", "a b"], "wsraw: --pool: 'a b' is not a pool name: write"),
        (["run", "--route", "x=y"], "wsraw: --route: 'x=y': write PATTERN=POOL"),
        (["worker", "x.py"], "wsraw: where is the gateway? Give --connect"),
        (["worker", __file__, "--connect", "tcp://h:1", "--key", "k"], "wsraw: --key and"),
        (
            ["worker", __file__, "--connect", "ipc://x", "--key", "k", "--gateway-key", "g"],
            "wsraw: --key: keys are for tcp://",
        ),
        (
            ["worker", __file__, "--connect", "tcp://h:1", "--key", "k", "--gateway-key", "g"],
            "wsraw: k: No such file",
        ),
        (["worker", __file__, "--connect", "ipc://x", "--on-exception", "cry"], "wsraw: --on-exc"),
        (["keygen", "--name", "../x"], "wsraw: --name '../x': write letters"),
        (
            ["run", "--worker-listen", "tcp://0.0.0.0:1"],
            "wsraw: --worker-listen: 'tcp://0.0.0.0:1'",
        ),
        (["worker", "none.py", "--connect", "ipc://x"], "wsraw: none.py: there is no such"),
        (["worker", f"{__file__}:2", "--connect", "ipc://x"], f"wsraw: {__file__}:2: leave out"),
        (["worker", "", "--connect", "ipc://x"], "wsraw: '': write FILE"),
        (
            ["worker", "nobody-has-this --x", "--connect", "ipc://x"],
            "wsraw: 'nobody-has-this --x': nobody-has-this: no such program; is it installed",
        ),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    told = capsys.readouterr()
    assert told.err.startswith(line)
    assert told.err.count("\n") == 1
    assert told.out == ""


DROP_PRIVILEGES = """
import ctypes, os, sys
PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE = 1, 2, 10
for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE):
    if ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
        sys.exit(99)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def humbly() -> list[str]:
    """The prefix of a command without the privileges of root, if the tests have them."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return []
    before = [sys.executable, "-c", DROP_PRIVILEGES]
    if not sys.platform.startswith("linux") or wsraw("--version", before=before).returncode:
        pytest.skip("we are root, and cannot be less")
    return before


@posix
def test_handlers_that_cannot_be_read_are_reported(tmp_path: Path, humbly: list[str]) -> None:
    file = tmp_path / "handlers.py"
    file.touch(mode=0o200)
    done = wsraw("run", "--workers", str(file), before=humbly)
    assert done.returncode == 2
    assert done.stderr == f"wsraw: {file} cannot be read; check its permissions\n"


@posix
def test_a_run_folder_open_to_others_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o755)
    assert cli.main(["run", "--run-dir", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("wsraw: --run-dir")
    assert f"choose a folder of wsraw's own, such as {tmp_path}/wsraw" in told
    assert told.count("\n") == 1


@unix_sockets
def test_a_run_folder_with_a_long_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "--run-dir", str(tmp_path / ("x" * 100))]) == 2
    assert "choose a shorter --run-dir" in capsys.readouterr().err


# --- wrong use that a child detects ---


def test_a_port_in_use_is_reported(taken: str, handlers: str) -> None:
    done = wsraw("run", "--workers", handlers, "--listen", taken)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert f"cannot listen on {taken}: the address is in use" in done.stderr


def test_an_address_of_another_machine_is_reported(handlers: str) -> None:
    done = wsraw("run", "--workers", handlers, "--listen", "192.0.2.1:8000")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "this machine has no such address" in done.stderr


def first_free_port() -> int:
    """The first port that needs no privileges."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except OSError:
        return 1024


@posix
@pytest.mark.skipif(first_free_port() < 2, reason="no port is privileged here")
def test_a_privileged_port_is_reported(humbly: list[str]) -> None:
    done = wsraw("run", "--listen", "127.0.0.1:1", before=humbly)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "choose a port above 1023" in done.stderr


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("def on_message(:\n", "SyntaxError"),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0\n", "ZeroDivisionError"),
    ],
)
def test_handlers_that_do_not_load_show_their_traceback_once(
    tmp_path: Path, code: str, line: str
) -> None:
    file = tmp_path / "broken.py"
    file.write_text(code)
    done = wsraw("run", "--workers", f"{file}:3", "--listen", "127.0.0.1:0")
    assert done.returncode == 3
    # The last line of the child is also in the first line of the log.
    assert len(re.findall(rf"error worker \d: {re.escape(line)}", done.stderr)) == 1
    assert str(file) in done.stderr


def test_a_module_in_the_current_folder_does_not_replace_one_of_wsraw(tmp_path: Path) -> None:
    for name in ("selectors", "zmq", "signal", "websockets"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    (tmp_path / "broken.py").write_text("def on_message(:\n")
    done = wsraw("run", "--workers", "broken.py", "--listen", "127.0.0.1:0", cwd=tmp_path)
    assert "SyntaxError" in done.stderr
    assert "wrong module" not in done.stderr
