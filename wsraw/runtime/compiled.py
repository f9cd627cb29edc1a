"""Whether the hot path is compiled (docs/compiled.md)."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES

from wsraw.runtime import loop


def is_compiled() -> bool:
    """Whether the extension modules are loaded instead of the Python sources."""
    return str(loop.__file__).endswith(tuple(EXTENSION_SUFFIXES))
