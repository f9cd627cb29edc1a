from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests import authority
from tests.deadline import COMMAND_DEADLINE
from tests.needs import signals, unix_sockets
from tests.ports import free_port
from tests.running import ROOT, Running, environment, wsraw
from wsraw.commands import scaffold


@pytest.fixture
def service(tmp_path: Path) -> Path:
    done = wsraw("init", "a service", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path / "a service"


def check(folder: Path, handlers: str, *arguments: str) -> tuple[int, str]:
    (folder / "handlers.py").write_text(handlers)
    done = wsraw("check", "--workers=handlers.py", "--listen=127.0.0.1:0", *arguments, cwd=folder)
    return done.returncode, done.stdout + done.stderr


# --- init ---


def test_init_makes_a_service_that_passes_its_checks(service: Path) -> None:
    listen = f"--listen=127.0.0.1:{free_port()}"
    done = wsraw("check", "--config=wsraw.toml", listen, cwd=service)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "on_connect, on_message, on_close (plain)" in done.stdout
    assert "no problems found" in done.stdout
    with Running("--config", str(service / "wsraw.toml"), listen) as run:
        run.ready()


def test_the_test_that_init_makes_passes(service: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(service)],
        cwd=service,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=COMMAND_DEADLINE,
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_init_overwrites_nothing(service: Path) -> None:
    (service / "wsraw.toml").unlink()
    (service / "handlers.py").write_text("mine")
    done = wsraw("init", str(service))
    assert done.returncode == 2
    assert "already has handlers.py and test_handlers.py and wsraw.service" in done.stderr
    assert (service / "handlers.py").read_text() == "mine"
    assert not (service / "wsraw.toml").exists()


def test_init_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = wsraw("init", str(tmp_path / "file" / "x"))
    assert done.returncode == 1
    assert "file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd")
def test_the_unit_that_init_makes_is_valid(service: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", str(service / "wsraw.service")],
        capture_output=True,
        encoding="utf-8",
        timeout=COMMAND_DEADLINE,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_unit_has_the_user_that_is_named(tmp_path: Path) -> None:
    assert wsraw("init", str(tmp_path), "--user=shop").returncode == 0
    lines = (tmp_path / "wsraw.service").read_text().splitlines()
    assert "User=shop" in lines
    assert "DynamicUser=yes" not in lines


def test_words_of_a_unit_are_quoted_as_systemd_reads_them() -> None:
    assert scaffold._quoted("/srv/app") == "/srv/app"
    assert scaffold._quoted('/a b/100%/$x"') == '"/a b/100%%/$$x\\""'


# --- check ---


def test_a_misspelt_handler_is_named_with_its_line(tmp_path: Path) -> None:
    code, told = check(tmp_path, "\n\ndef on_mesage(msg, con):\n    return msg\n")
    assert code == 1
    assert "wsraw does not call on_mesage; did you mean on_message?" in told
    assert "handlers.py, line 3)" in told


@pytest.mark.parametrize(
    ("handlers", "words"),
    [
        ("x = 1\ny = (", 'handlers.py", line 2'),
        ("def on_message(msg):\n    pass\n", "cannot be called as on_message(msg, con)"),
        ("import nowhere_to_be_found\n", "No module named 'nowhere_to_be_found'"),
        ("x = 1\n", "has no handlers"),
        ("", "is empty"),
        ("import os\nos._exit(7)\n", "ended with code 7"),
        ("raise SystemExit(0)\n", "SystemExit"),
    ],
)
def test_handlers_that_do_not_load_are_a_problem(tmp_path: Path, handlers: str, words: str) -> None:
    code, told = check(tmp_path, handlers)
    assert code == 1, told
    assert words in told


def test_handlers_are_loaded_as_in_a_worker_and_not_called(tmp_path: Path) -> None:
    """Handlers are loaded in a process of their own, so that their output is not taken for its
    report.
    """
    (tmp_path / "beside.py").write_text("NAME = 'beside'\n")
    code, told = check(
        tmp_path,
        "import beside, os, sys, wsraw\n"
        'print(\'{"error": "printed"}\', os.getpid(), sys.stdin.read())\n'
        "assert 'click' not in sys.modules\n"
        "@wsraw.every(1)\n"
        "async def beat(): pass\n"
        "def on_start(): raise ValueError('called')\n",
    )
    assert code == 0, told
    assert "handlers.py: on_start, 1 timers (async)" in told


@signals
def test_handlers_that_never_load_are_given_up_with_what_they_have_started(
    tmp_path: Path,
) -> None:
    handlers = "import subprocess\nsubprocess.run(['sleep', '1000'])\n"
    code, told = check(tmp_path, handlers, "--start-timeout=3s")
    assert code == 1
    assert "did not load within start_timeout (3s)" in told


def test_a_port_that_another_program_uses_is_a_problem(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        where = f"127.0.0.1:{sock.getsockname()[1]}"
        done = wsraw("check", "--workers=none", f"--listen={where}", cwd=tmp_path)
    assert done.returncode == 1
    assert f"problem: {where}: " in done.stdout
    assert "1 problem found" in done.stderr


def test_a_port_that_your_own_run_uses_is_not(tmp_path: Path) -> None:
    where = f"127.0.0.1:{free_port()}"
    options = ("--workers=none", f"--listen={where}", f"--run-dir={tmp_path / 'run'}")
    with Running(*options) as run:
        run.line("listening")
        done = wsraw("check", *options)
    assert done.returncode == 0, done.stdout
    assert f"{where}: in use by your run" in done.stdout


def test_the_admin_address_is_checked_as_those_of_clients(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        taken = f"127.0.0.1:{sock.getsockname()[1]}"
        done = wsraw("check", "--workers=none", "--listen=127.0.0.1:0", f"--admin={taken}")
    assert done.returncode == 1
    assert f"problem: admin {taken}: " in done.stdout
    admin = f"--admin=127.0.0.1:{free_port()}"
    options = ("--workers=none", "--listen=127.0.0.1:0", admin, f"--run-dir={tmp_path / 'run'}")
    with Running(*options) as run:
        run.line("listening")
        done = wsraw("check", *options)
    assert done.returncode == 0, done.stdout
    assert f"admin {admin.removeprefix('--admin=')}: in use by your run" in done.stdout


@unix_sockets
def test_a_check_leaves_no_address_bound(tmp_path: Path) -> None:
    listen = f"--listen=unix:{tmp_path / 'app.sock'}"
    for _ in range(2):
        done = wsraw("check", "--workers=none", listen)
        assert done.returncode == 0, done.stdout
    assert not (tmp_path / "app.sock").exists()


def test_certificates_are_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "cert.pem"
    listen = f"--listen=wss://127.0.0.1:0?tls_cert={file}"
    for days, code, words in ((30, 0, "certificates: valid"), (-1, 1, "certificate has expired")):
        file.write_bytes(authority.pem(authority.leaf(days=days)))
        done = wsraw("check", "--workers=none", listen)
        assert done.returncode == code, done.stdout
        assert words in done.stdout


def test_wrong_settings_are_exit_code_2_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "wsraw.toml").write_text("workers = 'none'\nhigh_watermark = 1\n")
    done = wsraw("check", "--config=wsraw.toml", cwd=tmp_path)
    assert done.returncode == 2
    wanted = "wsraw.toml:2: high_watermark: there is no such setting; did you mean high_water_mark?"
    assert wanted in done.stderr


def test_the_examples_pass_the_check() -> None:
    for name in ("chat.py", "auth.py", "rooms.py"):
        done = wsraw("check", f"--workers={ROOT / 'examples' / name}", "--listen=127.0.0.1:0")
        assert done.returncode == 0, done.stdout


def test_a_settings_file_that_is_not_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "wsraw.toml").write_text("")
    warning = "warning: wsraw.toml in this folder is not used; add --config wsraw.toml"
    code, told = check(tmp_path, "def on_message(msg, con): return msg")
    assert code == 0
    assert warning in told
    _, told = check(tmp_path, "def on_message(msg, con): return msg", "--config=wsraw.toml")
    assert warning not in told
    with Running("--workers=handlers.py", cwd=tmp_path) as run:
        run.line(f"{warning.replace('warning: ', 'warning wsraw: ')}")
        run.ready()


def test_an_option_that_is_missing_is_named(tmp_path: Path) -> None:
    for command in ("run", "check"):
        done = wsraw(command, "handlers.py:2")
        assert done.returncode == 2
        wanted = f"--workers is missing; write wsraw {command} --workers handlers.py:2"
        assert wanted in done.stderr
    done = wsraw("worker", "a.py", "b.py")
    assert "unexpected extra argument (b.py)" in done.stderr


def test_a_socket_of_a_service_manager_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text("def on_message(msg, con):\n    return msg\n")
    done = wsraw("check", "--workers=handlers.py", "--listen=fd:web", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "fd:web: a service manager passes it to the run" in done.stdout


# --- the unit ---

EXAMPLES = ROOT / "examples" / "systemd"
FILLED = {
    "folder": "/srv/app",
    "user": "User=wsraw",
    "command": "/opt/wsraw/bin/wsraw",
    "config": "/srv/app/wsraw.toml",
}


def test_the_unit_of_the_examples_is_that_of_init() -> None:
    template = (scaffold.TEMPLATES / "wsraw.service").read_text("utf-8")
    assert (EXAMPLES / "wsraw.service").read_text("utf-8") == template.format(**FILLED)


systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")


def analyze(*arguments: str) -> str:
    done = subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@systemd
def test_the_unit_lets_a_service_do_little() -> None:
    """systemd's score: 0 means no exposure, 10 full exposure. Its advice needs a version that
    supports it.
    """
    if int(analyze("--version").split()[1]) < 250:
        pytest.skip("this systemd-analyze needs a running systemd")
    analyze(
        "security", "--offline=yes", "--threshold=20", "--no-pager",
        str(EXAMPLES / "wsraw.service"),
    )  # fmt: skip


@systemd
def test_systemd_understands_each_line_of_the_units(tmp_path: Path) -> None:
    for name in ("wsraw.service", "wsraw.socket"):
        text = (EXAMPLES / name).read_text("utf-8").replace("/opt/wsraw/bin/wsraw", "/bin/true")
        (tmp_path / name).write_text(text, encoding="utf-8")
    said = analyze("verify", "--man=no", str(tmp_path / "wsraw.socket"))
    assert not [line for line in said.splitlines() if str(tmp_path) in line], said
