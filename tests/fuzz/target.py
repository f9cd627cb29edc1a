"""What a target is, and which there are: every module in targets/ is one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent


class Target(NamedTuple):
    name: str
    run: Callable[[bytes], Hashable]
    """Raises for a fault of ours. What it returns tells inputs apart: one that gives something new
    is kept, to be changed further."""
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()
    """Byte strings that are worth putting in."""
    largest: int = 2048


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules([str(FOLDER / "targets")]))


def load(name: str) -> Target:
    module = importlib.import_module(f"tests.fuzz.targets.{name}")
    return Target(
        name,
        module.run,
        module.SEEDS,
        getattr(module, "WORDS", ()),
        getattr(module, "LARGEST", 2048),
    )
