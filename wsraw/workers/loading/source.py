"""I/O. Loads handlers, and their project's modules, as they are on disk.

Python uses cached bytecode if the source has the same size and the same time in seconds. A second
edit soon after the first, or a file copied with its old time, would be reloaded as old code. So the
source is compiled each time, which takes about 0.01 s for 1,000 lines.

The standard library and installed packages are not affected, nor is wsraw itself.

Workers of a run also keep each source, or load one that was kept (versions.py).
"""

from __future__ import annotations

import os
from importlib.machinery import SourceFileLoader
from pathlib import PurePath
from types import CodeType
from typing import Final

from wsraw.workers.loading.versions import KeptVersion, SourceKeeper

INSTALLED: Final = frozenset(("site-packages", "dist-packages"))

_LIBRARY: Final = PurePath(os.__file__).parent
_OURS: Final = PurePath(__file__).parents[2]

_keeper: SourceKeeper | None = None
_version: KeptVersion | None = None


class Loader(SourceFileLoader):
    """Loads the source, whatever `__pycache__` holds."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the source. Raises OSError or SyntaxError, as loaders do."""
        path = self.get_filename(fullname)
        source = _version.source(path) if _version is not None else None
        if source is None:
            source = self.get_data(path)
        if _keeper is not None and not PurePath(path).is_relative_to(_OURS):
            _keeper.keep(fullname, path, source, is_package=self.is_package(fullname))
        return self.source_to_code(source, path)


def install(keeper: SourceKeeper | None = None, version: KeptVersion | None = None) -> None:
    """Load all modules of this process in this way, however they are imported. `keeper` keeps their
    sources; modules of `version` are loaded from there."""
    global _keeper, _version
    _keeper, _version = keeper, version
    if version is not None:
        version.install(Loader)
    usual = SourceFileLoader.get_code

    def get_code(loader: SourceFileLoader, fullname: str) -> CodeType | None:
        # Derived loaders may compile in a different way.
        if type(loader) is SourceFileLoader and not _is_installed(loader.path):
            return Loader(fullname, loader.path).get_code(fullname)
        return usual(loader, fullname)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign, assignment]


def is_file(path: str) -> bool:
    """Whether a file exists, on disk or in the version that is loaded."""
    return is_kept(path) or os.path.isfile(path)


def is_kept(path: str) -> bool:
    """Whether a file is loaded from a kept version."""
    return _version is not None and path in _version


def _is_installed(path: str) -> bool:
    pure = PurePath(path)
    ours = (_LIBRARY, _OURS)
    return not INSTALLED.isdisjoint(pure.parts) or any(map(pure.is_relative_to, ours))
