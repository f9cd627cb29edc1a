"""Sans-I/O. The handshake of a peer: a dict whose look-ups ignore case."""

from __future__ import annotations

from typing import TypeVar, overload

T = TypeVar("T")


class Inf(dict[str, str]):
    """Header fields by name, ignoring case (RFC 9110, section 5.1), and the gateway's own entries.

    An exact match wins, so `inf["Protocol"]`, `inf["method"]` and `inf["url"]` are always the
    gateway's, whatever headers a peer sends.
    """

    __slots__ = ()

    def __missing__(self, name: str) -> str:
        lower = name.lower()
        for each, value in self.items():
            if each.lower() == lower:
                return value
        raise KeyError(name)

    @overload
    def get(self, name: str, default: None = None, /) -> str | None: ...
    @overload
    def get(self, name: str, default: str, /) -> str: ...
    @overload
    def get(self, name: str, default: T, /) -> str | T: ...

    def get(self, name: str, default: object = None, /) -> object:
        """The value of that name, ignoring case, or `default`."""
        try:
            return self[name]
        except KeyError:
            return default

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def copy(self) -> Inf:
        return Inf(self)
