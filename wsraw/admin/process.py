"""I/O. The admin process: a child of the supervisor that serves HTTP and holds nothing else."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from wsraw.admin.page.access import OwnToken
from wsraw.admin.run import Run
from wsraw.admin.server import AdminServer
from wsraw.config.settings import Settings
from wsraw.runtime.launch import Parent
from wsraw.runtime.sockets import adopt


def main(settings: Settings, shared: str, supervisor: Parent) -> int:
    """Serve until the supervisor is gone. `shared`: the listening socket. Returns the exit code."""
    # Ctrl-C reaches the whole process group; the supervisor decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(supervisor,), daemon=True).start()
    folder = Path(settings.run_dir)
    page_token = None if settings.admin_token else OwnToken(folder)
    if page_token is None:
        OwnToken.remove(folder)
    server = AdminServer(
        adopt(shared),
        Run(settings.run_dir),
        settings.admin_token,
        page_token=page_token,
        publish_token_file=settings.publish_token,
    )
    server.serve_forever()
    return 0


def _end_with(supervisor: Parent) -> None:
    while supervisor.line() is not None:
        pass
    os._exit(0)
