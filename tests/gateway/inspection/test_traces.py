from __future__ import annotations

from typing import Any

import pytest

from tests.corpus import frame
from tests.gateway.harness import HANDSHAKE, entry_of
from tests.gateway.inspection.test_inspection import Inspected
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.connection.output import Output
from wsraw.gateway.inspection.traces import EARLY, LINE, MOST_TRACED, PAGE, QUEUE, Lines
from wsraw.link.records import Ask, Enough, More


class Traced(Inspected):
    """An inspection with one trace, whose pages are read as they come."""

    def __init__(self, count: int = 0, **options: Any) -> None:
        super().__init__(count)
        self.worker = self.harness.worker()
        self.begin(**options)

    def begin(self, **options: Any) -> None:
        if options:
            self.inspection.ask(Ask(1, "trace", options))
            self.turns()

    def end_turn(self) -> None:
        """Do the gateway's work at the end of a turn."""
        self.turns()
        self.harness.turn()
        self.inspection.look()
        self.turns()

    def read(self) -> list[str]:
        """Read all lines until no more come."""
        lines = []
        self.end_turn()
        while pages := self.pages():
            for page in pages:
                assert page.ok, page.text
                for line in page.data["rows"]:
                    lines.append(f"{line['what']} {line['text']} {line['data'].decode()}".rstrip())
                if page.more:
                    self.inspection.more(More(1))
            self.end_turn()
        return lines

    def newcomer(self, path: str = "", data: bytes = b"hello") -> Connection:
        """Connect a client."""
        con = self.harness.raw(b"")
        con.endpoint = self
        con.about["peer"] = "192.0.2.7:5"
        self.inspection.tracer.newcomer(con)
        head = HANDSHAKE.replace(b"GET / ", f"GET {path} ".encode())
        self.harness.say(con, head if path else data)
        return con

    @property
    def is_over(self) -> bool:
        inspection = self.inspection
        return not (inspection.running or inspection._idle or inspection._waiting)


def test_a_connection_is_traced_until_it_has_ended() -> None:
    traced = Traced(1)
    (con,) = traced.cons
    con.endpoint = traced
    traced.worker.work()
    traced.begin(id=con.id)
    assert traced.read() == [
        "trace from here on: raw, open",
        f"events {traced.worker.worker.name}: 0 in flight, 0 parked",
    ]
    traced.harness.say(con, b"hello")
    assert "on_message raw hello" in traced.read()
    assert not traced.is_over
    traced.harness.hang_up(con)
    traced.worker.work()
    traced.harness.registry.flow.socket_closed(con)
    lines = traced.read()
    assert lines[0] == "lost connection reset by peer"
    assert lines[-1] == "end"
    assert traced.is_over
    assert traced.inspection.tracer.taps == {}


def test_only_the_first_connection_that_fits_is_traced() -> None:
    traced = Traced(3, kind="raw")
    first, second, _ = traced.cons
    traced.read()
    traced.harness.say(second, b"no")
    traced.harness.say(first, b"yes")
    text = "\n".join(traced.read())
    assert "on_message raw yes" in text
    assert "no" not in text.split()
    assert list(traced.inspection.tracer.taps) == [first]


def test_the_next_client_is_traced_from_its_first_byte() -> None:
    traced = Traced(2, path="/rooms/{room}")
    assert traced.read() == ["waiting for a connection that matches"]
    traced.newcomer()
    traced.newcomer("/other")
    assert traced.read() == []
    assert traced.inspection.tracer.taps == {}
    con = traced.newcomer("/rooms/1")
    traced.newcomer("/rooms/2")
    lines = traced.read()
    assert lines[0] == "trace from here on: unknown, sniffing"
    assert lines[1].startswith("on_connect websocket server; GET /rooms/1;")
    assert list(traced.inspection.tracer.taps) == [con]


def test_only_new_connections_are_traced_if_that_is_asked_for() -> None:
    traced = Traced(2, kind="raw", new=True)
    assert traced.inspection.tracer.taps == {}
    con = traced.newcomer()
    assert "on_message raw hello" in traced.read()
    assert list(traced.inspection.tracer.taps) == [con]


def test_an_address_is_known_before_anything_is_said() -> None:
    traced = Traced(0, address="192.0.2.0/24")
    con = traced.newcomer(data=b"")
    assert "trace from here on: unknown, sniffing" in traced.read()
    traced.harness.registry.take(con, con.lost("gone", 0.0), 0.0)
    traced.harness.registry.flow.socket_closed(con)
    assert traced.read()[-1] == "end"
    assert traced.is_over


def test_several_connections_are_traced_up_to_the_given_number() -> None:
    traced = Traced(2, kind="raw", connections=3)
    traced.read()
    third, fourth = traced.newcomer(), traced.newcomer()
    traced.read()
    assert set(traced.inspection.tracer.taps) == {*traced.cons, third}
    assert type(fourth.output) is Output


def test_two_may_trace_the_same_connection() -> None:
    traced = Traced(1)
    (con,) = traced.cons
    for ref in (1, 2):
        traced.inspection.ask(Ask(ref, "trace", {"id": con.id}))
    traced.turns()
    assert {page.ref for page in traced.pages()} == {1, 2}
    traced.inspection.enough(Enough(1))
    assert list(traced.inspection.tracer.taps) == [con]
    traced.inspection.enough(Enough(2))
    assert traced.inspection.tracer.taps == {}
    assert type(con.output) is Output


def test_nothing_is_left_when_the_link_to_the_supervisor_is_lost() -> None:
    traced = Traced(1, kind="raw", connections=5)
    traced.read()
    traced.newcomer(data=b"")
    traced.inspection.forget()
    assert traced.inspection.tracer.taps == {}
    assert traced.is_over
    traced.newcomer()
    assert traced.inspection.tracer.taps == {}


def test_payloads_are_cut_where_that_was_asked_for() -> None:
    traced = Traced(1)
    (con,) = traced.cons
    traced.begin(id=con.id, bytes=3)
    traced.read()
    traced.harness.say(con, b"hello")
    assert "on_message raw hel" in traced.read()


def test_lines_that_nobody_reads_are_dropped_and_counted() -> None:
    traced = Traced(1)
    (con,) = traced.cons
    traced.begin(id=con.id, bytes=1000)
    # The first page is not read, so no other page is made.
    for _ in range(QUEUE // 1000):
        entry_of(con).event_bytes = 0
        traced.harness.say(con, b"x" * 1000)
        traced.inspection.look()
    lines = traced.read()
    shown = sum(line.startswith("on_message") for line in lines)
    assert shown < QUEUE // 1000
    (lost,) = [n for n, line in enumerate(lines) if line.startswith("lines lost")]
    assert int(lines[lost].split()[2].strip(",").replace(",", "")) >= QUEUE // 1000 - shown
    # The line about lost lines is at the place of those lines.
    assert lost == len(lines) - 1
    traced.harness.say(con, b"after")
    assert "on_message raw after" in traced.read()


def test_pages_of_lines_are_bounded() -> None:
    lines = Lines(1000, QUEUE, lambda: 0.0)
    for n in range(1000):
        lines.add(1, "<", str(n), 1000, bytes(1000), "")
    seen = []
    while page := lines.take():
        assert len(page) * (LINE + 1000) <= PAGE + LINE + 1000
        seen += [line["what"] for line in page]
    assert seen.pop() == "lines lost"
    # The last one is above the limit.
    assert seen == [str(n) for n in range(len(seen))]
    assert len(seen) == -(-QUEUE // (LINE + 1000))
    assert not lines


def test_what_a_newcomer_tells_before_it_is_known_is_bounded() -> None:
    traced = Traced(0, path="/x")
    con = traced.newcomer(data=b"")
    (lines,) = [lines for _, readers in traced.inspection.tracer.taps.values() for lines in readers]
    for _ in range(1000):
        lines.add(con.id, "<", "x", 0, b"", "")
    assert lines._size <= EARLY + LINE


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"id": "x"}, "id: 'x' is not the id of a connection"),
        ({"id": 5}, "there is no connection 5"),
        ({"path": "x"}, "'x': a path begins with /"),
        ({"address": "x"}, "'x': write an address"),
        ({"kind": "raw", "bytes": -1}, "bytes: -1: write a number from 0 to 65536"),
        (
            {"kind": "raw", "connections": 0},
            f"connections: 0: write a number from 1 to {MOST_TRACED}",
        ),
    ],
)
def test_a_trace_that_cannot_be_begun_is_refused(options: dict[str, Any], why: str) -> None:
    traced = Traced(1, **options)
    (page,) = traced.pages()
    assert not page.ok
    assert page.text.startswith(why)
    assert traced.inspection.tracer.taps == {}


def test_frames_of_a_traced_websocket_are_told() -> None:
    traced = Traced(0, path="/x")
    traced.read()
    con = traced.newcomer("/x")
    traced.read()
    traced.harness.say(con, frame(0x89, b"ping"))
    assert traced.read()[:2] == ["frame ping ping", "frame pong ping"]
