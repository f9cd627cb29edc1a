"""I/O. The processes of the children: their command lines, environments, signals and ends."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Final

from wsraw.runtime.descriptors import give_back
from wsraw.runtime.log.formats import lines_of
from wsraw.runtime.printable import os_error
from wsraw.runtime.sockets import share
from wsraw.supervisor.decisions.actions import Termination
from wsraw.supervisor.decisions.child import Child
from wsraw.supervisor.decisions.policy import DOES_NOT_LOAD, DOES_NOT_START
from wsraw.supervisor.decisions.restarts import HANGS
from wsraw.supervisor.log import Log, lines_of_output
from wsraw.supervisor.processes.last_words import error_in
from wsraw.supervisor.processes.process import (
    LAST_WORDS,
    Held,
    Installation,
    Process,
    foreign_command,
    own_installation,
    reason,
    start_folder,
)
from wsraw.supervisor.replacing.records import ProcessRecord
from wsraw.supervisor.run_folder.versions import VersionFolders

MEANINGS: Final = {
    "gateway": {3: "it cannot listen"},
    "admin": {},
    "agent": {},
    "worker": {
        1: "it could not start",
        3: "its handlers file does not load",
        4: "the gateway rejected it",
        HANGS: "a timer or a call_soon function took too long",
    },
    "foreign": {
        3: "it cannot work as it is",
        4: "the gateway rejected it",
        127: "there is no such program",
    },
}
"""Meanings of exit codes; foreign workers follow docs/worker-protocol.md."""

START_CODES: Final = (DOES_NOT_START, DOES_NOT_LOAD, 127)
"""Exit codes that have their meanings only before the process is ready; later a handler may exit
with any code."""

OFFER: Final = b"U"
"""The byte that goes to a gateway with two descriptors: its ends of the dialog with a successor."""

CAN_UPGRADE: Final = sys.platform != "win32" and hasattr(socket, "send_fds")
"""Whether descriptors can be passed from one process to another."""

LAST_LINES: Final = 20
"""Last lines of each process that are kept; they show why it does not load."""


class Children:
    """Spawns, signals and reaps children. `post` runs a function in the supervisor's loop. There
    `ended` is called with the child, its exit code, the reason in words, and the exception that has
    ended it ("" if unknown)."""

    def __init__(
        self,
        lock: int,
        log: Log,
        post: Callable[[Callable[[], object]], object],
        ended: Callable[[Child, int, str, str], object],
        versions: VersionFolders,
        said: bytes = b"",
        limit: Any = None,
    ) -> None:
        """`said`: the first input of Python children on stdin, because the system limits a variable
        to 128 KiB."""
        self.last_output = ""
        """The last lines of the process that exited last; complete if it does not load."""
        self._own_variables = {
            "WSRAW_PARENT": str(os.getpid()),
            "WSRAW_STDIN": "1",
        }
        self.installation = own_installation()
        """The installation that Python children run that are started from now on."""
        self.folder = start_folder()
        """Folder in which children start; a link in its name is followed at each start."""
        self.versions = versions
        """The folder in which workers keep their handlers."""
        self._said = said
        self._lock = lock
        self._log = log
        self._post = post
        self._ended = ended
        self._limit = limit
        """The limit of open files for workers; None: ours."""
        self._held: list[Process] = []
        self._processes: dict[Child, Process] = {}
        self._kinds: dict[Child, tuple[str, deque[str]]] = {}
        """The kind of each child, and its last lines."""
        self._offers: dict[Child, socket.socket] = {}
        """The sockets on which gateways are offered a successor."""
        self._unread: list[tuple[Process, str, str]] = []
        """Dead processes whose output is not read to its end yet, with name and pool."""

    def pid(self, child: Child) -> int | None:
        process = self._processes.get(child)
        return process.pid if process is not None else None

    def set_input(self, said: bytes) -> None:
        """Set the first input of Python children that are started from now on."""
        self._said = said

    def memory(self, child: Child) -> int | None:
        process = self._processes.get(child)
        return process.memory() if process is not None else None

    # --- start ---

    def spawn_gateway(
        self,
        child: Child,
        variables: Mapping[str, str],
        sockets: Sequence[socket.socket],
        old: Child | None = None,
        said: bytes | None = None,
        installation: Installation | None = None,
    ) -> int | None:
        """Start a gateway on these listening sockets (none: it opens its own). Returns its pid,
        None if that failed, which is reported as an exit. It takes over what the gateway `old` has,
        if that is given; `said` and `installation`: its first input and its code then."""
        code = installation or self.installation
        variables = {
            **self._own_variables,
            **code.variables(),
            **variables,
            "WSRAW_LOCK": str(self._lock),
        }
        first = self._said if said is None else said
        with ExitStack() as ours:
            # It inherits the lock, because it uses the run folder until its end.
            keep_open = [self._lock, *(sock.fileno() for sock in sockets)]
            offered: list[socket.socket] = []
            if CAN_UPGRADE:
                here, there = socket.socketpair()
                ours.enter_context(there)
                here.setblocking(False)
                self._forget_offers(child)
                self._offers[child] = here
                variables["WSRAW_OFFERS"] = str(there.fileno())
                keep_open.append(there.fileno())
                if old is not None:
                    pairs = [socket.socketpair() for _ in range(2)]
                    for end in (end for pair in pairs for end in pair):
                        ours.enter_context(end)
                    taken = [str(pair[1].fileno()) for pair in pairs]
                    variables["WSRAW_PREDECESSOR"] = " ".join(taken)
                    keep_open += map(int, taken)
                    offered = [pair[0] for pair in pairs]

            def say(pid: int) -> bytes:
                shared = " ".join(share(sock, pid) for sock in sockets)
                return first + f"{shared}\n".encode()

            line = code.command("gateway")
            pid = self._spawn(child, "gateway", line, variables, say, keep_open)
            if pid is None:
                self._forget_offers(child)
            if old is not None and old in self._offers:
                numbers = [sock.fileno() for sock in offered]
                # If the old gateway cannot be told, the successor finds nobody at the other end,
                # and ends.
                with suppress(OSError):
                    socket.send_fds(self._offers[old], [OFFER], numbers)
        return pid

    def _forget_offers(self, child: Child) -> None:
        known = self._offers.pop(child, None)
        if known is not None:
            known.close()

    def spawn_admin(self, child: Child, sock: socket.socket) -> int | None:
        """Start an admin process on this listening socket. Returns its pid; None if that failed,
        which is reported as an exit."""

        def say(pid: int) -> bytes:
            return self._said + f"{share(sock, pid)}\n".encode()

        line = self.installation.command("admin")
        variables = {**self._own_variables, **self.installation.variables()}
        return self._spawn(child, "admin", line, variables, say, [sock.fileno()])

    def spawn_agent(self, child: Child, endpoint: str) -> int | None:
        """Start the agent of a cluster, which has a token. Returns its pid; None if that failed."""
        variables = {
            **self._own_variables,
            **self.installation.variables(),
            "WSRAW_ENDPOINT": endpoint,
            "WSRAW_TOKEN": child.token,
        }
        line = self.installation.command("agent")
        return self._spawn(child, "agent", line, variables, lambda pid: self._said)

    def spawn_worker(self, child: Child, endpoint: str) -> int | None:
        """Start a worker, which has a token. Returns its pid; None if that failed."""
        variables = {
            "WSRAW_ENDPOINT": endpoint,
            "WSRAW_TOKEN": child.token,
            "WSRAW_POOL": child.pool,
        }
        program = child.program
        assert program is not None
        if program.is_foreign:
            variables["WSRAW_INSTANCE"] = os.urandom(8).hex()
            line = foreign_command(program.words)
            return self._spawn(child, "foreign", line, variables, lambda pid: b"")
        version = self.versions.variable(child.version, program)
        handlers = program.file if program.file is not None else program.module
        line = self.installation.command("worker", *([handlers] if handlers else []))
        code = self.installation.variables()
        variables = {**self._own_variables, **code, **variables, "WSRAW_VERSION": version}
        return self._spawn(child, "worker", line, variables, lambda pid: self._said)

    def _spawn(
        self,
        child: Child,
        kind: str,
        line: list[str],
        variables: Mapping[str, str],
        said: Callable[[int], bytes],
        keep_open: Sequence[int] = (),
    ) -> int | None:
        """`keep_open`: inherited descriptors. A worker gets none, because processes that handlers
        start may outlive the run and would keep its lock."""
        name, pool = child.name, "" if kind == "gateway" else child.pool
        lines: deque[str] = deque(maxlen=LAST_LINES)
        try:
            process = Process(
                line,
                variables,
                on_line=partial(self._hear, name, pool, lines),
                on_exit=lambda code: self._post(
                    partial(self._handle_death, child, kind, code, lines)
                ),
                folder=self.folder,
                keep_open=keep_open,
                said=said,
                hears=kind != "foreign",
            )
        except OSError as error:
            why = f"could not be started: {os_error(error)}"
            self._post(partial(self._ended, child, 1, why, ""))
            return None
        self._processes[child] = process
        self._kinds[child] = kind, lines
        if kind != "gateway" and self._limit is not None:
            give_back(process.pid, self._limit)
        self._log.say("debug", f"{name} started, pid {process.pid}")
        return process.pid

    # --- another program in our place ---

    def hold(self) -> tuple[dict[Child, ProcessRecord], list[ProcessRecord]] | None:
        """Take no output and no exit any more; return what the program that replaces us must know
        of each process, and of the output of dead ones. None if that is not possible now; then
        nothing is held."""
        found: dict[Child, ProcessRecord] = {}
        unread: list[ProcessRecord] = []
        try:
            for child, process in self._processes.items():
                told = process.hold()
                if told is None:
                    self.release()
                    return None
                self._held.append(process)
                kind, lines = self._kinds[child]
                offers = self._offers.get(child)
                number = offers.fileno() if offers is not None else -1
                found[child] = _recorded(told, kind, lines, offers=number)
            for process, name, pool in self._unread:
                told = process.hold_output()
                if told is not None:
                    self._held.append(process)
                    unread.append(_recorded(told, "", (), name=name, pool=pool))
        except BaseException:
            self.release()
            raise
        return found, unread

    def release(self) -> None:
        """Continue after `hold`; does nothing if nothing is held."""
        held, self._held = self._held, []
        for process in held:
            process.release()

    def adopt(self, child: Child, record: ProcessRecord) -> None:
        """Take over a process that the program before us has held."""
        pool = "" if record.kind == "gateway" else child.pool
        lines = deque(record.lines, maxlen=LAST_LINES)
        kind = record.kind
        self._kinds[child] = kind, lines
        if record.offers >= 0:
            self._offers[child] = socket.socket(fileno=record.offers)
            self._offers[child].setblocking(False)
            os.set_inheritable(record.offers, False)
        self._processes[child] = Process.adopted(
            _held(record),
            partial(self._hear, child.name, pool, lines),
            lambda code: self._post(partial(self._handle_death, child, kind, code, lines)),
        )

    def adopt_output(self, record: ProcessRecord) -> None:
        """Take over the remaining output of a dead process."""
        hear = partial(self._hear, record.name, record.pool, deque(maxlen=LAST_LINES))
        process = Process.adopted(_held(record), hear, lambda code: None)
        self._unread.append((process, record.name, record.pool))

    def _hear(self, name: str, pool: str, lines: deque[str], line: str) -> None:
        lines.append(line)
        self._log.relay(name, line, pool)

    # --- end ---

    def _handle_death(self, child: Child, kind: str, code: int, lines: deque[str]) -> None:
        process = self._processes.pop(child)
        del self._kinds[child]
        self._forget_offers(child)
        last = process, child.name, "" if kind == "gateway" else child.pool
        self._unread = [each for each in (*self._unread, last) if not each[0].read_rest(0)]
        meanings = MEANINGS[kind]
        if child.ready_at is not None and code in START_CODES:
            meanings = {}
        why = reason(code, meanings, killed=child.is_killed)
        said = [line for output in lines for line in lines_of_output(output)]
        self.last_output = "\n".join(text for line in said for text in lines_of(line))
        self._ended(child, code, why, error_in(said) if code > 0 else "")

    def reap_orphans(self) -> None:
        """As process 1 of a container, reap orphans, whose parent this process has become."""
        if not sys.platform.startswith("linux"):
            return
        ours = {process.pid for process in self._processes.values()}
        try:
            # Look first: our own children, which may hide others, are reaped by their threads.
            while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if found.si_pid in ours:
                    return
                os.waitid(os.P_PID, found.si_pid, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            pass

    def end(self, child: Child, how: Termination) -> None:
        process = self._processes.get(child)
        if process is not None:
            ends = {
                Termination.TERMINATE: process.terminate,
                Termination.ABORT: process.abort,
                Termination.KILL: process.kill,
            }
            ends[how]()

    def kill_all(self) -> None:
        """Kill every process. The end of stdin would make them exit, but a kill is certain."""
        for process in self._processes.values():
            process.kill()
        for child in list(self._offers):
            self._forget_offers(child)

    def read_rest(self) -> None:
        """Before our own end, log the last output of the children."""
        until = time.monotonic() + LAST_WORDS
        for process in (*(each[0] for each in self._unread), *self._processes.values()):
            process.read_rest(max(0.0, until - time.monotonic()))


def _recorded(
    held: Held,
    kind: str,
    lines: Iterable[str],
    *,
    offers: int = -1,
    name: str = "",
    pool: str = "",
) -> ProcessRecord:
    return ProcessRecord(
        pid=held.pid,
        stdin=held.stdin,
        stdout=held.stdout,
        kind=kind,
        hears=held.hears,
        rest=held.rest,
        lines=list(lines),
        is_killed=held.is_killed,
        offers=offers,
        name=name,
        pool=pool,
    )


def _held(record: ProcessRecord) -> Held:
    return Held(
        record.pid, record.stdin, record.stdout, record.hears, record.rest, record.is_killed
    )
