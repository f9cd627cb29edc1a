from __future__ import annotations

from wsraw.gateway.tls.handshake_queue import BUDGET, HandshakeQueue


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


class One:
    def __init__(self, queue: HandshakeQueue, clock: Clock, cost: float, steps: int = 1) -> None:
        self.queue, self.clock, self.cost, self.steps = queue, clock, cost, steps
        self.heard: list[bytes] = []
        queue.waiting[self] = b"first"

    def take_turn(self, data: bytes) -> None:
        self.heard.append(data)
        self.clock.time += self.cost
        self.steps -= 1
        if self.steps:
            self.queue.waiting[self] = b"next"


def test_handshakes_stop_when_the_share_of_a_turn_is_used() -> None:
    clock = Clock()
    queue = HandshakeQueue(clock)
    ones = [One(queue, clock, BUDGET / 3.5) for _ in range(10)]
    queue.work()
    assert [len(one.heard) for one in ones] == [1] * 4 + [0] * 6
    queue.work()
    queue.work()
    assert not queue.waiting


def test_an_expensive_handshake_gets_its_turn() -> None:
    clock = Clock()
    queue = HandshakeQueue(clock)
    ones = [One(queue, clock, 100 * BUDGET) for _ in range(2)]
    queue.work()
    assert [one.heard for one in ones] == [[b"first"], []]


def test_a_handshake_that_queues_again_waits_behind_the_others() -> None:
    clock = Clock()
    queue = HandshakeQueue(clock)
    eager, other = One(queue, clock, 0.0, steps=3), One(queue, clock, 0.0)
    queue.work()
    assert (eager.heard, other.heard) == ([b"first"], [b"first"])
    queue.work()
    queue.work()
    assert eager.heard == [b"first", b"next", b"next"]
    assert queue.figures()["waiting"] == 0
