"""Run commands of the command line against a running server."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Any

from tests.deadline import eventually
from tests.e2e.serving import Serving
from tests.running import wsraw


def ask(serving: Serving, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command against that run, within the deadline of every command."""
    assert serving.folder is not None
    return wsraw(*arguments, "--run-dir", str(serving.folder))


def done(serving: Serving, *arguments: str) -> str:
    """Run a command that must succeed; returns its output."""
    told = ask(serving, *arguments)
    assert told.returncode == 0, f"{told.stderr}\n{serving}"
    return told.stdout


async def while_serving(serving: Serving, *arguments: str) -> str:
    """`done`, in a thread, while clients of this process keep working."""
    return await asyncio.to_thread(done, serving, *arguments)


def ready(serving: Serving) -> list[dict[str, Any]]:
    """The workers that `wsraw status` shows as ready."""
    return [worker for worker in serving.status()["workers"] if worker["state"] == "ready"]


def until_ready(serving: Serving, count: int) -> list[dict[str, Any]]:
    """Wait until that many workers are ready and there are no others."""

    def look() -> list[dict[str, Any]] | None:
        workers = serving.status()["workers"]
        good = len(workers) == count and all(each["state"] == "ready" for each in workers)
        return workers if good else None

    found = eventually(look, f"{count} workers to be ready")
    assert found is not None
    return found
