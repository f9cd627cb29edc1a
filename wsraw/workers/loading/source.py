"""I/O. Loads handlers, and their project's modules, as they are on disk.

Python uses cached bytecode if the source has the same size and the same time in seconds. A second
edit soon after the first, or a file copied with its old time, would be reloaded as old code. So the
source is compiled each time, which takes about 0.01 s for 1,000 lines.

The standard library and installed packages are not affected.
"""

from __future__ import annotations

import os
from importlib.machinery import SourceFileLoader
from pathlib import PurePath
from types import CodeType
from typing import Final

INSTALLED: Final = frozenset(("site-packages", "dist-packages"))

_LIBRARY: Final = PurePath(os.__file__).parent


class Loader(SourceFileLoader):
    """Loads the source, whatever `__pycache__` holds."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the source. Raises OSError or SyntaxError, as loaders do."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def install() -> None:
    """Load all modules of this process in this way, however they are imported."""
    usual = SourceFileLoader.get_code

    def get_code(loader: SourceFileLoader, fullname: str) -> CodeType | None:
        # Derived loaders may compile in their own way.
        if type(loader) is SourceFileLoader and not _is_installed(loader.path):
            return Loader(fullname, loader.path).get_code(fullname)
        return usual(loader, fullname)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign, assignment]


def _is_installed(path: str) -> bool:
    pure = PurePath(path)
    return not INSTALLED.isdisjoint(pure.parts) or pure.is_relative_to(_LIBRARY)
