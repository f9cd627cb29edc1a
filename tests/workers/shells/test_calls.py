"""A timer that does not return ends its worker; one that waits for too long is cancelled."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import pytest

from tests.deadline import eventually
from wsraw.workers.shells import calls as calls_module
from wsraw.workers.shells.calls import Calls

SHORT = 0.2


def test_a_function_that_does_not_return_ends_the_process(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = threading.Event()

    def prices(until: threading.Event) -> str:
        until.wait(60)
        return "returned"

    with caplog.at_level(logging.ERROR):
        calls = Calls(SHORT, ended.set)
        assert calls.plain("every", prices, ended) == "returned"
    assert ended.is_set()
    record = caplog.records[0]
    assert "the timer test_a_function_that" in record.message and "prices has run" in record.message
    stack = record.__dict__["traceback"]
    assert "until.wait(60)" in stack and "in plain" not in stack


def test_quick_calls_one_after_the_other_end_nothing() -> None:
    ended = threading.Event()
    calls = Calls(SHORT, ended.set)
    until = time.monotonic() + 4 * SHORT
    while time.monotonic() < until:
        calls.plain("call_soon", time.sleep, 0.001)
    assert not ended.is_set()


def test_a_call_that_is_known_to_live_may_take_longer() -> None:
    """A single check may find no new `lives`: only a whole limit of such checks ends a call."""
    ended = threading.Event()
    calls = Calls(4.0, ended.set)

    def waits() -> None:
        until = time.monotonic() + 6.0
        while time.monotonic() < until:
            calls.lives()
            time.sleep(0.05)

    calls.plain("every", waits)
    assert not ended.is_set()


def test_without_a_limit_nothing_is_watched() -> None:
    calls = Calls(0.0, pytest.fail)

    async def waits() -> str:
        await asyncio.sleep(0)
        return "x"

    assert calls.plain("every", lambda: "y") == "y"
    assert calls._thread is None
    assert asyncio.run(calls.either("every", waits)) == "x"


def awaited(calls: Calls, what: str, function: Any) -> Any:
    async def run() -> Any:
        return await calls.either(what, function)

    return asyncio.run(run())


def test_an_async_timer_that_waits_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    ended = threading.Event()

    async def inner() -> None:
        await asyncio.sleep(60)

    async def prices() -> None:
        await inner()

    with pytest.raises(TimeoutError, match="longer than handler_timeout"):
        awaited(Calls(SHORT, ended.set), "every", prices)
    assert not ended.is_set()
    [record] = caplog.records
    assert "prices takes longer than handler_timeout (0.2 s); it awaits:" in record.message
    assert "await inner()" in record.message and "await asyncio.sleep(60)" in record.message


def test_an_async_timer_that_cannot_be_cancelled_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls_module, "CANCEL_GRACE", 0.1)
    ended = threading.Event()

    async def stubborn() -> str:
        while not ended.is_set():
            try:
                await asyncio.sleep(60 if not ended.is_set() else 0)
            except asyncio.CancelledError:
                while not ended.is_set():
                    await asyncio.sleep(0.01)
        return "at last"

    assert awaited(Calls(SHORT, ended.set), "every", stubborn) == "at last"


def test_what_call_soon_has_begun_may_wait_but_not_block() -> None:
    ended = threading.Event()
    calls = Calls(SHORT, ended.set)

    async def waits() -> str:
        await asyncio.sleep(3 * SHORT)
        return "waited"

    assert awaited(calls, "call_soon", waits) == "waited" and not ended.is_set()

    async def blocks() -> str:
        await asyncio.sleep(0)
        ended.wait(60)
        return "blocked"

    assert awaited(calls, "call_soon", blocks) == "blocked" and ended.is_set()
    eventually(ended.is_set)


def test_steps_pass_on_what_is_raised_thrown_and_returned() -> None:
    calls = Calls(60.0, pytest.fail)
    seen: list[str] = []

    async def fails() -> None:
        raise KeyError("of the timer")

    async def cleans() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            seen.append("cleaned")

    with pytest.raises(KeyError, match="of the timer"):
        awaited(calls, "call_soon", fails)

    async def run() -> None:
        task = asyncio.ensure_future(calls.either("call_soon", cleans))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert seen == ["cancelled", "cleaned"]
