"""What a fuzz target is; every module in targets/ is one."""

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
    """A function that raises for a bug of ours. Its result tells inputs apart: inputs with a new
    result are kept and mutated.
    """
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()
    """Byte strings that are worth inserting."""
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
