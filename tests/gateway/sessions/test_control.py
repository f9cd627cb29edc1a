"""The gateway's end of the control link and the supervisor's end, each in a loop of its own."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.deadline import eventually
from wsraw.gateway.sessions.control import ControlLink
from wsraw.link.records import (
    Check,
    Exited,
    FromGateway,
    FromSupervisor,
    Left,
    Listening,
    Ready,
    Recycle,
    Report,
    Spawned,
    Stop,
    Stopped,
)
from wsraw.runtime.link.connection import HAS_UNIX
from wsraw.runtime.loop import Loop
from wsraw.supervisor.control.link import Control, ControlRequest
from wsraw.supervisor.log import Log

T = TypeVar("T")

NEWS = Listening(["127.0.0.1:1"], "ipc://x", 1, 2)


class Pair:
    """Both ends. A stopped supervisor takes no turns of its loop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = Log(io.StringIO(), "info")
        self.loops = [Loop(), Loop()]
        self.control = Control(self.loops[0], folder, self.log)
        self.token = self.control.expect()
        self.gateway = ControlLink(self.loops[1], self.control.endpoint, self.token)
        self.is_stopped = False

    def turn(self) -> None:
        for loop in self.loops[self.is_stopped :]:
            loop.wake_at(loop.now)
            loop.turn()

    def until(self, condition: Callable[[], T], what: str = "") -> T:
        def look() -> T:
            self.turn()
            return condition()

        return eventually(look, what)

    def heard(self, count: int) -> list[FromGateway | ControlRequest]:
        """The next records that the supervisor receives."""
        return [self._some(self.until(self.control.receive)) for _ in range(count)]

    def told(self) -> list[FromSupervisor]:
        """The next batch that the gateway receives."""
        return self._some(self.until(self.gateway.receive))

    @staticmethod
    def _some(value: T | None) -> T:
        assert value is not None
        return value

    def close(self) -> None:
        self.gateway.close()
        self.control.close()
        for loop in self.loops:
            loop.close()
        self.log.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    pair.close()


def test_the_control_link_carries_records_both_ways(pair: Pair) -> None:
    assert pair.gateway.receive() is None
    pair.gateway.tell([NEWS, Ready(1)])
    assert pair.heard(2) == [NEWS, Ready(1)]
    pair.control.tell(Spawned(1, "t", 0), Stop(2.0))
    assert pair.told() == [Spawned(1, "t", 0), Stop(2.0)]
    assert pair.gateway.receive() is None
    assert not pair.gateway.is_due
    pair.gateway.tell([Stopped()])
    assert pair.heard(1) == [Stopped()]


def test_last_words_are_heard(pair: Pair) -> None:
    pair.gateway.tell([NEWS])
    assert pair.heard(1) == [NEWS]
    pair.gateway.tell([Report(1, {"x": "x" * 500_000})])
    pair.gateway.tell([Stopped()])
    closing = threading.Thread(target=pair.gateway.close)
    closing.start()
    last = pair.loops.pop()
    assert pair.heard(2)[-1] == Stopped()
    closing.join()
    last.close()


def test_what_was_said_can_be_read_before_the_loop_reports_it(pair: Pair) -> None:
    """A worker's hello may come at the same moment as the token that it needs."""
    pair.gateway.tell([NEWS])
    assert pair.heard(1) == [NEWS]
    pair.control.tell(Spawned(1, "t", 0))
    assert pair.gateway.receive() is None
    assert pair.gateway.read_now()
    assert pair.gateway.receive() == [Spawned(1, "t", 0)]
    assert not pair.gateway.read_now()


def test_nothing_that_matters_is_lost_while_the_supervisor_is_stopped(pair: Pair) -> None:
    """The reports exceed the sockets and the queues, so those that wait are merged."""
    pair.gateway.tell([NEWS])
    assert pair.heard(1) == [NEWS]
    pair.control.tell(*(Spawned(n, "t", 0) for n in range(1, 4)))
    pair.told()
    pair.is_stopped = True
    rounds = 0
    sent = 0
    while len(pair.gateway._reports.waiting()) < 3 or rounds < 100:
        rounds += 1
        for n in (1, 2, 3):
            pair.gateway.tell([Ready(n), Recycle(n, "x" * 1000), Left(n, 1, 0)])
            sent += 1
        pair.turn()
    for _ in range(1000):
        for n in (1, 2, 3):
            pair.gateway.tell([Ready(n), Recycle(n, "y"), Left(n, 1, 0)])
            sent += 1
    pair.gateway.tell([Ready(2), Stopped()])
    assert len(pair.gateway._reports.waiting()) < 20
    pair.is_stopped = False
    heard: list[FromGateway | ControlRequest] = []
    while not heard or heard[-1] != Stopped():
        heard += pair.heard(1)
    assert sum(each.acked for each in heard if isinstance(each, Left)) == sent
    last = {each.n: each for each in heard if isinstance(each, Ready | Left)}
    assert [type(last[n]) for n in (1, 2, 3)] == [Left, Ready, Left]
    assert [each for each in heard if isinstance(each, Recycle)][-3:] == [
        Recycle(n, "y") for n in (1, 2, 3)
    ]


def test_a_new_link_begins_with_everything(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    pair.gateway.tell([NEWS])
    assert pair.heard(1) == [NEWS]
    pair.control.tell(*(Spawned(n, "t", 0) for n in range(1, 4)), Check())
    pair.told()
    pair.gateway.tell([Ready(1), Ready(2), Ready(3), Left(2, 5, 1)])
    pair.heard(4)
    pair.control.tell(Exited(3, "exited"))
    pair.told()
    assert pair.control._gateway is not None
    with caplog.at_level(logging.ERROR, "wsraw.gateway"):
        pair.control._gateway.cut("for a test")
        pair.until(lambda: pair.gateway.receive() is None and "for a test" in caplog.text)
    pair.gateway.tell([Recycle(1, "old")])
    again = []
    while not again or again[-1] != Recycle(1, "old"):
        pair.gateway.receive()
        again += pair.heard(1)
    assert again == [NEWS, Ready(1), Left(2, 5, 1), Recycle(1, "old")]
    pair.control.tell(Check())
    assert pair.told() == [Check()]


def test_a_gateway_without_a_supervisor_does_not_wait(tmp_path: Path) -> None:
    loop = Loop()
    nobody = f"ipc://{tmp_path}/none.sock" if HAS_UNIX else "tcp://127.0.0.1:9"
    link = ControlLink(loop, nobody, "token")
    for n in range(5000):
        link.tell([Ready(n % 10)])
    assert link.receive() is None
    loop.wake_at(loop.now)
    loop.turn()
    link.close()
    loop.close()


def test_only_what_the_supervisor_says_counts(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    pair.gateway.tell([NEWS])
    assert pair.heard(1) == [NEWS]
    link = pair.control._gateway
    assert link is not None
    for wrong in (b"\xc1", b"\x91\xa5wrong", b"\x92\xa5wrong\x91\xa5check"):
        link.send(wrong)
    pair.control.tell(Check())
    assert pair.told() == [Check()]
    assert len([each for each in caplog.records if "dropped" in each.message]) == 3
