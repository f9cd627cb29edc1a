from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.deadline import DEADLINE, eventually
from wsraw.link.records import (
    Decoder,
    Do,
    Done,
    FromSupervisor,
    Left,
    LinkError,
    Listening,
    Ready,
    Spawned,
    Stop,
    Stopped,
    encode,
)
from wsraw.supervisor.control.link import Asked, Control
from wsraw.supervisor.run_folder.folder import FolderError

NEWS = Listening(["127.0.0.1:1"], "ipc://x", 1, 2)


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    control = Control(tmp_path)
    yield control
    control.close()


class Gateway:
    """The other end: a DEALER that says what it is told to say."""

    def __init__(self, control: Control) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(control.endpoint)
        self._decoder = Decoder(str, FromSupervisor | Done)

    def say(self, *frames: bytes) -> None:
        self._socket.send_multipart(frames)

    def hear(self) -> tuple[str, list[object]]:
        assert self._socket.poll(1000 * DEADLINE), "nothing was said"
        token, records, wrong = self._decoder.decode(self._socket.recv())
        assert not wrong
        return token, records

    def close(self) -> None:
        self._socket.close()
        self._context.term()


@pytest.fixture
def gateway(control: Control) -> Iterator[Gateway]:
    gateway = Gateway(control)
    yield gateway
    gateway.close()


def test_supervisor_and_gateway_exchange_records(control: Control, gateway: Gateway) -> None:
    token = control.expect()
    control.tell(Stop(1.0))
    gateway.say(encode([token, NEWS, Ready(3)]))
    assert eventually(control.receive) == [NEWS, Ready(3)]
    control.tell(Spawned(1, "t", 0), Stop(2.0))
    assert gateway.hear() == (token, [Spawned(1, "t", 0), Stop(2.0)]), "not what came too early"
    assert control.receive() is None


def test_a_batch_with_a_wrong_token_is_ignored(control: Control, gateway: Gateway) -> None:
    old = control.expect()
    token = control.expect()
    assert token != old
    for wrong in (old, "", "ä"):
        gateway.say(encode([wrong, Stopped()]))
    gateway.say(encode([token, NEWS]))
    assert eventually(control.receive) == [NEWS]
    assert control.receive() is None


def test_batches_are_ignored_before_a_gateway_is_expected(
    control: Control, gateway: Gateway
) -> None:
    gateway.say(encode(["", Stopped()]))
    gateway.say(b"\xc1")
    with pytest.raises(LinkError):
        eventually(control.receive)


def test_frames_that_are_not_a_batch_are_skipped(control: Control, gateway: Gateway) -> None:
    token = control.expect()
    gateway.say(encode([token, Stopped()]), b"more")
    gateway.say(encode([token, ["unheard of"], Left(1)]))
    assert eventually(control.receive) == [Left(1)]


def test_nothing_is_sent_to_a_dead_gateway(control: Control, gateway: Gateway) -> None:
    token = control.expect()
    gateway.say(encode([token, NEWS]))
    eventually(control.receive)
    gateway.close()
    control.tell(Stop(1.0))
    new = Gateway(control)
    token = control.expect()
    new.say(encode([token, NEWS]))
    assert eventually(control.receive) == [NEWS]
    control.tell(Stop(2.0))
    assert new.hear() == (token, [Stop(2.0)])
    new.close()


# --- the command line ---


def test_the_command_line_is_answered(control: Control, gateway: Gateway) -> None:
    token = control.expect()
    client = Gateway(control)
    client.say(encode([control.client_token, Do(7, "scale", ["3"])]))
    asked = eventually(control.receive)
    assert asked is not None
    assert isinstance(asked[0], Asked)
    assert asked[0].do == Do(7, "scale", ["3"])
    gateway.say(encode([token, NEWS]))
    eventually(control.receive)
    control.tell(Stop(1.0))
    control.answer(asked[0].who, Done(7, True, "3 workers"))
    assert client.hear() == (control.client_token, [Done(7, True, "3 workers")])
    assert gateway.hear() == (token, [Stop(1.0)])
    client.close()
    control.answer(asked[0].who, Done(7, True))


def test_each_token_names_its_sender(control: Control, gateway: Gateway) -> None:
    """A command that is no gateway's news, and the other way round."""
    token = control.expect()
    gateway.say(encode([control.client_token, Stopped()]))
    assert eventually(lambda: control.receive() is not None)
    gateway.say(encode([token, Do(1, "stop"), Stopped()]))
    assert eventually(control.receive) == [Stopped()]
    gateway.say(encode(["guess", Do(1, "stop")]))
    gateway.say(encode([token, NEWS]))
    assert eventually(control.receive) == [NEWS]


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="No such file"):
        Control(tmp_path / "none")
