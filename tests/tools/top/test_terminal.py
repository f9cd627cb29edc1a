"""`wsraw top` at a terminal."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.deadline import DEADLINE, eventually
from tests.e2e.command_line import done
from tests.e2e.serving import ECHO, Serving, posix, serve
from tests.tools.connect.driving import Terminal
from wsraw.tools.top.terminal import ENTER, LEAVE

pytestmark = posix


def top(serving: Serving, *arguments: str, columns: int = 80, rows: int = 24) -> Terminal:
    return Terminal(
        "--interval=0.2", "--run-dir", str(serving.folder), *arguments,
        what="top", columns=columns, rows=rows,
    )  # fmt: skip


def shows(terminal: Terminal, *texts: str) -> None:
    """Wait until the screen shows all of these."""
    try:
        eventually(lambda: all(text in terminal.text() for text in texts), f"{texts}")
    except AssertionError as error:
        raise AssertionError(f"{error}\n" + "\n".join(terminal.rows())) from None


def is_restored(terminal: Terminal) -> bool:
    """Whether the alternate screen was left as often as entered, the cursor is back, and keys
    echo.
    """
    received = terminal.received
    return (
        received.count(ENTER.encode()) == received.count(LEAVE.encode()) > 0
        and received.rfind(ENTER.encode()) < received.rfind(LEAVE.encode())
        and not terminal.screen.cursor.hidden
        and terminal.current_modes() == terminal.modes
    )


def test_q_ends_top_and_the_terminal_is_as_before() -> None:
    with serve(ECHO, workers=2) as serving, top(serving) as terminal:
        shows(terminal, "q: quit", "messages      in 0/s", "1       ready", "2       ready")
        assert terminal.screen.cursor.hidden
        assert terminal.current_modes() != terminal.modes
        terminal.type("xq")
        assert terminal.wait() == 0
        eventually(lambda: is_restored(terminal), "a terminal as before")


@pytest.mark.parametrize(("number", "code"), [(None, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_top_and_the_terminal_is_as_before(
    number: signal.Signals | None, code: int
) -> None:
    with serve(ECHO) as serving, top(serving) as terminal:
        shows(terminal, "q: quit")
        if number is None:
            terminal.type("\x03")
        else:
            terminal.process.send_signal(number)
        assert terminal.wait() == code
        eventually(lambda: is_restored(terminal), "a terminal as before")
        assert b"Traceback" not in terminal.received


def test_the_view_goes_on_by_itself() -> None:
    with serve(ECHO) as serving, top(serving) as terminal:
        shows(terminal, "connections   0 ")
        with serving.ws() as ws:
            ws.send("x")
            assert ws.recv(DEADLINE) == "x"
            shows(terminal, "connections   1 ")
        shows(terminal, "connections   0 ")


def test_the_view_fits_a_narrow_and_a_resized_terminal() -> None:
    with serve(ECHO, workers=2) as serving, top(serving, columns=40, rows=12) as terminal:
        shows(terminal, "messages  in 0/s  out 0/s")
        terminal.resize(100, 30)
        shows(terminal, "messages      in 0/s   out 0/s", "1       ready", "runs")
        terminal.resize(40, 30)
        shows(terminal, "messages  in 0/s  out 0/s", "1       ready")
        assert not any("runs" in row for row in terminal.rows())


def test_a_run_that_ends_is_shown() -> None:
    with serve(ECHO) as serving, top(serving) as terminal:
        shows(terminal, "messages      in 0/s")
        done(serving, "stop")
        assert serving.run.wait() == 0
        shows(terminal, "the run has ended", "the last answer:")
        terminal.type("q")
        assert terminal.wait() == 0
        assert b"Traceback" not in terminal.received


def test_after_so_many_views_the_last_one_stays() -> None:
    with serve(ECHO) as serving, top(serving, "--count=2") as terminal:
        assert terminal.wait() == 0
        eventually(lambda: is_restored(terminal), "a terminal as before")
        left = terminal.received.decode().rpartition(LEAVE)[2]
        assert "messages      in 0/s" in left
        assert "\x1b" not in left


def test_ctrl_z_leaves_the_terminal_to_the_shell() -> None:
    with serve(ECHO) as serving, top(serving) as terminal:
        shows(terminal, "q: quit")
        # The terminal sends this signal for Ctrl-Z; here there is no shell.
        terminal.process.send_signal(signal.SIGTSTP)
        eventually(lambda: is_restored(terminal), "a terminal as before")
        terminal.screen.reset()
        size = len(terminal.received)
        time.sleep(0.5)
        assert len(terminal.received) == size
        os.kill(terminal.process.pid, signal.SIGCONT)
        shows(terminal, "q: quit", "messages      in 0/s")
        terminal.type("q")
        assert terminal.wait() == 0
        eventually(lambda: is_restored(terminal), "a terminal as before")


def test_a_terminal_that_knows_no_escapes_gets_plain_lines() -> None:
    with (
        serve(ECHO) as serving,
        Terminal("--interval=0.1", "--count=1", "--run-dir", str(serving.folder),
                 env={"TERM": "dumb"}, what="top", columns=80, rows=24) as terminal,
    ):  # fmt: skip
        assert terminal.wait() == 0
        shows(terminal, "messages      in 0/s")
        assert b"\x1b" not in terminal.received
