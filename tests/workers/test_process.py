"""Worker processes, started as the supervisor starts them, with a ROUTER of the tests."""

from __future__ import annotations

import os
import signal
import socket
from itertools import zip_longest

import pytest

from tests.deadline import DEADLINE, eventually
from tests.needs import HAS_SIGNALS, HAS_UNIX, signals
from tests.workers import routers
from wsraw.link.records import PROTOCOL_VERSION, Publish, Refused, Send, Stats, encode
from wsraw.link.zmtp import ZmtpPeer
from wsraw.runtime.log.line import decode

from .conftest import EPOCH, TOKEN, Process, closed, con_id, connect, message

ECHO = """
def on_message(msg, con):
    return msg
"""

ASYNC_ECHO = """
async def on_message(msg, con):
    return msg
"""

BOTH = pytest.mark.parametrize("source", [ECHO, ASYNC_ECHO], ids=["plain", "asyncio"])


@BOTH
def test_a_worker_echoes_and_drains(process: Process, source: str) -> None:
    process.start(source + "def on_stop():\n    print('stopped')\n")
    hello = process.welcome()
    assert (hello.token, hello.pool, hello.version) == (TOKEN, "p", PROTOCOL_VERSION)
    process.deliver(connect(1), *(message(1, b"%d" % n) for n in range(500)))
    process.pump(process.all_acked, "500 echoes")
    assert process.sent() == [b"%d" % n for n in range(500)]
    process.gateway.drain(30)
    process.tell()
    process.pump(process.said_bye, "bye")
    code, out, err = process.end()
    assert (code, out, err) == (0, "stopped\n", "")


def test_a_worker_process_imports_little(process: Process) -> None:
    """A worker does not import libzmq, OpenSSL or the gateway, and asyncio only for async
    handlers.
    """
    process.start(
        """
        import os, sys
        from wsraw import publish

        def on_start():
            foreign = ("zmq", "websockets", "click", "asyncio", "ssl", "_hashlib",
                       "wsraw.gateway", "wsraw.supervisor", "wsraw.runtime.loop")
            names = [name for name in sys.modules if name.startswith(foreign)]
            publish("found", repr((names, [n for n in os.environ if n.startswith("WSRAW_")])))
        """
    )
    process.welcome()
    process.pump(lambda: process.commands, "what on_start publishes")
    assert process.commands[0].data == b"([], [])"


@BOTH
def test_a_wrong_token_ends_the_worker(process: Process, source: str) -> None:
    process.start(source)
    process.until(lambda: process.receive() is not None, "the probe")
    process.router.send_multipart(
        [process.gateway.identity, encode([0, Refused(0, 0, "its token is wrong")])]
    )
    code, _, err = process.end()
    assert code == 4
    assert "its token is wrong" in err


def test_a_file_that_does_not_load_ends_the_worker(process: Process) -> None:
    process.start("def on_message(msg, con)\n    return msg\n")
    code, _, err = process.end()
    assert code == 3
    assert "SyntaxError" in err and "user_handlers.py" in err and "importlib" not in err


@BOTH
def test_an_on_start_that_raises_ends_the_worker(process: Process, source: str) -> None:
    process.start(source + "def on_start():\n    1 / 0\n")
    process.welcome()
    process.pump(process.said_bye, "bye")
    code, _, err = process.end()
    assert code == 1
    assert "on_start raised" in err and "ZeroDivisionError" in err


WAITING = """
import os, time
def on_message(msg, con):
    con.send("begun"); flush()
    while not os.path.exists(msg["data"]):
        time.sleep(0.001)
    return "done"
from wsraw import flush
"""

ASYNC_WAITING = WAITING.replace("def on", "async def on").replace("time.sleep", "await sleep") + (
    "from asyncio import sleep\n"
)


@signals
@pytest.mark.parametrize("source", [WAITING, ASYNC_WAITING], ids=["plain", "asyncio"])
def test_sigterm_leaves_with_the_drain_of_the_gateway(process: Process, source: str) -> None:
    """The gateway closes its clients then, and a worker must handle their on_close."""
    process.start(source, settings='{"concurrency": 1}')
    process.welcome()
    gate = process.folder / "gate"
    process.deliver(message(1, str(gate).encode()))
    process.pump(lambda: process.sent() == [b"begun"], "its handler to begin")
    process.child.send_signal(signal.SIGTERM)
    process.child.send_signal(signal.SIGINT)  # Ctrl-C of the terminal, not for spawned workers.
    process.child.send_signal(signal.SIGTERM)  # As on the death of its supervisor.
    gate.touch()
    process.pump(process.all_acked, "the ack")
    assert process.sent() == [b"begun", b"done"]
    process.deliver(message(2, str(gate).encode()))
    process.pump(process.all_acked, "the ack of what came after the signal")
    process.gateway.drain(30)
    process.tell()
    process.pump(process.said_bye, "bye")
    assert process.end()[0] == 0


@signals
@BOTH
def test_a_drain_after_sigterm_is_not_waited_for_without_end(process: Process, source: str) -> None:
    """Events that were not begun go back at the end of the session."""
    process.start(source)
    process.welcome()
    process.deliver(message(1, b"x"))
    process.pump(process.all_acked, "the session to stand")
    process.child.send_signal(signal.SIGTERM)
    process.pump(process.said_bye, "bye though nobody drains it")
    assert process.end()[0] == 0


@signals
@BOTH
def test_a_sigterm_after_the_bye_is_not_a_death(process: Process, source: str) -> None:
    """The supervisor sends it to all remaining workers, some of which are just ending."""
    process.start(source)
    process.welcome()
    process.gateway.drain(30)
    process.tell()
    process.pump(process.said_bye, "bye")
    while process.child.poll() is None:
        process.child.send_signal(signal.SIGTERM)
    assert process.end()[0] == 0


@signals
@pytest.mark.parametrize("source", [WAITING, ASYNC_WAITING], ids=["plain", "asyncio"])
def test_a_second_signal_ends_a_worker_started_by_hand_at_once(
    process: Process, source: str
) -> None:
    process.is_spawned = False
    process.start(source)
    process.welcome()
    process.deliver(message(1, b"/nothing/there"))
    process.pump(lambda: process.sent() == [b"begun"], "its handler to begin")

    def is_gone() -> bool:
        process.child.send_signal(signal.SIGINT)
        return process.child.poll() is not None

    eventually(is_gone, "its end")
    assert process.end()[0] == -signal.SIGINT


@signals
@BOTH
def test_without_a_gateway_a_worker_does_not_wait_for_a_drain(
    process: Process, source: str
) -> None:
    """If the gateway ends at the same time, on_stop must run before the worker is killed."""
    prelude = "import wsraw.workers.shells.shell as shell\nshell.LEAVE_WITHIN = 600.0"
    process.start(source + "def on_stop():\n    print('stopped')\n", prelude=prelude)
    process.welcome()
    process.deliver(message(1, b"x"))
    process.pump(process.all_acked, "the session to stand")
    process.router.close()
    process.child.send_signal(signal.SIGTERM)
    assert process.end()[:2] == (0, "stopped\n")
    process.restart_gateway()


@BOTH
def test_a_worker_ends_with_its_supervisor(process: Process, source: str) -> None:
    process.start(source)
    process.welcome()
    process.deliver(message(1, b"x"))
    process.pump(process.all_acked, "the ack")
    assert process.child.stdin is not None
    process.child.stdin.close()
    process.pump(process.said_bye, "bye")
    assert process.end()[0] == 0


def test_a_worker_ends_with_its_supervisor_even_if_a_handler_hangs(process: Process) -> None:
    process.start(
        WAITING, prelude="import wsraw.workers.process as worker\nworker.ORPHAN_GRACE = 0.2"
    )
    process.welcome()
    process.deliver(message(1, b"/nothing/there"))
    process.pump(lambda: process.sent() == [b"begun"], "its handler to begin")
    assert process.child.stdin is not None
    process.child.stdin.close()
    code, _, err = process.end()
    assert code == 1
    assert "the supervisor is gone" in err


@BOTH
def test_a_worker_leaves_at_the_word_of_its_supervisor(process: Process, source: str) -> None:
    """This is the way on Windows, where SIGTERM would end the worker at once."""
    process.start(source + "def on_stop():\n    print('stopped')\n")
    process.welcome()
    process.deliver(message(1, b"x"))
    process.pump(process.all_acked, "the ack")
    process.say("leave")
    process.pump(process.said_bye, "bye")
    assert process.end() == (0, "stopped\n", "")


def test_the_word_ends_a_worker_that_is_loading_at_once(process: Process) -> None:
    process.start("import time\nprint('loading')\ntime.sleep(600)\n")
    assert process.out.line() == "loading\n"
    process.say("leave")
    assert process.end() == (143, "loading\n", "")


def test_a_worker_shows_its_stack_at_the_word_of_its_supervisor(process: Process) -> None:
    """This is the way on Windows, where there is no signal for it."""
    process.start(WAITING)
    process.welcome()
    process.deliver(message(1, b"/nothing/there"))
    process.pump(lambda: process.sent() == [b"begun"], "its handler to begin")
    process.say("stack")
    code, _, err = process.end()
    assert code == (-signal.SIGABRT if HAS_SIGNALS else 3)
    assert "in on_message" in err


@BOTH
def test_a_new_gateway_is_a_new_session(process: Process, source: str) -> None:
    process.start(source + "def on_start():\n    print('started')\n")
    first = process.welcome()
    process.deliver(connect(1), message(1, b"x"))
    process.pump(process.all_acked, "the ack")
    process.restart_gateway()
    again = process.welcome(epoch=EPOCH + 1)
    assert again.instance == first.instance
    assert again.held == [con_id(1)]
    process.deliver(message(2, b"y"))
    process.pump(process.all_acked, "the ack of the new session")
    assert process.sent() == [b"x", b"y"]
    process.gateway.drain(30)
    process.tell()
    assert process.end()[:2] == (0, "started\n")


@BOTH
def test_timers_and_threads_send(process: Process, source: str) -> None:
    process.start(
        source
        + """
import threading
from wsraw import call_soon, every, publish

def work():
    try:
        publish("thread", "directly")
    except RuntimeError as error:
        call_soon(publish, "thread", str(error))

def on_start():
    threading.Thread(target=work).start()

@every(0.01)
def tick():
    publish("tick", "tick")

@every(0.01)
def bad():
    raise ValueError("tick failed")
"""
    )
    process.welcome()

    def groups() -> list[str]:
        return [record.group for record in process.commands if isinstance(record, Publish)]

    process.pump(lambda: groups().count("tick") > 2 and "thread" in groups(), "ticks and thread")
    (thread,) = (r for r in process.commands if isinstance(r, Publish) and r.group == "thread")
    assert b"wsraw.call_soon" in thread.data
    process.gateway.drain(30)
    process.tell()
    process.pump(process.said_bye, "bye")
    code, _, err = process.end()
    assert code == 0
    assert "every raised" in err and "tick failed" in err


def test_refused_commands_do_not_flood_the_log(process: Process) -> None:
    process.start(ECHO)
    process.welcome()
    for n in range(1000):
        process.gateway.notice(Refused(1, n, f"join of connection {n}: no"))
    process.deliver(message(1, b"x"))
    process.pump(process.all_acked, "the ack")
    process.gateway.drain(30)
    process.tell()
    process.pump(process.said_bye, "bye")
    _, _, err = process.end()
    lines = [line for line in (decode(output)[1] for output in err.split("\n")) if line]
    assert lines[0].message == "the gateway rejected a command: join of connection 0: no"
    assert lines[-1].message == "rejected commands (990 more in 10 s)"
    assert len(lines) == 11


ESCAPES = """
import asyncio, sys
from wsraw import every, publish
ticks = 0
@every(0.01)
async def tick():
    global ticks
    ticks += 1
    task = asyncio.create_task(asyncio.sleep(600))
    asyncio.get_running_loop().call_soon(task.cancel)
    if ticks == 50: publish("ticks", "50")
    await task
async def leave():
    sys.exit(3)
def is_other(task):
    return task is not asyncio.current_task()
async def on_message(msg, con):
    match msg["data"]:
        case "task": tasks.append(asyncio.create_task(leave()))
        case "callback": asyncio.get_running_loop().call_soon(sys.exit, 3)
        case "loop": asyncio.get_running_loop().stop()
        case "gone": raise KeyboardInterrupt
        case "all": [task.cancel() for task in asyncio.all_tasks() if is_other(task)]
    return msg
tasks = []
"""


def test_an_event_whose_task_is_cancelled_before_it_begins_is_handled(process: Process) -> None:
    """In Python 3.11 each handler is a task that begins in the next turn of the loop."""
    process.start(ESCAPES)
    process.welcome()
    process.deliver(message(1, b"all"), message(2, b"two"), message(3, b"three"))
    process.pump(process.all_acked, "the acks")
    assert sorted(process.sent()) == [b"all", b"three", b"two"]


SELF_CANCELLED = """
import asyncio
from wsraw import every, publish
calls = ticks = 0
@every(0.01)
async def tick():
    global ticks
    await asyncio.sleep(0)
    ticks += 1
    if ticks == 20: publish("ticks", "20")
    asyncio.current_task().cancel()
async def on_message(msg, con):
    global calls
    await asyncio.sleep(0)
    calls += 1
    for task in asyncio.all_tasks(): task.cancel()
    return f"{calls}"
"""


def test_an_event_whose_handler_cancels_its_own_task_at_its_end_is_handled_once(
    process: Process,
) -> None:
    """asyncio calls the task cancelled, although its coroutine has returned."""
    process.start(SELF_CANCELLED)
    process.welcome()
    for n in range(1, 4):
        process.deliver(message(n, b"x"))
        process.pump(process.all_acked, "the ack")
    process.pump(lambda: Publish("ticks", b"20", "text") in process.commands, "20 ticks")
    assert process.sent() == [b"1", b"2", b"3"]


def test_an_exception_in_a_task_ends_neither_the_worker_nor_a_timer(process: Process) -> None:
    """`except Exception` does not catch CancelledError (python-websockets/websockets#1113)."""
    process.start(ESCAPES)
    process.welcome()
    for n, what in enumerate((b"task", b"callback", b"loop", b"gone", b"all", b"x"), 1):
        process.deliver(message(n, what))
        process.pump(process.all_acked, "the ack")
    assert process.sent() == [b"task", b"callback", b"loop", b"all", b"x"]
    process.pump(lambda: Publish("ticks", b"50", "text") in process.commands, "50 ticks")
    process.gateway.drain(30)
    process.tell()
    process.pump(process.said_bye, "bye")
    code, _, err = process.end()
    assert code == 0
    assert "every raised" in err
    assert err.count("a task or callback of the handlers raised") == 3
    assert err.count("the worker's own task raised") == 1


def test_a_slow_handler_does_not_hold_back_earlier_acks(process: Process) -> None:
    process.start(
        WAITING.replace("while", "time.sleep(0.002)\n    while"),
    )
    process.welcome()
    (process.folder / "there").touch()
    process.deliver(
        message(1, str(process.folder / "there").encode()),
        message(2, str(process.folder / "gate").encode()),
    )
    process.pump(lambda: len(process.gateway.window.in_flight) == 1, "the ack of the first")
    (process.folder / "gate").touch()
    process.pump(process.all_acked, "the ack of the second")


def test_async_handlers_wait_together_but_one_connection_in_order(process: Process) -> None:
    """The first event of connection 1 waits for connection 2, so a shell that handles one event
    at a time would hang. The second event of connection 1 must still come after the first.
    """
    process.start(
        """
        import asyncio
        event = None

        async def on_start():
            global event
            event = asyncio.Event()

        async def on_message(msg, con):
            if msg["data"] == "wait":
                await event.wait()
            if msg["data"] == "set":
                event.set()
            return msg["data"]

        def on_close(con):
            con.send("closed")
        """
    )
    assert process.welcome().concurrency == 100
    process.deliver(
        message(1, b"wait"), message(1, b"second"), message(1, b"third"), closed(1),
        message(2, b"first of 2"), message(2, b"set"),
    )  # fmt: skip
    process.pump(process.all_acked, "all acks")
    sends = [r for r in process.commands if isinstance(r, Send)]
    of_1 = [r.data for r in sends if r.con == con_id(1)]
    of_2 = [r.data for r in sends if r.con == con_id(2)]
    assert of_1 == [b"wait", b"second", b"third", b"closed"]
    assert of_2 == [b"first of 2", b"set"]
    assert sends[0].con == con_id(2)


def test_no_more_async_handlers_at_once_than_allowed(process: Process) -> None:
    process.start(
        """
        import asyncio
        running = most = 0

        async def on_message(msg, con):
            global running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1
            return str(most)
        """,
        settings='{"concurrency": 3}',
    )
    process.welcome()
    process.deliver(*(message(n, b"x") for n in range(1, 100)))
    process.pump(process.all_acked, "all acks")
    assert max(map(int, process.sent())) == 3


def test_each_event_has_a_context_of_its_own(process: Process) -> None:
    process.start(
        """
        import asyncio
        from contextvars import ContextVar
        who = ContextVar("who", default="nobody")

        async def on_message(msg, con):
            con.send(who.get())
            who.set(msg["data"])
            await asyncio.sleep(0)
            con.send(who.get())
        """,
        settings='{"concurrency": 2}',
    )
    process.welcome()
    process.deliver(*(message(n, b"me") for n in (1, 1, 2, 3, 3, 4, 1)))
    process.pump(process.all_acked, "all acks")
    assert process.sent() == [b"nobody", b"me"] * 7


def test_a_task_may_outlive_its_handler(process: Process) -> None:
    """The commands of the task leave at once; while the handler runs they belong to the event."""
    process.start(
        """
        import asyncio
        tasks = set()

        async def later(con, gate):
            con.send("with the event")
            await gate.wait()
            con.send("after the event")

        async def on_message(msg, con):
            gate = asyncio.Event()
            task = asyncio.create_task(later(con, gate))
            tasks.add(task)
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(0.01, gate.set)
            con.send("handler")
        """
    )
    process.welcome()
    process.deliver(message(1, b"x"))
    process.pump(process.all_acked, "the ack")
    assert process.sent() == [b"with the event", b"handler"]
    process.pump(lambda: len(process.sent()) == 3, "the task's send")
    assert process.sent()[2] == b"after the event"


def test_drain_waits_for_async_handlers(process: Process) -> None:
    process.start(ASYNC_WAITING)
    process.welcome()
    gate = process.folder / "gate"
    process.deliver(message(1, str(gate).encode()), message(1, str(gate).encode()))
    process.pump(lambda: process.sent() == [b"begun"], "its handler to begin")
    process.gateway.drain(30)
    process.tell()
    gate.touch()
    process.pump(process.said_bye, "bye")
    assert process.sent() == [b"begun", b"done"] * 2
    assert process.all_acked()
    assert process.end()[0] == 0


CALLED_SOON = """
    import asyncio, wsraw
    async def forever():
        try:
            await asyncio.sleep(600)
        finally:
            print("cancelled")
    def on_stop():
        print("on_stop")
    async def on_message(msg, con):
        wsraw.call_soon(forever)
        await asyncio.sleep(0)
        return msg
"""


def test_tasks_of_call_soon_are_cancelled_at_the_end(process: Process) -> None:
    process.start(CALLED_SOON)
    process.welcome()
    process.deliver(message(1, b"x"))
    process.pump(process.all_acked, "the ack")
    process.gateway.drain(30)
    process.tell()
    process.pump(process.said_bye, "bye, long before the deadline")
    code, out, err = process.end()
    assert (code, out.split(), err) == (0, ["cancelled", "on_stop"], "")


def test_a_worker_waits_for_a_gateway(process: Process) -> None:
    """The worker says so once, and keeps waiting."""
    process.router.close()
    process.start(
        ECHO, prelude="import wsraw.workers.shells.shell as shell\nshell.WARN_AFTER = 0.05"
    )
    line = process.err.line()
    # libzmq, which is used on TCP, gives no reason.
    assert f"waiting for a gateway at {process.endpoint}" + (" (" if HAS_UNIX else "") in line
    process.restart_gateway()
    process.welcome()
    process.deliver(message(1, b"x"))
    process.pump(process.all_acked, "the ack")


@BOTH
def test_a_gateway_that_does_not_read_stops_a_worker_and_leaves_nothing_to_the_next_one(
    process: Process, source: str
) -> None:
    """Each answer is a megabyte, so a queue without a limit in bytes would take all of them."""
    process.bind(process.endpoint, queue=1)
    word = "async def" if source == ASYNC_ECHO else "def"
    process.start(
        f"""
        import time
        answer = bytes(1 << 20)
        def note(con):
            with open({str(process.folder / "handled")!r}, "ab") as file:
                file.write(b"x")
        {word} on_message(msg, con):
            note(con)
            time.sleep(0.002)  # Otherwise many would be one batch.
            return answer if msg["data"] == "large" else msg
        """,
        settings='{"concurrency": 1}',
    )
    process.welcome(*(message(n, b"large") for n in range(1, 301)))
    handled = process.folder / "handled"
    sizes: list[int] = []

    def has_stopped() -> bool:
        sizes.append(handled.stat().st_size if handled.exists() else 0)
        return sizes[-1] > 0 and len(sizes) > 50 and len(set(sizes[-50:])) == 1

    process.until(has_stopped, "nothing more to be handled")
    process.restart_gateway()
    process.welcome(message(1, b"small"), epoch=EPOCH + 1)
    process.pump(process.all_acked, "the ack of the new session")
    assert process.sent() == [b"small"]
    # The system takes some answers, more of them on TCP, and libzmq reads ahead.
    assert handled.stat().st_size < 40


@BOTH
def test_a_gateway_that_refuses_a_worker_is_heard(process: Process, source: str) -> None:
    """The refusal is an ERROR command; libzmq's DEALER would not report a batch that is too
    long.
    """
    process.router.close()
    if not HAS_UNIX:
        served = routers.listen_again(process.endpoint)
    else:
        path = process.endpoint.removeprefix("ipc://")
        os.unlink(path)
        served = socket.socket(socket.AF_UNIX)
        served.bind(path)
        served.listen()
    process.start(source)
    with served:
        con, _ = served.accept()
        with con:
            con.settimeout(DEADLINE)
            peer = ZmtpPeer("ROUTER", ("DEALER",), 1000, as_server=True)
            while not peer.is_ready or peer.output:
                con.sendall(peer.data_to_send())
                if not peer.is_ready:
                    peer.receive_data(con.recv(1000))
            peer.fail("a batch of 70,000,000 bytes; the limit is 67,108,864")
            con.sendall(peer.data_to_send())
    assert "refused by the peer: a batch of 70,000,000 bytes" in process.err.line()
    process.router = routers.bind_again(process.context, process.endpoint)
    process.welcome(message(1, b"x"))
    process.pump(process.all_acked, "the ack")


@BOTH
def test_a_batch_of_many_megabytes_is_sent(process: Process, source: str) -> None:
    process.start(source)
    process.welcome()
    process.deliver(*(message(n, b"x" * 1_000_000, "binary") for n in range(1, 9)))
    process.pump(process.all_acked, "the acks")
    assert [len(data) for data in process.sent()] == [1_000_000] * 8


def test_a_worker_whose_parent_is_gone_exits(process: Process) -> None:
    """The counterpart: a worker that is not told to end stays."""
    process.start(ECHO)
    process.welcome()
    process.deliver(message(1, b"x"))
    process.pump(process.all_acked, "the ack")
    assert process.child.poll() is None
    os.kill(process.child.pid, signal.SIGTERM)
    eventually(lambda: process.child.poll() is not None, "its end")


def test_a_plain_handler_beside_async_ones_is_acked_at_once(process: Process) -> None:
    """The event once waited for on_start, and no further batch came to carry its ack."""
    process.start(
        """
        def on_connect(inf, con): pass
        async def on_message(msg, con): pass
        """
    )
    process.welcome(connect(1))
    process.pump(process.all_acked, "the ack")


def added(one: Stats, other: Stats) -> Stats:
    """The sum of two statistics of a handler."""
    slower = [a + b for a, b in zip_longest(one.slower, other.slower, fillvalue=0)]
    return Stats(
        other.handler,
        one.calls + other.calls,
        one.seconds + other.seconds,
        one.exceptions + other.exceptions,
        slower,
    )


TIMED = """
import asyncio, time
from wsraw import call_soon, every
@every(0.05)
def tick():
    raise ValueError("tick")
def fail():
    raise ValueError("call")
def on_connect(inf, con):
    call_soon(fail)
"""
WAITS = {
    "plain": "def on_message(msg, con):\n    time.sleep(0.1)\n",
    "asyncio": "async def on_message(msg, con):\n    await asyncio.sleep(0.1)\n",
}


@pytest.mark.parametrize("shell", WAITS)
def test_a_worker_tells_the_times_and_exceptions_of_all_that_it_calls(
    process: Process, shell: str
) -> None:
    process.start(TIMED + WAITS[shell])
    process.welcome(connect(1), message(1, b"1"), message(1, b"2"))
    told: dict[str, Stats] = {}

    def has_told() -> bool:
        told.clear()
        for each in process.commands:
            if isinstance(each, Stats):
                told[each.handler] = added(told.get(each.handler, Stats("", 0, 0.0)), each)
        return len(told) == 4 and told["on_message"].calls == 2

    process.pump(has_told, "figures")
    assert {name: bool(each.exceptions) for name, each in told.items()} == {
        "on_connect": False,
        "on_message": False,
        "every": True,
        "call_soon": True,
    }
    assert told["on_message"].seconds > 0.12, "twice 0.1 s, on a clock that may step by 16 ms"
    assert sum(told["on_message"].slower[8:]) == 2, "above 50 ms"


@BOTH
def test_a_worker_that_leaves_tells_what_it_has_not_told(process: Process, source: str) -> None:
    process.start(source)
    process.welcome(connect(1), *(message(1, b"x") for _ in range(20)))
    process.pump(process.all_acked, "20 echoes")
    process.gateway.drain(60.0)
    process.tell()
    process.pump(process.said_bye, "bye")
    calls = {each.handler: each.calls for each in process.commands if isinstance(each, Stats)}
    assert calls["on_message"] == 20
