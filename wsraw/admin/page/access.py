"""I/O. The token of the page, if the setting admin_token names no file: one of the run's own."""

from __future__ import annotations

import secrets
from pathlib import Path

from wsraw.supervisor.run_folder.folder import ADMIN_TOKEN, write_secret


def own_token(folder: Path) -> str:
    """The token in the run folder, made at the first call. Raises OSError."""
    path = folder / ADMIN_TOKEN
    try:
        found = path.read_text("ascii").strip()
    except FileNotFoundError:
        found = ""
    if not found:
        # Another page that is open keeps its token when this process is replaced.
        found = secrets.token_urlsafe(24)
        write_secret(path, f"{found}\n")
    return found
