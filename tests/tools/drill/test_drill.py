"""The drill with real runs, and its command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.deadline import DEADLINE, eventually
from tests.e2e import languages
from tests.needs import signals, unix_sockets
from tests.running import ROOT, command, environment, is_alive, wsraw
from tests.tools.drill.faulty import faulty

LOAD = ("--websockets=20", "--raw=5", "--rate=1000")
SMALL = (*LOAD, "--workers=2")
FAULTS = (
    "--seconds=4",
    "--kill-every=1.5",
    "--stop-every=1",
    "--stop-for=0.5",
    "--reload-every=1.5",
    "--json",
)
QUIET = ("--kill-every=0", "--stop-every=0", "--reload-every=0")

pytestmark = signals


def nothing_lost(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The report of a drill of 4,000 messages with kills and reloads in which nothing was lost."""
    assert done.returncode == 0, done.stdout + done.stderr
    data: dict[str, Any] = json.loads(done.stdout)
    assert data["breaches"] == []
    assert data["sent"] == data["answered"] == 4000
    assert data["closes_missing"] == 0
    # A kill may take a while on a busy machine.
    assert data["kills"] >= 1
    assert data["reloads"] >= 1
    return data


def test_killed_workers_are_replaced_and_nothing_is_lost() -> None:
    """A worker is stopped before the first one is killed. There are enough workers for the kills
    during one start on a busy machine.
    """
    done = wsraw(
        "drill",
        *LOAD,
        "--workers=4",
        *FAULTS,
    )
    assert nothing_lost(done)["stops"] >= 1


@pytest.mark.long
def test_a_pool_of_python_and_javascript_workers_loses_nothing() -> None:
    """Connections and their states move between both kinds of workers, through deaths and
    reloads.
    """
    node = languages.node(Path(__file__).with_name("echo.mjs"))
    done = wsraw(
        "drill",
        *SMALL,
        f"--workers={node}:2",
        "--seconds=4",
        "--kill-every=1",
        "--stop-every=0",
        "--reload-every=1.5",
        "--json",
    )
    nothing_lost(done)


@pytest.mark.long
def test_workers_of_other_machines_are_replaced_and_nothing_is_lost() -> None:
    """The drill itself replaces the workers, as the run does not know their processes."""
    node = languages.node(Path(__file__).with_name("echo.mjs"))
    done = wsraw(
        "drill",
        *LOAD,
        "--remote",
        "--workers=2",
        f"--workers={node}:2",
        *FAULTS,
    )
    assert nothing_lost(done)["stops"] >= 1


@pytest.mark.long
def test_workers_of_other_machines_find_a_new_gateway() -> None:
    done = wsraw("drill", *SMALL, *QUIET, "--remote", "--seconds=6", "--kill-gateway-every=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^kills of the gateway +[1-9]", done.stdout, re.M)
    assert re.search(r"^on_close missing +0$", done.stdout, re.M)


@pytest.mark.long
def test_a_worker_of_another_machine_that_ends_by_itself_is_a_breach(tmp_path: Path) -> None:
    file = tmp_path / "ends.py"
    file.write_text(
        "import os\n"
        "from wsraw.tools.drill.target import echo\n"
        "from wsraw.tools.drill.target.echo import on_close\n"
        "seen = []\n"
        "def on_message(msg, con):\n"
        "    seen.append(msg)\n"
        "    return echo.on_message(msg, con) if len(seen) < 50 else os._exit(7)\n"
    )
    done = wsraw("drill", *SMALL, *QUIET, "--remote", f"--workers={file}", "--seconds=4")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "breach: remote worker 2 exited with code 7\n" in done.stdout


def test_a_worker_of_another_machine_that_does_not_load_is_told(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("import nowhere_to_be_found\n")
    done = wsraw("drill", *SMALL, "--remote", f"--workers={file}")
    assert done.returncode == 2
    assert "remote worker 2 exited with code 3" in done.stderr
    assert "No module named 'nowhere_to_be_found'" in done.stderr


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--workers=0"], "0 is not in the range 1<=x<=1000"),
        (["--workers=node 'x"], '--workers: "node \'x": no closing quotation'),
        (["--workers=nobody-has-this x"], "nobody-has-this: no such program"),
    ],
)
def test_wrong_workers_are_refused(options: list[str], line: str) -> None:
    done = wsraw("drill", *options)
    assert done.returncode == 2
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.long
def test_a_hang_disconnects_only_the_client_that_caused_it() -> None:
    done = wsraw("drill", *SMALL, *QUIET, "--seconds=2", "--hang-every=1.5", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads(done.stdout)
    assert data["hangs"] == data["dead_letters"] == 1
    assert data["disconnected_as_promised"] == {"poison": 1}


@pytest.mark.long
def test_with_at_most_once_clients_are_disconnected_because_their_worker_died() -> None:
    done = wsraw(
        "drill",
        *SMALL,
        "--delivery=at-most-once",
        "--seconds=3",
        "--kill-every=0.2",
        "--stop-every=0",
        "--reload-every=0",
        "--rate=4000",
        "--json",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads(done.stdout)
    assert set(data["disconnected_as_promised"]) == {"worker-died"}
    assert data["sent"] == data["answered"] + data["cut_off"]


ENDS = {
    "lost",
    "duplicated",
    "reordered",
    "corrupted",
    "closes_missing",
    "closes_duplicated",
    "states_lost",
}


@pytest.mark.long
def test_a_killed_gateway_loses_its_connections_and_nothing_else() -> None:
    done = wsraw("drill", *SMALL, *QUIET, "--seconds=6", "--kill-gateway-every=2", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads(done.stdout)
    assert data["gateway_kills"] >= 1
    assert data["closes_missing"] == 0
    assert {data[name] for name in ENDS} == {0}
    assert data["disconnected"] == data["refused"] == {}
    # Connections without an answer may have been known to the gateway alone, so that no handler was
    # told.
    lost = data["disconnected_with_gateway"]
    assert set(lost) <= {"gateway-died", "eof", "connection reset by peer", "broken pipe"}
    assert lost["gateway-died"] > 0
    assert sum(lost.values()) >= 25
    assert data["unsent"] + data["sent"] == 6000
    assert data["answered"] + data["cut_off"] == data["sent"]


@pytest.mark.long
@unix_sockets
def test_an_upgrade_of_the_gateway_is_noticed_by_nobody() -> None:
    done = wsraw("drill", *LOAD, "--seconds=6", "--upgrade-every=2", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads(done.stdout)
    assert data["upgrades"] >= 1
    assert data["breaches"] == []
    assert data["disconnected"] == {}


@pytest.mark.long
def test_handlers_that_do_not_report_ends_breach_nothing() -> None:
    """The handlers are those of a user, possibly in another language, and only echo."""
    worker = f"{sys.executable} -m wsraw worker {ROOT / 'examples' / 'echo.py'}:2"
    done = wsraw(
        "drill", *LOAD, *QUIET, "--seconds=5", f"--workers={worker}", "--kill-gateway-every=2"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^kills of the gateway +[1-9]", done.stdout, re.M)
    for figure in (
        "on_close missing",
        "on_close duplicated",
        "on_close of connections held by no worker",
        "con.state lost",
    ):
        assert re.search(rf"^{figure} +not known$", done.stdout, re.M), done.stdout
    assert "note: on_close is not checked" in done.stdout


@pytest.mark.long
def test_handlers_in_javascript_report_each_close() -> None:
    node = languages.node(Path(__file__).with_name("echo.mjs"))
    done = wsraw(
        "drill",
        *LOAD,
        *QUIET,
        # With several workers, a connection that is on its way between two when the gateway dies
        # has no on_close.
        f"--workers={node}:1",
        "--seconds=4",
        "--kill-gateway-every=2",
        "--json",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads(done.stdout)
    assert data["gateway_kills"] >= 1
    assert data["closes_missing"] == 0
    assert {data[name] for name in ENDS} == {0}


def test_a_breach_ends_with_exit_code_1() -> None:
    with faulty(lambda n, data: [data] if n != 3 else [data, data]) as port:
        done = wsraw("drill", f"--connect=127.0.0.1:{port}", *SMALL, "--seconds=1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "breach: 25 duplicated" in done.stdout
    assert "note: load only" in done.stdout


def test_a_drill_without_a_breach_ends_with_exit_code_0() -> None:
    with faulty() as port:
        done = wsraw("drill", f"--connect=127.0.0.1:{port}", *SMALL, "--seconds=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("no breach\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--connect=nowhere"], "HOST:PORT"),
        (["--websockets=0", "--raw=0"], "both 0"),
        (["--size=8"], "--size"),
        (["--seconds=0"], "--seconds"),
        (["--run-dir=/tmp"], "--connect"),
        (["--log=/nowhere/at/all"], "--log"),
        (["--connect=127.0.0.1:1"], "refused"),
        (["--connect=127.0.0.1:1", "--hang-every=1"], "leave out --connect"),
        (["--connect=127.0.0.1:1", "--remote"], "leave out --connect"),
        (["--remote", "--hang-every=1"], "loses its session"),
        (["--connect=127.0.0.1:1", "--run-dir=/nowhere"], "/nowhere"),
    ],
)
def test_wrong_options_of_the_drill_are_refused(options: list[str], said: str) -> None:
    done = wsraw("drill", *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("sign", "remote"),
    [
        ("epoch", ()),
        ("control-token", ()),
        ("keys/gateway.key", ("--remote",)),
        ("closes/*", ("--remote",)),
    ],
)
@pytest.mark.parametrize("word", [signal.SIGINT, signal.SIGTERM])
def test_a_drill_that_gets_a_signal_leaves_nothing_behind(
    word: signal.Signals, sign: str, remote: Sequence[str]
) -> None:
    """The signal comes while keys are made or the run starts, when the run is up, or when remote
    workers connect.
    """
    # tmp_path is too long for the name of a socket.
    with tempfile.TemporaryDirectory(prefix="drill-") as home:
        drill = subprocess.Popen(
            command("drill", *SMALL, *QUIET, *remote, "--seconds=600"),
            env=environment() | {"TMPDIR": home},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            eventually(lambda: list(Path(home).glob(f"wsraw-drill-*/{sign}")))
            drill.send_signal(word)
            drill.wait(DEADLINE)
        finally:
            drill.kill()
            drill.wait()
        assert os.listdir(home) == []
        eventually(lambda: not _processes_of(home), "its processes to end")


def test_a_log_that_cannot_be_written_leaves_no_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        command("drill", "--log=/nowhere/at/all"),
        env=environment() | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []


def _processes_of(folder: str | Path) -> list[str]:
    """Processes whose run folder is in that folder, where there is /proc."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"TMPDIR={folder}\0" in (process / "environ").read_text("utf-8", "replace"):
                found.append(process.name)
    return found


@pytest.mark.parametrize("remote", [(), ("--remote",)])
def test_a_drill_that_is_killed_leaves_no_run_behind(tmp_path: Path, remote: Sequence[str]) -> None:
    log = tmp_path / "log"
    drill = subprocess.Popen(
        command("drill", *SMALL, *QUIET, *remote, "--seconds=600", f"--log={log}"),
        env=environment() | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        found = eventually(
            lambda: log.exists() and re.search(r"ready, pid (\d+)", log.read_text("utf-8"))
        )
        assert found
        run = int(found[1])
        assert is_alive(run)
        if remote:
            eventually(lambda: log.read_text("utf-8").count("at 127.0.0.1) is ready") == 2)
    finally:
        drill.kill()
        drill.wait()
    eventually(lambda: not is_alive(run), "the run to end")
    eventually(lambda: not _processes_of(tmp_path), "all its processes to end")
