"""Sans-I/O. Checks that any worker must pass, whatever its handlers do.

Each check begins with a fresh session and may leave the worker in any state, because the next one
begins with `who`.
"""

from __future__ import annotations

from typing import Final

from wsraw.link.records import Close
from wsraw.tools.conform import rendering
from wsraw.tools.conform.continuous_rules import Breach, NotApplicable
from wsraw.tools.conform.played_gateway import ABOUT, PlayedGateway
from wsraw.tools.conform.rules import Rule

LARGEST: Final = 15 << 20
"""The largest message that a remote worker can send back: its batches have at most 16 MiB."""

INTERNAL_ERROR: Final = 1011
"""The close code after a handler that failed (RFC 6455, section 7.4.1)."""

MOST_AT_ONCE: Final = 500

REJECTED: Final = 4
"""The exit code of a worker that was rejected."""


def hello(gateway: PlayedGateway) -> None:
    # A second hello would break hello-asked.
    gateway.quiet()


def hello_again(gateway: PlayedGateway) -> None:
    """Begin a new session on the same link, like a gateway that had given the worker up."""
    first = gateway.session.number
    con = gateway.connect()
    gateway.deliver()
    gateway.enter()
    assert gateway.session.number != first
    gateway.event("on_error", con, "again", 1)
    gateway.deliver()


def events(gateway: PlayedGateway) -> None:
    con = gateway.connect()
    gateway.message(con, b"text", "text")
    gateway.message(con, b"\xff\x00binary", "binary")
    gateway.deliver()
    gateway.event("on_error", con, "the peer has broken a rule", 1)
    gateway.close(con, "protocol-error")
    gateway.deliver()
    raw = gateway.new_con()
    gateway.event("on_connect", raw, {"Protocol": "raw"}, False, 1, ABOUT)
    gateway.message(raw, b"raw\r\n", "raw")
    gateway.close(raw)
    gateway.deliver()


def _no_failure(gateway: PlayedGateway) -> None:
    for received in gateway.session.commands(Close):
        if received.record.code == INTERNAL_ERROR:
            raise Breach("acked, but closed as after a handler that failed", received.text())


def verdict(gateway: PlayedGateway) -> None:
    """An ack alone accepts the client; the worker may also send accept or reject."""
    con = gateway.new_con()
    gateway.event("on_connect", con, {"Protocol": "websocket server"}, True, 1, ABOUT)
    gateway.deliver()


def short_records(gateway: PlayedGateway) -> None:
    con = gateway.new_con()
    gateway.event("on_connect", con, {"Protocol": "websocket server"})
    gateway.event("on_message", con, b"short", "text")
    gateway.event("on_error", con, "short")
    gateway.event("on_close", con, 1000, "", "peer")
    other = gateway.new_con()
    gateway.notice(["attach", other, {"Protocol": "websocket server"}, b"", 0])
    gateway.event("on_message", other, b"short", "text")
    gateway.deliver()
    _no_failure(gateway)


def appended_fields(gateway: PlayedGateway) -> None:
    """Send fields of a later version at the end of each record, and new keys in maps."""
    tail = ("of a later version", {"or": [None, 1.5, True]})
    con, other = gateway.new_con(), gateway.new_con()
    about = ABOUT | {"later": {"a": [1, None, b"\xff"]}}
    inf = {"Protocol": "websocket server"}
    gateway.event("on_connect", con, inf, False, 1, about, *tail)
    gateway.event("on_message", con, b"long", "text", True, 1, *tail)
    gateway.notice(["attach", other, inf, b"", 1, about, *tail])
    gateway.event("on_error", other, "long", 1, {}, *tail)
    gateway.event("on_close", other, 1000, "", "a-cause-of-a-later-version", 1, {}, *tail)
    gateway.deliver()
    gateway.notice(["detach", other, *tail])
    gateway.message(con, b"and on it goes")
    gateway.deliver()
    _no_failure(gateway)


def unknown_notices(gateway: PlayedGateway) -> None:
    """Send notices of a later version, and a refusal of a command, which asks for nothing."""
    con = gateway.connect()
    gateway.notice(["weather", 21.5, {"wind": "west"}])
    gateway.notice(["holiday"])
    gateway.message(con, b"and on it goes")
    gateway.notice(["refused", 1, 0, "a refusal is not a reason to leave"])
    gateway.message(con, b"and on")
    gateway.deliver()


def empty_batches(gateway: PlayedGateway) -> None:
    gateway.flush()
    gateway.send_empty()
    gateway.flush()
    gateway.connect()
    gateway.deliver()


def unknown_connection(gateway: PlayedGateway) -> None:
    """Send events without an on_connect, as for the successor of a connection with `reconnect`."""
    con = gateway.new_con()
    gateway.message(con, b"without an on_connect", "raw")
    gateway.event("on_error", con, "without an on_connect", 1)
    gateway.close(con)
    gateway.deliver()
    _no_failure(gateway)


def attach(gateway: PlayedGateway) -> None:
    con = gateway.new_con()
    gateway.notice(["attach", con, {"Protocol": "websocket server"}, b"", 0, ABOUT])
    gateway.message(con, b"hello")
    gateway.deliver()
    gateway.notice(["detach", con])
    gateway.flush()
    # Only now: a connection with an event in flight does not move.
    gateway.notice(["attach", con, {"Protocol": "websocket server"}, b"", 1, ABOUT])
    gateway.message(con, b"hello again", delivery=2)
    gateway.deliver()
    gateway.close(con)
    gateway.deliver()
    gateway.notice(["detach", con])
    gateway.flush()
    # The next hello shows what the worker holds.
    gateway.enter()


def presence(gateway: PlayedGateway) -> None:
    """Tell a worker that has asked who joins and leaves, also of a member of another gateway."""
    assert gateway.hello is not None
    asked = [tag for tag in ("on_join", "on_leave") if tag in gateway.hello.events]
    if not asked:
        raise NotApplicable("its hello has neither on_join nor on_leave in events")
    con = gateway.connect()
    for tag in asked:
        gateway.event(tag, con, "room.1")
        gateway.message(con, b"and on it goes")
        gateway.event(tag, con, "a *.>\n Grüße", 2, "of a later version")
    gateway.close(con)
    gateway.deliver()
    for tag in asked:
        away = gateway.new_con()
        about = {"ref": "another-gateway/68719476737", "user": "ann"}
        gateway.notice(["attach", away, {}, b"", 0, about])
        gateway.event(tag, away, "room.1", 1)
        gateway.deliver()
        gateway.notice(["detach", away])
        gateway.flush()
    _no_failure(gateway)


def window(gateway: PlayedGateway) -> None:
    count = min(gateway.window, MOST_AT_ONCE)
    cons = [gateway.new_con() for _ in range(1 + count // 20)]
    for number in range(count):
        con = cons[number % len(cons)]
        if number < len(cons):
            gateway.connect(con)
        else:
            gateway.message(con, b"message %d" % number)
        if number % 7 == 0:
            gateway.flush()
    gateway.deliver()


def large(gateway: PlayedGateway) -> None:
    con = gateway.connect()
    gateway.deliver()
    gateway.message(con, bytes(range(256)) * (LARGEST // 256), "binary")
    gateway.deliver(3 * gateway.timeout)


def session_ends(gateway: PlayedGateway) -> None:
    """Begin a new session while events of the old one are in flight."""
    con = gateway.connect()
    gateway.deliver()
    for number in range(min(gateway.window, 50)):
        gateway.message(con, b"of the old session %d" % number)
    gateway.flush()
    gateway.enter()
    gateway.quiet()
    _nothing_of_before(gateway, con)
    other = gateway.connect()
    gateway.message(other, b"of the new session")
    gateway.deliver()
    _nothing_of_before(gateway, con)


def _nothing_of_before(gateway: PlayedGateway, con: int) -> None:
    session = gateway.session
    commands = [
        received for received in session.received if getattr(received.record, "con", 0) == con
    ]
    for received in (*session.wrong_acks, *commands):
        why = "of the previous session, under the number of the new one"
        raise Breach(why, received.text())


def new_gateway(gateway: PlayedGateway) -> None:
    """Replace the gateway by one of a new epoch."""
    cons = [gateway.connect() for _ in range(3)]
    gateway.close(cons[2])
    gateway.deliver()
    gateway.down()
    gateway.quiet()
    gateway.up()
    what = "the empty message of PROBE_ROUTER, at a new gateway (IMMEDIATE sends it again)"
    gateway.until(lambda: bool(gateway.identity), what, 2 * gateway.timeout)
    gateway.enter()
    assert gateway.hello is not None
    held = set(gateway.hello.held)
    missing = set(cons[:2]) - held
    if held and missing:
        why = f"held names connections, but not {min(missing)}, which had its on_connect"
        raise Breach(why, f"held: {sorted(held)}")
    for con in cons[:2]:
        gateway.notice(["attach", con, None, b"", 0, {}])
        gateway.close(con, "gateway-died")
    gateway.deliver()
    for con in cons[:2]:
        gateway.notice(["detach", con])
    con = gateway.connect()
    gateway.message(con, b"of the new gateway")
    gateway.deliver()
    # The next hello must not hold the closed connections.
    gateway.enter()


def drain(gateway: PlayedGateway) -> None:
    """Drain a worker that has events."""
    con = gateway.connect()
    for number in range(20):
        gateway.message(con, b"message %d" % number)
    gateway.flush()
    gateway.drain()
    leave(gateway)


def leave(gateway: PlayedGateway, seconds: float = 0.0) -> None:
    """Wait for the acks, the bye and the exit that follow a drain."""
    session = gateway.session
    gateway.until(lambda: session.over, "bye", seconds)
    left = session.unfinished()
    if left is not None:
        raise Breach(
            "bye came, but an event from before the drain is not acked", rendering.record(left)
        )
    gateway.until(lambda: not gateway.running, "the end of the process after its bye")
    if gateway.exit_code != 0:
        raise Breach(f"after bye the worker ended with code {gateway.exit_code}, not 0")


def idle_drain(gateway: PlayedGateway) -> None:
    gateway.drain()
    leave(gateway)


def rejected(gateway: PlayedGateway) -> None:
    """Reject the worker, first in answer to its hello, then within a session."""
    gateway.ask()
    gateway.until(lambda: gateway.hello is not None, "a hello in answer to who")
    _reject(gateway)
    gateway.begin()
    gateway.connect()
    gateway.deliver()
    _reject(gateway)


def _reject(gateway: PlayedGateway) -> None:
    before = gateway.unasked
    gateway.refuse("conform rejects this worker to see whether it ends")
    gateway.until(
        lambda: gateway.unasked > before or not gateway.running,
        f"the end of the process after [{gateway.session.number}, [refused, 0, 0, …]]",
    )
    if gateway.unasked > before:
        raise Breach("the worker has sent hello again")
    if gateway.exit_code != REJECTED:
        raise Breach(
            f"after its rejection the worker ended with code {gateway.exit_code}, not {REJECTED}"
        )


RULES: Final = (
    Rule("hello", "The dialog", "The worker connects, and answers `who` with `hello`.", hello),
    Rule("hello-again", "The dialog", "A `who` within a session is answered.", hello_again),
    Rule("events", "3", "Each kind of event is acked: text, binary and raw data, too.", events),
    Rule("verdict", "Before the 101", "An `on_connect` with `verdict` is acked.", verdict),
    Rule("window", "5", "The worker takes `window` events at once.", window),
    Rule("short-records", "Shape", "Fields with `?` may be missing.", short_records),
    Rule("appended-fields", "Shape", "Unknown fields are ignored.", appended_fields),
    Rule("unknown-notices", "Shape", "Unknown notices are ignored.", unknown_notices),
    Rule("empty-batches", "Shape", "A batch may be empty, and so may a message.", empty_batches),
    Rule(
        "unknown-connection", "13", "Events of unknown connections are acked.", unknown_connection
    ),
    Rule("attach", "13", "A connection may be attached, detached and attached again.", attach),
    Rule("presence", "Fields", "`on_join` and `on_leave` are acked, if asked for.", presence),
    Rule("large", "Socket options", "A message of 15 MiB is acked.", large),
    Rule("session-ends", "2", "Events of a session are forgotten with it.", session_ends),
    Rule("new-gateway", "14", "A new gateway gets `held` and acks.", new_gateway),
    Rule("drain", "12", "After `drain` come the acks, `bye`, and exit code 0.", drain),
    Rule("idle-drain", "12", "A worker without events drains, too.", idle_drain),
    Rule("shut-out", "The dialog", "A rejected worker ends with exit code 4.", rejected),
)
