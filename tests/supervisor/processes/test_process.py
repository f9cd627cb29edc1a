from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import wsraw
from tests.deadline import DEADLINE, eventually
from tests.needs import signals
from tests.running import ROOT, environment, is_alive
from wsraw.runtime import launch
from wsraw.supervisor.processes import process as module
from wsraw.supervisor.processes.process import Process, installation_of, reason


class Child:
    """A child process that runs Python code, and its output in order."""

    def __init__(
        self,
        code: str,
        variables: Mapping[str, str] | None = None,
        keep: tuple[int, ...] = (),
        folder: str = "",
        hears: bool = False,
    ) -> None:
        self.heard: list[str] = []
        self.code = 0
        self.heard_before_exit = 0
        self.gone = threading.Event()
        self.process = Process(
            [sys.executable, "-c", code],
            variables or {},
            on_line=self.heard.append,
            on_exit=self.handle_exit,
            folder=folder,
            keep_open=keep,
            hears=hears,
        )

    def handle_exit(self, code: int) -> None:
        self.code = code
        self.heard_before_exit = len(self.heard)
        self.gone.set()

    def wait(self) -> list[str | int]:
        """Wait for the end; returns the lines and the exit code."""
        eventually(self.gone.is_set, "the exit to be told")
        eventually(lambda: self.process.read_rest(0), "the end of its output")
        return [*self.heard, self.code]


@pytest.fixture
def start() -> Iterator[type[Child]]:
    children: list[Child] = []

    class Started(Child):
        def __init__(self, *args: object, **more: object) -> None:
            super().__init__(*args, **more)  # type: ignore[arg-type]
            children.append(self)

    yield Started
    for child in children:
        child.process.kill()
        child.wait()


LINES = (
    "import sys\nfor n in range(500): print(n, file=(sys.stderr if n % 2 else sys.stdout), "
    "flush=True)\nsys.exit(7)"
)


def test_lines_of_a_child_arrive_in_order(start: type[Child]) -> None:
    assert start(LINES).wait() == [*(str(n) for n in range(500)), 7]


def test_lines_of_a_child_arrive_before_its_exit(
    start: type[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAST_WORDS", 60.0)
    late = "import time; time.sleep(0.5); print('late')"
    child = start(
        f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {late!r}])\nsys.exit(7)",
    )
    assert child.wait() == ["late", 7]
    assert child.heard_before_exit == 1


def test_the_last_line_needs_no_newline(start: type[Child]) -> None:
    assert start("print('half', end='')").wait() == ["half", 0]


def test_a_long_line_is_cut(start: type[Child]) -> None:
    size = module.LONGEST_LINE * 2 + 5
    *lines, code = start(f"print('x' * {size})").wait()
    assert code == 0
    assert [len(str(line)) for line in lines] == [module.LONGEST_LINE, module.LONGEST_LINE, 5]


def test_output_need_not_be_text(start: type[Child]) -> None:
    child = start(r"import sys; sys.stdout.buffer.write(b'\xff\xfe\r\n\x00\n')")
    assert child.wait() == ["\ufffd\ufffd", "\x00", 0]


@pytest.mark.skipif(not launch.HAS_SIGNALS, reason="has no SIGTERM")
def test_a_child_that_is_released_is_not_told_that_its_parent_is_gone(start: type[Child]) -> None:
    child = start("import sys; print('up', flush=True); sys.stdin.read(); print('you are gone')")
    eventually(lambda: child.heard, "its first line")
    child.process.terminate()
    assert child.wait() == ["up", -signal.SIGTERM]


HEARS = (
    "import sys\nprint('up', flush=True)\nfor line in sys.stdin: print(line, end='', flush=True)"
)


@pytest.fixture
def without_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Act as on Windows."""
    monkeypatch.setattr(launch, "HAS_SIGNALS", False)


def test_a_child_is_asked_by_words_where_signals_would_end_it(
    start: type[Child], without_signals: None
) -> None:
    child = start(HEARS, hears=True)
    eventually(lambda: child.heard, "its first line")
    child.process.terminate()
    eventually(lambda: len(child.heard) > 1, "the word")
    child.process.abort()
    eventually(lambda: len(child.heard) > 2, "the other word")
    assert child.heard == ["up", "leave", "stack"]
    assert not child.gone.is_set(), "its stdin is open, as its parent is there"


def test_a_program_that_knows_no_words_is_asked_by_the_end_of_its_input(
    start: type[Child], without_signals: None
) -> None:
    child = start(HEARS)
    eventually(lambda: child.heard, "its first line")
    child.process.terminate()
    assert child.wait() == ["up", 0]


def test_a_program_that_knows_no_words_cannot_be_asked_for_its_stack(
    start: type[Child], without_signals: None
) -> None:
    child = start(HEARS)
    eventually(lambda: child.heard, "its first line")
    child.process.abort()
    assert child.wait()[1] != 0


def test_a_word_to_a_child_that_does_not_read_does_not_block_its_parent(
    start: type[Child], without_signals: None
) -> None:
    """The child's pipe is full of earlier input."""
    gone = threading.Event()
    process = Process(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        {},
        on_line=print,
        on_exit=lambda code: gone.set(),
        said=lambda pid: b"x" * 1_000_000,
        hears=True,
    )
    process.terminate()
    process.kill()
    eventually(gone.is_set)


@pytest.mark.skipif(sys.platform == "win32", reason="the job object ends it at once")
def test_a_child_notices_that_its_parent_is_gone() -> None:
    """Here the parent is a process of its own, which is killed."""
    child = "import sys; print('up', flush=True); sys.stdin.read(); open(sys.argv[1], 'w')"
    code = (
        "import sys, time\n"
        "from wsraw.supervisor.processes.process import Process\n"
        f"Process([sys.executable, '-c', {child!r}, sys.argv[1]], {{}},"
        " on_line=lambda line: print(line, flush=True), on_exit=print)\n"
        "time.sleep(600)"
    )
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder) / "mark"
        parent = subprocess.Popen(
            [sys.executable, "-c", code, str(mark)], env=environment(), stdout=subprocess.PIPE
        )
        with parent:
            assert parent.stdout is not None
            assert parent.stdout.readline().strip() == b"up"
            parent.kill()
        eventually(mark.exists, "the child to hear of it")


def test_a_kill_is_certain(start: type[Child]) -> None:
    child = start("import time; print('up', flush=True); time.sleep(600)")
    eventually(lambda: child.heard, "its first line")
    if launch.HAS_SIGNALS:
        os.kill(child.process.pid, signal.SIGSTOP)
    child.process.kill()
    # The code is -9 on Windows, too, where 1 would mean that the child could not start.
    assert child.wait() == ["up", -9]


@pytest.mark.skipif(not launch.HAS_SIGNALS, reason="has no SIGABRT that a handler could hear")
def test_an_abort_shows_the_stack(start: type[Child]) -> None:
    code = "import faulthandler, time\nfaulthandler.enable()\ndef hang():\n"
    child = start(code + "    print('up', flush=True)\n    while True: time.sleep(1)\nhang()")
    eventually(lambda: child.heard, "its first line")
    child.process.abort()
    *lines, exit_code = child.wait()
    assert exit_code == -signal.SIGABRT
    assert any("in hang" in str(line) for line in lines)


@pytest.mark.skipif(
    sys.platform != "win32" and not Path("/proc/self/statm").exists(), reason="needs /proc"
)
def test_the_memory_of_a_child_is_read(start: type[Child]) -> None:
    code = "x = bytearray(100_000_000); print('up', flush=True); import time; time.sleep(600)"
    child = start(code)
    eventually(lambda: child.heard, "its first line")
    memory = child.process.memory()
    assert memory is not None
    assert 100_000_000 < memory < 200_000_000
    child.process.kill()
    child.wait()
    assert child.process.memory() is None


@pytest.mark.skipif(sys.platform != "win32", reason="only there it is not Python itself")
def test_the_process_of_a_virtual_environment_is_python_itself(tmp_path: Path) -> None:
    """The launcher of Windows would have another pid and memory."""
    venv.create(tmp_path / "venv", with_pip=False)
    code = (
        "import os, sys\n"
        "from wsraw.supervisor.processes.process import Process, own_command, own_variables\n"
        "child = 'import os, sys; print(os.getpid(), sys.prefix, flush=True)'\n"
        "import threading\n"
        "gone = threading.Event()\n"
        "process = Process([own_command()[0], '-c', child], own_variables(),\n"
        "                  on_line=print, on_exit=lambda code: gone.set())\n"
        "gone.wait()\n"
        "process.read_rest(60)\n"
        "print(process.pid, sys.prefix)\n"
    )
    python = tmp_path / "venv" / "Scripts" / "python.exe"
    told = subprocess.check_output([python, "-c", code], env=environment(), text=True)
    child, ours = told.splitlines()
    assert child == ours
    assert str(tmp_path) in ours


@pytest.mark.skipif(sys.platform != "win32", reason="jobs are those of Windows")
def test_a_child_that_ends_at_once_is_started_and_its_exit_told(
    start: type[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsraw.supervisor.processes import windows

    add = windows.add_to_job
    refused = []

    def add_late(pid: int) -> None:
        eventually(lambda: not is_alive(pid), "its end")
        try:
            add(pid)
        except OSError as error:
            refused.append(error)
            raise

    monkeypatch.setattr(windows, "add_to_job", add_late)
    assert start("import sys; print('bye'); sys.exit(7)").wait() == ["bye", 7]
    assert refused, "what Windows does with a process that has ended"


def test_writing_to_a_dead_child_raises_nothing(start: type[Child]) -> None:
    child = start("pass")
    child.wait()
    child.process.terminate()
    child.process.abort()
    child.process.kill()


GRANDCHILD = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(child.pid, flush=True)"
)


@pytest.mark.parametrize("code", [0, 7])
def test_a_grandchild_that_holds_the_pipe_does_not_hide_the_exit(
    start: type[Child], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    # The longer time exceeds the deadline of the test, to show that it is not waited for.
    monkeypatch.setattr(module, "LAST_WORDS", 0.1 if code else 600.0)
    child = start(f"{GRANDCHILD}\nsys.exit({code})")
    eventually(child.gone.is_set, "the exit to be told")
    eventually(lambda: child.heard, "its first line")
    assert not child.process.read_rest(0), "the pipe is held"
    os.kill(int(child.heard[0]), signal.SIGTERM)
    assert child.code == code
    child.wait()


def test_a_program_that_cannot_be_started_raises() -> None:
    with pytest.raises(OSError):
        Process(["/no/such/program"], {}, on_line=print, on_exit=print)


@pytest.mark.skipif(sys.platform == "win32", reason="process groups are POSIX's")
def test_ctrl_c_does_not_reach_a_child(start: type[Child]) -> None:
    child = start("import os; print(os.getpgrp())")
    group, _ = child.wait()
    assert int(group) == child.process.pid != os.getpgrp()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows inherits handles, not descriptors")
def test_a_child_inherits_the_lock_and_nothing_else(start: type[Child], tmp_path: Path) -> None:
    kept = os.open(tmp_path, os.O_RDONLY)
    other = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(other, True)
    code = "import os\nfor n in (KEPT, OTHER):\n try: os.fstat(n); print('open')\n"
    code += " except OSError: print('closed')"
    child = start(code.replace("KEPT", str(kept)).replace("OTHER", str(other)), keep=(kept,))
    os.close(kept)
    os.close(other)
    assert child.wait() == ["open", "closed", 0]


def test_a_child_gets_our_environment_without_that_of_another_run(
    start: type[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSRAW_TOKEN", "of a run that we are a worker of")
    monkeypatch.setenv("PLAIN", "kept")
    code = "import os; print(os.environ.get('WSRAW_TOKEN'), os.environ['PLAIN'], os.environ['NEW'])"
    assert start(code, {"NEW": "given"}).wait() == ["None kept given", 0]


def test_a_child_writes_utf8_in_any_locale(
    start: type[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1:strict")
    code = "import sys\nfor each in sys.stdout, sys.stderr: print('5 € \\ud83d', file=each)"
    assert start(code).wait() == ["5 € \\ud83d", "5 € \\ud83d", 0]


def test_the_settings_for_a_child_may_have_any_length() -> None:
    """The system limits an environment variable to 128 KiB."""
    heard: list[str] = []
    gone = threading.Event()
    process = Process(
        [sys.executable, "-c", "import sys; print(len(sys.stdin.readline()))"],
        {},
        on_line=heard.append,
        on_exit=lambda code: gone.set(),
        said=lambda pid: b"x" * 1_000_000 + b"\n",
    )
    eventually(gone.is_set)
    assert process.read_rest(DEADLINE)
    assert heard == ["1000001"]


def test_a_child_that_never_reads_does_not_block_its_parent() -> None:
    gone = threading.Event()
    process = Process(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        {},
        on_line=print,
        on_exit=lambda code: gone.set(),
        said=lambda pid: b"x" * 1_000_000,
    )
    process.kill()
    eventually(gone.is_set)


@pytest.mark.skipif(sys.platform == "win32", reason="an open folder cannot be removed")
def test_children_start_although_the_current_folder_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def started_in() -> str:
        heard: list[str] = []
        gone = threading.Event()
        process = Process(
            [sys.executable, "-c", "import os; print(os.getcwd())"],
            {},
            on_line=heard.append,
            on_exit=lambda code: gone.set(),
            folder=str(folder),
        )
        eventually(gone.is_set)
        assert process.read_rest(DEADLINE)
        return heard[0]

    assert started_in() == str(folder)
    folder.rmdir()
    assert started_in() == "/"
    folder.mkdir()
    assert started_in() == str(folder), "a new release at its path"


@pytest.mark.parametrize(
    ("code", "killed", "words"),
    [
        (0, False, "exited"),
        (1, False, "exited with code 1"),
        (3, False, "exited with code 3: it cannot"),
        (0xC0000005, False, "exited with code 0xc0000005"),
        (-11, False, "was killed by SIGSEGV"),
        (-250, False, "was killed by signal 250"),
    ],
)
def test_an_exit_status_is_shown_in_words(code: int, killed: bool, words: str) -> None:
    assert reason(code, {3: "it cannot"}, killed=killed) == words


@pytest.mark.skipif(not launch.HAS_SIGNALS, reason="has no SIGKILL")
def test_an_unexpected_sigkill_is_explained_and_our_own_is_not() -> None:
    assert reason(-9, {}) == "was killed by SIGKILL (perhaps out of memory?)"
    assert reason(-9, {}, killed=True) == "was killed by SIGKILL"


def test_no_module_of_the_package_hides_one_of_the_standard_library() -> None:
    """Children are started by the package's folder, which is then the first on their path."""
    names = {path.stem for path in Path(wsraw.__file__).parent.iterdir()}
    assert not names & sys.stdlib_module_names


@pytest.mark.skipif(sys.platform == "win32", reason="who may make links there?")
def test_the_current_folder_has_the_name_that_the_shell_uses(
    start: type[Child], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gunicorn #394: where the link in it points is looked up only when a process starts."""
    link, one, two = (tmp_path / name for name in ("link", "one", "two"))
    one.mkdir()
    two.mkdir()
    link.symlink_to(one)
    monkeypatch.chdir(link)
    monkeypatch.setenv("PWD", str(link))
    folder = module.start_folder()
    assert folder == str(link)
    link.unlink()
    link.symlink_to(two)
    code = "import os; print(os.getcwd(), os.environ.get('PWD'))"
    assert start(code, folder=folder).wait() == [f"{two} {link}", 0]
    link.unlink()
    assert start(code, folder=folder).wait() == [f"{one} None", 0]


@pytest.mark.parametrize("named", ["", "one", "/", "/no/such/folder", None])
def test_a_wrong_pwd_variable_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    """A program that starts us in another folder need not set the variable."""
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path)
    if named is None:
        monkeypatch.delenv("PWD", raising=False)
    else:
        monkeypatch.setenv("PWD", named)
    assert module.start_folder() == os.getcwd()


@pytest.mark.parametrize("which", [1, 2])
def test_a_child_whose_thread_cannot_start_is_reported_as_not_started(
    which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of a container counts threads (gunicorn in DFO-Ocean-Navigator #771)."""
    begin = threading.Thread.start
    started: list[threading.Thread] = []
    made: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(thread: threading.Thread) -> None:
        started.append(thread)
        if len(started) == which:
            raise RuntimeError("can't start new thread")
        begin(thread)

    def make(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        made.append(popen(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(module.subprocess, "Popen", make)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="can't start new thread"):
        patch.setattr(threading.Thread, "start", start)
        Child("input()")
    [process] = made
    assert process.returncode is not None
    assert process.stdin is not None
    assert process.stdin.closed
    assert process.stdout is not None
    eventually(lambda: process.stdout.closed)


def test_the_wsraw_of_a_python_is_found() -> None:
    found = installation_of(sys.executable)
    assert found.python == sys.executable
    assert found.package == str(ROOT / "wsraw")
    assert found.command("gateway") == [sys.executable, "-P", found.package, "gateway"]


@signals
def test_a_python_without_wsraw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give the python of a virtual environment"):
        installation_of(str(tmp_path / "python"))
    bare = tmp_path / "bare"
    bare.write_text("#!/bin/sh\necho 'ModuleNotFoundError: wsraw' >&2\nexit 1\n")
    bare.chmod(0o755)
    with pytest.raises(ValueError, match="no wsraw can be imported there: ModuleNotFoundError"):
        installation_of(str(bare))


# --- another program in our place ---

holds = pytest.mark.skipif(not module.CAN_HOLD, reason="threads cannot wait without taking")


@holds
def test_output_is_taken_after_a_hold_and_not_during_it() -> None:
    code = "import sys; print('one', flush=True); sys.stdin.readline(); print('two')"
    child = Child(code)
    eventually(lambda: child.heard == ["one"], "its first line")
    held = child.process.hold()
    assert held is not None
    assert held.pid == child.process.pid
    os.write(held.stdin, b"\n")
    eventually(lambda: _is_zombie(held.pid), "its end")
    assert child.heard == ["one"]
    assert not child.gone.is_set()
    child.process.release()
    assert child.wait() == ["one", "two", 0]
    # A process whose exit was reported cannot be held.
    assert child.process.hold() is None


def _is_zombie(pid: int) -> bool:
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return found is not None


@holds
@pytest.mark.parametrize("code", [0, 5, -9])
def test_another_program_goes_on_with_a_process(code: int) -> None:
    """The program continues with the rest of a line, the exit code, and a kill that is due."""
    end = f"raise SystemExit({code})" if code >= 0 else "import time; time.sleep(600)"
    text = "import sys; sys.stdout.write('be'); sys.stdout.flush(); sys.stdin.readline(); "
    child = Child(f"{text}print('gun'); sys.stdout.flush(); {end}")
    eventually(lambda: child.process._rest == b"be", "the beginning of a line")
    held = child.process.hold()
    assert held is not None
    assert held.rest == b"be"
    # The threads of the process do not continue, like those of a replaced program.
    heard: list[str] = []
    ended: list[int] = []
    numbers = os.dup(held.stdin), os.dup(held.stdout)
    adopted = Process.adopted(
        held._replace(stdin=numbers[0], stdout=numbers[1]), heard.append, ended.append
    )
    os.write(numbers[0], b"\n")
    eventually(lambda: heard == ["begun"], "the rest of the line")
    if code < 0:
        adopted.kill()
    eventually(lambda: ended == [code], "its exit code")


@holds
def test_what_is_left_of_the_output_of_a_dead_process_goes_on() -> None:
    """A process that the dead one has started holds the output open."""
    later = "import time; time.sleep(1); print(7)"
    start = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {later!r}])"
    child = Child(f"{start}; print('first')")
    eventually(child.gone.is_set, "its exit")
    eventually(lambda: child.heard == ["first"], "its line")
    held = child.process.hold_output()
    assert held is not None
    assert held.pid == 0
    heard: list[str] = []
    numbers = os.dup(held.stdin), os.dup(held.stdout)
    rest = Process.adopted(
        held._replace(stdin=numbers[0], stdout=numbers[1]), heard.append, lambda code: None
    )
    eventually(lambda: heard == ["7"], "the line of what it has started")
    eventually(lambda: rest.read_rest(0), "the end")
    child.process.release()


@holds
def test_a_process_that_has_closed_its_output_can_be_held() -> None:
    child = Child("import os, sys; os.close(1); os.close(2); sys.stdin.readline(); os._exit(4)")
    eventually(lambda: child.process.read_rest(0), "the end of its output")
    for _ in range(3):
        held = child.process.hold()
        assert held is not None
        child.process.release()
    held = child.process.hold()
    assert held is not None
    ended: list[int] = []
    numbers = os.dup(held.stdin), os.dup(held.stdout)
    Process.adopted(
        held._replace(stdin=numbers[0], stdout=numbers[1]), lambda line: None, ended.append
    )
    os.write(numbers[0], b"\n")
    eventually(lambda: ended == [4], "its exit code")
    child.process.release()
