"""Sans-I/O. Checks that any worker must pass, whatever its handlers do.

Each is a script that is given a fresh session, and leaves the worker as it likes: the next one
begins with `who`.
"""

from __future__ import annotations

from typing import Final

from wsraw.link.records import Close
from wsraw.tools.conform.rules import Breach, Check, Rule, Script
from wsraw.tools.conform.stage import ABOUT, Stage

MIB: Final = 1 << 20
LARGEST: Final = 15 * MIB
"""What a worker elsewhere may still send back: a batch of 16 MiB."""

INTERNAL_ERROR: Final = 1011
"""How a connection is closed whose handler has failed (RFC 6455, section 7.4.1)."""

MOST_AT_ONCE: Final = 500

SHUT_OUT: Final = 4
"""The exit code of who is not let in."""


def hello(stage: Stage) -> Script:
    """One more hello would be for nobody."""
    yield from stage.quiet()


def hello_again(stage: Stage) -> Script:
    """A gateway that has given the worker up asks it in again, on the same link."""
    first = stage.session.number
    con = stage.connect()
    stage.flush()
    yield from stage.all_acked()
    yield from stage.enter()
    assert stage.session.number != first
    stage.event("on_error", con, "again", 1)
    stage.flush()
    yield from stage.all_acked()


def events(stage: Stage) -> Script:
    """A life with each kind of event in it."""
    con = stage.connect()
    stage.message(con, b"text", "text")
    stage.message(con, b"\xff\x00binary", "binary")
    stage.flush()
    yield from stage.all_acked()
    stage.event("on_error", con, "the peer has broken a rule", 1)
    stage.close(con, "protocol-error")
    stage.flush()
    yield from stage.all_acked()
    raw = stage.new_con()
    stage.event("on_connect", raw, {"Protocol": "raw"}, False, 1, ABOUT)
    stage.message(raw, b"raw\r\n", "raw")
    stage.close(raw)
    stage.flush()
    yield from stage.all_acked()


def _no_failure(stage: Stage) -> None:
    for heard in stage.session.commands(Close):
        if heard.record.code == INTERNAL_ERROR:
            raise Breach("acked, and closed as after a handler that failed", heard.text())


def verdict(stage: Stage) -> Script:
    """The ack alone lets in; the worker may also say accept, or reject."""
    con = stage.new_con()
    stage.event("on_connect", con, {"Protocol": "websocket server"}, True, 1, ABOUT)
    stage.flush()
    yield from stage.all_acked()


def short_records(stage: Stage) -> Script:
    """Fields with `?` left out."""
    con = stage.new_con()
    stage.event("on_connect", con, {"Protocol": "websocket server"})
    stage.event("on_message", con, b"short", "text")
    stage.event("on_error", con, "short")
    stage.event("on_close", con, 1000, "", "peer")
    other = stage.new_con()
    stage.notice(["attach", other, {"Protocol": "websocket server"}, b"", 0])
    stage.event("on_message", other, b"short", "text")
    stage.flush()
    yield from stage.all_acked()
    _no_failure(stage)


def appended_fields(stage: Stage) -> Script:
    """Fields of a later version at the end of each record, and what is new in maps."""
    tail = ("of a later version", {"or": [None, 1.5, True]})
    con, other = stage.new_con(), stage.new_con()
    about = ABOUT | {"later": {"a": [1, None, b"\xff"]}}
    inf = {"Protocol": "websocket server"}
    stage.event("on_connect", con, inf, False, 1, about, *tail)
    stage.event("on_message", con, b"long", "text", True, 1, *tail)
    stage.notice(["attach", other, inf, b"", 1, about, *tail])
    stage.event("on_error", other, "long", 1, {}, *tail)
    stage.event("on_close", other, 1000, "", "a-cause-of-a-later-version", 1, {}, *tail)
    stage.flush()
    yield from stage.all_acked()
    stage.notice(["detach", other, *tail])
    stage.message(con, b"and on it goes")
    stage.flush()
    yield from stage.all_acked()
    _no_failure(stage)


def unknown_notices(stage: Stage) -> Script:
    """Notices of a later version, with fields or none, and a refusal, which asks for nothing."""
    con = stage.connect()
    stage.notice(["weather", 21.5, {"wind": "west"}])
    stage.notice(["holiday"])
    stage.message(con, b"and on it goes")
    stage.notice(["refused", 1, 0, "a refusal is not a reason to leave"])
    stage.message(con, b"and on")
    stage.flush()
    yield from stage.all_acked()


def empty_batches(stage: Stage) -> Script:
    """A batch without records, and a message that is no batch."""
    stage.flush()
    stage.send_empty()
    stage.flush()
    stage.connect()
    stage.flush()
    yield from stage.all_acked()


def unknown_connection(stage: Stage) -> Script:
    """The successor of a connection with `reconnect` is known from its first event."""
    con = stage.new_con()
    stage.message(con, b"nobody has introduced us", "raw")
    stage.event("on_error", con, "nobody will", 1)
    stage.close(con)
    stage.flush()
    yield from stage.all_acked()
    _no_failure(stage)


def attach(stage: Stage) -> Script:
    """A connection comes from another worker, goes, comes again, and ends."""
    con = stage.new_con()
    stage.notice(["attach", con, {"Protocol": "websocket server"}, b"", 0, ABOUT])
    stage.message(con, b"hello")
    stage.flush()
    yield from stage.all_acked()
    stage.notice(["detach", con])
    stage.flush()
    # Only now: while it had an event there, it would not have moved.
    stage.notice(["attach", con, {"Protocol": "websocket server"}, b"", 1, ABOUT])
    stage.message(con, b"hello again", delivery=2)
    stage.flush()
    yield from stage.all_acked()
    stage.close(con)
    stage.flush()
    yield from stage.all_acked()
    stage.notice(["detach", con])
    stage.flush()
    # What it holds from here on shows in its next hello.
    yield from stage.enter()


def window(stage: Stage) -> Script:
    """As many events at once as the worker wants, of several connections."""
    count = min(stage.window, MOST_AT_ONCE)
    cons = [stage.new_con() for _ in range(1 + count // 20)]
    for number in range(count):
        con = cons[number % len(cons)]
        if number < len(cons):
            stage.connect(con)
        else:
            stage.message(con, b"message %d" % number)
        if number % 7 == 0:
            stage.flush()
    stage.flush()
    yield from stage.all_acked()


def _large(size: int) -> Check:
    def check(stage: Stage) -> Script:
        con = stage.connect()
        stage.flush()
        yield from stage.all_acked()
        stage.message(con, bytes(range(256)) * (size // 256), "binary")
        stage.flush()
        yield from stage.all_acked(3 * stage.patience)

    return check


def session_ends(stage: Stage) -> Script:
    """A new session begins with the old one's events still there."""
    con = stage.connect()
    stage.flush()
    yield from stage.all_acked()
    for number in range(min(stage.window, 50)):
        stage.message(con, b"of the old session %d" % number)
    stage.flush()
    yield from stage.enter()
    yield from stage.quiet()
    _nothing_of_before(stage, con)
    other = stage.connect()
    stage.message(other, b"of the new session")
    stage.flush()
    yield from stage.all_acked()
    _nothing_of_before(stage, con)


def _nothing_of_before(stage: Stage, con: int) -> None:
    session = stage.session
    commands = [heard for heard in session.heard if getattr(heard.record, "con", 0) == con]
    for heard in (*session.wrong_acks, *commands):
        why = "of the previous session, under the number of the new one"
        raise Breach(why, heard.text())


def new_gateway(stage: Stage) -> Script:
    """The gateway dies; the next one, of a new epoch, is told what the worker holds."""
    cons = [stage.connect() for _ in range(3)]
    stage.close(cons[2])
    stage.flush()
    yield from stage.all_acked()
    stage.down()
    yield from stage.quiet()
    stage.up()
    what = "the empty message of PROBE_ROUTER, at a new gateway (IMMEDIATE sends it again)"
    yield from stage.until(lambda: bool(stage.identity), what, 2 * stage.patience)
    yield from stage.enter()
    assert stage.hello is not None
    held = set(stage.hello.held)
    missing = set(cons[:2]) - held
    if held and missing:
        why = f"held names connections, but not {min(missing)}, which had its on_connect"
        raise Breach(why, f"held: {sorted(held)}")
    for con in cons[:2]:
        stage.notice(["attach", con, None, b"", 0, {}])
        stage.close(con, "gateway-died")
    stage.flush()
    yield from stage.all_acked()
    for con in cons[:2]:
        stage.notice(["detach", con])
    con = stage.connect()
    stage.message(con, b"of the new gateway")
    stage.flush()
    yield from stage.all_acked()
    # And these are over now: they must not be held in the next hello.
    yield from stage.enter()


def drain(stage: Stage) -> Script:
    """Everything that came before it is acked; then bye, then the end of the process."""
    con = stage.connect()
    for number in range(20):
        stage.message(con, b"message %d" % number)
    stage.flush()
    stage.drain()
    stage.flush()
    yield from leave(stage)


def leave(stage: Stage) -> Script:
    """After a drain: the acks, bye, the end."""
    session = stage.session
    yield from stage.until(lambda: session.over, "bye")
    left = session.unfinished()
    if left is not None:
        raise Breach("bye came before an event from before the drain was acked", stage.shown(left))
    yield from stage.until(lambda: not stage.running, "the end of the process after its bye")
    if stage.exit_code != 0:
        raise Breach(f"after bye it has ended with code {stage.exit_code}, not 0")


def idle_drain(stage: Stage) -> Script:
    """Nothing to finish, and nothing to wait for."""
    stage.drain()
    stage.flush()
    yield from leave(stage)


def shut_out(stage: Stage) -> Script:
    """Who is not let in, or is sent away later, does not try again: it ends, and says why."""
    stage.ask()
    yield from stage.until(lambda: stage.hello is not None, "a hello in answer to who")
    yield from _ends_shut_out(stage)
    yield from stage.begin()
    stage.connect()
    stage.flush()
    yield from stage.all_acked()
    yield from _ends_shut_out(stage)


def _ends_shut_out(stage: Stage) -> Script:
    before = stage.unasked
    stage.refuse("conform rejects you, to see what you do")
    yield from stage.until(
        lambda: stage.unasked > before or not stage.running,
        f"the end of the process after [{stage.session.number}, [refused, 0, 0, …]]",
    )
    if stage.unasked > before:
        raise Breach("it has sent hello again")
    if stage.exit_code != SHUT_OUT:
        raise Breach(
            f"after its rejection it has ended with code {stage.exit_code}, not {SHUT_OUT}"
        )


RULES: Final = (
    Rule("hello", "The dialog", "It connects, and answers `who` with `hello`.", hello),
    Rule(
        "hello-again", "The dialog", "It answers a `who` in the middle of a session.", hello_again
    ),
    Rule(
        "events", "3", "Each kind of event is acked, including text, binary and raw data.", events
    ),
    Rule("verdict", "Before the 101", "An `on_connect` with `verdict` is acked.", verdict),
    Rule("window", "5", "As many events as `window` says may come at once.", window),
    Rule("short-records", "Shape", "Fields with `?` may be missing.", short_records),
    Rule("appended-fields", "Shape", "Fields that it does not know are ignored.", appended_fields),
    Rule("unknown-notices", "Shape", "Notices that it does not know are ignored.", unknown_notices),
    Rule("empty-batches", "Shape", "A batch may be empty, and so may a message.", empty_batches),
    Rule(
        "unknown-connection",
        "13",
        "An event may come for a connection that it does not know.",
        unknown_connection,
    ),
    Rule("attach", "13", "A connection may be attached, detached and attached again.", attach),
    Rule("large", "Socket options", "A message of 1 MiB is acked.", _large(MIB)),
    Rule("very-large", "Socket options", "A message of 15 MiB is acked.", _large(LARGEST)),
    Rule("session-ends", "2", "Events of a session are forgotten with it.", session_ends),
    Rule(
        "new-gateway",
        "14",
        "A new gateway learns what the worker holds, and gets acks.",
        new_gateway,
    ),
    Rule("drain", "12", "After `drain` come the acks, `bye`, and exit code 0.", drain),
    Rule("idle-drain", "12", "The same without any events.", idle_drain),
    Rule("shut-out", "The dialog", "When it is rejected, it ends with exit code 4.", shut_out),
)
