"""I/O. Code as it is on the disk: of handlers, and of what they import from their project.

Python takes a module from the bytecode in its `__pycache__` if that was made of a source with the
same size, written in the same second. So an edit soon after another one, or a file that is copied
with the time that it had, would be reloaded as the code before it. Here bytecode is taken only if
it was made of the very text of the source (PEP 552: "checked hash-based pycs", which Python itself
understands, too); and it is written like that, so that a start takes no longer than before.

The standard library and installed packages are left as they are: whoever installs compiles them,
and their folders often cannot be written to.
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
"""The flags of such bytecode."""

INSTALLED: Final = frozenset(("site-packages", "dist-packages"))

_LIBRARY: Final = PurePath(os.__file__).parent


class Loader(SourceFileLoader):
    """Loads what the source says, whatever lies in `__pycache__`."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the source, or take bytecode that was made of the same text."""
        return code_of(self, fullname)


def install() -> None:
    """Have all modules of this process loaded so, by whichever way they are imported."""
    usual = SourceFileLoader.get_code

    def get_code(loader: SourceFileLoader, fullname: str) -> CodeType | None:
        # A loader derived from it may compile in its own way.
        if type(loader) is SourceFileLoader and not _is_installed(loader.path):
            return code_of(loader, fullname)
        return usual(loader, fullname)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign, assignment]


def code_of(loader: SourceFileLoader, fullname: str) -> CodeType:
    """The code of that module. Raises OSError or SyntaxError, as loaders do."""
    path = loader.get_filename(fullname)
    source = loader.get_data(path)
    try:
        cache = importlib.util.cache_from_source(path)
    except NotImplementedError:
        cache = ""
    head = importlib.util.MAGIC_NUMBER + CHECKED_HASH.to_bytes(4, "little")
    head += importlib.util.source_hash(source)
    code = _cached(loader, cache, head) if cache else None
    # Its folder may have been another one; tracebacks shall show where the file is now.
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
        # None there, or cut short.
        return None
    return code if isinstance(code, CodeType) else None


def _is_installed(path: str) -> bool:
    pure = PurePath(path)
    return not INSTALLED.isdisjoint(pure.parts) or pure.is_relative_to(_LIBRARY)
