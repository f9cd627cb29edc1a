"""The supervisor's end of the control link in a real loop; the other ends are libzmq's."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import zmq

from tests.deadline import DEADLINE, eventually
from tests.needs import unix_sockets
from tests.runtime.link.ends import plain
from wsraw.link.records import (
    Ask,
    Check,
    Decoder,
    Do,
    Done,
    FromGateway,
    FromSupervisor,
    Left,
    Listening,
    Ready,
    Report,
    Spawned,
    Stop,
    Stopped,
    encode,
)
from wsraw.runtime.loop import Loop
from wsraw.supervisor.control import link
from wsraw.supervisor.control.link import Control, ControlRequest, LinkEnded
from wsraw.supervisor.log import Log
from wsraw.supervisor.run_folder.folder import FolderError

T = TypeVar("T")

NEWS = Listening(["127.0.0.1:1"], "ipc://x", 1, 2)


class Supervisor:
    """A control link, its loop, and its log."""

    def __init__(self, folder: Path) -> None:
        self.loop = Loop()
        self.stream = io.StringIO()
        self.log = Log(self.stream, "info")
        self.control = Control(self.loop, folder, self.log)
        self.ended: list[LinkEnded] = []
        """Links whose end was reported by `receive`."""

    def until(self, condition: Callable[[], T], what: str = "") -> T:
        """Take turns until the condition holds."""

        def look() -> T:
            self.loop.wake_at(self.loop.now)
            self.loop.turn()
            return condition()

        return eventually(look, what)

    def hear(self) -> FromGateway | ControlRequest:
        """The next record."""
        heard = self.until(self.receive, "a record")
        assert heard is not None
        return heard

    def receive(self) -> FromGateway | ControlRequest | None:
        """The next record that is not an end."""
        while isinstance(record := self.control.receive(), LinkEnded):
            self.ended.append(record)
        return record

    def until_said(self, text: str) -> None:
        """Take turns until the log contains this."""
        self.until(lambda: text in self.stream.getvalue(), text)

    def said(self) -> str:
        """The log so far. Closes it."""
        self.log.close()
        return self.stream.getvalue()

    def close(self) -> None:
        self.control.close()
        self.loop.close()
        self.log.close()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path)
    yield supervisor
    supervisor.close()


class Other:
    """The other end: a DEALER that the test controls."""

    def __init__(self, supervisor: Supervisor, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._supervisor = supervisor
        self._socket = context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.connect(supervisor.control.endpoint)
        self._decoder = Decoder(str, FromSupervisor | Done)

    def say(self, *frames: bytes) -> None:
        self._socket.send_multipart(frames)

    def hear(self) -> tuple[str, list[object]]:
        assert self._supervisor.until(lambda: self._socket.poll(1), "something to be said")
        token, records, wrong = self._decoder.decode(self._socket.recv())
        assert not wrong
        return token, records

    def close(self) -> None:
        self._socket.close()


Meet = Callable[[], Other]


@pytest.fixture
def meet(supervisor: Supervisor) -> Iterator[Meet]:
    """Connect another DEALER."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    met: list[Other] = []

    def meet() -> Other:
        met.append(Other(supervisor, context))
        return met[-1]

    yield meet
    for other in met:
        other.close()
    context.term()


def test_supervisor_and_gateway_exchange_records(supervisor: Supervisor, meet: Meet) -> None:
    control, gateway = supervisor.control, meet()
    token = control.expect()
    control.tell(Stop(1.0))
    gateway.say(encode([token, NEWS, Ready(3)]))
    assert [supervisor.hear(), supervisor.hear()] == [NEWS, Ready(3)]
    control.tell(Spawned(1, "t", 0), Stop(2.0))
    assert gateway.hear() == (token, [Spawned(1, "t", 0), Stop(2.0)]), "not what came too early"
    assert supervisor.receive() is None


def test_a_batch_with_a_wrong_token_ends_its_connection(supervisor: Supervisor, meet: Meet) -> None:
    control, gateway = supervisor.control, meet()
    old = control.expect()
    token = control.expect()
    assert token != old
    for wrong in (old, "", "ä"):
        meet().say(encode([wrong, Stopped()]))
    gateway.say(encode([token, NEWS]))
    assert supervisor.hear() == NEWS
    supervisor.until_said("the token is wrong")
    assert supervisor.receive() is None


def test_what_is_not_a_batch_ends_its_connection_alone(supervisor: Supervisor, meet: Meet) -> None:
    control, gateway = supervisor.control, meet()
    token = control.expect()
    gateway.say(encode([token, NEWS]))
    assert supervisor.hear() == NEWS
    client = meet()
    client.say(encode([control.client_token, Do(1, "status")]))
    supervisor.hear()
    for frames in ([b"\xc1"], [b"x" * 100_000], [encode([token, Stopped()]), b"more"], [b""] * 3):
        meet().say(*frames)
    meet().say(encode([]))
    stranger = plain(control.endpoint)
    stranger.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".ljust(100))
    stranger.setblocking(False)
    assert supervisor.until(lambda: is_closed(stranger), "a stranger to be closed")
    gateway.say(encode([token, ["unheard of"], Left(1)]))
    assert supervisor.hear() == Left(1), "a record that is not known is left out"
    stranger.close()
    supervisor.until_said("is not a batch")


def is_closed(sock: socket.socket) -> bool:
    try:
        return not sock.recv(1000)
    except BlockingIOError:
        return False


def test_strangers_do_not_flood_the_log(
    supervisor: Supervisor, meet: Meet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "TELL_EVERY", 1000 * DEADLINE)
    gateway = meet()
    token = supervisor.control.expect()
    for _ in range(100):
        meet().say(encode(["guess", Stopped()]))
    gateway.say(encode([token, NEWS]))
    assert supervisor.hear() == NEWS
    supervisor.until_said("the token is wrong")
    supervisor.until(lambda: supervisor.control._cut_off == 99, "all to be cut off")
    assert len(supervisor.said().splitlines()) == 1


def test_nothing_is_sent_to_a_dead_gateway(supervisor: Supervisor, meet: Meet) -> None:
    control, gateway = supervisor.control, meet()
    token = control.expect()
    gateway.say(encode([token, NEWS]))
    assert supervisor.hear() == NEWS
    gateway.close()
    control.tell(Stop(1.0))
    new = meet()
    token = control.expect()
    new.say(encode([token, NEWS]))
    assert supervisor.hear() == NEWS
    control.tell(Stop(2.0))
    assert new.hear() == (token, [Stop(2.0)])


def test_the_connection_of_the_old_gateway_ends_when_a_new_one_is_expected(
    supervisor: Supervisor, meet: Meet
) -> None:
    """The old gateway may live on for a moment, to write its stack: its records must not count."""
    control, old = supervisor.control, meet()
    token = control.expect()
    old.say(encode([token, NEWS]))
    assert supervisor.hear() == NEWS
    control.expect()
    old.say(encode([token, Stopped()]))
    new = meet()
    new.say(encode([control.expect(), Ready(7)]))
    assert supervisor.hear() == Ready(7)
    assert supervisor.receive() is None


def test_what_a_gateway_has_said_is_heard_although_it_is_gone(
    supervisor: Supervisor, meet: Meet
) -> None:
    gateway = meet()
    token = supervisor.control.expect()
    for n in range(1000):
        gateway.say(encode([token, Left(n)]))
    assert supervisor.hear() == Left(0)
    gateway.say(encode([token, Stopped()]))
    gateway._socket.close(linger=1000 * DEADLINE)
    for n in range(1, 1000):
        assert supervisor.hear() == Left(n)
    assert supervisor.hear() == Stopped()


def test_a_report_of_a_thousand_workers_comes_through(supervisor: Supervisor, meet: Meet) -> None:
    gateway = meet()
    token = supervisor.control.expect()
    gateway.say(encode([token, NEWS]))
    assert supervisor.hear() == NEWS
    report = Report(1, {"workers": ["x" * 5000] * 1000})
    gateway.say(encode([token, report]))
    assert supervisor.hear() == report


def test_a_gateway_that_does_not_read_is_cut_off_at_a_bound(
    supervisor: Supervisor, meet: Meet
) -> None:
    """The gateway was stopped for any length of time. When it continues, it is told everything
    again.
    """
    control, gateway = supervisor.control, meet()
    token = control.expect()
    gateway.say(encode([token, NEWS]))
    assert supervisor.hear() == NEWS
    gateway._socket.set(zmq.RCVHWM, 1)

    def tell() -> bool:
        control.tell(*[Spawned(1, "t" * 1000, 0)] * 1000)
        return "does not read" in supervisor.stream.getvalue()

    supervisor.until(tell, "the gateway to be cut off")
    again = meet()
    again.say(encode([token, NEWS]))
    assert supervisor.hear() == NEWS
    control.tell(Check())
    assert again.hear() == (token, [Check()])


# --- the command line ---


def test_the_command_line_is_answered(supervisor: Supervisor, meet: Meet) -> None:
    control, gateway, client = supervisor.control, meet(), meet()
    token = control.expect()
    client.say(encode([control.client_token, Do(7, "scale", ["3"])]))
    asked = supervisor.hear()
    assert isinstance(asked, ControlRequest)
    assert asked.do == Do(7, "scale", ["3"])
    gateway.say(encode([token, NEWS]))
    assert supervisor.hear() == NEWS
    control.tell(Stop(1.0))
    control.answer(asked.who, Done(7, True, "3 workers"))
    assert client.hear() == (control.client_token, [Done(7, True, "3 workers")])
    assert gateway.hear() == (token, [Stop(1.0)])
    client.close()
    supervisor.until(lambda: asked.who.ended)
    control.answer(asked.who, Done(7, True))


def test_a_request_is_shorter_than_what_a_gateway_says(supervisor: Supervisor, meet: Meet) -> None:
    control, gateway, client = supervisor.control, meet(), meet()
    token = control.expect()
    client.say(encode([control.client_token, Do(1, "status")]))
    asked = supervisor.hear()
    assert isinstance(asked, ControlRequest)
    gateway.say(encode([token, NEWS]))
    assert supervisor.hear() == NEWS
    for other, mine in ((gateway, token), (client, control.client_token)):
        other.say(encode([mine, ["later", "x" * link.REQUEST_LIMIT]]))
    gateway.say(encode([token, NEWS]))
    assert supervisor.hear() == NEWS
    supervisor.until(lambda: asked.who.ended)
    supervisor.until_said(f"the limit is {link.REQUEST_LIMIT:,}")


def test_the_last_answer_leaves_although_the_run_ends(supervisor: Supervisor, meet: Meet) -> None:
    control, client = supervisor.control, meet()
    client.say(encode([control.client_token, Do(1, "stop")]))
    asked = supervisor.hear()
    assert isinstance(asked, ControlRequest)
    control.answer(asked.who, Done(1, True, "stopped " + "x" * 3_000_000))
    # The client has read nothing yet; both ends send and receive while we close.
    control.close()
    _, [done] = client.hear()
    assert isinstance(done, Done)
    assert len(done.text) > 3_000_000


def test_each_token_names_its_sender(supervisor: Supervisor, meet: Meet) -> None:
    """A command is not accepted as a report of the gateway, and a report is not accepted as a
    command.
    """
    control, gateway, client = supervisor.control, meet(), meet()
    token = control.expect()
    client.say(encode([control.client_token, Stopped()]))
    gateway.say(encode([token, Do(1, "stop"), Stopped()]))
    assert supervisor.hear() == Stopped()
    client.say(encode([control.client_token, Do(2, "status")]))
    asked = supervisor.hear()
    assert isinstance(asked, ControlRequest)
    assert asked.do == Do(2, "status")
    assert supervisor.receive() is None


@unix_sockets
def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    loop = Loop()
    log = Log(io.StringIO(), "info")
    with pytest.raises(FolderError, match="there is no folder"):
        Control(loop, tmp_path / "none", log)
    loop.close()
    log.close()


@unix_sockets
def test_existing_connections_stay_when_the_socket_is_made_again(
    supervisor: Supervisor, meet: Meet, tmp_path: Path
) -> None:
    control, gateway = supervisor.control, meet()
    token = control.expect()
    gateway.say(encode([token, NEWS]))
    assert supervisor.hear() == NEWS
    os.unlink(tmp_path / "control.sock")
    control.bind(tmp_path)
    assert (tmp_path / "control.sock").stat().st_mode & 0o777 == 0o600
    control.tell(Check())
    assert gateway.hear() == (token, [Check()])
    client = meet()
    client.say(encode([control.client_token, Do(1, "status")]))
    assert isinstance(supervisor.hear(), ControlRequest)
    (tmp_path / "spare").mkdir()
    control.bind(tmp_path / "spare")
    assert control.endpoint == f"ipc://{tmp_path}/spare/control.sock"
    with pytest.raises(FolderError):
        control.bind(tmp_path / "none")
    control.tell(Stop(1.0))
    assert gateway.hear() == (token, [Stop(1.0)])


def test_the_end_of_whoever_asked_is_told_and_that_of_the_gateway(
    supervisor: Supervisor, meet: Meet
) -> None:
    control, gateway, client = supervisor.control, meet(), meet()
    client.say(encode([control.client_token, Do(1, "connections")]))
    asked = supervisor.hear()
    assert isinstance(asked, ControlRequest)
    gateway.say(encode([control.expect(), NEWS]))
    assert supervisor.hear() == NEWS
    client.close()
    gateway.close()

    def look() -> bool:
        assert supervisor.receive() is None
        return len(supervisor.ended) == 2

    supervisor.until(look, "both ends to be told")
    assert set(supervisor.ended) == {LinkEnded(asked.who), LinkEnded(None)}


def test_a_request_is_passed_on_to_a_gateway_that_reads(supervisor: Supervisor, meet: Meet) -> None:
    control = supervisor.control
    assert not control.forward(Ask(1, "connections"))
    gateway = meet()
    token = control.expect()
    gateway.say(encode([token, NEWS]))
    assert supervisor.hear() == NEWS
    assert control.forward(Ask(1, "connections"))
    assert gateway.hear() == (token, [Ask(1, "connections")])
    # From here on libzmq receives only as much as its queue takes.
    gateway._socket.set(zmq.RCVHWM, 1)
    big = Ask(2, "publish", {"data": bytes(1 << 20)})
    supervisor.until(lambda: not control.forward(big), "it to be full")
    assert supervisor.receive() is None
    assert supervisor.ended == []
