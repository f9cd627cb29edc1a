"""The load finds the mistake of a server, and finds none where there is none."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from tests.deadline import UNIT
from tests.ports import free_port
from tests.tools.drill.faulty import Disconnect, Mistake, faulty, right
from wsraw.tools.drill.drill import drill
from wsraw.tools.drill.load.load import Load
from wsraw.tools.drill.plan import DrillError, Plan
from wsraw.tools.drill.report import Report
from wsraw.tools.drill.target.close_log import CloseLog
from wsraw.tools.drill.target.close_records import CloseReport

KINDS = pytest.mark.parametrize("kind", ["websocket", "raw"])
SIZE = 64
VICTIM = b"WD000003"
"""The beginning of the records of the one connection that is mistreated."""

Answers = Callable[[bytes], list[bytes]]


def examine(mistake: Mistake, kind: str, **options: object) -> Report:
    """Run some load of one kind on a server with that mistake."""
    values: dict[str, object] = {
        "websockets": 8 if kind == "websocket" else 0,
        "raw": 8 if kind == "raw" else 0,
        "seconds": 0.5,
        "rate": 800.0,
        "size": SIZE,
    }
    values |= options
    with faulty(mistake, int(str(values["size"]))) as port:
        plan = Plan(connect=f"127.0.0.1:{port}", **values)  # type: ignore[arg-type]
        return drill(plan, timeouts=0.2 * UNIT)


def once(answers: Answers) -> Mistake:
    """A mistake with one message of one connection."""
    return lambda n, data: answers(data) if data.startswith(VICTIM + b"00000005") else [data]


def swap() -> Mistake:
    held: list[bytes] = []

    def mistake(n: int, data: bytes) -> list[bytes]:
        if data.startswith(VICTIM + b"00000005"):
            held.append(data)
            return []
        if data.startswith(VICTIM + b"00000006"):
            return [data, held.pop()]
        return [data]

    return mistake


def disconnect(code: int) -> Mistake:
    def end(data: bytes) -> list[bytes]:
        raise Disconnect(code)

    return once(end)


def figures(report: Report) -> dict[str, int]:
    """The counts of errors that are not 0."""
    found = {
        name: report.figures[name] for name in ("lost", "duplicated", "reordered", "corrupted")
    }
    found["disconnected"] = sum(report.figures["disconnected"].values())
    return {name: count for name, count in found.items() if count}


@KINDS
@pytest.mark.parametrize("size", [16, 64, 200])
def test_a_right_echo_is_no_breach(kind: str, size: int) -> None:
    report = examine(right, kind, size=size)
    assert report.breaches() == []
    assert (report.figures["sent"], report.figures["answered"], report.figures["unsent"]) == (
        400,
        400,
        0,
    )
    assert figures(report) == {}
    assert (
        0
        < report.figures["latency_p50"]
        <= report.figures["latency_p99"]
        <= report.figures["latency_max"]
    )


@KINDS
@pytest.mark.parametrize(
    ("mistake", "wanted"),
    [
        (once(lambda data: []), {"lost": 1}),
        (once(lambda data: [data, data]), {"duplicated": 1}),
        (swap(), {"reordered": 1}),
        (once(lambda data: [data[:-1] + b"!"]), {"lost": 1, "corrupted": 1}),
        (once(lambda data: [data, b"WD000004" + data[8:]]), {"corrupted": 1}),
        (once(lambda data: [data[:-1]]), {"lost": 1, "corrupted": 1}),
    ],
    ids=["drops", "doubles", "swaps", "changes", "sends another's", "cuts"],
)
def test_a_mistake_is_found(mistake: Mistake, wanted: dict[str, int], kind: str) -> None:
    report = examine(mistake, kind)
    assert figures(report) == wanted
    assert report.breaches() == [f"{count} {name}" for name, count in wanted.items()]


@pytest.mark.parametrize(
    ("kind", "code", "how"),
    [("websocket", 1011, "1011"), ("websocket", 0, "eof"), ("raw", 0, "eof")],
)
def test_a_disconnection_is_found(kind: str, code: int, how: str) -> None:
    report = examine(disconnect(code), kind)
    assert report.figures["disconnected"] == {how: 1}
    assert "1 disconnected" in report.breaches()
    # The client reconnected, and its new connection was checked like the first.
    assert (
        report.figures["lost"] == report.figures["duplicated"] == report.figures["corrupted"] == 0
    )
    assert report.figures["cut_off"] >= 1
    assert report.figures["sent"] == report.figures["answered"] + report.figures["cut_off"]
    assert report.figures["sent"] + report.figures["unsent"] == 400


def test_at_most_once_takes_a_1011_for_what_it_promises() -> None:
    report = examine(disconnect(1011), "websocket", delivery="at-most-once")
    assert report.figures["disconnected"] == {}
    assert report.figures["disconnected_as_promised"] == {"1011": 1}
    assert report.breaches() == []


@KINDS
def test_messages_to_a_server_that_falls_silent_count_as_lost(kind: str) -> None:
    report = examine(lambda n, data: [data] if n < 10 else [], kind)
    assert report.figures["answered"] == 80
    assert report.figures["lost"] == 320
    assert report.figures["longest_pause"] > 0.5


def test_a_server_that_never_answers_ends_the_drill() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        plan = Plan(connect=f"127.0.0.1:{sock.getsockname()[1]}", websockets=1, raw=0)
        with pytest.raises(DrillError, match="did not open"):
            drill(plan, timeouts=0.03)


def test_a_server_that_refuses_the_connection_ends_the_drill() -> None:
    port = free_port()
    with pytest.raises(DrillError, match="refused"):
        drill(Plan(connect=f"127.0.0.1:{port}"))


def test_an_interrupt_ends_the_load_early_and_waits_for_all_answers() -> None:
    with faulty() as port:
        plan = Plan(connect=f"127.0.0.1:{port}", websockets=4, raw=4, seconds=600, rate=800)
        load = Load(plan, plan.address())

        def interrupt_later() -> None:
            asyncio.get_running_loop().call_later(0.3, load.interrupt)

        asyncio.run(load.run(interrupt_later))
    assert 0 < load.figures.sent == load.figures.answered < 800 * 600
    assert load.close_records.disconnected("at-least-once") == ({}, {})


class SlowLog(CloseLog):
    """Handlers that report one end at each look of the load, and never report the last ones."""

    def __init__(self, withheld: int) -> None:
        self.load: Load
        self._names: list[str] | None = None
        self._withheld = withheld

    def exists(self) -> bool:
        return True

    def read(self) -> list[CloseReport]:
        if self._names is None:
            self._names = [client.name for client in self.load._verified]
        if len(self._names) <= self._withheld:
            return []
        return [CloseReport(self._names.pop(), "1000", "peer", "-")]


@pytest.mark.parametrize("withheld", [0, 2])
def test_ends_are_waited_for_while_more_of_them_are_reported(
    withheld: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This time is shorter than all reports together take.
    monkeypatch.setattr("wsraw.tools.drill.load.load.CLOSE_TIMEOUT", 0.1)
    log = SlowLog(withheld)
    with faulty() as port:
        plan = Plan(connect=f"127.0.0.1:{port}", websockets=30, raw=0, seconds=0.5, rate=100)
        log.load = load = Load(plan, plan.address(), close_log=log)
        asyncio.run(load.run())
    assert load.close_records.missing == withheld
