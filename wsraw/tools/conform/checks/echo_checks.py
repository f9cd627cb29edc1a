"""Sans-I/O. Checks that need the common behaviour, the echo that all examples implement.

They show what a worker that only acks cannot: that commands are in the batch of their ack, that
answers are in order, and what happens to a handler whose session ends.
"""

from __future__ import annotations

from typing import Any, Final

from wsraw.link.records import Open, Send, Splice, State
from wsraw.tools.conform import rendering
from wsraw.tools.conform.checks.protocol_checks import LARGEST, leave
from wsraw.tools.conform.continuous_rules import Breach, NotApplicable
from wsraw.tools.conform.played_gateway import ABOUT, PlayedGateway
from wsraw.tools.conform.rules import Rule
from wsraw.tools.conform.session import Received

SLOW: Final = 300
"""Milliseconds that a handler takes while something else happens."""

LATE: Final = 20
"""Milliseconds after which an ack must have been sent; the rule says one."""

ASTRAL: Final = "Grüße, 世界 😀 🏳️‍🌈"

URL: Final = "ws://127.0.0.1:9/conform"


def _reply(
    gateway: PlayedGateway,
    con: int,
    data: bytes,
    wanted: bytes,
    kind: str = "text",
    *,
    final: bool = True,
    seconds: float = 0.0,
) -> None:
    """Send a message and check that the only answer is the wanted one."""
    start = len(gateway.session.received)
    gateway.message(con, data, kind, final)
    gateway.deliver(seconds)
    _check_answer(gateway, con, start, wanted, kind, final)


def _check_answer(
    gateway: PlayedGateway, con: int, start: int, wanted: bytes, kind: str, final: bool
) -> None:
    sends = gateway.session.sends(con, start)
    expected = rendering.record(["send", con, wanted, kind, final])
    if not sends:
        others = [each for each in gateway.session.received[start:] if type(each.record) is Send]
        record = others[0].text() if others else ""
        raise Breach(f"the event was acked without {expected}", record)
    if len(sends) > 1:
        raise Breach("one answer is expected, a second one came", sends[1].text())
    send = sends[0].record
    if send.data != wanted:
        raise Breach(f"wanted: {expected}", sends[0].text())
    if kind != "raw" and send.type != kind:
        raise Breach(f"wanted type {kind}", sends[0].text())
    if send.final != final:
        raise Breach(f"wanted final {str(final).lower()}", sends[0].text())


def text(gateway: PlayedGateway) -> None:
    con = gateway.connect()
    for data in (b"hello", ASTRAL.encode(), b"", b"nul \0 and \xc2\x85"):
        _reply(gateway, con, data, data)


def binary(gateway: PlayedGateway) -> None:
    con = gateway.connect()
    for data in (bytes(range(256)), b"hello", b""):
        _reply(gateway, con, data, data, "binary")


def raw(gateway: PlayedGateway) -> None:
    """Send the on_connect together with the first data, in one batch."""
    con = gateway.new_con()
    gateway.event("on_connect", con, {"Protocol": "raw"}, False, 1, ABOUT)
    for data in (b"hello\r\n", bytes(range(256))):
        _reply(gateway, con, data, data, "raw")


def fragments(gateway: PlayedGateway) -> None:
    con = gateway.connect()
    for kind in ("text", "binary"):
        for data, final in ((b"one, ", False), (b"two, ", False), (b"three", True), (b"x", True)):
            _reply(gateway, con, data, data, kind, final=final)


def upper(gateway: PlayedGateway) -> None:
    """Use ASCII letters only, because languages differ for others."""
    con = gateway.connect()
    text, wanted = "upper grün, ß, 😀, abc XYZ 1", "GRüN, ß, 😀, ABC XYZ 1"
    _reply(gateway, con, text.encode(), wanted.encode())
    _reply(gateway, con, b"upper \xff\x00abc\xe9", b"\xff\x00ABC\xe9", "binary")
    _reply(gateway, con, b"upper raw\n", b"RAW\n", "raw")


def echo_large(gateway: PlayedGateway) -> None:
    con = gateway.connect()
    data = ASTRAL.encode() * (LARGEST // len(ASTRAL.encode()))
    _reply(gateway, con, data, data, seconds=3 * gateway.timeout)


def state(gateway: PlayedGateway) -> None:
    """Attach with an older state than the worker remembers: `attach` counts."""
    con = gateway.connect()
    start = len(gateway.session.received)
    _reply(gateway, con, b"count", b"1")
    kept = _state(gateway, con, start)
    _reply(gateway, con, b"count", b"2")
    gateway.notice(["detach", con])
    inf = {"Protocol": "websocket server"}
    # As from another worker that had only the first state: so 2 comes again.
    gateway.notice(["attach", con, inf, kept, 3, ABOUT])
    _reply(gateway, con, b"count", b"2")
    # A connection of another worker, in a new session: the state is all there is.
    gateway.enter()
    other = gateway.new_con()
    gateway.notice(["attach", other, inf, kept, 1, ABOUT])
    _reply(gateway, other, b"count", b"2")
    _reply(gateway, other, b"count", b"3")
    # Another worker has changed the state; this one still holds the connection.
    gateway.notice(["attach", other, None, kept, 7, ABOUT])
    _reply(gateway, other, b"count", b"2")


def _state(gateway: PlayedGateway, con: int, start: int) -> bytes:
    for received in gateway.session.commands(State, start):
        if received.record.con == con:
            return bytes(received.record.data)
    raise Breach("count was answered without a state command before the ack")


def states_apart(gateway: PlayedGateway) -> None:
    first, second = gateway.connect(), gateway.connect()
    _reply(gateway, first, b"count", b"1")
    _reply(gateway, first, b"count", b"2")
    _reply(gateway, second, b"count", b"1")
    _reply(gateway, first, b"count", b"3")


def opens(gateway: PlayedGateway) -> None:
    """`open URL` opens a connection with an id of the range; "hi" is sent when it is open."""
    con = gateway.connect()
    start = len(gateway.session.received)
    gateway.message(con, b"open " + URL.encode())
    gateway.deliver()
    found = gateway.session.commands(Open, start)
    if len(found) != 1:
        raise Breach(f"one open is expected, there are {len(found)}")
    command: Open = found[0].record
    if "127.0.0.1:9" not in command.target or command.protocol != "websocket":
        raise Breach(f"wanted: a websocket to {URL}", found[0].text())
    if command.options.get("during") != con:
        raise Breach(
            f"wanted: the option during with {con}, whose event asked for it", found[0].text()
        )
    answers = gateway.session.sends(con, start)
    if not answers or not answers[0].record.data.startswith(b"opened"):
        raise Breach("wanted: an answer that begins with opened")
    start = len(gateway.session.received)
    inf = {"Protocol": "websocket client"}
    about = {"target": command.target}
    gateway.event("on_connect", command.con, inf, False, 1, about)
    gateway.deliver()
    _check_answer(gateway, command.con, start, b"hi", _kind_of(gateway, command.con, start), True)
    start = len(gateway.session.received)
    gateway.message(command.con, b"this must not be answered")
    gateway.close(command.con)
    gateway.deliver()
    answers = gateway.session.sends(command.con, start)
    if answers:
        raise Breach("data of an opened connection must not be answered", answers[0].text())


def _kind_of(gateway: PlayedGateway, con: int, start: int) -> str:
    """Text or binary, as the worker chooses."""
    sends = gateway.session.sends(con, start)
    return str(sends[0].record.type) if sends else "text"


def order(gateway: PlayedGateway) -> None:
    """Send messages on five connections; some handlers take longer than the next ones."""
    cons = [gateway.connect() for _ in range(5)]
    gateway.deliver()
    wanted: dict[int, list[bytes]] = {con: [] for con in cons}
    for number in range(100):
        con = cons[number % 5]
        data = b"slow 5" if number in (0, 6, 12) else b"message %d" % number
        wanted[con].append(data)
        gateway.message(con, data)
        if number % 8 == 7:
            gateway.flush()
    gateway.deliver()
    for con in cons:
        sends = gateway.session.sends(con)
        for received, data in zip(sends, wanted[con], strict=False):
            if received.record.data != data:
                raise Breach(f'wanted now: "{data.decode()}"', received.text())
        if len(sends) != len(wanted[con]):
            raise Breach(f"{len(wanted[con])} messages, {len(sends)} answers")


def one_at_a_time(gateway: PlayedGateway) -> None:
    con = gateway.connect()
    gateway.message(con, b"slow %d" % (SLOW // 3))
    gateway.message(con, b"quick")
    gateway.deliver()
    sends = [received.record.data for received in gateway.session.sends(con)]
    if sends != [b"slow %d" % (SLOW // 3), b"quick"]:
        raise Breach("the second handler did not wait for the first", repr(sends))


def beside_ack(gateway: PlayedGateway) -> None:
    cons = [gateway.connect() for _ in range(4)]
    gateway.deliver()
    events: dict[int, tuple[int, bytes]] = {}
    for number in range(60):
        con = cons[number % 4]
        data = b"slow 2" if number % 20 == 0 else b"message %d" % number
        events[gateway.message(con, data)] = con, data
    gateway.deliver()
    left: dict[tuple[int, bytes], list[Received]] = {}
    for received in gateway.session.commands(Send):
        left.setdefault((received.record.con, received.record.data), []).append(received)
    for seq, key in events.items():
        found = left.get(key)
        if not found:
            raise Breach(f'event {seq} was acked, and "{key[1].decode()}" not answered')
        send, ack = found.pop(0), gateway.session.acked[seq]
        if not gateway.session.is_beside_ack(send, seq):
            where = "an earlier" if send.batch < ack.batch else "a later"
            raise Breach(f"the answer to event {seq} is in {where} batch than its ack", send.text())
        if (send.batch, send.place) > (ack.batch, ack.place):
            raise Breach(f"the answer to event {seq} comes after its ack", send.text())


def ack_in_time(gateway: PlayedGateway) -> None:
    cons = [gateway.connect() for _ in range(3)]
    gateway.deliver()
    if gateway.window < 3:
        return
    first = gateway.message(cons[0], b"quick")
    gateway.message(cons[1], b"slow %d" % LATE)
    last = gateway.message(cons[2], b"slow %d" % SLOW)
    gateway.deliver()
    if gateway.session.acked[first].batch == gateway.session.acked[last].batch:
        why = (
            f"the ack of event {first} has waited for the handler of event {last}, {SLOW} ms, "
            f"with {LATE} ms of another one before that"
        )
        raise Breach(why)


def fence(gateway: PlayedGateway) -> None:
    """End the session while a handler runs, then deliver its event again."""
    slow = b"slow %d" % SLOW
    con, other = gateway.new_con(), gateway.new_con()
    inf: dict[str, Any] = {"Protocol": "websocket server"}
    # No on_connect, so that the slow event is event 1 in both sessions.
    for each in (con, other):
        gateway.notice(["attach", each, inf, b"", 0, ABOUT])
    gateway.message(con, slow)
    gateway.message(con, b"of the old session")
    gateway.flush()
    # Wait until the handler has begun, which no record shows.
    gateway.quiet(SLOW / 3000)
    gateway.enter()
    start = len(gateway.session.received)
    gateway.notice(["attach", other, inf, b"", 0, ABOUT])
    seq = gateway.message(other, slow, delivery=2)
    gateway.deliver()
    gateway.quiet()
    strays = gateway.session.sends(con, start)
    if strays:
        raise Breach("a handler of the previous session has sent in the new one", strays[0].text())
    answers = gateway.session.sends(other, start)
    if len(answers) != 1 or not gateway.session.is_beside_ack(answers[0], seq):
        raise Breach(f"event {seq} was acked without its answer: with an ack of the old session?")
    # Events that were in flight come again, to this worker or another one.
    gateway.notice(["attach", con, inf, b"", 0, ABOUT])
    _reply(gateway, con, slow, slow)


def splice(gateway: PlayedGateway) -> None:
    """After a splice, messages belong to the gateway: it forwards its own copies."""
    con, other = gateway.connect(), gateway.connect()
    gateway.deliver()
    start = len(gateway.session.received)
    seq = gateway.message(con, b"splice %d" % other)
    behind = {gateway.message(each, b"behind it"): each for each in (con, other)}
    gateway.deliver()
    spliced = gateway.session.commands(Splice, start)
    if not spliced:
        raise NotApplicable("it does not answer splice ID with a splice")
    record = spliced[0].record
    wanted = rendering.record(["splice", con, other, seq, seq])
    if (record.con, record.other) != (con, other):
        raise Breach(f"wanted: {wanted}", spliced[0].text())
    if not gateway.session.is_beside_ack(spliced[0], seq):
        raise Breach(f"the splice is not in the batch of the ack of event {seq}", spliced[0].text())
    begun = {con: record.last, other: record.other_last}
    if record.last != seq or not 0 <= record.other_last <= max(behind):
        why = f"last is the event whose handler has spliced, {seq}, and other_last none after"
        raise Breach(f"{why} {max(behind)}", spliced[0].text())
    later = [gateway.message(each, b"later") for each in (con, other)]
    gateway.deliver()
    silent = {*later, *(each for each, its in behind.items() if each > begun[its])}
    for each in gateway.session.received[start:]:
        if type(each.record) is not Splice and hasattr(each.record, "con"):
            handled = [one for one in silent if gateway.session.is_beside_ack(each, one)]
            mixed = [one for one in (seq, *behind) if one not in silent]
            if handled and not any(gateway.session.is_beside_ack(each, one) for one in mixed):
                raise Breach("events behind a splice are acked without a handler", each.text())


def busy_drain(gateway: PlayedGateway) -> None:
    con, other = gateway.connect(), gateway.connect()
    gateway.deliver()
    gateway.message(con, b"slow %d" % SLOW)
    gateway.message(con, b"behind it")
    gateway.message(other, b"beside it")
    gateway.flush()
    gateway.quiet(SLOW / 3000)
    gateway.drain()
    leave(gateway)


def large_drain(gateway: PlayedGateway) -> None:
    """Send more than sockets hold: it is still in transit when the worker wants to end."""
    con = gateway.connect()
    gateway.deliver()
    start = len(gateway.session.received)
    data = bytes(range(256)) * (LARGEST // 256)
    gateway.message(con, data, "binary")
    gateway.drain()
    leave(gateway, 3 * gateway.timeout)
    _check_answer(gateway, con, start, data, "binary", True)


RULES: Final = (
    Rule("text", "Fields", "Text comes back as text, unchanged.", text, True),
    Rule("binary", "Fields", "Binary data comes back as binary, unchanged.", binary, True),
    Rule("raw", "Fields", "Raw data comes back unchanged.", raw, True),
    Rule("fragments", "Fields", "Fragments come back as fragments.", fragments, True),
    Rule("upper", "Common behaviour", "`upper TEXT` is answered in capitals.", upper, True),
    Rule("echo-large", "Fields", "15 MiB of text come back.", echo_large, True),
    Rule("order", "4", "Answers of one connection are in the order of its messages.", order, True),
    Rule("one-at-a-time", "4", "A connection's events wait for one another.", one_at_a_time, True),
    Rule("beside-ack", "1", "Commands are in the batch of their ack, before it.", beside_ack, True),
    Rule("ack-in-time", "3", "Acks are sent before another handler starts.", ack_in_time, True),
    Rule("state", "13", "`state` is kept, and taken from `attach`.", state, True),
    Rule("states-apart", "13", "Each connection has a state of its own.", states_apart, True),
    Rule("open", "Fields", "`open URL` opens a connection and sends to it.", opens, True),
    Rule("fence", "2", "Commands of a handler whose session has ended are not sent.", fence, True),
    Rule(
        "splice",
        "Fields",
        "`splice ID` joins two connections; their later messages are only acked.",
        splice,
        True,
    ),
    Rule("busy-drain", "12", "A `drain` waits for the handlers.", busy_drain, True),
    Rule("large-drain", "12", "15 MiB arrive before the worker ends.", large_drain, True),
)
