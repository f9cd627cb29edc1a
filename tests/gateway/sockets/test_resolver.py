from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.deadline import DEADLINE
from wsraw.gateway.sockets import resolver as module
from wsraw.gateway.sockets.resolver import THREADS, Resolver


class Loop:
    """The part of the loop that a resolver needs."""

    def __init__(self) -> None:
        self._posted: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.answers: list[tuple[Any, str]] = []
        self.threads: set[int] = set()
        self.resolver = Resolver(self._posted.put)

    def resolve(self, host: str) -> Callable[[], None]:
        # Each caller has a callback of its own, as in the dialer.
        return self.resolver.resolve(host, 80, lambda found, why: self.answer(found, why))

    def answer(self, addresses: list[Any] | None, why: str) -> None:
        self.threads.add(threading.get_ident())
        self.answers.append((addresses, why))

    def wait(self, count: int = 1) -> None:
        while len(self.answers) < count:
            self._posted.get(timeout=DEADLINE)()

    @property
    def hosts(self) -> list[str]:
        return [addresses[0][1][0] for addresses, _ in self.answers]


class Names:
    """Name servers that do not answer names with `dead` in front before `go` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.asked: list[str] = []
        self.began = threading.Semaphore(0)
        monkeypatch.setattr(module, "_look_up", self._look_up)

    def _look_up(self, host: str, port: int, flags: int) -> list[Any]:
        if flags:
            raise OSError("not numeric")
        self.asked.append(host)
        if host.startswith("dead"):
            self.began.release()
            assert self.go.wait(DEADLINE)
        return [(socket.AF_INET, (host, port))]

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self.began.acquire(timeout=DEADLINE)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)]
)
def test_an_address_is_answered_at_once(host: str, family: int) -> None:
    loop = Loop()
    loop.resolve(host)
    [([(found, address), *_], why)] = loop.answers
    assert (found, address[:2], why) == (family, (host, 80), "")


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "localhost."])
def test_localhost_is_answered_at_once(host: str) -> None:
    loop = Loop()
    loop.resolve(host)
    [(addresses, _)] = loop.answers
    assert [address[0] for _, address in addresses] == ["::1", "127.0.0.1"]


def test_a_name_is_looked_up_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[int] = set()
    real = socket.getaddrinfo

    def watched(host: str, port: int, *, type: int, flags: int) -> Any:
        if flags & socket.AI_NUMERICHOST:
            return real(host, port, type=type, flags=flags)
        threads.add(threading.get_ident())
        return real("127.0.0.1", port, type=type, flags=flags)

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    loop = Loop()
    loop.resolve("somewhere.example")
    assert loop.answers == []
    loop.wait()
    assert loop.hosts == ["127.0.0.1"]
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
def test_an_invalid_name_is_answered_with_an_error(host: str) -> None:
    loop = Loop()
    loop.resolve(host)
    loop.wait()
    [(addresses, why)] = loop.answers
    assert addresses is None
    assert why


# --- names whose servers are silent ---


def test_a_silent_domain_takes_half_of_the_free_threads(
    names: Names,
) -> None:
    """Look-ups that never end must not delay those of others (node #8436)."""
    loop = Loop()
    for n in range(3 * THREADS):
        loop.resolve(f"dead{n}.attacker.example")
    names.wait(THREADS // 2)
    for n in range(3 * THREADS):
        loop.resolve(f"dead{n}.other.example")
    names.wait(THREADS // 4)
    assert not names.began.acquire(blocking=False)
    for n in range(200):
        loop.resolve(f"quick{n}.good.example")
    loop.wait(200)
    assert all(host.startswith("quick") for host in loop.hosts)
    names.go.set()
    loop.wait(200 + 6 * THREADS)


def test_look_ups_of_the_same_name_are_shared(names: Names) -> None:
    loop = Loop()
    for _ in range(50):
        loop.resolve("dead.example")
    names.wait(1)
    names.go.set()
    loop.wait(50)
    assert names.asked == ["dead.example"]
    loop.resolve("dead.example")
    loop.wait(51)
    assert len(names.asked) == 2, "an answer is not kept"


def test_a_look_up_that_is_no_longer_wanted_leaves_the_queue(names: Names) -> None:
    loop = Loop()
    forget = [loop.resolve(f"dead{n}.example.org") for n in range(THREADS)]
    names.wait(THREADS // 2)
    shared = loop.resolve("dead-shared.example.org")
    loop.resolve("dead-shared.example.org")
    assert loop.resolver.waiting == THREADS // 2 + 1
    for each in [*forget, shared, shared]:
        each()
    assert loop.resolver.waiting == 1
    names.go.set()
    loop.wait()
    assert loop.hosts == ["dead-shared.example.org"]
    assert len(names.asked) == THREADS // 2 + 1


def test_the_queue_is_bounded(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    loop = Loop()
    for n in range(THREADS // 2 + 3):
        loop.resolve(f"dead{n}.example.org")
    names.wait(THREADS // 2)
    assert loop.answers == []
    loop.resolve("dead.example.org")
    assert "too many names" in loop.answers[0][1]
    names.go.set()
    loop.wait(1 + THREADS // 2 + 3)


# --- threads ---


def test_an_exception_of_a_look_up_ends_no_other(names: Names) -> None:
    """A TypeError once ended its thread, and after four of them no name was resolved."""
    loop = Loop()

    def fail() -> None:
        raise TypeError("cadata should be an ASCII string")

    for n in range(2 * THREADS):
        loop.resolver.call(n, fail, lambda result, why: loop.answer(result, why))
    loop.wait(2 * THREADS)
    assert {*loop.answers} == {(None, "cadata should be an ASCII string")}
    loop.resolve("good.example")
    loop.wait(2 * THREADS + 1)
    assert loop.answers[-1][1] == ""


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError("none")])
def test_without_a_thread_a_look_up_fails_and_later_ones_do_not(
    names: Names, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Thread(threading.Thread):
        def start(self) -> None:
            raise error

    loop = Loop()
    with monkeypatch.context() as patch:
        patch.setattr(threading, "Thread", Thread)
        for n in range(2 * THREADS):
            loop.resolve(f"good{n}.example")
        loop.wait(2 * THREADS)
    assert loop.answers == [(None, str(error))] * (2 * THREADS)
    assert loop.resolver.waiting == 0
    loop.resolve("good.example")
    loop.wait(2 * THREADS + 1)
    assert loop.answers[-1][1] == ""
