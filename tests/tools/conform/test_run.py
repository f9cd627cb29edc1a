"""`wsraw conform` with real processes: our own workers, the worker of the docs, and faulty ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.deadline import DEADLINE, UNIT, eventually
from tests.needs import signals, unix_sockets
from tests.running import ROOT, command, environment, is_alive, wsraw

FAULTY = ROOT / "tests/tools/conform/faulty.py"
PATIENT = f"--timeout={10 * UNIT}"
BRIEF = f"--timeout={4 * UNIT}"
"""The timeout for workers that do not send what is expected; they must start within it."""

ASYNC = """
import asyncio
import importlib.util

spec = importlib.util.spec_from_file_location("common", {path!r})
common = importlib.util.module_from_spec(spec)
spec.loader.exec_module(common)
on_connect = common.on_connect


async def on_message(msg, con):
    word, _, rest = str(msg["data"]).partition(" ")
    if word == "slow" and not con.target:
        con.state = (con.state or 0) + 1
        await asyncio.sleep(int(rest) / 1000)
        return msg
    return common.on_message(msg, con)
"""


def verdicts(*arguments: str, code: int) -> dict[str, dict[str, Any]]:
    """Run the command with --json; returns the rules by name."""
    done = wsraw("conform", "--json", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return {rule["rule"]: rule for rule in json.loads(done.stdout)["rules"]}


OPTIONAL = {"presence", "splice"}
"""Rules only for workers with these features."""


def not_passed(rules: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"{name}: {rule['why']}"
        for name, rule in rules.items()
        if rule["verdict"] != "pass" and not (rule["verdict"] == "skip" and name in OPTIONAL)
    ]


LINKS = {"local": [], "remote": ["--remote"]}
"""Options for the two kinds of links."""


@pytest.mark.parametrize("link", ["local", pytest.param("remote", marks=pytest.mark.long)])
def test_the_python_example_passes_all_rules(link: str) -> None:
    file = str(ROOT / "examples/common.py")
    done = wsraw("conform", PATIENT, *LINKS[link], "--", *command("worker", file))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    others = [line for line in lines[:-1] if not line.startswith("pass  ")]
    assert [line.split()[:2] for line in others] == [["skip", "presence"]]
    assert lines[-1] == f"{len(lines) - 2} passed, 0 failed, 1 skipped"


@pytest.mark.parametrize("link", ["remote", pytest.param("local", marks=pytest.mark.long)])
def test_async_handlers_pass_all_rules(link: str, tmp_path: Path) -> None:
    file = tmp_path / "async_common.py"
    file.write_text(ASYNC.format(path=str(ROOT / "examples/common.py")), "utf-8")
    worker = ["--", *command("worker", str(file))]
    assert not_passed(verdicts(PATIENT, *LINKS[link], *worker, code=0)) == []


def test_a_worker_without_keys_cannot_connect_as_a_remote_one() -> None:
    worker = ["--", sys.executable, str(FAULTY), ""]
    rules = "--rules=hello"
    assert verdicts(PATIENT, rules, *worker, code=0)["hello"]["verdict"] == "pass"
    found = verdicts(BRIEF, "--remote", rules, *worker, code=1)
    assert found["hello"]["verdict"] == "fail"


def test_the_small_worker_of_the_protocol_page_passes_the_generic_rules(tmp_path: Path) -> None:
    text = (ROOT / "docs/worker-protocol.md").read_text("utf-8")
    (source,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    file = tmp_path / "small.py"
    file.write_text(source, "utf-8")
    rules = verdicts(PATIENT, "--generic", "--", sys.executable, str(file), code=0)
    # The worker sends no commands but `send`.
    assert not_passed(rules) == ["state-taken: nothing came that it applies to"]


# Faults that need a real wire: those about libzmq, and about the life of a process.
@pytest.mark.parametrize(
    ("fault", "rules", "broken"),
    [
        ("own routing id", "routing-id", "routing-id"),
        ("no probe", "probe", "probe"),
        ("two frames", "batch", "batch"),
        ("leaves in anger", "idle-drain", "idle-drain"),
        ("queues", "new-gateway", "new-gateway"),
        ("stays away", "new-gateway", "new-gateway"),
        ("no fence", "fence", "fence"),
        ("ack of the old", "fence", "fence"),
        ("hoards", "ack-in-time", "ack-in-time"),
    ],
)
def test_a_faulty_worker_fails_the_rule_that_it_breaks(fault: str, rules: str, broken: str) -> None:
    worker = ["--", sys.executable, str(FAULTY), fault]
    timeout = BRIEF if fault in ("two frames", "queues", "stays away") else PATIENT
    found = verdicts(timeout, f"--rules={rules}", *worker, code=1)
    assert found[broken]["verdict"] == "fail", found


def test_a_worker_without_a_fault_passes() -> None:
    rules = "hello,new-gateway,text,fence,drain,probe,routing-id,batch"
    found = verdicts(PATIENT, f"--rules={rules}", "--", sys.executable, str(FAULTY), "", code=0)
    assert not_passed(found) == []


@unix_sockets
@pytest.mark.parametrize("kind", ["ipc", "tcp"])
def test_the_folder_of_the_socket_is_removed_at_the_end(kind: str) -> None:
    """Where the folder's path is too long for a socket, TCP is used."""
    rules = "--rules=hello,new-gateway,probe"
    worker = ["--", sys.executable, str(FAULTY), ""]
    with tempfile.TemporaryDirectory(prefix="c-") as short:
        folder = Path(short) / ("long" * 30) if kind == "tcp" else Path(short)
        folder.mkdir(exist_ok=True)
        done = wsraw("conform", PATIENT, rules, *worker, before=["env", f"TMPDIR={folder}"])
        assert done.returncode == 0, done.stdout + done.stderr
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("link", LINKS)
def test_a_worker_that_ends_at_once_fails_and_its_output_is_kept(link: str, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    source = "import os; print(os.getpid(), *sorted(n for n in os.environ if 'WSRAW' in n)); 1 / 0"
    options = [PATIENT, *LINKS[link], f"--log={log}", "--"]
    done = wsraw("conform", *options, sys.executable, "-c", source)
    assert done.returncode == 1
    assert "FAIL  hello " in done.stdout
    assert "the worker has ended with code 1" in done.stdout
    assert "worker: ZeroDivisionError" in done.stderr
    said = log.read_text("utf-8")
    names = ["WSRAW_ENDPOINT", "WSRAW_INSTANCE", "WSRAW_POOL", "WSRAW_TOKEN"]
    keys = [f"WSRAW_CURVE_{name}KEY" for name in ("PUBLIC", "SECRET", "SERVER")]
    assert said.split("\n")[0].split()[1:] == [*(keys if link == "remote" else []), *names]


def test_a_worker_that_does_nothing_is_ended(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    source = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(os.getpid(), flush=True); time.sleep(600)"
    )
    options = [BRIEF, f"--log={log}", "--rules=hello,probe", "--"]
    done = wsraw("conform", *options, sys.executable, "-c", source)
    assert done.returncode == 1
    assert "PROBE_ROUTER" in done.stdout
    pids = [int(line) for line in log.read_text("utf-8").split()]
    assert pids
    assert not any(map(is_alive, pids))


@signals
def test_a_worker_behind_a_script_is_ended_too(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    options = [BRIEF, f"--log={log}", "--rules=hello", "--"]
    done = wsraw("conform", *options, "sh", "-c", "sleep 600 & echo $!; wait")
    assert done.returncode == 1
    pids = [int(line) for line in log.read_text("utf-8").split()]
    assert pids
    eventually(lambda: not any(map(is_alive, pids)), "their end")


@signals
def test_a_conformance_run_that_is_stopped_leaves_no_worker(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    source = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    worker = ["--", sys.executable, "-c", source]
    with subprocess.Popen(
        command("conform", "--timeout=600", f"--log={log}", *worker),
        env=environment(),
        stdout=subprocess.DEVNULL,
    ) as conform:
        try:
            pid = int(eventually(lambda: log.exists() and log.read_text("utf-8"), "its pid"))
            conform.terminate()
            assert conform.wait(DEADLINE) == 130
        finally:
            conform.kill()
    assert not is_alive(pid)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--", "no-such-program"], "no-such-program: cannot be started: No such file"),
        (["--", "node no-such.mjs"], "without the quotes: wsraw conform -- node no-such.mjs"),
        (["--", str(ROOT / "examples/common.py")], "wsraw conform -- wsraw worker /"),
        (["--rules=teext", "--", "x"], "there is no rule 'teext'; there are"),
        ([], "Missing argument 'COMMAND"),
    ],
)
def test_wrong_options_of_conform_are_refused(arguments: list[str], words: str) -> None:
    done = wsraw("conform", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
