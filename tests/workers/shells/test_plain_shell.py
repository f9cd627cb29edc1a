"""The plain shell with a real socket: acks that another thread sends while a handler runs."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
import zmq

from tests.deadline import DEADLINE, eventually
from tests.workers import routers
from wsraw.link.gateway_end import GatewayEnd
from wsraw.link.records import Ack, Hello, OnMessage, Send, Stats, gateway_decoder
from wsraw.link.worker_end import WorkerEnd
from wsraw.runtime.bell import Bell
from wsraw.workers import api
from wsraw.workers.loading.handlers import Handlers
from wsraw.workers.runtime import Runtime
from wsraw.workers.shells import plain_shell
from wsraw.workers.shells.plain_shell import PlainShell
from wsraw.workers.shells.shell import SEND_AFTER, Stopper, connect

CON = 1 << 36 | 1


class Linked:
    """A shell in a thread, and the gateway's end of its link."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.context = zmq.Context()
        endpoint = routers.on_this_machine(folder) if kind == "ours" else routers.TCP
        self.router = routers.bind(self.context, endpoint)
        self.endpoint = routers.endpoint_of(self.router)
        self.end: GatewayEnd[None] = GatewayEnd(b"", gateway_decoder())
        self.records: list[Any] = []
        self.handle: Any = None
        bell = Bell()
        self.stopper = Stopper(bell)
        self.thread = threading.Thread(target=self.run, args=(bell,))
        self.thread.start()
        assert self.router.poll(1000 * DEADLINE), "the shell does not connect"
        self.identity = self.router.recv_multipart()[0]
        hello = Hello(1, "default", "i", "python", "t", 10_000, 1)
        self.end.welcome(hello, 7, 1, range(CON + 1, CON + 100))
        self.send()

    def run(self, bell: Bell) -> None:
        link = WorkerEnd(pool="default", token="t", instance="i", language="python")
        handlers = Handlers(SimpleNamespace(on_message=lambda msg, con: self.handle(msg, con)))
        runtime = Runtime(link, handlers, "close", threading.get_ident)
        api.install(runtime, self.stopper.call_soon)
        self.dealer = connect(self.endpoint, bell, is_known=self.kind == "ours")
        PlainShell(runtime, self.dealer, self.stopper).run()
        bell.close()

    def give(self, count: int) -> None:
        for _ in range(count):
            seq = self.end.window.next_seq
            self.end.deliver(OnMessage(0, CON, b"%d" % seq, "raw"), None, 1, 0.0)
        self.send()

    def send(self) -> None:
        self.router.send_multipart([self.identity, self.end.data_to_send() or b""])

    def receive(self) -> None:
        """Read what has come; the gateway's end checks that each event is acked once."""
        while self.router.poll(0):
            data = self.router.recv_multipart()[1]
            if data:
                records = self.end.receive(data)
                assert not self.end.dropped
                for record in records:
                    if type(record) is Ack:
                        self.end.window.take(record)
                self.records += records

    def acked(self, count: int) -> bool:
        self.receive()
        return self.end.window.acked_events == count


@pytest.fixture(params=["ours", "libzmq"])
def linked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Linked]:
    linked = Linked(request.param, tmp_path)
    try:
        yield linked
    finally:
        linked.stopper.stop()
        linked.thread.join(DEADLINE)
        api.uninstall()
        linked.router.close()
        linked.context.term()
    assert not linked.thread.is_alive()


@pytest.mark.parametrize("seconds", [0.0, 2 * SEND_AFTER], ids=["at once", "in some time"])
@pytest.mark.parametrize("size", [1, 16_000_000])
def test_an_event_is_acked_while_the_handler_behind_it_runs(
    linked: Linked, size: int, seconds: float
) -> None:
    """The answer may be of any length: the second handler does not begin before the answer has
    left, or another thread writes it.
    """
    done = threading.Event()
    unsent: list[bool] = []
    answers = {data: size * data for data in (b"1", b"2", b"3")}

    def handle(msg: dict[str, Any], con: Any) -> bytes:
        if msg["data"] == b"1":
            time.sleep(seconds)
        if msg["data"] == b"2":
            unsent.append(linked.dealer.has_unsent)
            done.wait(DEADLINE)
        return answers[msg["data"]]

    linked.handle = handle
    try:
        linked.give(3)
        eventually(lambda: linked.acked(1), "the ack of the first event")
        assert linked.records == [Send(CON, answers[b"1"]), Ack(1, 1)]
    finally:
        done.set()
    eventually(lambda: linked.acked(3), "the other acks")
    assert unsent == [False]
    sends = [record.data for record in linked.records if type(record) is Send]
    assert sends == list(answers.values())


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads that let another thread run between any two lines."""
    monkeypatch.setattr(plain_shell, "LONG_HANDLER", 0.0)
    choose = random.Random(1)
    files = {sys.modules[each.__module__].__file__ for each in (PlainShell, Runtime, WorkerEnd)}

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if choose.random() < 0.2:
            time.sleep(choose.random() * 0.0003)
        return trace

    threading.settrace(trace)
    yield
    threading.settrace(None)  # type: ignore[arg-type]


def test_nothing_is_lost_or_doubled_however_handlers_and_the_other_thread_meet(
    unhurried: None, linked: Linked
) -> None:
    choose = random.Random(2)

    def handle(msg: dict[str, Any], con: Any) -> bytes:
        con.send(b"<" + msg["data"])
        if choose.random() < 0.2:
            time.sleep(choose.random() * 0.002)
            api.flush()
        return msg["data"] + b">"  # type: ignore[no-any-return]

    linked.handle = handle
    count, rounds = 20, 15
    for n in range(rounds):
        linked.give(count)
        eventually(lambda n=n: linked.acked((n + 1) * count), "all acks")
    data = [record.data for record in linked.records if type(record) is Send]
    assert data == [b for n in range(1, rounds * count + 1) for b in (b"<%d" % n, b"%d>" % n)]
    assert linked.end.batches > rounds


def test_an_idle_worker_tells_how_long_its_handlers_took(linked: Linked) -> None:
    def handle(msg: dict[str, Any], con: Any) -> None:
        if msg["data"] == b"2":
            time.sleep(0.03)
        if msg["data"] == b"4":
            raise ValueError("4")

    linked.handle = handle
    linked.give(4)

    def told() -> list[Stats]:
        linked.receive()
        return [record for record in linked.records if type(record) is Stats]

    eventually(lambda: linked.acked(4), "the acks")
    (stats,) = eventually(told, "its stats")
    assert (stats.handler, stats.calls, stats.exceptions) == ("on_message", 4, 1)
    # On a busy machine other events may be slow, too.
    assert stats.slower[7:] and stats.seconds > 0.03
