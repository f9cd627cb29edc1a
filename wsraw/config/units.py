"""Sans-I/O. Sizes and times as people write them: 256KiB, 1MB, 30s, 5m."""

from __future__ import annotations

import re
from typing import Final

_SIZES: Final = {
    "": 1,
    "b": 1,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
}
_TIMES: Final = {
    "": 1.0,
    "s": 1.0,
    "ms": 0.001,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
# Twelve digits are enough, and cannot overflow.
_QUANTITY: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?) ?([A-Za-z]*)")

SIZE_HINT: Final = "write a number of bytes, as in 65536, 64KiB or 1MB"
TIME_HINT: Final = "write a number of seconds, as in 30, or 30s, 500ms, 5m, 2h"


def parse_size(text: str) -> int:
    """Bytes; KiB, MiB, GiB are powers of 1024, KB, MB, GB of 1000. Raises ValueError with advice.

    A K or M alone is refused: half of all programs mean 1000 by K.
    """
    found = _QUANTITY.fullmatch(text.strip())
    factor = _SIZES.get(found[2].lower()) if found else None
    if found is None or factor is None:
        raise ValueError(f"{text!r} is not a size; {SIZE_HINT}")
    size = float(found[1]) * factor if "." in found[1] else int(found[1]) * factor
    if size != int(size):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)


def parse_time(text: str) -> float:
    """Seconds. Raises ValueError with advice."""
    found = _QUANTITY.fullmatch(text.strip())
    factor = _TIMES.get(found[2]) if found else None
    if found is None or factor is None:
        raise ValueError(f"{text!r} is not a length of time; {TIME_HINT}")
    # Divided instead of multiplied, where that is exact: 100ms is 0.1.
    return float(found[1]) / 1000 if found[2] == "ms" else float(found[1]) * factor


def show_size(size: int) -> str:
    """The shortest text that `parse_size` reads as this size."""
    for unit in ("GiB", "MiB", "KiB"):
        whole, rest = divmod(size, _SIZES[unit.lower()])
        if whole and not rest:
            return f"{whole}{unit}"
    return str(size)


def human_size(size: int | None) -> str:
    """A size for people: rounded, with its unit; a dash if it is not known."""
    if size is None:
        return "-"
    for unit in ("GiB", "MiB", "KiB"):
        whole = _SIZES[unit.lower()]
        if size >= whole:
            return f"{size / whole:.1f} {unit}"
    return f"{size} bytes"


def human_time(seconds: float | None) -> str:
    """A length of time for people: rounded, with its unit; a dash if it is not known."""
    if seconds is None:
        return "-"
    if not seconds:
        return "0"
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds * 1000:.2g} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"


def show_time(seconds: float) -> str:
    """A text that `parse_time` reads as this time, to the nanosecond."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"
