"""Sans-I/O. Checks of the common behaviour: what the examples of all languages do.

With it one can see what a worker that only acks never shows: that commands stand beside their ack,
that replies are in order, and what becomes of a handler whose session ends.
"""

from __future__ import annotations

from typing import Any, Final

from wsraw.link.records import Open, Send, State
from wsraw.tools.conform.manners import LARGEST, MIB, leave
from wsraw.tools.conform.rules import Breach, Check, Rule, Script
from wsraw.tools.conform.session import Heard
from wsraw.tools.conform.stage import ABOUT, Stage

SLOW: Final = 300
"""Milliseconds of a handler in which something else happens."""

LATE: Final = 20
"""Milliseconds after which an ack should have left, which is one by the rule."""

ASTRAL: Final = "Grüße, 世界 😀 🏳️‍🌈"

URL: Final = "ws://127.0.0.1:9/conform"


def _reply(
    stage: Stage,
    con: int,
    data: bytes,
    wanted: bytes,
    kind: str = "text",
    *,
    final: bool = True,
    seconds: float = 0.0,
) -> Script:
    """One message, one answer, which must be that."""
    start = len(stage.session.heard)
    stage.message(con, data, kind, final)
    stage.flush()
    yield from stage.all_acked(seconds)
    _judge(stage, con, start, wanted, kind, final)


def _judge(stage: Stage, con: int, start: int, wanted: bytes, kind: str, final: bool) -> None:
    sends = stage.session.sends(con, start)
    expected = stage.shown(["send", con, wanted, kind, final])
    if not sends:
        others = [each for each in stage.session.heard[start:] if type(each.record) is Send]
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


def text(stage: Stage) -> Script:
    """Also what needs four bytes of UTF-8, and nothing at all."""
    con = stage.connect()
    for data in (b"hello", ASTRAL.encode(), b"", b"nul \0 and \xc2\x85"):
        yield from _reply(stage, con, data, data)


def binary(stage: Stage) -> Script:
    """Every byte; what happens to be UTF-8, too."""
    con = stage.connect()
    for data in (bytes(range(256)), b"hello", b""):
        yield from _reply(stage, con, data, data, "binary")


def raw(stage: Stage) -> Script:
    """Its on_connect comes with the first data, in one batch."""
    con = stage.new_con()
    stage.event("on_connect", con, {"Protocol": "raw"}, False, 1, ABOUT)
    for data in (b"hello\r\n", bytes(range(256))):
        yield from _reply(stage, con, data, data, "raw")


def fragments(stage: Stage) -> Script:
    """A message in three frames, and the next one."""
    con = stage.connect()
    for kind in ("text", "binary"):
        for data, final in ((b"one, ", False), (b"two, ", False), (b"three", True), (b"x", True)):
            yield from _reply(stage, con, data, data, kind, final=final)


def upper(stage: Stage) -> Script:
    """ASCII letters only: no two languages agree on the others."""
    con = stage.connect()
    said, wanted = "upper grün, ß, 😀, abc XYZ 1", "GRüN, ß, 😀, ABC XYZ 1"
    yield from _reply(stage, con, said.encode(), wanted.encode())
    yield from _reply(stage, con, b"upper \xff\x00abc\xe9", b"\xff\x00ABC\xe9", "binary")
    yield from _reply(stage, con, b"upper raw\n", b"RAW\n", "raw")


def _echo_large(size: int) -> Check:
    def check(stage: Stage) -> Script:
        con = stage.connect()
        data = (ASTRAL.encode() * (size // len(ASTRAL.encode()) + 1))[:size]
        data = data.decode(errors="ignore").encode()
        yield from _reply(stage, con, data, data, seconds=3 * stage.patience)

    return check


def state(stage: Stage) -> Script:
    """What `state` keeps, `attach` brings back: not what the worker remembers by itself."""
    con = stage.connect()
    start = len(stage.session.heard)
    yield from _reply(stage, con, b"count", b"1")
    kept = _state(stage, con, start)
    yield from _reply(stage, con, b"count", b"2")
    stage.notice(["detach", con])
    inf = {"Protocol": "websocket server"}
    # As if another worker had begun anew from the first state: so 2 comes again.
    stage.notice(["attach", con, inf, kept, 3, ABOUT])
    yield from _reply(stage, con, b"count", b"2")
    # And somebody else's, in a new session, with nothing but the state.
    yield from stage.enter()
    other = stage.new_con()
    stage.notice(["attach", other, inf, kept, 1, ABOUT])
    yield from _reply(stage, other, b"count", b"2")
    yield from _reply(stage, other, b"count", b"3")
    # Elsewhere it has changed: the worker still has the connection, and gets the state anew.
    stage.notice(["attach", other, None, kept, 7, ABOUT])
    yield from _reply(stage, other, b"count", b"2")


def _state(stage: Stage, con: int, start: int) -> bytes:
    for heard in stage.session.commands(State, start):
        if heard.record.con == con:
            return bytes(heard.record.data)
    raise Breach("count was answered without a state command before the ack")


def states_apart(stage: Stage) -> Script:
    """Each connection has its own, and a new one has none."""
    first, second = stage.connect(), stage.connect()
    yield from _reply(stage, first, b"count", b"1")
    yield from _reply(stage, first, b"count", b"2")
    yield from _reply(stage, second, b"count", b"1")
    yield from _reply(stage, first, b"count", b"3")


def opens(stage: Stage) -> Script:
    """`open URL` opens it, with an id of the range; "hi" goes through it when it stands."""
    con = stage.connect()
    start = len(stage.session.heard)
    stage.message(con, b"open " + URL.encode())
    stage.flush()
    yield from stage.all_acked()
    found = stage.session.commands(Open, start)
    if len(found) != 1:
        raise Breach(f"one open is expected, there are {len(found)}")
    command: Open = found[0].record
    if "127.0.0.1:9" not in command.target or command.protocol != "websocket":
        raise Breach(f"wanted: a websocket to {URL}", found[0].text())
    if command.options.get("during") != con:
        raise Breach(f"wanted: the option during with {con}, whose event asked", found[0].text())
    answers = stage.session.sends(con, start)
    if not answers or not answers[0].record.data.startswith(b"opened"):
        raise Breach("wanted: an answer that begins with opened")
    start = len(stage.session.heard)
    inf = {"Protocol": "websocket client"}
    about = {"target": command.target}
    stage.event("on_connect", command.con, inf, False, 1, about)
    stage.flush()
    yield from stage.all_acked()
    _judge(stage, command.con, start, b"hi", _kind_of(stage, command.con, start), True)
    start = len(stage.session.heard)
    stage.message(command.con, b"an answer to an answer would never end")
    stage.close(command.con)
    stage.flush()
    yield from stage.all_acked()
    answers = stage.session.sends(command.con, start)
    if answers:
        raise Breach("data of an opened connection must not be answered", answers[0].text())


def _kind_of(stage: Stage, con: int, start: int) -> str:
    """Text or binary, that one is free."""
    sends = stage.session.sends(con, start)
    return str(sends[0].record.type) if sends else "text"


def order(stage: Stage) -> Script:
    """Five connections, many messages, some of which take longer than those behind them."""
    cons = [stage.connect() for _ in range(5)]
    stage.flush()
    yield from stage.all_acked()
    wanted: dict[int, list[bytes]] = {con: [] for con in cons}
    for number in range(100):
        con = cons[number % 5]
        data = b"slow 5" if number in (0, 6, 12) else b"message %d" % number
        wanted[con].append(data)
        stage.message(con, data)
        if number % 8 == 7:
            stage.flush()
    stage.flush()
    yield from stage.all_acked()
    for con in cons:
        sends = stage.session.sends(con)
        for heard, data in zip(sends, wanted[con], strict=False):
            if heard.record.data != data:
                raise Breach(f'wanted now: "{data.decode()}"', heard.text())
        if len(sends) != len(wanted[con]):
            raise Breach(f"{len(wanted[con])} messages, {len(sends)} answers")


def one_at_a_time(stage: Stage) -> Script:
    """Behind a handler that takes long, the next event of its connection waits."""
    con = stage.connect()
    stage.message(con, b"slow %d" % (SLOW // 3))
    stage.message(con, b"quick")
    stage.flush()
    yield from stage.all_acked()
    sends = [heard.record.data for heard in stage.session.sends(con)]
    if sends != [b"slow %d" % (SLOW // 3), b"quick"]:
        raise Breach("the second handler did not wait for the first", repr(sends))


def beside_ack(stage: Stage) -> Script:
    """Each answer in the batch of its ack, before it."""
    cons = [stage.connect() for _ in range(4)]
    stage.flush()
    yield from stage.all_acked()
    events: dict[int, tuple[int, bytes]] = {}
    for number in range(60):
        con = cons[number % 4]
        data = b"slow 2" if number % 20 == 0 else b"message %d" % number
        events[stage.message(con, data)] = con, data
    stage.flush()
    yield from stage.all_acked()
    left: dict[tuple[int, bytes], list[Heard]] = {}
    for heard in stage.session.commands(Send):
        left.setdefault((heard.record.con, heard.record.data), []).append(heard)
    for seq, key in events.items():
        found = left.get(key)
        if not found:
            raise Breach(f'event {seq} was acked, and "{key[1].decode()}" not answered')
        send, ack = found.pop(0), stage.session.acked[seq]
        if send.batch != ack.batch:
            where = "an earlier" if send.batch < ack.batch else "a later"
            raise Breach(f"the answer to event {seq} is in {where} batch than its ack", send.text())
        if send.place > ack.place:
            raise Breach(f"the answer to event {seq} comes after its ack", send.text())


def ack_in_time(stage: Stage) -> Script:
    """What waits is sent before a further handler starts."""
    cons = [stage.connect() for _ in range(3)]
    stage.flush()
    yield from stage.all_acked()
    if stage.window < 3:
        return
    first = stage.message(cons[0], b"quick")
    stage.message(cons[1], b"slow %d" % LATE)
    last = stage.message(cons[2], b"slow %d" % SLOW)
    stage.flush()
    yield from stage.all_acked()
    if stage.session.acked[first].batch == stage.session.acked[last].batch:
        why = (
            f"the ack of event {first} has waited for the handler of event {last}, {SLOW} ms, "
            f"with {LATE} ms of another one before that"
        )
        raise Breach(why)


def fence(stage: Stage) -> Script:
    """A session ends while a handler runs: nothing of it counts, and it comes again."""
    slow = b"slow %d" % SLOW
    con, other = stage.new_con(), stage.new_con()
    inf: dict[str, Any] = {"Protocol": "websocket server"}
    # No on_connect: the slow one is event 1 here, as it will be in the next session.
    for each in (con, other):
        stage.notice(["attach", each, inf, b"", 0, ABOUT])
    stage.message(con, slow)
    stage.message(con, b"of the old session")
    stage.flush()
    # It has begun; nobody says so.
    yield from stage.quiet(SLOW / 3000)
    yield from stage.enter()
    start = len(stage.session.heard)
    stage.notice(["attach", other, inf, b"", 0, ABOUT])
    seq = stage.message(other, slow, delivery=2)
    stage.flush()
    yield from stage.all_acked()
    yield from stage.quiet()
    strays = stage.session.sends(con, start)
    if strays:
        raise Breach("a handler of the previous session has sent in the new one", strays[0].text())
    answers = stage.session.sends(other, start)
    if len(answers) != 1 or answers[0].batch != stage.session.acked[seq].batch:
        raise Breach(f"event {seq} was acked without its answer: with an ack of the old session?")
    # What was in flight comes again, here or elsewhere.
    stage.notice(["attach", con, inf, b"", 0, ABOUT])
    yield from _reply(stage, con, slow, slow)


def busy_drain(stage: Stage) -> Script:
    """It comes while a handler runs and others wait."""
    con, other = stage.connect(), stage.connect()
    stage.flush()
    yield from stage.all_acked()
    stage.message(con, b"slow %d" % SLOW)
    stage.message(con, b"behind it")
    stage.message(other, b"beside it")
    stage.flush()
    yield from stage.quiet(SLOW / 3000)
    stage.drain()
    stage.flush()
    yield from leave(stage)


RULES: Final = (
    Rule("text", "Fields", "Text comes back as text, every character of it.", text, True),
    Rule("binary", "Fields", "Binary data comes back as binary, every byte.", binary, True),
    Rule("raw", "Fields", "Raw data comes back, every byte.", raw, True),
    Rule(
        "fragments", "Fields", "A frame that is not the last comes back as such.", fragments, True
    ),
    Rule("upper", "Common behaviour", "`upper TEXT` is answered in capitals.", upper, True),
    Rule("echo-large", "Fields", "1 MiB of text comes back.", _echo_large(MIB), True),
    Rule("echo-very-large", "Fields", "15 MiB of text come back.", _echo_large(LARGEST), True),
    Rule("order", "4", "Answers of one connection are in the order of its messages.", order, True),
    Rule("one-at-a-time", "4", "A connection's events wait for one another.", one_at_a_time, True),
    Rule("beside-ack", "1", "Commands are in the batch of their ack, before it.", beside_ack, True),
    Rule(
        "ack-in-time", "3", "What waits is sent before another handler starts.", ack_in_time, True
    ),
    Rule("state", "13", "`state` is kept, and taken from `attach`.", state, True),
    Rule("states-apart", "13", "Each connection has a state of its own.", states_apart, True),
    Rule("open", "Fields", "`open URL` opens a connection, and sends through it.", opens, True),
    Rule("fence", "2", "What a handler commands after its session is not sent.", fence, True),
    Rule("busy-drain", "12", "A `drain` waits for the handlers.", busy_drain, True),
)
