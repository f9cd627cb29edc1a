"""Sans-I/O. Attributes of an object to a record and back, by a plan that names all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar

from wsraw.gateway.frozen.records import State, Time

T = TypeVar("T", bound=State)

PLANS: Final[dict[type, Plan[Any]]] = {}
"""By class. A test compares the plans with the attributes of those classes, so that none is
forgotten."""


class Plan(Generic[T]):
    """How a class is frozen: which of its attributes are copied as they are, which are translated,
    and which are left out, each with its reason."""

    def __init__(
        self,
        cls: type,
        record: type[T],
        *,
        copied: str = "",
        translated: str = "",
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        self.cls = cls
        self.record = record
        self.copied = copied.split()
        self.translated = translated.split()
        self.left_out = dict(left_out or {})
        self._read: Callable[[object], tuple[Any, ...]] = (
            attrgetter(*self.copied) if len(self.copied) > 1 else self._read_one
        )
        self._fields = [name.removeprefix("_") for name in self.copied]
        PLANS[cls] = self

    def _read_one(self, source: object) -> tuple[Any, ...]:
        return tuple([getattr(source, name) for name in self.copied])

    def freeze(self, source: object, **translated: Any) -> T:
        """The record of an object: its copied attributes, and the translated ones."""
        return self.record(**dict(zip(self._fields, self._read(source), strict=True)), **translated)

    def thaw(self, record: T, target: object) -> None:
        """Set the copied attributes of an object; the caller sets the others."""
        for name, field in zip(self.copied, self._fields, strict=True):
            setattr(target, name, getattr(record, field))


class Clock:
    """Times relative to one moment, as records hold them: the clocks of two processes may differ,
    and no deadline may run while nobody can keep it."""

    __slots__ = ("now",)

    def __init__(self, now: float) -> None:
        self.now = now

    def since(self, when: float) -> float:
        """A time for a record; infinity, for never, stays infinity."""
        return when - self.now

    def at(self, since: float) -> float:
        """A time from a record."""
        return self.now + since

    def past(self, when: float) -> Time:
        """A time for a record, where 0.0 means never."""
        return when - self.now if when else None

    def when(self, past: Time) -> float:
        """A time from a record, where 0.0 means never."""
        return self.now + past if past is not None else 0.0
