"""I/O. Loads handlers, and their project's modules, as they are on disk.

Python uses cached bytecode if the source has the same size and the same time in seconds. A second
edit soon after the first, or a file copied with its old time, would be reloaded as old code. Here
bytecode is used only if it was made from the same text (PEP 552, "checked hash-based pycs"), and is
written in this form.

The standard library and installed packages are not affected.
"""

from __future__ import annotations

import importlib.util
import marshal
import os
import sys
from importlib.machinery import SourceFileLoader
from pathlib import PurePath
from types import CodeType
from typing import Final

CHECKED_HASH: Final = 0b11
"""Flags of such bytecode."""

INSTALLED: Final = frozenset(("site-packages", "dist-packages"))

_LIBRARY: Final = PurePath(os.__file__).parent


class Loader(SourceFileLoader):
    """Loads the source, whatever `__pycache__` holds."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the source, or use bytecode made from the same text."""
        return code_of(self, fullname)


def install() -> None:
    """Load all modules of this process in this way, however they are imported."""
    usual = SourceFileLoader.get_code

    def get_code(loader: SourceFileLoader, fullname: str) -> CodeType | None:
        # Derived loaders may compile in their own way.
        if type(loader) is SourceFileLoader and not _is_installed(loader.path):
            return code_of(loader, fullname)
        return usual(loader, fullname)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign, assignment]


def code_of(loader: SourceFileLoader, fullname: str) -> CodeType:
    """The code of a module. Raises OSError or SyntaxError, as loaders do."""
    path = loader.get_filename(fullname)
    source = loader.get_data(path)
    try:
        cache = importlib.util.cache_from_source(path)
    except NotImplementedError:
        cache = ""
    head = importlib.util.MAGIC_NUMBER + CHECKED_HASH.to_bytes(4, "little")
    head += importlib.util.source_hash(source)
    code = _cached(loader, cache, head) if cache else None
    # Bytecode from another folder would show wrong paths in tracebacks.
    if code is None or code.co_filename != path:
        code = loader.source_to_code(source, path)
        if cache and not sys.dont_write_bytecode:
            # As private as its source.
            mode = os.stat(path).st_mode | 0o200
            loader.set_data(cache, head + marshal.dumps(code), _mode=mode)
    return code


def _cached(loader: SourceFileLoader, cache: str, head: bytes) -> CodeType | None:
    try:
        data = loader.get_data(cache)
        code = marshal.loads(memoryview(data)[len(head) :]) if data.startswith(head) else None
    except (OSError, EOFError, ValueError, TypeError):
        # Missing or damaged.
        return None
    return code if isinstance(code, CodeType) else None


def _is_installed(path: str) -> bool:
    pure = PurePath(path)
    return not INSTALLED.isdisjoint(pure.parts) or pure.is_relative_to(_LIBRARY)
