"""Commands of the command line to a run that serves."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Any

from tests.deadline import eventually
from tests.e2e.serving import Serving
from tests.running import wsraw


def ask(serving: Serving, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command to that run; it must not take for ever."""
    assert serving.folder is not None
    return wsraw(*arguments, "--run-dir", str(serving.folder))


def done(serving: Serving, *arguments: str) -> str:
    """A command that must succeed; what it says."""
    told = ask(serving, *arguments)
    assert told.returncode == 0, f"{told.stderr}\n{serving}"
    return told.stdout


async def while_serving(serving: Serving, *arguments: str) -> str:
    """The same, while clients of this process are at work."""
    return await asyncio.to_thread(done, serving, *arguments)


def ready(serving: Serving) -> list[dict[str, Any]]:
    """Those workers that serve, as status tells."""
    return [worker for worker in serving.status()["workers"] if worker["state"] == "ready"]


def until_ready(serving: Serving, count: int) -> list[dict[str, Any]]:
    """Wait until so many serve, and no others are there."""

    def look() -> list[dict[str, Any]] | None:
        workers = serving.status()["workers"]
        good = len(workers) == count and all(each["state"] == "ready" for each in workers)
        return workers if good else None

    found = eventually(look, f"{count} workers to be ready")
    assert found is not None
    return found
