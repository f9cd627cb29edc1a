"""I/O. The agent's process: a child of the supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

from wsraw.cluster.agent import Agent
from wsraw.config.settings import Settings
from wsraw.runtime.launch import Parent


def main(settings: Settings, endpoint: str, token: str, supervisor: Parent) -> int:
    """Run the agent until the gateway or the supervisor ends it. Returns the exit code."""
    # Ctrl-C reaches the whole process group; the supervisor decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(supervisor,), daemon=True).start()
    # The default loop of Windows cannot watch the link.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(_run(settings, endpoint, token))
    return 0


async def _run(settings: Settings, endpoint: str, token: str) -> None:
    await Agent(settings, endpoint, token).run()


def _end_with(supervisor: Parent) -> None:
    while supervisor.line() is not None:
        pass
    os._exit(0)
