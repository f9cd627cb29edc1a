from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import pytest

from wsraw.workers.reporting.stacks import where


async def waits(gate: asyncio.Event) -> None:
    await gate.wait()


async def outer(gate: asyncio.Event) -> None:
    await waits(gate)


@types.coroutine
def old(gate: asyncio.Event) -> Generator[Any, Any, None]:
    yield from waits(gate)


async def numbers(gate: asyncio.Event) -> AsyncIterator[int]:
    await waits(gate)
    yield 1


async def loops(gate: asyncio.Event) -> None:
    async for _ in numbers(gate):
        pass


async def deep(gate: asyncio.Event, left: int = 100) -> None:
    await (deep(gate, left - 1) if left else waits(gate))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (outer, ["outer", "waits", "wait"]),
        (old, ["old", "waits", "wait"]),
        (loops, ["loops"]),
        (deep, ["deep"]),
    ],
)
def test_the_stack_of_a_waiting_coroutine_is_shown(
    make: Callable[[asyncio.Event], Any], names: list[str]
) -> None:
    async def main() -> str:
        gate = asyncio.Event()
        awaited = make(gate)

        async def drive() -> None:
            await awaited

        task = asyncio.ensure_future(drive())
        await asyncio.sleep(0)
        text = where(awaited)
        gate.set()
        await task
        return text

    text = asyncio.run(main())
    found = [line.rpartition(" in ")[2] for line in text.splitlines() if " in " in line]
    assert found[: len(names)] == names
    assert ("repeated" if make is deep else "waiting for") in text


def test_an_awaitable_that_is_not_a_coroutine_is_shown() -> None:
    assert where(None) == ""
    assert where(5) == "  waiting for int"
