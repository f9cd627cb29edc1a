"""Sans-I/O. The head of a frame whose payload is not copied. It has a module of its own because
mypyc compiles no class that is derived from bytes."""

from __future__ import annotations


class Head(bytes):
    """The head of a frame, which must be followed by its payload."""
