"""Which gateway serves after a handover: every order of its steps, of a timeout and of both
deaths.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

import pytest

from wsraw.gateway.handover.dialog import (
    ABORT,
    ADOPTED,
    COMMIT,
    LIVE,
    MOST_WORDS,
    READY,
    REFUSED,
    Giver,
    Next,
    Taker,
    word,
)

RECORDS = 3
"""Records of the handover in the model; the last one says that it was the last."""

ROOM = 1
"""Records that fit into the socket: a taker that does not read makes the giver wait."""


@dataclass(frozen=True)
class World:
    """Both processes, and the messages on their way between them. A state is replayed from its
    steps, as the state machines cannot be copied.
    """

    steps: tuple[str, ...] = ()


class Run:
    """One history, run step by step."""

    def __init__(self) -> None:
        self.giver, self.taker = Giver(10.0), Taker()
        self.now = 0.0
        self.to_giver: deque[bytes] = deque()
        self.to_taker: deque[bytes] = deque()
        self.records: deque[int] = deque()
        self.sent = self.read = 0
        self.alive = {"giver", "taker"}
        self.said_ready = False
        self.has_all = False
        self.giving = False
        """The giver has stopped serving, and its dialog has not ended."""
        self.giver_serves = True
        self.taker_serves = False
        self.giver_touched = False
        """The giver has served again after a stop."""
        self.is_over = False
        self.acts: deque[Next] = deque()
        self.taker_acts: deque[Next] = deque()

    # A kill can come before or after each step.

    def possible(self) -> list[str]:
        found = []
        if "giver" in self.alive:
            found += self._of_giver()
        if "taker" in self.alive:
            found += self._of_taker()
        found += [f"kill {who}" for who in sorted(self.alive)]
        return found

    def _of_giver(self) -> list[str]:
        if self.acts:
            return ["giver acts"]
        if self.giver.over is not None:
            return []
        found = []
        if self.to_giver:
            found.append("giver hears")
        elif "taker" not in self.alive:
            found.append("giver hears the end")
        if self.giving and self.sent < RECORDS and len(self.records) < ROOM:
            found.append("giver sends")
        if self.giver.wake_at < math.inf:
            found.append("time")
        return found

    def _of_taker(self) -> list[str]:
        if self.taker_acts:
            return ["taker acts"]
        if self.taker.over is not None:
            return []
        found = []
        if not self.said_ready:
            found.append("taker is ready")
        if self.has_all:
            found.append("taker adopts")
        elif self.said_ready and self.records:
            found.append("taker reads")
        if self.to_taker:
            found.append("taker hears")
        elif "giver" not in self.alive and not self.taker.giver_is_gone:
            found.append("taker hears the end")
        if self.taker.giver_is_gone and not self.records and self.read < RECORDS:
            found.append("taker is cut off")
        if self.said_ready and not self.taker.has_adopted:
            found.append("taker refuses")
        return found

    def take(self, step: str) -> None:
        who = step.split()[0]
        match step:
            case "kill giver" | "kill taker":
                self.alive.discard(step.split()[1])
            case "giver hears":
                self._answer(self.giver.receive(self.to_giver.popleft(), self.now))
            case "giver hears the end":
                self._answer(self.giver.end())
            case "giver sends":
                self.sent += 1
                self.records.append(self.sent)
            case "time":
                self.now = self.giver.wake_at
                self._answer(self.giver.check(self.now))
            case "giver acts":
                self._giver_acts(self.acts.popleft())
            case "taker is ready":
                self.said_ready = True
                self._say(word(READY))
            case "taker refuses":
                self._say(word(REFUSED, {"why": "no"}))
                self._answer_taker(self.taker.fail("no"))
            case "taker reads":
                self.read = self.records.popleft()
                if self.read == RECORDS:
                    self.has_all = True
            case "taker adopts":
                self.has_all = False
                next_ = self.taker.adopted()
                if next_ is Next.WAIT:
                    self._say(word(ADOPTED))
                self._answer_taker(next_)
            case "taker is cut off":
                self._answer_taker(self.taker.cut_off())
            case "taker hears":
                self._answer_taker(self.taker.receive(self.to_taker.popleft()))
            case "taker hears the end":
                self._answer_taker(self.taker.end())
            case "taker acts":
                self._taker_acts(self.taker_acts.popleft())
            case _:
                raise AssertionError(f"{who}: {step}")

    def _answer(self, next_: Next) -> None:
        if next_ is not Next.WAIT:
            self.acts.append(next_)

    def _answer_taker(self, next_: Next) -> None:
        if next_ is not Next.WAIT:
            self.taker_acts.append(next_)

    def _say(self, data: bytes) -> None:
        if "giver" in self.alive:
            self.to_giver.append(data)

    def _giver_acts(self, next_: Next) -> None:
        if next_ is Next.GIVE:
            self.giving, self.giver_serves = True, False
        elif next_ is Next.COMMIT:
            # If the taker is gone, the next thing that the giver reads is the end.
            if "taker" in self.alive:
                self.to_taker.append(COMMIT)
        elif next_ is Next.KEEP:
            if "taker" in self.alive and not self.giver.has_committed:
                self.to_taker.append(ABORT)
            # Sending A and serving again are two steps, as a kill can come in between.
            self.acts.append(Next.WAIT)
        elif next_ is Next.WAIT:
            self.giver_touched = self.giving
            self.giving, self.giver_serves = False, True
        else:
            assert next_ is Next.LEAVE
            self.giver_serves = False

    def _taker_acts(self, next_: Next) -> None:
        if next_ is Next.SERVE:
            self._say(LIVE)
            self.taker_acts.append(Next.WAIT)
        elif next_ is Next.WAIT:
            self.taker_serves = True
        else:
            assert next_ is Next.QUIT
            self.alive.discard("taker")

    def key(self) -> tuple[object, ...]:
        giver, taker = self.giver, self.taker
        return (
            tuple(sorted(self.alive)),
            tuple(self.to_giver),
            tuple(self.to_taker),
            tuple(self.records),
            (self.sent, self.read, self.said_ready, self.has_all, self.giving),
            (self.giver_serves, self.taker_serves, self.giver_touched),
            (giver.is_stopped, giver.has_committed, giver.over),
            (taker.has_adopted, taker.giver_is_gone, taker.over),
            tuple(self.acts),
            tuple(self.taker_acts),
        )

    def check(self) -> None:
        """Check the invariants of every instant."""
        serving = {"giver"} if self.giver_serves and "giver" in self.alive else set()
        if self.taker_serves and "taker" in self.alive:
            serving.add("taker")
        assert len(serving) <= 1
        # The two must not even serve one after the other, as the taker's copy would be out of date.
        assert not (self.taker_serves and self.giver_touched)
        if not self.possible_without_kills():
            # The only holder of the connections may have been killed. Once the giver has left, that
            # is the taker.
            holder_died = self.giver.over is Next.LEAVE and "taker" not in self.alive
            assert serving or not self.alive or holder_died, "nobody serves, although one could"

    def possible_without_kills(self) -> list[str]:
        return [step for step in self.possible() if not step.startswith("kill")]


def replay(world: World) -> Run:
    run = Run()
    for step in world.steps:
        run.take(step)
    return run


def test_at_every_instant_one_of_them_has_the_connections_or_both_are_dead() -> None:
    """This visits all reachable states. No process has the connections only if the taker dies
    after the giver was killed.
    """
    seen: set[tuple[object, ...]] = set()
    waiting = deque([World()])
    ends: set[tuple[bool, bool, bool]] = set()
    while waiting:
        world = waiting.popleft()
        run = replay(world)
        if run.key() in seen:
            continue
        seen.add(run.key())
        try:
            run.check()
        except AssertionError as error:
            raise AssertionError(f"{error}: {' | '.join(world.steps)}") from error
        if not run.possible_without_kills():
            both_dead = not run.alive
            ends.add((run.giver_serves and not both_dead, run.taker_serves, both_dead))
        waiting.extend(replace(world, steps=(*world.steps, step)) for step in run.possible())
    assert len(seen) > 300
    assert {(True, False, False), (False, True, False)} <= ends


def test_the_clock_stops_with_the_commit() -> None:
    giver = Giver(5.0)
    assert giver.receive(word(READY), 1.0) is Next.GIVE
    assert giver.wake_at == 6.0
    assert giver.receive(word(ADOPTED, {"connections": 3}), 5.9) is Next.COMMIT
    assert giver.said == {"connections": 3}
    assert giver.check(1000.0) is Next.WAIT
    assert giver.fail("a fault of our own") is Next.WAIT
    assert giver.receive(LIVE, 1000.0) is Next.LEAVE
    assert giver.end() is Next.LEAVE


def test_a_taker_that_is_late_is_given_up() -> None:
    giver = Giver(5.0)
    giver.receive(word(READY), 1.0)
    assert giver.check(5.9) is Next.WAIT
    assert giver.check(6.0) is Next.KEEP
    assert giver.why == "the new gateway has not taken over within 5 s"


def test_without_a_timeout_the_taker_is_waited_for() -> None:
    giver = Giver(0.0)
    giver.receive(word(READY), 1.0)
    assert giver.wake_at == math.inf


def test_an_end_after_the_commit_gives_all_back() -> None:
    giver = Giver(5.0)
    giver.receive(word(READY), 1.0)
    giver.receive(word(ADOPTED), 1.0)
    assert giver.end() is Next.KEEP
    assert giver.why == "the new gateway has ended"


def test_words_that_come_byte_by_byte_are_understood() -> None:
    giver = Giver(5.0)
    data = word(READY, {"version": 1})
    for index in range(len(data) - 1):
        assert giver.receive(data[index : index + 1], 0.0) is Next.WAIT
    assert giver.receive(data[-1:], 0.0) is Next.GIVE
    assert giver.said == {"version": 1}


def test_a_taker_that_says_live_right_behind_adopted_has_taken_over() -> None:
    """Both come in one read: the commit has no effect, and the next call reports the end."""
    giver = Giver(5.0)
    giver.receive(word(READY), 0.0)
    assert giver.receive(word(ADOPTED) + LIVE, 0.0) is Next.COMMIT
    assert giver.receive(b"", 0.0) is Next.LEAVE


@pytest.mark.parametrize(
    "said",
    [
        b"x" * (MOST_WORDS + 1),
        b"\xff\n",
        b"[]\n",
        b"3\n",
        b'["ready"]\n',
        b'["ready", 3]\n',
        word("adopted"),
        word("hello"),
        word(READY) + word(READY),
    ],
)
def test_what_is_not_known_leaves_everything_where_it_is(said: bytes) -> None:
    giver = Giver(5.0)
    if giver.receive(said, 0.0) is Next.GIVE:
        giver.receive(b"", 0.0)
    assert giver.over is Next.KEEP
    assert "another version" in giver.why


def test_a_taker_that_refuses_says_why() -> None:
    giver = Giver(5.0)
    giver.receive(word(READY), 0.0)
    assert giver.receive(word(REFUSED, {"why": "version 3 of the records"}), 0.0) is Next.KEEP
    assert giver.why == "version 3 of the records"


def test_a_taker_without_everything_quits() -> None:
    taker = Taker()
    assert taker.end() is Next.WAIT
    assert taker.cut_off() is Next.QUIT
    assert "before it had handed over everything" in taker.why


def test_a_taker_that_has_read_everything_after_the_giver_was_killed_serves() -> None:
    taker = Taker()
    taker.end()
    assert taker.adopted() is Next.SERVE


def test_records_that_end_say_nothing_while_the_words_go_on() -> None:
    taker = Taker()
    assert taker.cut_off() is Next.WAIT
    assert taker.receive(ABORT) is Next.QUIT


@pytest.mark.parametrize("said", [ABORT, b"?", COMMIT])
def test_a_taker_that_is_not_wanted_quits(said: bytes) -> None:
    taker = Taker()
    assert taker.receive(said) is Next.QUIT
    assert taker.end() is Next.QUIT
