"""I/O. The folders in which workers keep the versions of their handlers, as they were loaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Final

from wsraw.config.programs import KEPT, LOADED, Program
from wsraw.supervisor.decisions.versions import Version

FOLDER: Final = "versions"
"""Name in the run folder; it has a folder for each version, by its number."""


class VersionFolders:
    """The folders in which workers keep their versions, and from which they load them."""

    def __init__(self, run_folder: Path, kept: Collection[int] = ()) -> None:
        self._folder = run_folder / FOLDER
        self.keep(kept)

    def variable(self, version: Version, program: Program) -> str:
        """What a worker of this program is told about its version; "" if the worker keeps none."""
        if program.file is None:
            return ""
        folder = str(self._place(version.number, program))
        return KEPT + folder if version.is_kept else folder

    def problem(self, number: int, program: Program) -> str:
        """Why that version of a program cannot be loaded again, or ""."""
        if program.file is None and not program.is_foreign:
            # Handlers of wsraw's own are the same in all versions.
            return ""
        if program.file is None:
            return f"{program.label} is not a Python file: put the old version back, and reload"
        if not (self._place(number, program) / LOADED).exists():
            return f"version {number} of {program.label} was not kept; see the log for why"
        return ""

    def forget(self, number: int, program: Program) -> None:
        """Remove the kept files of that version of a program. Never raises."""
        shutil.rmtree(self._place(number, program), ignore_errors=True)

    def keep(self, numbers: Collection[int]) -> None:
        """Remove all other versions. Never raises: at worst, they take space."""
        wanted = {str(number) for number in numbers}
        try:
            found = os.listdir(self._folder)
        except OSError:
            return
        for name in found:
            if name not in wanted:
                shutil.rmtree(self._folder / name, ignore_errors=True)

    def _place(self, number: int, program: Program) -> Path:
        # Each handlers file has a folder of its own: two may be in one pool, and share modules.
        assert program.file is not None
        name = program.file.encode(errors="surrogateescape").hex()[-120:]
        return self._folder / str(number) / name
