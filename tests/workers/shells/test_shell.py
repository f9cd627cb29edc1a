"""The code that both shells share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from tests.workers.conftest import Pair, message
from wsraw.link.gateway_end import who
from wsraw.link.records import Refused
from wsraw.testing.memory import MemoryDealer
from wsraw.workers.shells import shell as shell_module
from wsraw.workers.shells.shell import WARN_AFTER, Shell, Stopper

MakePair = Callable[..., Pair]


@pytest.fixture
def dealer() -> Iterator[MemoryDealer]:
    made = MemoryDealer(b"identity")
    yield made
    made.close()


def test_a_shell_without_a_gateway_warns_once(
    pair: MakePair,
    dealer: MemoryDealer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.getLogger("wsraw").propagate = True
    p = pair("")
    p.runtime.receive(who())
    assert not p.runtime.is_ready
    shell = Shell(p.runtime, dealer, Stopper(dealer.bell))
    assert 0 < shell.look_if_alone() <= WARN_AFTER
    assert not caplog.records
    monkeypatch.setattr(shell_module, "WARN_AFTER", 0.0)
    shell = Shell(p.runtime, dealer, Stopper(dealer.bell))
    for _ in range(2):
        assert shell.look_if_alone() == float("inf")
    assert [r.getMessage() for r in caplog.records] == ["waiting for a gateway at memory"]


def test_a_shell_says_again_that_it_is_there_while_there_is_no_session(
    pair: MakePair, dealer: MemoryDealer
) -> None:
    p = pair("")
    dealer.probe_every = 0.0
    stopper = Stopper(dealer.bell)
    shell = Shell(p.runtime, dealer, stopper)

    def said() -> list[bytes]:
        assert shell.look_if_alone() == 0.0
        found = list(dealer.sent)
        dealer.sent.clear()
        return found

    for end in (lambda: p.runtime.receive(who()), p.runtime.lost):
        assert said() == []
        end()
        assert said() == said() == [b""]
        p.begin_session(2)
    p.runtime.lost()
    stopper.stop()
    assert said() == []


@pytest.mark.parametrize(
    ("draining", "queued", "asked", "rejected", "over"),
    [
        (False, False, False, False, False),
        (False, True, False, False, False),
        (True, True, False, False, False),
        (True, False, False, False, True),
        (False, True, True, False, True),
        (False, True, False, True, True),
    ],
)
def test_the_shell_is_over_when_its_events_are_handled_or_it_is_shut_out(
    pair: MakePair,
    dealer: MemoryDealer,
    draining: bool,
    queued: bool,
    asked: bool,
    rejected: bool,
    over: bool,
) -> None:
    p = pair("")
    stopper = Stopper(dealer.bell)
    shell = Shell(p.runtime, dealer, stopper)
    if queued:
        p.deliver(message(1, b"x"))
    if draining:
        p.gateway.drain(30)
        p.tell()
    if asked:
        stopper.stop()
    if rejected:
        p.notice(Refused(0, 0, "why"))
    assert shell.is_over() is over
