"""I/O. Child processes: spawn, tell to leave, kill, reap; and the reason of an exit in words.

Nobody is orphaned (docs/worker-protocol.md, rule 19), however this process ends: each child's stdin
is a pipe that only we hold, so its end tells the child that we are gone; on Linux it also gets a
signal (child.py), on Windows all are in a job object that dies with us. Children stand in a process
group of their own: Ctrl-C in a terminal must reach the supervisor alone, which then decides.

A worker in another language is a stranger: it gets four variables (children.py), its stdin and its
output, and nothing else of ours.

A pipe cannot be selected on Windows, so each child has two threads everywhere: one reads its
output, one waits for its end. They are the only threads here, and they touch nothing but the log
and the callback.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import site
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, Final

import wsraw
from wsraw.runtime import launch

LONGEST_LINE: Final = 64 * 1024
"""Bytes of a line of output; a longer one is cut into several."""

LAST_WORDS: Final = 1.0
"""Seconds to read what a dead child wrote, where that is waited for. A process of its own that
lives on may hold the pipe."""

OWN_VARIABLES: Final = "WSRAW_"
"""What the names of variables begin with that one run says to its own children."""


def _is_never(code: int) -> bool:
    return False


class Process:
    """One child process.

    `on_line(text)` and `on_exit(code)` are called in threads. An exit is told at once, and lines
    may come after it; with a code in `explained` it waits for the lines that say why, up to
    `LAST_WORDS`. A slow `on_line` slows the child that writes, and nobody else. Raises OSError if
    it cannot be started.

    `folder`: where it is to be, if there is such a folder at present; else it is where we are.

    Must be made in the main thread: on Linux the child is told of the end of the *thread* that
    made it (prctl(2), PR_SET_PDEATHSIG).
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
        explained: Callable[[int], bool] = _is_never,
        said: bytes = b"",
    ) -> None:
        """`said`: what it finds on its stdin first, of any length."""
        options: dict[str, Any] = {}
        if sys.platform == "win32":
            options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP
        else:
            options["process_group"] = 0
            options["pass_fds"] = tuple(keep_open)
        environment = _environment(variables)
        environment.pop("PWD", None)
        if folder and os.path.isdir(folder):
            options["cwd"] = environment["PWD"] = folder
        elif not start_folder():
            # Ours has been deleted, and from nowhere nothing can be started.
            options["cwd"] = os.path.abspath(os.sep)
        self._on_line = on_line
        self._on_exit = on_exit
        self._explained = explained
        self._said = said
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **options,
        )
        self.pid = self._process.pid
        if sys.platform == "win32":
            from wsraw.supervisor.processes import job_object

            job_object.add(self.pid)
        self._reader = threading.Thread(target=self._read, daemon=True)
        waiter = threading.Thread(target=self._wait, daemon=True)
        try:
            self._reader.start()
            waiter.start()
        except RuntimeError as error:
            # As ordinary as having no process left: a container's bound counts both.
            self._process.kill()
            self._process.wait()
            self._close_stdin()
            if self._reader.ident is None:
                self._process.stdout.close()  # type: ignore[union-attr]
            raise OSError(errno.EAGAIN, str(error)) from error

    def terminate(self) -> None:
        """Ask it to leave. The end of its stdin stays the word for "your parent is gone"."""
        if sys.platform == "win32":
            # terminate() would be kill() there, and a Ctrl-Break needs a console: so both words.
            with _gone_is_fine():
                self._process.send_signal(signal.CTRL_BREAK_EVENT)
            self._close_stdin()
        else:
            self._process.terminate()

    def kill(self) -> None:
        """End it now. A stopped process dies of this, too."""
        with _gone_is_fine():
            self._process.kill()

    def abort(self) -> None:
        """End it, its stack in the log: Python's faulthandler writes it at SIGABRT."""
        if sys.platform == "win32":
            self.kill()
        else:
            with _gone_is_fine():
                self._process.send_signal(signal.SIGABRT)
                # A stopped process writes nothing; it goes on, and that signal comes first.
                self._process.send_signal(signal.SIGCONT)

    def memory(self) -> int | None:
        """Bytes of memory it holds (RSS); None where the platform does not say, or it is gone."""
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text("ascii").split()[1]
        except (OSError, IndexError):
            return None
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def hear_out(self, timeout: float) -> bool:
        """Wait until all of its output has been read, so many seconds. False if there may be more
        to come."""
        self._reader.join(timeout)
        return not self._reader.is_alive()

    def _close_stdin(self) -> None:
        assert self._process.stdin is not None
        with _gone_is_fine():
            self._process.stdin.close()

    def _read(self) -> None:
        output: IO[bytes] | None = self._process.stdout
        assert output is not None
        with output:
            while line := output.readline(LONGEST_LINE):
                self._on_line(line.decode("utf-8", "replace").rstrip("\r\n"))

    def _say(self) -> None:
        """A child that never reads keeps nobody waiting but the thread that waits for its end."""
        assert self._process.stdin is not None
        with _gone_is_fine():
            while self._said:
                self._said = self._said[os.write(self._process.stdin.fileno(), self._said) :]

    def _wait(self) -> None:
        self._say()
        code = self._process.wait()
        if self._explained(code):
            self._reader.join(LAST_WORDS)
        self._close_stdin()
        self._on_exit(code)


class _gone_is_fine:  # noqa: N801
    """A child may leave at any moment, so also just before we speak to it."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> bool:
        return kind is not None and issubclass(kind, OSError)


def start_folder() -> str:
    """The folder in which we were started, by the name under which a shell knows it (PWD). A link
    in that name may lead to another release later, where the system's name for it leads to the old
    one for ever. Empty if there is no such folder."""
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


def command(*arguments: str) -> list[str]:
    """The command line of a Python that runs wsraw."""
    # -P: a module of the user's folder must not stand in for one of ours, or of Python's.
    return [sys.executable, "-P", "-m", "wsraw", *arguments]


def own_command(*arguments: str) -> list[str]:
    """The command line of a child of wsraw's own (child.py); it needs the variable of `path`."""
    if _is_found():
        return command(*arguments)
    return [sys.executable, "-P", "-c", _WITH_OUR_PATH, *arguments]


_WITH_OUR_PATH: Final = (
    "import os, runpy, sys; sys.path[:] = os.environ.pop('WSRAW_PATH').split(os.pathsep); "
    "runpy.run_module('wsraw', run_name='__main__', alter_sys=True)"
)


@cache
def _is_found() -> bool:
    """Whether a Python that we start finds wsraw where we have found it. It does not where wsraw is
    on a path that a launcher has made, or in the folder it was started in."""
    home = str(Path(wsraw.__file__).resolve().parent.parent)
    known = [*site.getsitepackages(), site.getusersitepackages()]
    known += os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if home in (os.path.realpath(place) for place in known if place):
        return True
    code = "import importlib.util as u; print(u.find_spec('wsraw').origin)"
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=False)
    return os.fsdecode(found.stdout).strip() == wsraw.__file__


def path() -> str:
    """Where our modules come from, for our own children: what a launcher has put there counts.

    The folder of the launcher itself comes last, and the current folder not at all: a module there
    must not stand in for one of ours.
    """
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    places = list(map(os.path.abspath, filter(None, sys.path)))
    if file is not None and not sys.flags.safe_path and places:
        first = os.path.realpath(places[0])
        if getattr(main, "__spec__", None) is not None and first == os.path.realpath(
            start_folder()
        ):
            # `python -m`, which puts the current folder there.
            del places[0]
        elif first == os.path.dirname(os.path.realpath(file)):
            places.append(places.pop(0))
    return os.pathsep.join(places)


def foreign_command(words: Sequence[str]) -> list[str]:
    """The command line of a worker in another language."""
    if sys.platform.startswith("linux"):
        return [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), *words]
    # Windows looks for node.exe only, not for npx.cmd, if it is not told where that is.
    return [shutil.which(words[0]) or words[0], *words[1:]]


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Ours, less what belongs to a run that we may be part of ourselves."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(OWN_VARIABLES)
    }
    environment.setdefault("PYTHONIOENCODING", "utf-8:backslashreplace")
    environment.update(variables)
    return environment


def reason(code: int, meanings: Mapping[int, str], *, killed: bool = False) -> str:
    """How a process ended, to stand behind its name. `killed`: it was we who killed it."""
    if code == 0:
        return "exited"
    if code > 0:
        # Windows tells crashes as NTSTATUS, which are known by their hexadecimal form.
        number = str(code) if code < 0x80000000 else hex(code)
        return f"exited with code {number}" + (f": {meanings[code]}" if code in meanings else "")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    guess = " (perhaps out of memory?)" if name == "SIGKILL" and not killed else ""
    return f"was killed by {name}{guess}"
