"""I/O. The token of the page, if the setting admin_token names no file: one of the run's own."""

from __future__ import annotations

import logging
import secrets
from contextlib import suppress
from pathlib import Path

from wsraw.runtime.printable import os_error
from wsraw.supervisor.run_folder.folder import ADMIN_TOKEN, write_secret

log = logging.getLogger("wsraw.admin")


class OwnToken:
    """The token of the page in a file of the run folder, where `wsraw status` finds it."""

    def __init__(self, folder: Path) -> None:
        self.text = ""
        """The token; empty as long as none could be written."""
        self._path = folder / ADMIN_TOKEN
        self._trouble = ""

    def keep(self) -> None:
        """Read the token, or write a new one if the file is missing. To be called repeatedly: a
        full disk may have room later, and a removed file must come back."""
        try:
            self.text = self._read() or self._write()
            self._trouble = ""
        except OSError as error:
            trouble = os_error(error)
            if trouble != self._trouble:
                log.error("the admin page has no token: %s", trouble)
            self._trouble = trouble

    @staticmethod
    def remove(folder: Path) -> None:
        """Remove the file, because admin_token names another one. A token that is left from before,
        or from a run that was killed, would be in the link that `wsraw status` shows, and not be
        accepted."""
        with suppress(OSError):
            (folder / ADMIN_TOKEN).unlink()

    def _read(self) -> str:
        try:
            return self._path.read_text("ascii").strip()
        except (FileNotFoundError, ValueError):
            return ""

    def _write(self) -> str:
        # A page that is open keeps its token, even when this process is replaced.
        text = self.text or secrets.token_urlsafe(24)
        write_secret(self._path, f"{text}\n")
        return text
