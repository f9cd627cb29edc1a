"""Both sides of a handover as real processes, which are killed at any instant."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.needs import KILL, signals, unix_sockets
from wsraw.gateway.handover.channel import LAST, RECORD, Frame, pair
from wsraw.gateway.handover.giving import Giving, Piece
from wsraw.gateway.handover.taking import Taking
from wsraw.runtime.loop import Loop

pytestmark = [signals, unix_sockets]

KILLS = 50 * int(os.environ.get("WSRAW_SOAK", "1"))
"""Kills of each side; `make soak` sets more."""

RECORDS = 20
PAUSE = 0.0005
"""Seconds that it takes to make, and to take, a record."""

TOOK = 2 * RECORDS * PAUSE + 0.01
"""The least time that a handover takes, in seconds."""


def pieces(sock: socket.socket, pause: float = PAUSE) -> Iterator[Piece]:
    for number in range(RECORDS):
        time.sleep(pause)
        yield Piece(RECORD, b"%d" % number * 1000, [sock])
    yield Piece(LAST, b"")


def give(words: socket.socket, records: socket.socket, timeout: float = 30.0) -> str:
    loop = Loop()
    giving = Giving(loop, words, records, timeout)
    while not giving.is_due:
        loop.turn()
    with socket.socket() as sock:
        left = giving.run(pieces(sock))
    loop.close()
    return "left" if left else "kept"


def take(words: socket.socket, records: socket.socket, refuses: bool = False) -> str:
    taken = []

    def one(frame: Frame) -> None:
        time.sleep(PAUSE)
        taken.append(frame.data)
        if refuses and len(taken) == 5:
            raise ValueError("a record of version 9")

    def finish() -> dict[str, int]:
        assert taken == [b"%d" % number * 1000 for number in range(RECORDS)]
        return {"records": len(taken)}

    return "serves" if Taking(words, records, one, finish).run({}) else "quits"


class Both:
    """Two processes, how they ended, and the pipes on which they report."""

    def __init__(self, taker: Callable[[socket.socket, socket.socket], str] = take) -> None:
        words, records = pair(), pair()
        self.pids: list[int] = []
        self._told: list[int] = []
        for index, side in enumerate((give, taker)):
            told, tell = os.pipe()
            pid = os.fork()
            if not pid:
                said = "failed"
                try:
                    # With these open, the end of the other process would not be noticed.
                    words[1 - index].close()
                    records[1 - index].close()
                    said = side(words[index], records[index])
                finally:
                    os.write(tell, said.encode())
                    os._exit(0)
            os.close(tell)
            self.pids.append(pid)
            self._told.append(told)
        for end in (*words, *records):
            end.close()

    def kill(self, index: int) -> None:
        os.kill(self.pids[index], KILL)

    def outcome(self) -> list[str]:
        """The last words of giver and taker before they ended; "" if there are none."""
        said = []
        for pid, told in zip(self.pids, self._told, strict=True):
            said.append(os.read(told, 100).decode())
            os.close(told)
            os.waitpid(pid, 0)
        return said


def test_without_a_fault_the_taker_serves() -> None:
    assert Both().outcome() == ["left", "serves"]


def test_a_taker_that_does_not_understand_leaves_everything_where_it_is() -> None:
    def refuse(words: socket.socket, records: socket.socket) -> str:
        return take(words, records, refuses=True)

    assert Both(refuse).outcome() == ["kept", "quits"]


def test_a_taker_that_stops_is_given_up() -> None:
    def give_up(words: socket.socket, records: socket.socket) -> str:
        os.kill(os.getpid(), signal.SIGSTOP)
        return take(words, records)

    both = Both(give_up)
    # The taker was stopped before it was ready, and only a kill, as by its supervisor, ends it. The
    # giver serves.
    both.kill(1)
    assert both.outcome() == ["kept", ""]


@pytest.mark.parametrize("victim", [0, 1], ids=["giver", "taker"])
def test_killed_at_any_instant_one_of_them_has_everything(victim: int) -> None:
    luck = random.Random()
    for _ in range(KILLS):
        both = Both()
        time.sleep(luck.random() * TOOK)
        both.kill(victim)
        giver, taker = both.outcome()
        told = f"the giver said {giver!r}, the taker {taker!r}"
        assert "failed" not in (giver, taker), told
        assert (giver, taker) != ("kept", "serves"), told
        if victim == 0:
            # If the giver has left, the taker must serve.
            assert taker in ("serves", "quits") and (giver != "left" or taker == "serves"), told
        else:
            assert giver in ("left", "kept"), told
            # After the taker's word no other process may serve; before it the giver does.
            assert giver == "kept" or taker in ("serves", ""), told


def test_a_slow_taker_is_given_up_and_does_not_serve() -> None:
    """The time is over while the taker is reading records."""

    def slowly(words: socket.socket, records: socket.socket) -> str:
        def one(frame: Frame) -> None:
            time.sleep(0.2)

        return "serves" if Taking(words, records, one, dict).run({}) else "quits"

    ours, theirs = pair()
    records, their_records = pair()
    told, tell = os.pipe()
    pid = os.fork()
    if not pid:
        said = "failed"
        try:
            ours.close()
            records.close()
            said = slowly(theirs, their_records)
        finally:
            os.write(tell, said.encode())
            os._exit(0)
    os.close(tell)
    theirs.close()
    their_records.close()
    assert give(ours, records, 0.3) == "kept"
    assert os.read(told, 100) == b"quits"
    os.close(told)
    os.waitpid(pid, 0)
