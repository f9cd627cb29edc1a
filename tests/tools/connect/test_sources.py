"""`wsraw connect` at a terminal: lines are typed while others arrive."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.deadline import eventually
from tests.e2e.serving import ECHO, Serving, serve
from tests.needs import signals
from tests.tools.connect.driving import Terminal, handlers_file

pytestmark = signals

HANDLERS = r"""
import asyncio

async def on_connect(inf, con):
    con.join("all")

async def on_message(msg, con):
    from wsraw import publish
    data = msg["data"]
    if isinstance(data, bytes):
        return msg
    if data == "later":
        for n in range(2):
            await asyncio.sleep(0.2)
            con.send(f"news {n} \x1b[2J")
        return None
    if data == "close":
        return con.close(4001, "enough \x1b[2J")
    return msg
"""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serve(handlers_file(tmp_path_factory.mktemp("handlers"), HANDLERS)) as serving:
        yield serving


@pytest.fixture
def terminal(serving: Serving) -> Iterator[Terminal]:
    with Terminal(serving.url()) as terminal:
        terminal.shows(">")
        assert terminal.rows()[0].startswith(f"connected to {serving.url()}")
        yield terminal


def test_a_line_is_sent_and_its_answer_is_shown(terminal: Terminal) -> None:
    terminal.type("hello\n")
    terminal.shows("> hello", "< hello", ">")


def test_lines_that_come_do_not_garble_the_one_that_is_typed(terminal: Terminal) -> None:
    terminal.type("later\nabcdef\x1b[D\x1b[D")
    terminal.shows("> later", r"< news 0 \x1b[2J", r"< news 1 \x1b[2J", "> abcdef")
    assert terminal.screen.cursor.x == len("> abcd")
    terminal.type("X\n")
    terminal.shows("> abcdXef", "< abcdXef", ">")


def test_a_line_longer_than_the_screen_stays_in_one_row(terminal: Terminal) -> None:
    terminal.type("later\n" + "z" * 150)
    eventually(lambda: any("news 1" in row for row in terminal.rows()), "the news")
    rows = terminal.rows()
    assert rows[-2] == r"< news 1 \x1b[2J"
    assert rows[-1].endswith("zzz")
    assert not any("zzz" in row for row in rows[:-1])


def test_lines_that_were_sent_can_be_had_again(terminal: Terminal) -> None:
    for text in ("one", "two"):
        terminal.type(f"{text}\n")
        terminal.shows(f"< {text}", ">")
    terminal.type("\x1b[A\x1b[A\n")
    terminal.shows("> one", "< one", ">")


def test_commands_work_and_mistakes_are_explained(terminal: Terminal) -> None:
    terminal.type("/ping\n")
    eventually(lambda: any(row.startswith("pong after") for row in terminal.rows()), "the pong")
    terminal.type("/binary 00ff\n")
    terminal.shows("> /binary 00ff", "< binary, 2 bytes: 00 ff", ">")
    terminal.type("/nothing\n")
    eventually(lambda: "//nothing sends" in terminal.text(), "the hint")
    terminal.type("//nothing\n")
    terminal.shows("> //nothing", "< /nothing", ">")


@pytest.mark.parametrize("way", ["\x04", "/quit\n", "/close\n"])
def test_the_client_ends_when_asked_and_the_terminal_is_as_before(
    terminal: Terminal, way: str
) -> None:
    terminal.type(way)
    assert terminal.wait() == 0
    terminal.shows("closed by this client: 1000 (normal closure)")
    assert terminal.current_modes() == terminal.modes


def test_a_close_of_the_server_ends_it_while_a_line_is_typed(terminal: Terminal) -> None:
    terminal.type("close\n")
    assert terminal.wait() == 3
    line = r"closed by the peer: 4001 (a code of the application): enough \x1b[2J"
    eventually(lambda: line in terminal.text(), "the close")
    assert terminal.current_modes() == terminal.modes


def test_ctrl_c_ends_the_session_and_the_server_is_told(
    serving: Serving, terminal: Terminal
) -> None:
    terminal.type("half")
    terminal.shows("> half")
    terminal.type("\x03")
    assert terminal.wait() == 130
    assert terminal.current_modes() == terminal.modes


def test_a_terminal_that_knows_no_sequences_gets_none(serving: Serving) -> None:
    with Terminal(serving.url(), env={"TERM": "dumb"}) as terminal:
        terminal.type("hello\n")
        eventually(lambda: b"< hello" in terminal.received, "the answer")
        # The next prompt may be shown before the answer. A Ctrl-D before the prompt is lost, as
        # readline has not taken over the terminal yet.
        eventually(lambda: terminal.received.count(b"> ") == 2, "the next prompt")
        terminal.type("\x04")
        assert terminal.wait() == 0
        assert b"\x1b" not in terminal.received


def test_lines_of_a_stream_are_shown_one_by_one() -> None:
    with serve(ECHO) as serving:
        host, port = serving.addresses[0]
        with Terminal(f"tcp://{host}:{port}") as terminal:
            terminal.type("hello\n")
            terminal.shows("> hello", "< hello", ">")
            terminal.type("\n")
            terminal.shows("< hello", ">", "<", ">")
            terminal.type("\x04")
            assert terminal.wait() == 0
            terminal.shows("closed by this client")


def test_a_stopped_client_goes_on_afterwards(terminal: Terminal) -> None:
    terminal.process.send_signal(signal.SIGSTOP)
    terminal.process.send_signal(signal.SIGCONT)
    terminal.type("hello\n")
    terminal.shows("< hello", ">")
