from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from deadline import UNIT

from wsraw.gateway import resolver as module
from wsraw.gateway.resolver import THREADS, Resolver


class Loop:
    """The loop's thread, as far as a resolver needs it."""

    def __init__(self) -> None:
        self._posted: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.answers: list[tuple[Any, str]] = []
        self.threads: set[int] = set()
        self.resolver = Resolver(self._posted.put)

    def answer(self, addresses: list[Any], why: str) -> None:
        self.threads.add(threading.get_ident())
        self.answers.append((addresses, why))

    def wait(self, count: int = 1) -> None:
        while len(self.answers) < count:
            self._posted.get(timeout=20 * UNIT)()


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)]
)
def test_an_address_is_answered_at_once(host: str, family: int) -> None:
    loop = Loop()
    loop.resolver.resolve(host, 80, loop.answer)
    [([(found, address), *_], why)] = loop.answers
    assert (found, address[:2], why) == (family, (host, 80), "")


def test_a_name_is_looked_up_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[int] = set()
    real = socket.getaddrinfo

    def watched(host: str, port: int, *, type: int, flags: int) -> Any:
        if not flags & socket.AI_NUMERICHOST:
            threads.add(threading.get_ident())
        return real(host, port, type=type, flags=flags)

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    loop = Loop()
    loop.resolver.resolve("localhost", 80, loop.answer)
    assert loop.answers == []
    loop.wait()
    [(addresses, why)] = loop.answers
    assert {address[0] for _, address in addresses} & {"127.0.0.1", "::1"}
    assert why == ""
    assert len(threads) == 1
    assert loop.threads == {threading.get_ident()}
    assert not threads & loop.threads


@pytest.mark.parametrize(
    "host",
    [
        "no-such-name.invalid",
        "a..b",
        ".",
        "a" * 64,
        "a" * 64 + ".org",
        "b\0c",
        "x y",
        "ü" * 70,
        "%",
    ],
)
def test_a_name_that_cannot_be_is_answered_with_an_error(host: str) -> None:
    loop = Loop()
    loop.resolver.resolve(host, 80, loop.answer)
    loop.wait()
    [(addresses, why)] = loop.answers
    assert addresses == []
    assert why.startswith(f"cannot resolve {host!r}: ")


def test_slow_names_hold_up_no_more_than_their_own_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go, started = threading.Event(), threading.Semaphore(0)

    def slow(host: str, port: int, flags: int) -> list[Any]:
        if flags:
            raise OSError("not numeric")
        if host.startswith("slow"):
            started.release()
            assert go.wait(20 * UNIT)
        return [(socket.AF_INET, (host, port))]

    monkeypatch.setattr(module, "_look_up", slow)
    loop = Loop()
    for n in range(THREADS - 1):
        loop.resolver.resolve(f"slow{n}", 80, loop.answer)
        assert started.acquire(timeout=20 * UNIT)
    for n in range(20):
        loop.resolver.resolve(f"quick{n}", 80, loop.answer)
    loop.wait(20)
    assert all(addresses[0][1][0].startswith("quick") for addresses, _ in loop.answers)
    go.set()
    loop.wait(20 + THREADS - 1)
    assert sum(thread.name == "resolver" for thread in threading.enumerate()) >= THREADS
