"""A process that a handler forks is an ordinary process, without the worker's signals, sockets
and locks.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys

import pytest
import zmq

from tests.deadline import eventually
from tests.running import is_alive
from tests.workers import routers
from tests.workers.conftest import Process, message

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nobody can fork here")

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")

KINDS = pytest.mark.parametrize("word", ["def", "async def"], ids=["plain", "asyncio"])

HANDLERS = '''
import asyncio, json, multiprocessing, os, signal, socket, subprocess, sys, time
from concurrent.futures import ProcessPoolExecutor
from wsraw import call_soon, every, flush, join, open_client_connection, publish

LOOK = """
import json, os, signal, stat, sys
def is_socket(n):
    try:
        return stat.S_ISSOCK(os.fstat(int(n)).st_mode)
    except OSError:
        return False
def look():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return json.dumps({
        # Python ignores two in itself, and glibc its own above 31.
        "ignored": [n for n in range(1, 32) if int(status["SigIgn"], 16) >> (n - 1) & 1
                    and n not in (signal.SIGPIPE, signal.SIGXFSZ)],
        "handled": [n for n in (signal.SIGTERM, signal.SIGINT)
                    if signal.getsignal(n) not in (signal.SIG_DFL, signal.default_int_handler)],
        "sockets": [n for n in sorted(os.listdir("/proc/self/fd")) if is_socket(n)],
        "wakeup": signal.set_wakeup_fd(-1),
    })
"""
exec(LOOK)
PROGRAM = [sys.executable, "-c", LOOK + "print(look())"]

def by_fork():
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, look().encode())
        os._exit(0)
    os.waitpid(pid, 0)
    return os.read(reader, 10_000).decode()

def by_process(kind):
    with multiprocessing.get_context(kind).Pool(1) as pool:
        return pool.apply(look)

def by_executor():
    with ProcessPoolExecutor(1) as pool:
        return pool.submit(look).result()

def by_program(**options):
    return subprocess.run(PROGRAM, capture_output=True, text=True, check=True, **options).stdout

async def by_asyncio():
    pipe = asyncio.subprocess.PIPE
    return (await (await asyncio.create_subprocess_exec(*PROGRAM, stdout=pipe)).communicate())[0]

def forked(function, *args):
    """What becomes of a child in which that function is called, in words."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    pid = os.fork()
    if pid:
        os.close(writer)
        with open(reader) as stream:
            said = stream.read()
        return f"{said} {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}"
    os.close(reader)
    global say
    say = lambda text: os.write(writer, text.encode())
    return function(*args)
'''


def start(process: Process, source: str, word: str) -> None:
    # An import statement could not use this name; pickle's import can.
    process.start(HANDLERS + source.replace("def on_", f"{word} on_"), name="my-handlers")
    process.welcome()


def ask(process: Process, text: str) -> str:
    """The answer of the handler."""
    before = len(process.sent())
    process.deliver(message(1, text.encode()))
    process.pump(lambda: process.all_acked() and len(process.sent()) > before, f"{text!r} answered")
    return process.sent()[before].decode()


WAYS = [
    "by_fork()",
    "by_process('fork')",
    "by_process('spawn')",
    "by_process('forkserver')",
    "by_executor()",
    "by_program()",
    "by_program(close_fds=False)",
    "by_program(preexec_fn=int)",
]


@linux
@KINDS
def test_a_forked_child_has_nothing_of_the_worker(process: Process, word: str) -> None:
    """Otherwise multiprocessing's terminate() has no effect in a child (fastapi #1487, uvicorn
    #2289).
    """
    start(
        process,
        """
@every(1000)
def timer(): pass

def on_message(msg, con):
    return eval(msg["data"])
""",
        word,
    )
    for way in WAYS:
        found = json.loads(ask(process, way))
        # An asyncio loop has a socket pair of its own, which all processes inherit that are forked
        # from it.
        is_forked = way in ("by_fork()", "by_process('fork')", "by_executor()")
        assert len(found.pop("sockets")) == (2 if is_forked and word == "async def" else 0), way
        assert found == {"ignored": [], "handled": [], "wakeup": -1}, way


@linux
def test_a_forked_child_can_run_asyncio(process: Process) -> None:
    start(process, "def on_message(msg, con):\n    return await by_asyncio()\n", "async def")
    found = json.loads(ask(process, "x"))
    assert found == {"ignored": [], "handled": [], "sockets": [], "wakeup": -1}


CALLS = [
    "con.send('x')",
    "con.close()",
    "con.join('g')",
    "con.state = 1",
    "con.state",
    "publish('g', 'x')",
    "join('g', con)",
    "flush()",
    "call_soon(print)",
    "open_client_connection('127.0.0.1:1')",
]


@KINDS
def test_commands_in_a_forked_child_raise(process: Process, word: str) -> None:
    """Commands of a forked child once vanished, or the child hung (libzmq #3223, pyzmq #841)."""
    start(
        process,
        """
def attempt(con, call):
    try:
        exec(call)
    except RuntimeError as error:
        say(str(error))
    os._exit(0)

def on_message(msg, con):
    return forked(attempt, con, msg["data"])
""",
        word,
    )
    for call in CALLS:
        said = ask(process, call)
        assert said.startswith("this process was forked from a wsraw worker"), call
        assert said.endswith(" 0")


ENDS = [
    ("lambda: None", 0),
    ("sys.exit", 0),
    ("lambda: sys.exit(5)", 5),
    ("lambda: sys.exit('no')", 1),
    ("lambda: 1 / 0", 1),
    ("lambda: 'an answer'", 1),
]


@KINDS
def test_a_forked_child_that_returns_from_its_handler_ends(process: Process, word: str) -> None:
    """Such a child once continued as a second worker, which looked for events with 100 % of a
    core.
    """
    start(
        process,
        """
import atexit
atexit.register(lambda: print("the worker's exit handler"))

def on_start():
    publish("ends", forked(sys.exit, 7))
    call_soon(lambda: publish("ends", forked(sys.exit, 8)))

@every(0.001)
def tick():
    global tick_said
    if not globals().get("tick_said"):
        tick_said = forked(sys.exit, 9)
        publish("ends", tick_said)

def on_message(msg, con):
    if msg["data"] == "echo":
        return "echo"
    return forked(eval(msg["data"]))
""",
        word,
    )
    process.pump(lambda: len(process.commands) >= 3, "what is said beside the events")
    assert {record.data for record in process.commands} == {b" 7", b" 8", b" 9"}
    for function, code in ENDS:
        assert ask(process, function) == f" {code}", function
        assert ask(process, "echo") == "echo"
    process.gateway.drain(30)
    process.tell()
    process.pump(process.said_bye, "bye")
    code, out, err = process.end()
    assert (code, out) == (0, "the worker's exit handler\n"), "once"
    assert err.count("ZeroDivisionError") == 1
    assert err.count("was forked from a wsraw worker") == 1, "the answer of a child"


def test_a_forked_child_that_awaits_ends(process: Process) -> None:
    """The child has no loop: the loop and its descriptors belong to the worker."""
    start(
        process,
        """
def on_message(msg, con):
    never = asyncio.get_running_loop().create_future()
    pid = os.fork()
    if pid == 0:
        await never
    return str(await asyncio.to_thread(os.waitpid, pid, 0))
""",
        "async def",
    )
    assert ask(process, "x").endswith(", 0)")
    assert ask(process, "again").endswith(", 0)"), "the worker's own loop goes on"


def test_a_file_that_forks_while_it_loads_is_one_worker(process: Process) -> None:
    start(
        process,
        """
pid = os.fork()
END = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if pid else 0
def on_message(msg, con):
    return str(END)
""",
        "def",
    )
    assert ask(process, "x") == "0"


@linux
@pytest.mark.parametrize("kind", ["ipc", "tcp", "libzmq"])
@KINDS
def test_a_worker_is_seen_to_die_while_its_child_lives(
    process: Process, kind: str, word: str
) -> None:
    """Without a supervisor, only the end of its connection reports the worker's death."""
    if kind != "ipc":
        process.bind(routers.TCP)
    process.is_spawned = kind != "libzmq"
    process.router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    start(
        process,
        """
def on_message(msg, con):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
    child.start()
    return str(child.pid)
""",
        word,
    )
    child = int(ask(process, "x"))
    try:
        process.child.kill()
        process.child.wait()

        def is_gone() -> bool:
            try:
                process.router.send_multipart([process.gateway.identity, b""], zmq.NOBLOCK)
            except zmq.ZMQError as error:
                return error.errno == errno.EHOSTUNREACH
            return False

        # Without a heartbeat the connection would end after six seconds anyway.
        eventually(is_gone, "the connection to end", 5)
        assert is_alive(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_signal_before_the_forked_child_is_prepared_ends_it(process: Process) -> None:
    """The signal comes between the fork and the child's preparation; here its handler is called
    directly.
    """
    start(
        process,
        """
from wsraw.workers.shells import fork
def on_message(msg, con):
    fork._in_child.clear()
    return forked(lambda: signal.raise_signal(signal.SIGTERM))
""",
        "def",
    )
    assert ask(process, "x") == f" {-signal.SIGTERM}"
