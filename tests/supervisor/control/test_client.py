"""The answers that a command gets from a run that answers, refuses, does not answer, or ends."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deadline import DEADLINE, eventually
from tests.needs import unix_sockets
from wsraw.link.records import Do, Done
from wsraw.runtime.loop import Loop
from wsraw.supervisor.control.client import NoRunError, RequestRefusedError, ask, pages
from wsraw.supervisor.control.link import REQUEST_LIMIT, Control, ControlRequest, LinkEnded
from wsraw.supervisor.log import Log
from wsraw.supervisor.run_folder.folder import CONTROL, Folder


class Run:
    """The part of a run that answers commands, in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.log = Log(io.StringIO(), "info")
        self.loop = Loop()
        self.folder = Folder(str(path), self.log.say)
        self.control = Control(self.loop, path, self.log)
        self.write(self.control.client_token, self.control.endpoint)
        self.answer: Callable[[ControlRequest], object] = lambda asked: None
        self.ended: Callable[[LinkEnded], object] = lambda ended: None
        self.loop.before_sleep = self._before_sleep
        self._thread = threading.Thread(target=self.loop.run)

    def write(self, *lines: str) -> None:
        """Write the files that a command finds in the run folder."""
        (self.folder.path / CONTROL).write_text("".join(f"{line}\n" for line in lines))

    def _before_sleep(self, now: float) -> bool:
        while (record := self.control.receive()) is not None:
            if isinstance(record, LinkEnded):
                self.ended(record)
            else:
                assert isinstance(record, ControlRequest)
                self.answer(record)
        return False

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        if self._thread.ident is not None:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
        self.control.close()
        self.loop.close()
        self.folder.close()
        self.log.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path / "run")
    yield run
    run.close()


def test_a_command_is_answered(run: Run) -> None:
    run.answer = lambda asked: run.control.answer(asked.who, Done(asked.do.ref, True, "done"))
    run.start()
    assert ask(run.folder.path, "status", ["x"], DEADLINE).text == "done"


@pytest.mark.parametrize("size", [100, 5_000_000, 20_000_000])
def test_an_answer_of_any_size_is_read(run: Run, size: int) -> None:
    """An answer may be longer than the limit for a reader that does not read."""
    run.answer = lambda asked: run.control.answer(
        asked.who, Done(asked.do.ref, True, "", {"x": "x" * size})
    )
    run.start()
    assert len(ask(run.folder.path, "status", (), DEADLINE).data["x"]) == size


def test_a_request_that_is_too_long_is_refused_with_a_reason(run: Run) -> None:
    run.start()
    with pytest.raises(RequestRefusedError, match="bytes"):
        ask(run.folder.path, "scale", ["x" * (REQUEST_LIMIT + 1)], DEADLINE)


def test_a_request_with_a_wrong_token_is_refused(run: Run) -> None:
    run.write("guess", run.control.endpoint)
    run.start()
    with pytest.raises(RequestRefusedError, match="the token is wrong"):
        ask(run.folder.path, "stop", (), DEADLINE)


def test_an_answer_that_cannot_be_read_is_an_error(run: Run) -> None:
    run.answer = lambda asked: asked.who.send(b"\xc1")
    run.start()
    with pytest.raises(RequestRefusedError, match="cannot be read"):
        ask(run.folder.path, "status", (), DEADLINE)


def test_only_an_answer_ends_the_wait(run: Run) -> None:
    def answer(asked: ControlRequest) -> None:
        for batch in (b"\x91\xa5token", b"\x92\xa5token\x91\xa5other"):
            asked.who.send(batch)
        run.control.answer(asked.who, Done(1, False, "no"))

    run.answer = answer
    run.start()
    assert ask(run.folder.path, "status", (), DEADLINE) == Done(1, False, "no")


def test_a_run_that_does_not_answer_has_the_request(run: Run) -> None:
    asked: list[Do] = []
    run.answer = lambda record: asked.append(record.do)
    run.start()
    with pytest.raises(TimeoutError, match=r"within 0\.5 s; the run continues with it"):
        while not asked:
            ask(run.folder.path, "reload", (), 0.5)
    assert asked[0] == Do(1, "reload", [])


def test_a_run_that_is_stopped_has_no_request(run: Run) -> None:
    with pytest.raises(TimeoutError, match=r"within 0\.2 s$"):
        ask(run.folder.path, "reload", (), 0.2)


@unix_sockets
def test_a_command_that_cannot_connect_says_why(run: Run) -> None:
    """Another file has replaced the socket; the log of the run has more."""
    file = run.folder.path / "control.sock"
    file.unlink()
    file.touch()
    with pytest.raises(TimeoutError, match=r"within 0\.2 s: cannot connect \(.+\)$"):
        ask(run.folder.path, "status", (), 0.2)


def test_a_run_that_ends_without_an_answer_is_gone(run: Run) -> None:
    def answer(asked: ControlRequest) -> None:
        run.loop.stop()

    def serve() -> None:
        run.loop.run()
        run.control.close()

    run.answer = answer
    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(NoRunError, match="ended without an answer"):
        ask(run.folder.path, "stop", (), DEADLINE)
    thread.join()


@pytest.mark.parametrize(
    "lines", [(), ("token",), ("token", "endpoint"), ("token", "tcp://x"), ("a", "b", "c")]
)
def test_a_file_that_is_damaged_is_an_error(run: Run, lines: tuple[str, ...]) -> None:
    run.write(*lines)
    with pytest.raises(NoRunError, match="control-token"):
        ask(run.folder.path, "status", (), DEADLINE)


@unix_sockets
def test_a_run_that_is_about_to_listen_is_waited_for(run: Run, tmp_path: Path) -> None:
    """The socket was removed, and is made again within a second."""
    run.answer = lambda asked: run.control.answer(asked.who, Done(asked.do.ref, True, "done"))
    (run.folder.path / "control.sock").unlink()
    run.loop.call_later(0.3, lambda: run.control.bind(run.folder.path))
    run.start()
    assert ask(run.folder.path, "status", (), DEADLINE).text == "done"


# --- answers that come in pages ---


def test_the_next_page_is_asked_for_when_the_caller_goes_on(run: Run) -> None:
    asked: list[Do] = []

    def answer(record: ControlRequest) -> None:
        asked.append(record.do)
        more = len(asked) < 3
        run.control.answer(record.who, Done(record.do.ref, True, "", len(asked), more))

    run.answer = answer
    run.start()
    answers = pages(run.folder.path, "connections", {"kind": "raw"}, DEADLINE)
    assert next(answers).data == 1
    assert asked == [Do(1, "connections", [], {"kind": "raw"})]
    assert [done.data for done in answers] == [2, 3]
    assert asked[1:] == [Do(1, "more"), Do(1, "more")]


def test_whoever_reads_no_further_page_has_gone(run: Run) -> None:
    ended: list[LinkEnded] = []
    run.ended = ended.append
    run.answer = lambda asked: run.control.answer(asked.who, Done(1, True, more=True))
    run.start()
    answers = pages(run.folder.path, "connections", {}, DEADLINE)
    assert next(answers).more
    assert not ended
    answers.close()  # type: ignore[attr-defined]
    eventually(lambda: ended, "its end to be noticed")


def test_a_page_that_does_not_come_ends_the_wait(run: Run) -> None:
    asked: list[Do] = []

    def answer(record: ControlRequest) -> None:
        asked.append(record.do)
        if record.do.what != "more":
            run.control.answer(record.who, Done(1, True, more=True))

    run.answer = answer
    run.start()
    with pytest.raises(TimeoutError, match=r"within 2 s; the run continues"):
        list(pages(run.folder.path, "connections", {}, 2))
    assert [do.what for do in asked] == ["connections", "more"]
