"""Sans-I/O. The head of a frame whose payload is not copied. In a module of its own, as mypyc
compiles no class that is derived from bytes."""

from __future__ import annotations


class Head(bytes):
    """The head of a frame; its payload is to be written next."""
