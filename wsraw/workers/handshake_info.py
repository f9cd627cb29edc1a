"""Sans-I/O. What a peer sent at the handshake: a dict whose look-ups ignore letter case."""

from __future__ import annotations

from typing import TypeVar, overload

T = TypeVar("T")


class Inf(dict[str, str]):
    """`inf`: names as the peer has sent them, found in any letter case (RFC 9110, section 5.1).

    A name that is there as it is asked for wins: so `inf["Protocol"]`, `inf["method"]` and
    `inf["url"]` are the gateway's words, whatever headers a peer sends.
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
        """The value of that name, in any letter case; `default` without one."""
        try:
            return self[name]
        except KeyError:
            return default

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def copy(self) -> Inf:
        """Another one, with the same."""
        return Inf(self)
