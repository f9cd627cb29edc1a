from __future__ import annotations

import math
import select
import selectors
import socket
import struct
import threading
from array import array
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.deadline import DEADLINE, eventually
from wsraw.runtime import loop as loop_module
from wsraw.runtime import selector as selector_module
from wsraw.runtime.loop import AWAY_AFTER, TURN_BOUNDS, TURN_TIME_ALLOWED, Loop, Turns
from wsraw.runtime.selector import FdSetSelector, Selector, Sockets

JUMP = 40.0
"""Seconds for which the process was stopped."""

LONGEST_SLEEP = 0.05


def wait_with_poll(
    to_read: Sockets, to_write: Sockets, failing: Sockets, timeout: float | None
) -> None:
    """Waits as the select of Winsock does."""
    poll = select.poll()
    wanted = dict.fromkeys(to_read[1:], select.POLLIN)
    for number in to_write[1:]:
        wanted[number] = wanted.get(number, 0) | select.POLLOUT
    for number, events in wanted.items():
        poll.register(number, events)
    found = poll.poll(None if timeout is None else math.ceil(timeout * 1000))
    broken = select.POLLHUP | select.POLLERR
    for sockets, events in ((to_read, select.POLLIN | broken), (to_write, select.POLLOUT)):
        ready = [number for number, seen in found if seen & events and number in sockets[1:]]
        # Winsock does not write the rest of the first item either.
        sockets[: 1 + len(ready)] = array(sockets.typecode, [(7 << 32) + len(ready), *ready])
    failed = [number for number, seen in found if seen & broken and number in failing[1:]]
    failing[: 1 + len(failed)] = array(failing.typecode, [len(failed), *failed])


class FdSets(FdSetSelector):
    """The selector of Windows, based on poll."""

    def __init__(self) -> None:
        super().__init__(wait_with_poll)


SELECTORS = [Selector] + [
    getattr(selectors, name)
    for name in ("EpollSelector", "KqueueSelector", "PollSelector", "SelectSelector")
    if hasattr(selectors, name)
]
if hasattr(select, "poll"):
    SELECTORS.append(FdSets)

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=SELECTORS, ids=lambda kind: kind.__name__)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    """A loop with each selector of this platform; its turns are short."""
    monkeypatch.setattr(loop_module, "LONGEST_SLEEP", LONGEST_SLEEP)
    loop = Loop(selector=request.param)
    yield loop
    loop.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two ends of a TCP connection; the first is non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far = server.accept()[0]
    near.setblocking(False)
    with near, far:
        yield near, far


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Heard:
    """A handler that records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[bool, bool]] = []

    def __call__(self, readable: bool, writable: bool) -> None:
        self.calls.append((readable, writable))


def turns_until(loop: Loop, condition: Callable[[], object]) -> None:
    """Take turns until the condition is true; each waits at most a second."""

    def turn() -> object:
        loop.turn(not condition())
        return condition()

    eventually(turn)


def nothing_within_a_turn(loop: Loop, heard: Heard) -> None:
    """Check that a turn without waiting calls no handler, which it would if the kernel had an
    event.
    """
    heard.calls.clear()
    loop.turn(False)
    assert not heard.calls


# --- descriptors ---


def test_a_readable_or_writable_descriptor_calls_its_handler(loop: Loop, pair: Pair) -> None:
    near, far = pair
    heard = Heard()
    loop.watch(near, heard, read=True)
    nothing_within_a_turn(loop, heard)
    far.send(b"x")
    turns_until(loop, lambda: heard.calls)
    assert heard.calls[-1] == (True, False)
    loop.watch(near, heard, write=True)
    heard.calls.clear()
    turns_until(loop, lambda: heard.calls)
    assert heard.calls[-1] == (False, True)
    loop.watch(near, heard, read=True, write=True)
    heard.calls.clear()
    turns_until(loop, lambda: heard.calls)
    assert heard.calls[-1] == (True, True)


def test_watching_again_replaces_the_handler(loop: Loop, pair: Pair) -> None:
    near, far = pair
    first, second = Heard(), Heard()
    loop.watch(near, first, read=True)
    loop.watch(near, second, read=True)
    far.send(b"x")
    turns_until(loop, lambda: second.calls)
    assert not first.calls


def test_an_unwatched_descriptor_is_forgotten(loop: Loop, pair: Pair) -> None:
    near, far = pair
    heard = Heard()
    loop.watch(near, heard, read=True)
    loop.unwatch(near)
    loop.unwatch(near)
    far.send(b"x")
    near.setblocking(True)
    near.recv(1, socket.MSG_PEEK)
    nothing_within_a_turn(loop, heard)


def test_a_bad_descriptor_is_an_error(loop: Loop, pair: Pair) -> None:
    near, _ = pair
    near.close()
    with pytest.raises((OSError, ValueError)):
        loop.watch(near, Heard(), read=True)


def test_more_sockets_are_watched_than_cpythons_select_takes_on_windows(
    loop: Loop, pair: Pair
) -> None:
    near, far = pair
    if isinstance(loop._selector, selectors.SelectSelector):
        pytest.skip("this is it")
    heard = [Heard() for _ in range(600)]
    socks = [near.dup() for _ in heard]
    for sock, each in zip(socks, heard, strict=True):
        loop.watch(sock, each, read=True)
    for sock in socks[::7]:
        loop.unwatch(sock)
    far.send(b"x")
    turns_until(loop, lambda: all(each.calls for n, each in enumerate(heard) if n % 7))
    assert not any(each.calls for each in heard[::7])
    for sock in socks:
        loop.unwatch(sock)
        sock.close()


# --- watching for errors alone: a connection whose reading is paused ---


def paused(loop: Loop, near: socket.socket) -> Heard:
    heard = Heard()
    loop.watch(near, heard, read=True)
    loop.watch(near, heard)
    return heard


def test_data_does_not_wake_a_paused_descriptor(loop: Loop, pair: Pair) -> None:
    near, far = pair
    heard = paused(loop, near)
    far.send(b"x")
    near.setblocking(True)
    near.recv(1, socket.MSG_PEEK)
    nothing_within_a_turn(loop, heard)


def test_a_half_close_does_not_wake_a_paused_descriptor(loop: Loop, pair: Pair) -> None:
    near, far = pair
    heard = paused(loop, near)
    far.shutdown(socket.SHUT_WR)
    near.setblocking(True)
    near.recv(1, socket.MSG_PEEK)
    nothing_within_a_turn(loop, heard)


def test_a_reset_is_noticed_on_a_paused_descriptor(loop: Loop, pair: Pair) -> None:
    near, far = pair
    heard = paused(loop, near)
    reset(far)
    turns_until(loop, lambda: heard.calls)
    assert heard.calls[0] == (False, False)


def test_a_reset_is_noticed_on_a_descriptor_that_was_never_read(loop: Loop, pair: Pair) -> None:
    near, far = pair
    heard = Heard()
    loop.watch(near, heard)
    reset(far)
    turns_until(loop, lambda: heard.calls)
    assert heard.calls[0] == (False, False)


def test_a_reset_of_an_unwatched_descriptor_is_not_noticed(loop: Loop, pair: Pair) -> None:
    near, far = pair
    heard = paused(loop, near)
    loop.unwatch(near)
    reset(far)
    after = []
    loop.call_later(2.5 * LONGEST_SLEEP, lambda: after.append(1))
    turns_until(loop, lambda: after)
    assert not heard.calls


def test_a_resumed_descriptor_reports_data_that_arrived_meanwhile(loop: Loop, pair: Pair) -> None:
    near, far = pair
    heard = paused(loop, near)
    far.send(b"x")
    loop.turn(False)
    loop.watch(near, heard, read=True)
    turns_until(loop, lambda: heard.calls)
    assert heard.calls[-1] == (True, False)


def test_a_descriptor_can_be_paused_and_resumed_many_times(loop: Loop, pair: Pair) -> None:
    near, far = pair
    heard = Heard()
    for interest in [
        (True, False),
        (False, False),
        (False, True),
        (False, False),
        (True, True),
    ] * 3:
        loop.watch(near, heard, read=interest[0], write=interest[1])
    loop.watch(near, heard)
    loop.watch(near, heard, read=True)
    nothing_within_a_turn(loop, heard)
    far.send(b"x")
    turns_until(loop, lambda: heard.calls)
    assert heard.calls[-1] == (True, False)


# --- timers ---


class Clock:
    """A clock that the test sets; `jump_at` delays its n-th reading and all later ones."""

    def __init__(self) -> None:
        self.time = 100.0
        self.readings = 0
        self.jump_at = -1

    def __call__(self) -> float:
        if self.readings == self.jump_at:
            self.time += JUMP
        self.readings += 1
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def still(clock: Clock) -> Iterator[Loop]:
    """A loop whose clock only the test moves."""
    loop = Loop(clock)
    yield loop
    loop.close()


def test_timers_run_in_the_order_of_their_times(still: Loop, clock: Clock) -> None:
    ran: list[str] = []
    start = still.now
    for name, delay in (("c", 0.3), ("a", 0.1), ("b", 0.2), ("a2", 0.1), ("later", 0.41)):
        still.call_at(start + delay, lambda name=name: ran.append(name))  # type: ignore[misc]
    clock.time += 0.4
    still.turn(False)
    assert ran == ["a", "a2", "b", "c"]
    clock.time += 0.02
    still.turn(False)
    assert ran[4:] == ["later"]


def test_a_timer_runs_once_and_not_before_its_time(still: Loop, clock: Clock) -> None:
    ran: list[float] = []
    still.call_later(0.3, lambda: ran.append(still.now))
    clock.time += 0.29
    still.turn(False)
    assert ran == []
    clock.time += 0.02
    still.turn(False)
    still.turn(False)
    assert ran == [pytest.approx(100.31)]


def test_a_cancelled_timer_never_runs(still: Loop, clock: Clock) -> None:
    ran: list[str] = []
    second = still.call_later(0.2, lambda: ran.append("second"))
    still.call_later(0.1, second.cancel)
    still.call_later(0.3, lambda: ran.append("third"))
    clock.time += 0.4
    still.turn(False)
    assert ran == ["third"]
    second.cancel()


def test_a_timer_that_a_timer_starts_waits_for_the_next_turn(still: Loop, clock: Clock) -> None:
    ran: list[str] = []
    still.call_later(0.1, lambda: still.call_later(0.0, lambda: ran.append("x")))
    clock.time += 0.2
    still.turn(False)
    assert ran == []
    still.turn(False)
    assert ran == ["x"]


def test_a_timer_ends_the_wait(loop: Loop) -> None:
    ran: list[int] = []
    loop.call_later(0.02, lambda: ran.append(1))
    loop.call_later(3600.0, lambda: ran.append(2)).cancel()
    turns_until(loop, lambda: ran)
    assert ran == [1]


def test_reading_comes_before_timers_and_the_end_of_the_turn_comes_last(
    loop: Loop, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data that has already arrived must be handled before a deadline is checked."""
    # On a busy machine the wake-up alone may take as long as a turn.
    monkeypatch.setattr(loop_module, "READ_TIME", DEADLINE)
    near, far = pair
    order: list[str] = []

    def read(readable: bool, writable: bool) -> None:
        near.recv(100)
        order.append("read")

    loop.watch(near, read, read=True)
    far.send(b"x")
    assert select.select([near], [], [], DEADLINE)[0]
    loop.call_at(loop.now, lambda: order.append("timer"))
    loop.call_soon_threadsafe(lambda: order.append("call"))
    loop.before_sleep = lambda now: bool(order.append("before sleep"))
    loop.turn(False)
    assert order == ["read", "call", "timer", "before sleep"]


# --- absence ---


def test_a_suspension_during_the_wait_stops_the_clock(still: Loop, clock: Clock) -> None:
    ran: list[int] = []
    still.call_later(10.0, lambda: ran.append(1))
    clock.jump_at = clock.readings + 1
    before = still.now
    still.turn(False)
    assert not ran
    assert still.now - before <= AWAY_AFTER


def test_a_suspension_in_a_handler_stops_the_clock(still: Loop, clock: Clock) -> None:
    ran: list[int] = []
    still.call_later(10.0, lambda: ran.append(1))

    def stopped(now: float) -> bool:
        clock.time += JUMP
        return False

    before = still.now
    still.before_sleep = stopped
    still.turn(False)
    still.before_sleep = None
    still.turn(False)
    assert not ran
    assert still.now - before <= AWAY_AFTER + TURN_TIME_ALLOWED


@pytest.mark.parametrize("reading", range(16))
@pytest.mark.parametrize("may_sleep", [True, False])
def test_a_suspension_anywhere_stops_the_clock(
    still: Loop, clock: Clock, reading: int, may_sleep: bool
) -> None:
    """SIGSTOP may come between any two instructions, so the jump is placed before each reading."""
    ran: list[int] = []
    still.call_later(10.0, lambda: ran.append(1))
    still.call_soon_threadsafe(lambda: None)
    begin, still.before_sleep = still.now, lambda now: False
    clock.jump_at = clock.readings + reading
    while clock.readings <= clock.jump_at + 8:
        still.call_soon_threadsafe(lambda: None)
        still.turn(may_sleep)
    assert clock.time >= begin + JUMP
    assert still.now - begin <= AWAY_AFTER + TURN_TIME_ALLOWED
    assert not ran


def test_time_without_a_suspension_is_not_lost(still: Loop, clock: Clock) -> None:
    """The counterpart: a busy loop, with turns of half a second, keeps time."""
    still.before_sleep = lambda now: True
    ran: list[float] = []
    still.call_later(5.0, lambda: ran.append(clock.time))

    def work(now: float) -> bool:
        clock.time += 0.4
        return False

    still.before_sleep = work
    while not ran:
        still.turn(False)
    assert ran[0] - 100.0 == pytest.approx(5.0, abs=0.9)


# --- other threads, run and stop ---


def test_a_call_of_another_thread_wakes_the_loop(loop: Loop) -> None:
    threads: list[int] = []

    def post() -> None:
        for _ in range(1000):
            loop.call_soon_threadsafe(lambda: threads.append(threading.get_ident()))

    thread = threading.Thread(target=post)
    thread.start()
    turns_until(loop, lambda: len(threads) == 1000)
    thread.join()
    assert set(threads) == {threading.get_ident()}


def test_more_calls_than_the_waker_holds_all_run(loop: Loop) -> None:
    ran: list[int] = []
    for _ in range(20_000):
        loop.call_soon_threadsafe(lambda: ran.append(1))
    turns_until(loop, lambda: len(ran) == 20_000)


def test_a_call_that_calls_waits_for_the_next_turn(loop: Loop) -> None:
    ran: list[str] = []
    loop.call_soon_threadsafe(lambda: loop.call_soon_threadsafe(lambda: ran.append("x")))
    loop.turn()
    assert ran == []
    loop.turn()
    assert ran == ["x"]


def test_a_call_after_the_end_is_harmless() -> None:
    loop = Loop()
    loop.close()
    loop.call_soon_threadsafe(lambda: None)


def test_run_ends_with_stop_and_a_busy_turn_is_followed_by_one_that_does_not_wait(
    loop: Loop,
) -> None:
    turns = 0

    def before_sleep(now: float) -> bool:
        nonlocal turns
        turns += 1
        if turns == 500:
            loop.stop()
        return True

    loop.before_sleep = before_sleep
    begin = loop.now
    loop.run()
    assert turns == 500
    assert loop.now - begin < 500 * LONGEST_SLEEP / 5


def test_more_ready_descriptors_than_a_turn_handles_are_left_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The remaining descriptors are handled in the next turns."""
    monkeypatch.setattr(selector_module, "MOST_READY", 3)
    loop = Loop()
    pairs = [socket.socketpair() for _ in range(8)]
    heard = [Heard() for _ in pairs]
    for (near, far), handler in zip(pairs, heard, strict=True):
        loop.watch(near, handler, read=True)
        far.send(b"x")
    for _ in range(3):
        loop.turn(False)
    if hasattr(select, "epoll"):
        assert sum(len(each.calls) for each in heard) == 9
    assert all(each.calls for each in heard)
    loop.close()
    for pair in pairs:
        for sock in pair:
            sock.close()


def test_the_midway_call_comes_only_in_long_turns(loop: Loop) -> None:
    now = [0.0]
    loop.clock = lambda: now[0]
    loop.now = loop._seen = 0.0
    order: list[str] = []
    cost = [0.0]

    def handler(readable: bool, writable: bool) -> None:
        order.append("read")
        now[0] += cost[0]

    def midway(at: float) -> None:
        assert at == loop.now
        order.append("midway")

    loop.midway = midway
    pairs = [socket.socketpair() for _ in range(4)]
    for near, far in pairs:
        loop.watch(near, handler, read=True)
        far.send(b"x")
    loop.turn(False)
    assert order == ["read"] * 4
    order.clear()
    cost[0] = 0.6 * loop_module.MIDWAY_AFTER
    loop.turn(False)
    assert order == ["read", "read", "midway"] * 2
    for pair in pairs:
        for sock in pair:
            loop.unwatch(sock)
            sock.close()


def test_the_loop_yields_for_one_turn_and_not_too_often(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[None] = []
    monkeypatch.setattr(loop_module, "_yield", lambda: given.append(None))
    now = [10.0]
    loop.clock = lambda: now[0]
    loop.now = loop._seen = 10.0
    loop.turn(False)
    assert not given
    for after, times in ((0.0, 1), (0.5, 1), (0.7, 2), (0.0, 2)):
        now[0] += after * loop_module.GIVE_WAY_EVERY
        loop._seen = now[0]
        loop.give_way()
        loop.turn(False)
        loop.turn(False)
        assert len(given) == times


# --- turns are short ---


class SlowHandlers:
    """Sockets that are ready, each with a handler that takes `cost` seconds of the loop's clock."""

    def __init__(self, loop: Loop, count: int) -> None:
        self.loop = loop
        self.now = 0.0
        self.cost = 0.6 * loop_module.READ_TIME
        self.order: list[int] = []
        self.pairs = [socket.socketpair() for _ in range(count)]
        self.handlers = [self._handler(n) for n in range(count)]
        loop.clock = lambda: self.now
        loop.now = loop._seen = 0.0
        for n, (near, far) in enumerate(self.pairs):
            loop.watch(near, self.handlers[n], read=True)
            far.send(b"x")

    def _handler(self, n: int) -> Callable[[bool, bool], None]:
        def handle(readable: bool, writable: bool) -> None:
            self.order.append(n)
            self.now += self.cost

        return handle

    def turn(self) -> tuple[set[int], bool]:
        """The handlers that were called, and whether the next turn may sleep."""
        self.order.clear()
        may_sleep = self.loop.turn(False)
        assert len(self.order) == len(set(self.order)), "nobody twice"
        return set(self.order), may_sleep

    def close(self) -> None:
        for pair in self.pairs:
            for sock in pair:
                if sock.fileno() >= 0:
                    self.loop.unwatch(sock)
                    sock.close()


@pytest.fixture
def slow(loop: Loop) -> Iterator[SlowHandlers]:
    slow = SlowHandlers(loop, 8)
    yield slow
    slow.close()


def test_slow_handlers_are_spread_over_turns_and_none_is_left_out(slow: SlowHandlers) -> None:
    for _ in range(3):
        seen: set[int] = set()
        for turn in range(4):
            handled, may_sleep = slow.turn()
            assert len(handled) == 2
            assert not handled & seen, "those who had their turn come behind the others"
            seen |= handled
            assert may_sleep == (turn == 3)
            assert slow.loop.is_behind == (turn < 3)
        assert seen == set(range(8))


def test_handlers_left_from_a_turn_run_before_new_ones(slow: SlowHandlers) -> None:
    """The loop does not sleep even if it was told to, and handles timers and calls."""
    first, _ = slow.turn()
    slow.loop._selector.select = lambda timeout: pytest.fail("it asks")  # type: ignore[assignment]
    heard: list[str] = []
    slow.loop.call_later(0.0, lambda: heard.append("timer"))
    slow.loop.call_soon_threadsafe(lambda: heard.append("call"))
    slow.order.clear()
    slow.loop.turn(True)
    assert slow.order
    assert not first & set(slow.order)
    assert heard == ["call", "timer"]


def test_a_descriptor_left_from_a_turn_may_be_unwatched(slow: SlowHandlers) -> None:
    """A handler may close the descriptor, or watch it for something else or only for errors. It
    is handled only when it is ready for what is watched now. A new descriptor with the same
    number is a different one.
    """
    first, _ = slow.turn()
    closed, changed, errors_only, other, *rest = sorted(set(range(8)) - first)
    loop = slow.loop
    near = slow.pairs[closed][0]
    number = near.fileno()
    loop.unwatch(near)
    near.close()
    newcomer, peer = socket.socketpair()
    heard = Heard()
    if newcomer.fileno() == number:
        loop.watch(newcomer, heard, read=True)
    loop.watch(slow.pairs[changed][0], slow.handlers[changed], read=True, write=True)
    loop.watch(slow.pairs[errors_only][0], slow.handlers[errors_only])
    loop.unwatch(slow.pairs[other][0])
    seen: set[int] = set()
    while loop.is_behind:
        handled, _ = slow.turn()
        seen |= handled
    assert seen == set(rest)
    for _ in range(4):
        handled, _ = slow.turn()
        seen |= handled
    assert changed in seen, "the selector tells of it again"
    assert not seen & {closed, errors_only, other}
    assert not heard.calls
    loop.unwatch(newcomer)
    for sock in (newcomer, peer):
        sock.close()


def test_many_timers_at_once_are_left_for_the_next_turns(loop: Loop) -> None:
    now = [0.0]
    loop.clock = lambda: now[0]
    loop.now = loop._seen = 0.0
    order: list[int] = []

    def timer(n: int) -> Callable[[], None]:
        def run() -> None:
            order.append(n)
            now[0] += 0.6 * loop_module.TIMER_TIME
            if n == 0:
                loop.call_at(0.0, timer(99))

        return run

    for n in range(5):
        loop.call_at(0.0, timer(n))
    for expected in ([0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4, 99]):
        loop.turn(True)
        assert order == expected


# --- exceptions ---


class Owned:
    """Callbacks that raise, and the exceptions that their owner is told."""

    def __init__(self, *, twice: bool = False) -> None:
        self.told: list[BaseException] = []
        self._twice = twice

    def handle(self, readable: bool = False, writable: bool = False) -> None:
        raise ZeroDivisionError

    def handle_fault(self, error: BaseException) -> None:
        self.told.append(error)
        if self._twice:
            raise LookupError


def call_with(owner: Owned) -> None:
    owner.handle()


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("kind", ["handler", "errors only", "timer", "call", "argument"])
def test_an_exception_of_a_callback_goes_to_its_owner(
    loop: Loop, pair: Pair, kind: str, twice: bool
) -> None:
    near, far = pair
    owner, others = Owned(twice=twice), list[str]()
    if kind == "handler":
        loop.watch(near, owner.handle, read=True)
        far.send(b"x")
    elif kind == "errors only":
        loop.watch(near, owner.handle)
        reset(far)
    elif kind == "timer":
        loop.call_later(0.0, owner.handle)
    elif kind == "call":
        loop.call_soon_threadsafe(owner.handle)
    else:
        loop.call_later(0.0, partial(call_with, owner))
    loop.call_soon_threadsafe(lambda: others.append("call"))
    loop.call_later(0.0, lambda: others.append("timer"))
    turns_until(loop, lambda: owner.told and len(others) == 2)
    assert type(owner.told[0]) is ZeroDivisionError


def test_after_an_exception_the_other_handlers_run(loop: Loop, pair: Pair) -> None:
    near, far = pair
    owner, heard = Owned(), Heard()
    loop.watch(near, owner.handle, read=True)
    other, peer = socket.socketpair()
    with other, peer:
        loop.watch(other, heard, read=True)
        far.send(b"x")
        peer.send(b"x")
        turns_until(loop, lambda: owner.told and heard.calls)
        loop.unwatch(other)


@pytest.mark.parametrize("kind", ["handler", "timer", "call", "before_sleep"])
def test_an_exception_without_an_owner_ends_the_loop(loop: Loop, pair: Pair, kind: str) -> None:
    near, far = pair

    def fail(*args: object) -> bool:
        raise ZeroDivisionError

    if kind == "handler":
        loop.watch(near, fail, read=True)
        far.send(b"x")
    elif kind == "timer":
        loop.call_later(0.0, fail)
    elif kind == "call":
        loop.call_soon_threadsafe(fail)
    else:
        loop.before_sleep = fail
    with pytest.raises(ZeroDivisionError):
        loop.run()


def test_turns_are_counted_by_their_length() -> None:
    time = 100.0
    loop = Loop(clock=lambda: time)

    def work(now: float) -> bool:
        nonlocal time
        time += lengths.pop(0)
        return bool(lengths)

    lengths = [0.0, 0.0005, 0.001, 0.0011, 0.0025, 0.003, 1.0, 1.5]
    loop.before_sleep = work
    try:
        for _ in range(len(lengths)):
            loop.turn(may_sleep=False)
    finally:
        loop.close()
    assert loop.turns.count == 8
    assert loop.turns.seconds == pytest.approx(2.5081)
    assert sum(loop.turns.long) in (5, 6), "1 ms may be a little more in binary fractions"
    assert loop.turns.long[-2:] == [1, 1]
    assert len(loop.turns.long) == len(TURN_BOUNDS)


def test_a_bound_of_turns_belongs_to_the_turns_below_it() -> None:
    turns = Turns()
    for seconds in (0.0011, 0.0025, 0.003, 1.0, 7.0):
        turns.count_long(seconds)
    assert turns.long == [2, 1, 0, 0, 0, 0, 0, 0, 1, 1]
