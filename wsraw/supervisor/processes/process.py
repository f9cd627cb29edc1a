"""I/O. Child processes: spawn, terminate, kill, reap; and the reason of an exit as text.

No child is orphaned (docs/worker-protocol.md, rule 19), however this process ends: each child's
stdin is a pipe whose end tells it that we are gone; on Linux it also gets a signal (child.py), on
Windows the job object ends it. Children have a process group of their own (on Windows a console,
without a window), so that Ctrl-C in a terminal reaches the supervisor alone.

Where no signal asks a process for something (launch.py), a Python child reads words from its stdin.

A worker in another language gets four variables (children.py), stdin and output, and nothing else.

Windows cannot select on pipes, so each child has two threads: one reads its output, one waits for
its end. They use only the log and the callback. On other systems, both can be held at a moment in
which nothing is half done, so that another program can continue in this process (replacing/).
"""

from __future__ import annotations

import errno
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import wsraw
from wsraw.runtime import launch
from wsraw.supervisor.processes.outputs import output_of

LONGEST_LINE: Final = 64 * 1024
"""Bytes of a line of output; a longer one is split."""

LAST_WORDS: Final = 1.0
"""Seconds to wait for the output of a dead child; a process that it started may hold the pipe."""

ENDS_AT_ONCE: Final = 1.0
"""Seconds until the end of a process that Windows refuses as a member of a job."""

LONGEST_ANSWER: Final = 10.0
"""Seconds for another Python to say where its wsraw is."""

TERMINATED: Final = 1
"""The exit code of a process that subprocess kills on Windows."""

KILLED: Final = 9
"""The number of SIGKILL."""

CAN_HOLD: Final = sys.platform != "win32" and hasattr(os, "waitid") and hasattr(select, "poll")
"""Whether threads can wait for output and for an end without taking it."""


class Held(NamedTuple):
    """What another program takes over: a process, and the beginning of a line of its output."""

    pid: int
    """The pid; 0: it has ended."""
    stdin: int
    stdout: int
    hears: bool
    rest: bytes
    is_killed: bool


class _Adopted:
    """A stand-in for subprocess.Popen, for a process that the program before us has started."""

    def __init__(self, held: Held) -> None:
        self.pid = held.pid
        self.stdin: IO[bytes] = open(held.stdin, "wb", buffering=0)  # noqa: SIM115
        self.stdout: IO[bytes] = open(held.stdout, "rb", buffering=0)  # noqa: SIM115
        self.returncode: int | None = None if held.pid else 0
        self._reaping = threading.Lock()

    def wait(self) -> int:
        """Like Popen.wait; -9 if its exit code is lost."""
        if sys.platform != "win32" and self.returncode is None:
            with self._reaping:
                try:
                    _, status = os.waitpid(self.pid, 0)
                    self.returncode = os.waitstatus_to_exitcode(status)
                except ChildProcessError:
                    self.returncode = -KILLED
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Like Popen.send_signal."""
        # The pid cannot be reused before the process is reaped.
        with self._reaping:
            if self.returncode is None:
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Like Popen.terminate."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Like Popen.kill."""
        self.send_signal(KILLED)


class Process:
    """One child process.

    `on_line(text)` and `on_exit(code)` are called in threads. An exit with a code above 0 is
    reported after the lines that may tell why, at most `LAST_WORDS` later; any other one at once,
    and lines may follow. A slow `on_line` slows only the child that writes. Raises OSError if the
    process cannot be started.

    `folder`: its working directory if that exists, else ours. `hears`: it understands the words of
    launch.py.

    Create it in the main thread: on Linux the child gets a signal when the *thread* that made it
    ends (prctl(2), PR_SET_PDEATHSIG).
    """

    def __init__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        *,
        on_line: Callable[[str], object],
        on_exit: Callable[[int], object],
        folder: str = "",
        keep_open: Sequence[int] = (),
        said: Callable[[int], bytes] = lambda pid: b"",
        hears: bool = False,
    ) -> None:
        """`said`: its first input on stdin, of any length, made for its pid. May raise OSError."""
        options: dict[str, Any] = {}
        if sys.platform == "win32":
            # Ctrl-C, Ctrl-Break and the end of a console reach all its processes. Without a console
            # of ours, each program of a handler would open a window.
            options["creationflags"] = subprocess.CREATE_NO_WINDOW
        else:
            options["process_group"] = 0
            options["pass_fds"] = tuple(keep_open)
        self._prepare(on_line, on_exit, hears)
        environment = environment_of_child(variables)
        environment.pop("PWD", None)
        if folder and os.path.isdir(folder):
            options["cwd"] = environment["PWD"] = folder
        elif not start_folder():
            # Our own folder was deleted, and a process needs one.
            options["cwd"] = os.path.abspath(os.sep)
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **options,
        )
        self._process: subprocess.Popen[bytes] | _Adopted = process
        self.pid = process.pid
        waiter = threading.Thread(target=self._wait, daemon=True)
        try:
            _join_job(process)
            self._said = said(self.pid)
            self._reader.start()
            waiter.start()
        except (OSError, RuntimeError) as error:
            self._process.kill()
            self._process.wait()
            self._close_stdin()
            if self._reader.ident is None:
                self._process.stdout.close()  # type: ignore[union-attr]
            if isinstance(error, OSError):
                raise
            # A limit on tasks counts threads, too.
            raise OSError(errno.EAGAIN, str(error)) from error

    def _prepare(
        self,
        on_line: Callable[[str], object],
        on_exit: Callable[[int], object],
        hears: bool,
    ) -> None:
        self._on_line = on_line
        self._on_exit = on_exit
        self._hears = hears
        self._is_killed = False
        self._speaking = threading.Lock()
        """Held while stdin is written to or closed."""
        self._holding = threading.Lock()
        """Held while output, or the end of the process, is taken: between these moments another
        program can take over."""
        self._stand_ins: list[int] = []
        self._rest = b""
        """The beginning of an incomplete line."""
        self._is_introduced = False
        """Its first input was written."""
        self._has_ended = False
        """Its exit code was taken."""
        self._said = b""
        self._reader = threading.Thread(target=self._read, daemon=True)

    @classmethod
    def adopted(
        cls,
        held: Held,
        on_line: Callable[[str], object],
        on_exit: Callable[[int], object],
    ) -> Process:
        """A process that the program before us has held. Without a pid, only its output is read."""
        self = cls.__new__(cls)
        self._prepare(on_line, on_exit, held.hears)
        for number in (held.stdin, held.stdout):
            os.set_inheritable(number, False)
        self._process = _Adopted(held)
        self._rest, self._is_killed = held.rest, held.is_killed
        self._is_introduced = True
        self.pid = held.pid
        self._reader.start()
        if held.pid:
            threading.Thread(target=self._wait, daemon=True).start()
        else:
            self._close_stdin()
        return self

    def hold(self) -> Held | None:
        """Take nothing more from the process until `release`. None if something is half done, or
        its exit is about to be reported; then nothing is held."""
        self._holding.acquire()
        is_over = self._has_ended or self._process.returncode is not None
        if is_over or not self._is_introduced:
            self._holding.release()
            return None
        return self._held(self.pid)

    def hold_output(self) -> Held | None:
        """Hold the output of a process that has ended. None if no output is left."""
        self._holding.acquire()
        if not self._reader.is_alive():
            self._holding.release()
            return None
        return self._held(0)

    def _held(self, pid: int) -> Held:
        process = self._process
        try:
            stdin, stdout = map(self._number, (process.stdin, process.stdout))
        except BaseException:
            self.release()
            raise
        return Held(pid, stdin, stdout, self._hears, self._rest, self._is_killed)

    def _number(self, stream: IO[bytes] | None) -> int:
        """The descriptor of a pipe; a closed pipe gets a stand-in."""
        assert stream is not None
        if not stream.closed:
            return stream.fileno()
        self._stand_ins.append(os.open(os.devnull, os.O_RDWR))
        return self._stand_ins[-1]

    def release(self) -> None:
        """Continue after `hold`."""
        for number in self._stand_ins:
            os.close(number)
        self._stand_ins = []
        self._holding.release()

    def terminate(self) -> None:
        """Ask the process to exit. Stdin stays open if possible, because its end means that the
        parent is gone."""
        if launch.HAS_SIGNALS:
            self._process.terminate()
        else:
            self._aside(partial(self._say, launch.LEAVE) if self._hears else self._close_stdin)

    def kill(self) -> None:
        """Kill the process; this also ends a stopped one."""
        self._is_killed = True
        with suppress(OSError):
            self._process.kill()

    def abort(self) -> None:
        """End the process with its stack in the log, which Python's faulthandler writes at
        SIGABRT."""
        if sys.platform != "win32" and launch.HAS_SIGNALS:
            with suppress(OSError):
                self._process.send_signal(signal.SIGABRT)
                # A stopped process must continue to write its stack.
                self._process.send_signal(signal.SIGCONT)
        elif self._hears:
            self._aside(partial(self._say, launch.STACK))
        else:
            self.kill()

    def memory(self) -> int | None:
        """Resident bytes; None if the platform does not tell or the process is gone."""
        if sys.platform == "win32":
            from wsraw.supervisor.processes import windows

            return windows.memory(self.pid)
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text("ascii").split()[1]
        except (OSError, IndexError):
            return None
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def read_rest(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the rest of the output. False if there may be more."""
        self._reader.join(timeout)
        return not self._reader.is_alive()

    def _say(self, word: bytes) -> None:
        self._write(word + b"\n")

    def _write(self, data: bytes) -> None:
        """Write to the stdin of the process. Blocks if the process does not read."""
        stdin = self._process.stdin
        assert stdin is not None
        with self._speaking, suppress(OSError):
            while data and not stdin.closed:
                data = data[os.write(stdin.fileno(), data) :]

    def _close_stdin(self) -> None:
        assert self._process.stdin is not None
        with self._speaking, suppress(OSError):
            self._process.stdin.close()

    def _aside(self, work: Callable[[], object]) -> None:
        """Run a function in a thread, because it may block."""
        # Without a thread, the process is killed when its time is over.
        with suppress(RuntimeError):
            threading.Thread(target=work, daemon=True).start()

    def _read(self) -> None:
        output: IO[bytes] | None = self._process.stdout
        assert output is not None
        if CAN_HOLD and sys.platform != "win32":
            poll = select.poll()
            poll.register(output, select.POLLIN)
            while self._read_some(poll, output.fileno()):
                pass
            with self._holding:
                # The descriptor must stay open while another program may be told its number.
                output.close()
            return
        with output:
            while line := output.readline(LONGEST_LINE):
                self._take(line)

    def _read_some(self, poll: select.poll, descriptor: int) -> bool:
        """Wait for output, and take it; False at its end."""
        poll.poll()
        with self._holding:
            try:
                data = os.read(descriptor, LONGEST_LINE)
            except OSError:
                data = b""
            *lines, rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._take(line)
            while len(rest) >= LONGEST_LINE or (rest and not data):
                self._take(rest[:LONGEST_LINE])
                rest = rest[LONGEST_LINE:]
            self._rest = rest
        return bool(data)

    def _take(self, line: bytes) -> None:
        self._on_line(line.decode("utf-8", "replace").rstrip("\r\n"))

    def _wait(self) -> None:
        self._write(self._said)
        self._is_introduced = True
        if CAN_HOLD and sys.platform != "win32":
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with self._holding:
            code = self._process.wait()
            self._has_ended = True
        if not launch.HAS_SIGNALS and self._is_killed and code == TERMINATED:
            # As on other systems: the code says nothing about how the process was started.
            code = -KILLED
        if code > 0:
            self._reader.join(LAST_WORDS)
        self._on_exit(code)
        self._close_stdin()


def _join_job(process: subprocess.Popen[bytes]) -> None:
    """On Windows, let the process end with us. Raises OSError."""
    if sys.platform == "win32":
        from wsraw.supervisor.processes import windows

        try:
            windows.add_to_job(process.pid)
        except OSError:
            # A process that ends at once is refused, and its exit says more.
            with suppress(subprocess.TimeoutExpired):
                process.wait(ENDS_AT_ONCE)
                return
            raise


def start_folder() -> str:
    """The folder in which we were started, by the shell's name for it (PWD): a symbolic link in it
    may lead to another release later. Empty if the folder is gone."""
    named = os.environ.get("PWD", "")
    try:
        here = os.getcwd()
    except OSError:
        return ""
    try:
        is_here = os.path.isabs(named) and os.path.samefile(named, here)
    except OSError:
        is_here = False
    return named if is_here else here


class Installation(NamedTuple):
    """An installed wsraw: its Python, the folder of the package, and the modules' path."""

    python: str
    package: str
    path: str

    def command(self, *arguments: str) -> list[str]:
        """The command line of a Python child (child.py). The child needs the variables of
        `variables`."""
        # -P: modules in the user's folder must not shadow ours or Python's.
        return [self.python, "-P", self.package, *arguments]

    def variables(self) -> dict[str, str]:
        """The variables with which each Python child finds its modules."""
        variables = {"WSRAW_PATH": self.path}
        if self == own_installation() and self.python != sys.executable:
            # The variable that the launcher would set; Python removes it at the start.
            variables["__PYVENV_LAUNCHER__"] = sys.executable
        return variables


def own_installation() -> Installation:
    """The installation of this wsraw, even where `-m` would not find it."""
    return Installation(_python(), os.path.dirname(wsraw.__file__), path())


def installation_of(python: str) -> Installation:
    """The wsraw that is installed for another Python. Raises ValueError, with advice."""
    asked = (
        "import os, sys, wsraw; print(os.pathsep.join(filter(None, sys.path))); "
        "print(os.path.dirname(wsraw.__file__))"
    )
    try:
        done = output_of(
            [python, "-P", "-c", asked],
            LONGEST_ANSWER,
            env=environment_of_child({}),
            stderr=subprocess.PIPE,
        )
        done.check_returncode()
        found, package = done.stdout.splitlines()
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:] or ["it has failed"]
        raise ValueError(f"{python}: no wsraw can be imported there: {last[0]}") from error
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{python}: no answer within {LONGEST_ANSWER:g} s") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "its answer cannot be read"
        raise ValueError(f"{python}: {why}; give the python of a virtual environment") from error
    return Installation(python, package, found)


def own_command(*arguments: str) -> list[str]:
    """The command line of a Python child of this wsraw. The child needs the variables of
    `own_variables`."""
    return own_installation().command(*arguments)


def own_variables() -> dict[str, str]:
    """The variables with which each Python child finds its modules."""
    return own_installation().variables()


def _python() -> str:
    """The Python to start. On Windows the python.exe of a virtual environment is a launcher: Python
    itself would be its child, with another pid and another memory. (multiprocessing does the
    same.)"""
    if sys.platform == "win32":
        return str(getattr(sys, "_base_executable", "") or sys.executable)
    return sys.executable


def path() -> str:
    """Our sys.path, as a launcher has set it, for Python children.

    The launcher's own folder comes last and the current folder is left out, so that modules there
    do not shadow ours.
    """
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    places = list(map(os.path.abspath, filter(None, sys.path)))
    if file is not None and not sys.flags.safe_path and places:
        first = os.path.realpath(places[0])
        if getattr(main, "__spec__", None) is not None and first == os.path.realpath(
            start_folder()
        ):
            # `python -m` puts the current folder first.
            del places[0]
        elif first == os.path.dirname(os.path.realpath(file)):
            places.append(places.pop(0))
    return os.pathsep.join(places)


def foreign_command(words: Sequence[str]) -> list[str]:
    """Command line of a worker in another language."""
    if sys.platform.startswith("linux"):
        return [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), *words]
    # Without the full path, Windows finds node.exe, but not npx.cmd.
    return [shutil.which(words[0]) or words[0], *words[1:]]


def environment_of_child(variables: Mapping[str, str]) -> dict[str, str]:
    """Our environment without the variables of a surrounding run, plus `variables`."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("WSRAW_")
    }
    # UTF-8 in any locale: a handler must not fail because of what it prints.
    environment["PYTHONIOENCODING"] = "utf-8:backslashreplace"
    environment.update(variables)
    return environment


def reason(code: int, meanings: Mapping[int, str], *, killed: bool = False) -> str:
    """How a process ended, as text that follows its name. `killed`: by the supervisor."""
    if code == 0:
        return "exited"
    if code > 0:
        # NTSTATUS codes of Windows are known by their hexadecimal form.
        number = str(code) if code < 0x80000000 else hex(code)
        return f"exited with code {number}" + (f": {meanings[code]}" if code in meanings else "")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "force" if -code == KILLED else f"signal {-code}"
    guess = " (perhaps out of memory?)" if name == "SIGKILL" and not killed else ""
    return f"was killed by {name}{guess}"
