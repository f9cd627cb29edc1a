"""A part of the Autobahn test suite, in both roles. `make conformance` runs all of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deadline import COMMAND_DEADLINE
from tests.running import ROOT

RUN = ROOT / "tests" / "conformance" / "run.py"

CASES = "1.1.*,2.*,3.*,4.*,5.*,6.1.*,6.2.*,6.3.*,6.4.*,7.*,10.*,12.1.1,12.2.1,13.1.1,13.5.1,13.7.1"

TIMEOUT = COMMAND_DEADLINE


def conformance(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    # The suite gives up by itself, and cleans up, before this deadline would kill it.
    command = [sys.executable, str(RUN), "--out", str(tmp_path), "--timeout", str(TIMEOUT)]
    return subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=TIMEOUT + 150
    )


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_part_of_the_autobahn_suite_passes(tmp_path: Path, role: str) -> None:
    done = conformance(tmp_path, "--role", role, "--cases", CASES)
    assert done.returncode == 0, done.stdout + done.stderr
    told = re.search(rf"as {role}: (\d+) cases", done.stdout)
    assert told is not None
    assert int(told[1]) > 100
    assert (tmp_path / role / "index.html").exists()


def test_a_part_of_the_autobahn_suite_passes_with_joined_messages(tmp_path: Path) -> None:
    done = conformance(tmp_path, "--role", "server", "--cases", "5.*", "--option", "messages=whole")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_failing_case_is_reported(tmp_path: Path) -> None:
    # 13.* is UNIMPLEMENTED in a server that agrees on no compression.
    done = conformance(
        tmp_path, "--role", "server", "--cases", "1.1.1,13.1.1", "--option", "no-deflate"
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"UNIMPLEMENTED +1 +13\.1\.1", done.stdout), done.stdout
