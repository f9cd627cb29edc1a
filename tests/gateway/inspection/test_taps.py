"""A tap on a connection of the harness: what it reports, and that it changes nothing."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.corpus import frame
from tests.gateway.harness import HANDSHAKE, Harness, LinkedWorker, entry_of
from wsraw.gateway.connection.connection import CLOSED, Connection, Phase
from wsraw.gateway.connection.output import Output
from wsraw.gateway.delivery.entry import PAUSED_OWN
from wsraw.gateway.inspection.taps import OUTPUT, Tap, TappedPhase
from wsraw.gateway.websocket.frames import FrameReader
from wsraw.link.records import Close, Join, Leave, Publish, Send, State


class Tapped:
    """A connection with a tap."""

    def __init__(self, harness: Harness, con: Connection) -> None:
        self.harness = harness
        self.con = con
        self.lines: list[str] = []
        self.tap = Tap(con, self._note)

    def _note(self, about: str, what: str, size: int, data: bytes, text: str) -> None:
        told = f"{about} {what} {text}".rstrip()
        self.lines.append(f"{told} {size} {data.decode('latin-1')}".rstrip() if size else told)

    def told(self) -> list[str]:
        """What the tap has reported since the last call, with the end of the turn."""
        self.tap.look()
        lines, self.lines[:] = [*self.lines], []
        return lines


def begin(**settings: Any) -> tuple[Harness, LinkedWorker]:
    harness = Harness(**settings)
    linked = harness.worker()
    linked.worker.number = 1
    return harness, linked


def test_the_walk_of_a_message_is_told() -> None:
    harness, worker = begin()
    tapped = Tapped(harness, harness.websocket())
    worker.work()
    assert tapped.told() == [
        "= trace from here on: websocket, open",
        "= events worker 1: 0 in flight, 0 parked",
    ]
    con = tapped.con
    harness.say(con, frame(0x81, b"hello"))
    harness.turn()
    assert tapped.told() == [
        "< frame text 5",
        "< on_message text 5 hello",
        "= events worker 1: 1 in flight, 0 parked 261",
    ]
    worker.ack(*worker.events, commands=(Send(con.id, b"answer", "text"),))
    assert tapped.told() == [
        "> send text 6 answer",
        "> frame text 6",
        "> output waits for the client 8",
        "= events worker 1: 0 in flight, 0 parked",
    ]
    assert harness.write(con) == b"\x81\x06answer"
    assert tapped.told() == ["> output all written"]


def test_a_raw_connection_is_told_from_its_first_byte_to_its_end() -> None:
    harness, worker = begin()
    tapped = Tapped(harness, harness.raw(b""))
    con = tapped.con
    harness.say(con, b"hello")
    harness.turn()
    assert tapped.told() == [
        "= trace from here on: unknown, sniffing",
        "= on_connect raw",
        "< on_message raw 5 hello",
        "= state open",
        "= events worker 1: 2 in flight, 0 parked 517",
    ]
    worker.ack(*worker.events, commands=(Send(con.id, b"ok"),))
    assert tapped.told()[0] == "> send binary 2 ok"
    harness.write(con)
    harness.registry.receive_eof(con, 0.0)
    assert tapped.told()[:3] == [
        "< end the client sends no more",
        "= state closed",
        "= on_close 1000, cause eof",
    ]
    harness.turn()
    worker.ack(*worker.events)
    assert not tapped.tap.look(), "no socket, and no worker that has to hear of it"


def test_an_end_of_which_no_handler_is_told_is_no_on_close() -> None:
    harness, _ = begin()
    tapped = Tapped(harness, harness.raw(b""))
    harness.hang_up(tapped.con)
    assert tapped.told()[-2:] == ["= state closed", "= end 1006, cause lost"]


def test_an_end_that_comes_from_no_phase_is_told() -> None:
    harness, _worker = begin()
    tapped = Tapped(harness, harness.websocket())
    tapped.told()
    harness.registry.abort(entry_of(tapped.con), 1008, "write-timeout", "too slow", 0.0)
    lines = tapped.told()
    assert "= close 1008 too slow, cause write-timeout" in lines
    harness.registry.take(tapped.con, tapped.con.abort(1008, "", "x", "", 0.0), 0.0)
    assert "= state closed" in tapped.told()


def test_what_becomes_of_a_connection_is_told_once() -> None:
    harness, worker = begin()
    tapped = Tapped(harness, harness.websocket())
    worker.work()
    tapped.told()
    con = tapped.con
    worker.say(Join(con.id, "room"))
    harness.say(con, frame(0x81, b"x"))
    harness.turn()
    worker.ack(*worker.events, commands=(State(con.id, b"1234"),))
    harness.registry.flow.pause(entry_of(con), PAUSED_OWN)
    lines = tapped.told()
    assert "= join room" in lines
    assert "= con.state 4" in lines
    assert "= reading paused: more than high_water_mark is held for it" in lines
    assert tapped.told() == []
    worker.say(Leave(con.id, "room"))
    harness.registry.flow.resume(entry_of(con), PAUSED_OWN)
    assert tapped.told() == ["= reading goes on", "= leave room"]


def test_a_published_message_is_told_with_its_payload() -> None:
    harness, worker = begin()
    web, raw = Tapped(harness, harness.websocket()), Tapped(harness, harness.raw())
    for tapped in (web, raw):
        worker.say(Join(tapped.con.id, "all"))
        tapped.told()
    worker.say(Publish("all", b"to all", "text"))
    assert web.told() == ["> published text 6 to all", "> output waits for the client 8"]
    assert raw.told() == ["> published raw 6 to all", "> output waits for the client 6"]
    assert harness.write(web.con) == b"\x81\x06to all"
    assert harness.write(raw.con) == b"to all"


def test_a_close_of_either_side_has_its_code() -> None:
    harness, worker = begin()
    tapped = Tapped(harness, harness.websocket())
    worker.work()
    tapped.told()
    worker.say(Close(tapped.con.id, 4000, "bye"))
    assert "> frame close 4000 5 bye" in tapped.told()
    harness.say(tapped.con, frame(0x88, b"\x0f\xa0"))
    lines = tapped.told()
    assert lines[0] == "< frame close 4000 2"
    assert "= on_close 4000, cause handler" in lines


def test_no_secret_of_a_request_is_told() -> None:
    harness, _worker = begin()
    tapped = Tapped(harness, harness.raw(b""))
    head = HANDSHAKE.replace(b"GET / ", b"GET /x?token=geheim ").replace(
        b"\r\n\r\n",
        b"\r\nAuthorization: geheim\r\nCookie: a=geheim\r\nX-Key: geheim\r\n"
        b"Sec-WebSocket-Protocol: geheim\r\nUser-Agent: x?geheim\r\n\r\n",
    )
    harness.say(tapped.con, head)
    text = "\n".join(tapped.told())
    assert "on_connect websocket server; GET /x?...; Host: h" in text
    assert "Authorization: ..." in text
    assert "geheim" not in text


def test_a_verdict_is_told() -> None:
    harness, worker = begin(verdict="handlers")
    tapped = Tapped(harness, harness.raw(b""))
    harness.say(tapped.con, HANDSHAKE)
    harness.turn()
    worker.ack(*worker.events)
    lines = tapped.told()
    assert "= accept" in lines
    assert "= state open" in lines


def test_a_tap_leaves_everything_as_it_was() -> None:
    harness, worker = begin()
    tapped = Tapped(harness, harness.websocket())
    con = tapped.con
    phase = tapped.tap.phase.inner
    worker.work()
    assert con.websocket is not None
    assert type(con.websocket.reader) is not FrameReader
    tapped.tap.close()
    assert con.phase is phase
    assert type(con.output) is Output
    assert type(con.websocket.reader) is FrameReader
    tapped.lines.clear()
    harness.say(con, frame(0x81, b"x"))
    assert tapped.lines == []


def test_every_attribute_of_an_output_is_taken_over() -> None:
    assert sorted(getattr(Output, "__slots__", OUTPUT)) == sorted(OUTPUT)


def test_a_tapped_phase_passes_on_everything_that_a_phase_can_be_asked() -> None:
    """A method that is left to the base class would be ignored: a request would get no response."""
    asked = {name for name in vars(Phase) if not name.startswith("_")}
    assert asked <= vars(TappedPhase).keys()


@pytest.mark.parametrize("seed", range(30))
def test_a_connection_does_the_same_tapped_or_not(seed: int) -> None:
    """Random steps, with a tap that begins and ends at any time."""
    plain, other = begin(), begin()
    chosen = random.Random(seed)
    kind = chosen.choice(["raw", "websocket"])
    cons = [harness.raw(b"") for harness, _ in (plain, other)]
    first = HANDSHAKE if kind == "websocket" else b"hello"
    steps: list[tuple[str, bytes]] = [("say", first[:7]), ("say", first[7:])]
    for n in range(12):
        message = b"%d" % n * chosen.choice([1, 200])
        said = frame(0x81, message) if kind == "websocket" else message
        steps += [("say", said[:5]), ("say", said[5:]), ("send", message), ("publish", b"all")]
        steps.append(chosen.choice([("write", b""), ("turn", b""), ("join", b"")]))
    steps.append(chosen.choice([("close", b""), ("lost", b""), ("eof", b""), ("kick", b"")]))
    begins, ends = sorted(chosen.sample(range(len(steps)), 2))
    tap = None
    for n, (what, data) in enumerate(steps):
        if n == begins:
            tap = Tapped(other[0], cons[1])
        if n == ends and tap is not None:
            tap.tap.close()
        outcomes = [
            act(*side, con, what, data) for side, con in zip((plain, other), cons, strict=True)
        ]
        assert outcomes[0] == outcomes[1], (n, what)
        assert cons[0].state is cons[1].state
        assert cons[0].output.size == cons[1].output.size
        if tap is not None and begins <= n < ends:
            tap.told()
    assert cons[0].ending.cause == cons[1].ending.cause
    if steps[-1][0] in ("lost", "kick"):
        assert cons[0].state is CLOSED


def act(harness: Harness, worker: LinkedWorker, con: Connection, what: str, data: bytes) -> Any:
    """Take one step; returns the visible results."""
    registry = harness.registry
    if what == "say":
        harness.say(con, data)
    elif what == "lost":
        harness.hang_up(con)
    elif what == "eof":
        registry.receive_eof(con, 0.0)
    elif what == "kick":
        registry.take(con, con.abort(1008, "", "kicked", "", 0.0), 0.0)
    elif what == "write":
        return harness.write(con)
    elif what == "turn":
        return [type(event).__name__ for event in worker.work()]
    elif con.entry is not None:
        worker.say({
            "send": Send(con.id, data, "text"),
            "publish": Publish("all", data, "text"),
            "join": Join(con.id, "all"),
            "close": Close(con.id, 4000),
        }[what])  # fmt: skip
    return None
