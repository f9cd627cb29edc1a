"""I/O. The sources of the handlers, kept as they were loaded, so that they can be loaded again.

`wsraw rollback`, and a worker that starts while a new version is on trial, load a version that is
not on disk any more. So each worker of a run keeps the sources that it loads from the user's
project, in a folder of its version: a file for each module, and an index of one JSON object a line.
Workers of a version may write side by side; the first one to load a module decides. Installed
packages and data files are not kept.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import linecache
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final, NamedTuple

from wsraw.config import programs
from wsraw.runtime import private
from wsraw.workers.reporting.worker_log import log

if TYPE_CHECKING:
    from importlib.abc import Loader

INDEX: Final = "index.jsonl"

MOST_KEPT: Final = 64 * 1024 * 1024
"""Bytes of sources that a worker keeps; a version of a larger project cannot be loaded again."""


NOT_KEPT: Final = "`wsraw rollback` cannot come back to this version: %s"


class KeptModule(NamedTuple):
    """A module in the index."""

    name: str
    path: str
    """The original path, as in `__file__`."""
    is_package: bool
    file: str
    """The name of its file in the folder."""


def read_index(folder: str) -> list[KeptModule]:
    """The modules of a version. Raises OSError."""
    found: dict[str, KeptModule] = {}
    with open(os.path.join(folder, INDEX), encoding="utf-8") as file:
        for line in file:
            try:
                kept = KeptModule(**json.loads(line))
            except (ValueError, TypeError):
                # A worker was killed while it wrote this line.
                continue
            found.setdefault(kept.path, kept)
    return list(found.values())


class SourceKeeper:
    """Keeps the sources that this worker loads. If the disk fails, a rollback becomes impossible,
    but the worker continues."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._left = MOST_KEPT
        self._count = 0
        self._known: set[str] = set()
        """The paths that are in the index."""
        self.why = ""
        """Why not everything is kept."""
        self._is_loaded = False
        try:
            private.make_folder(Path(folder))
            self._known = {kept.path for kept in read_index(folder)}
        except FileNotFoundError:
            # The first worker of its version.
            pass
        except OSError as error:
            self.why = error.strerror or str(error)

    def keep(self, name: str, path: str, source: bytes, *, is_package: bool) -> None:
        """Keep the source of a module. Never raises."""
        self._left -= len(source)
        if self.why or path in self._known:
            return
        if self._left < 0:
            self._fail(f"the project has more than {MOST_KEPT >> 20} MiB of sources")
            return
        self._known.add(path)
        try:
            file, descriptor = self._new_file()
            with open(descriptor, "wb") as written:
                written.write(source)
            kept = KeptModule(name, path, is_package, file)
            self._append(INDEX, json.dumps(kept._asdict()).encode() + b"\n")
        except OSError as error:
            self._fail(error.strerror or str(error))

    def _fail(self, why: str) -> None:
        """Not everything could be kept. Once the handlers are loaded, the version must not be
        loaded again without modules that a handler has imported later: a part would come from
        disk."""
        self.why = why
        if self._is_loaded:
            log.warning(NOT_KEPT, why)
            with suppress(OSError):
                os.unlink(os.path.join(self._folder, programs.LOADED))

    def loaded(self) -> None:
        """The handlers are loaded: the sources kept so far are enough. Never raises."""
        if not self.why:
            try:
                self._append(programs.LOADED, b"")
                self._is_loaded = True
            except OSError as error:
                self._fail(error.strerror or str(error))
        if self.why:
            log.warning(NOT_KEPT, self.why)

    def _new_file(self) -> tuple[str, int]:
        """The name and a descriptor of a new file. An earlier process may have had our pid. Raises
        OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        while True:
            self._count += 1
            file = f"{os.getpid()}-{self._count}"
            try:
                return file, private.open_file(os.path.join(self._folder, file), flags)
            except FileExistsError:
                continue

    def _append(self, name: str, line: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        descriptor = private.open_file(os.path.join(self._folder, name), flags)
        try:
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)


class KeptVersion:
    """A kept version: its modules are loaded from it, wherever their files are now. Other modules
    are loaded from disk. Raises OSError."""

    def __init__(self, folder: str) -> None:
        modules = read_index(folder)
        self._folder = folder
        self._by_path = {kept.path: kept for kept in modules}
        self._by_name = {kept.name: kept for kept in modules}
        self._namespaces = _namespaces(self._by_name)
        self._loader: Callable[[str, str], Loader] | None = None

    def __contains__(self, path: str) -> bool:
        return path in self._by_path

    def source(self, path: str) -> bytes | None:
        """The source of the file with that path, or None. Raises OSError."""
        kept = self._by_path.get(path)
        if kept is None:
            return None
        with open(os.path.join(self._folder, kept.file), "rb") as file:
            source = file.read()
        # Tracebacks must show lines of the running code, not of the files on disk.
        lines = importlib.util.decode_source(source).splitlines(keepends=True)
        linecache.cache[path] = (len(source), None, lines, path)
        return source

    def install(self, loader: Callable[[str, str], Loader]) -> None:
        """Search for modules in the version first, even if their files are gone. `loader` makes a
        loader from the name of a module and its path."""
        self._loader = loader
        sys.meta_path.insert(0, self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Like importlib's finders."""
        kept = self._by_name.get(name)
        if self._loader is None:
            return None
        if kept is None:
            return self._namespace(name, path)
        folders = [os.path.dirname(kept.path)] if kept.is_package else None
        return importlib.util.spec_from_file_location(
            name,
            kept.path,
            loader=self._loader(name, kept.path),
            submodule_search_locations=folders,
        )

    def _namespace(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """A package without a file of its own, of which modules were kept. Its folder may be gone,
        or may have such a file now."""
        folders = self._namespaces.get(name)
        if folders is None:
            return None
        found = PathFinder.find_spec(name, path)
        others: list[str] = []
        if found is not None and found.origin is not None:
            if os.path.dirname(found.origin) not in folders:
                # It is not the kept one: for example, a package of another kind.
                return None
        elif found is not None:
            others = [*(found.submodule_search_locations or ())]
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [*dict.fromkeys([*others, *folders])]
        return spec


def _namespaces(modules: Mapping[str, KeptModule]) -> dict[str, list[str]]:
    """The packages without a file among these modules, and their folders."""
    found: dict[str, list[str]] = {}
    for name, kept in modules.items():
        folder = os.path.dirname(kept.path) if kept.is_package else kept.path
        while "." in name:
            name, folder = name.rpartition(".")[0], os.path.dirname(folder)
            if name not in modules and folder not in found.setdefault(name, []):
                found[name].append(folder)
    return found
