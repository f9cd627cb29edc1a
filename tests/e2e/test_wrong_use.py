"""Wrong use in a shell: one line that says what to do, an exit code, and no process left."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deadline import DEADLINE
from tests.e2e.serving import ECHO
from tests.running import command, environment, wsraw


def complaint(*arguments: str, code: int) -> str:
    """The only line of the message; lines of the log may surround it."""
    done = wsraw("run", *arguments)
    assert done.returncode == code, done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) <= 2, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers=missing.py"], "missing.py: there is no such handlers file"),
        (["--no-such-option"], "No such option '--no-such-option'"),
        (["--listen=8000"], "write HOST:PORT"),
        (["--listen=127.0.0.1:http"], "write HOST:PORT"),
        (["--listen=::1:8000"], "[::1]:8000"),
        (["--listen=gopher://127.0.0.1:0"], "raw://, ws://"),
        (["--listen=wss://127.0.0.1:0"], "TLS"),
        (["--listen=127.0.0.1:0?colour=red"], "first_byte_timeout, plain_http"),
        (["--tls=required"], "give tls_cert"),
        (["--tls-key=x"], "--tls-key needs tls_cert"),
    ],
)
def test_wrong_options_are_refused_in_one_line(arguments: list[str], said: str) -> None:
    assert said in complaint(*arguments, code=2)


@pytest.mark.parametrize(
    ("listen", "said"),
    [
        ("192.0.2.1:0", "this machine has no such address"),
        ("no-such-host.invalid:0", "cannot listen on no-such-host.invalid:0"),
        ("unix:/no/such/folder/sock", "cannot listen on unix:/no/such/folder/sock"),
    ],
)
def test_an_address_that_cannot_be_bound_ends_the_run(listen: str, said: str) -> None:
    assert said in complaint(f"--workers={ECHO}", f"--listen={listen}", code=3)


def test_a_port_in_use_ends_the_run() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        said = complaint(f"--workers={ECHO}", f"--listen={address}", code=3)
        assert f"cannot listen on {address}: the address is in use" in said


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have other rules")
def test_a_privileged_port_ends_the_run() -> None:
    start = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if int(start.read_text()) <= 1:
        pytest.skip("no port is privileged here")
    before: list[str] = []
    if subprocess.run(["id", "-u"], capture_output=True, check=True).stdout.strip() == b"0":
        if shutil.which("setpriv") is None:
            pytest.skip("root may do it, and there is no setpriv to be less")
        # Keep root without this one capability, so that its files stay readable.
        before = ["setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"]
        if subprocess.run([*before, "true"], check=False, capture_output=True).returncode:
            pytest.skip("setpriv may not take rights away here")
    done = wsraw("run", f"--workers={ECHO}", "--listen=127.0.0.1:1", before=before)
    assert done.returncode == 3, done
    assert "cannot listen on 127.0.0.1:1: not permitted; choose a port above 1023" in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def on_message(msg, con)\n    return msg\n", "SyntaxError"),
        ("import no_such_module_at_all\n", "ModuleNotFoundError"),
        ("raise SystemExit(0)\n", "SystemExit"),
        ("def on_message(msg):\n    return msg\n", "on_message"),
    ],
    ids=["syntax", "import", "exit", "arguments"],
)
def test_handlers_that_do_not_load_end_the_run(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(text)
    done = wsraw("run", f"--workers={file}:2", "--listen=127.0.0.1:0")
    assert done.returncode == 3, done
    assert said in done.stderr
    assert "wrong.py" in done.stderr


def test_a_run_folder_serves_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = [f"--workers={ECHO}", f"--run-dir={folder}", "--listen=127.0.0.1:0"]
    with subprocess.Popen(
        command("run", *arguments), env=environment(), stderr=subprocess.PIPE, encoding="utf-8"
    ) as first:
        assert first.stderr is not None
        while "ready, pid" not in (line := first.stderr.readline()):
            assert line
        assert str(folder) in complaint(*arguments, code=2)
        assert wsraw("stop", f"--run-dir={folder}").returncode == 0
        first.stderr.read()
        assert first.wait(DEADLINE) == 0
