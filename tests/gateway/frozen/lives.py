"""A connection's life, lived by twins: one twin is frozen and thawed at any moment."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import pytest

from tests.corpus import UPGRADE, frame
from wsraw.config.addresses import Listen
from wsraw.config.pools import in_force
from wsraw.config.settings import Settings
from wsraw.gateway.admission.per_address import OVER_LIMIT
from wsraw.gateway.admission.policy import AdmissionPolicy
from wsraw.gateway.connection.accepting import accepted, refused
from wsraw.gateway.connection.connection import CLOSED, CLOSING, CONNECTING, OPEN, Connection
from wsraw.gateway.connection.dialing import dialed
from wsraw.gateway.connection.rate_limit import RateLimit
from wsraw.gateway.counters import Counters
from wsraw.gateway.frozen.connection import Frames, Thaw, check_connection, freeze_connection
from wsraw.gateway.frozen.copying import Clock
from wsraw.gateway.frozen.phases import Place
from wsraw.gateway.frozen.records import Carried, encode
from wsraw.gateway.frozen.websocket import UnmovableError
from wsraw.gateway.websocket.deflate import Terms
from wsraw.gateway.websocket.messages import UNFINISHED
from wsraw.gateway.websocket.shared import RAW_KEY, frame_message, frame_packed
from wsraw.link.open_options import check
from wsraw.link.records import Open, Reject, Respond

Step = tuple[str, int, int]

AWAY = 5000.0
"""The difference between the clocks of the two processes, in seconds."""

TEXTS = ("", "a", "hello ", "grüße ", "0123456789" * 30)

_DATE = re.compile(rb"\r\nDate: [^\r]*")


class Kind(NamedTuple):
    """The kind of a life."""

    name: str
    settings: Mapping[str, Any] = MappingProxyType({})
    listen: Mapping[str, Any] = MappingProxyType({})
    offer: bytes = b""
    opened: str = ""


def decode_one(data: bytes) -> Carried:
    """Decode the record of a single connection."""
    return msgspec.msgpack.decode(data, type=Carried)


def copied(
    con: Connection, place: Place, now: float, then: float
) -> tuple[Connection, list[bytes]]:
    """A copy of the connection in another process. Checks that freezing changes nothing, and
    that the copy gives the same record. Raises UnmovableError.
    """
    record = freeze_connection(con, Clock(now), Frames())
    data = encode(Carried(record, None, None))
    assert encode(Carried(freeze_connection(con, Clock(now), Frames()), None, None)) == data
    thaw = Thaw(place, Clock(then), {})
    copy = thaw.connection(decode_one(data).con)
    again = encode(Carried(freeze_connection(copy, Clock(then), Frames()), None, None))
    assert _rounded(again) == _rounded(data)
    return copy, thaw.making


def _rounded(data: bytes) -> Any:
    """Round times to the precision of floats after a change of clocks."""
    return _round(decode_one(data))


def _round(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, list | tuple):
        return [_round(each) for each in value]
    if hasattr(value, "__struct_fields__"):
        return [type(value), *[_round(getattr(value, name)) for name in value.__struct_fields__]]
    return value


class Told:
    """The content of what the peer receives, without its compression."""

    def __init__(self) -> None:
        self.raw = b""
        self.heads = b""
        self.frames: list[tuple[int, bytes]] = []
        self._is_websocket = False
        self._inflater: zlib._Decompress | None = None
        self._compressed = False

    def add(self, data: bytes, con: Connection) -> None:
        self.raw += data
        if not self._is_websocket and b"HTTP/1.1 101" in self.raw:
            end = self.raw.find(b"\r\n\r\n", self.raw.index(b"HTTP/1.1 101"))
            if end > 0:
                self._is_websocket = True
                self.heads += self.raw[: end + 4]
                self.raw = self.raw[end + 4 :]
        if con.websocket is not None and con.opened:
            self._is_websocket = con.websocket.opened or self._is_websocket
        while self._is_websocket and self._frame(con.websocket.terms if con.websocket else None):
            pass

    def _frame(self, terms: Terms | None) -> bool:
        data = self.raw
        if len(data) < 2:
            return False
        masked, size, at = data[1] >> 7, data[1] & 127, 2
        if size > 125:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(data[2 : 2 + width], "big"), 2 + width
        end = at + 4 * masked + size
        if len(data) < end:
            return False
        payload = data[end - size : end]
        self.raw = data[end:]
        first = data[0]
        if first & 0x40:
            assert terms is not None
            self._compressed = True
            if self._inflater is None or not terms.send_takeover:
                self._inflater = zlib.decompressobj(-terms.send_bits)
        elif first & 0x0F:
            self._compressed = self._compressed and first & 0x08 > 0
        if self._compressed and not first & 0x08:
            assert self._inflater is not None
            payload = self._inflater.decompress(
                payload + (b"\0\0\xff\xff" if first & 0x80 else b"")
            )
        self.frames.append((first, payload))
        return True

    def all(self) -> tuple[bytes, list[tuple[int, bytes]]]:
        if self._is_websocket:
            return self.raw, [*self.frames, (0, _DATE.sub(b"", self.heads))]
        return _DATE.sub(b"", self.raw), self.frames


class Twin:
    """One of the two connections."""

    def __init__(self, con: Connection, away: float) -> None:
        self.con = con
        self.away = away
        self.told = Told()
        self.making: bytes | None = None
        self.next_id = 100


class Life:
    """Both twins and their peers; every step happens to both twins."""

    def __init__(self, kind: Kind, seed: int) -> None:
        self.kind = kind
        self.random = random.Random(seed)
        self.settings = Settings(**kind.settings)
        self.pools = in_force(self.settings)
        self.policy = AdmissionPolicy(self.settings, Counters())
        self.now = 100.0
        self.incoming = b""
        self.eof = False
        self.fragment = ""
        self.frozen = self.unmovable = 0
        self._compressor: Any = None
        self._sends = False
        self.twins = [Twin(self._begin(), 0.0), Twin(self._begin(), 0.0)]
        self._same(lambda twin, now: twin.con.first_events(now))

    def _begin(self) -> Connection:
        kind, now = self.kind, self.now
        if kind.opened:
            asked = check(Open(7, "example.com:80", kind.opened))
            con = dialed(7, asked, self.settings, {}, now)
            con.connected(now)
            return con
        if kind.name.startswith("refused"):
            return refused(7, self.settings, {"peer": "x"}, OVER_LIMIT, now)
        listen = Listen(name="here", **kind.listen)
        con = accepted(7, listen, self.settings, {"listener": "here"}, now, self.policy, "unix")
        if self.settings.message_rate:
            con.rate_limit = RateLimit(self.settings, {}, now)
        return con

    @property
    def con(self) -> Connection:
        """The twin that never moves."""
        return self.twins[0].con

    def step(self, name: str, a: int, b: int) -> None:
        getattr(self, name)(a, b)
        self._compare()

    def finish(self) -> None:
        """Write all output, and check that both peers have understood the same."""
        for _ in range(1000):
            if not any(twin.con.output.size for twin in self.twins):
                break
            self.write(2, 0)
        if self.con.phase.opening is None:
            assert self.twins[0].told.all() == self.twins[1].told.all()

    def _same(self, do: Callable[[Twin, float], Any]) -> Any:
        one, other = (do(twin, self.now + twin.away) for twin in self.twins)
        assert one == other
        return one

    def _compare(self) -> None:
        one, other = (twin.con for twin in self.twins)
        assert one.state is other.state
        assert (one.announced, one.undecided, one.kind) == (
            other.announced,
            other.undecided,
            other.kind,
        )
        assert (one.about, one.inf) == (other.about, other.inf)
        if not (one.websocket is not None and one.websocket._messages.inflating):
            # Inflated input takes more room than the compressed input of the other twin.
            assert one.unfinished == other.unfinished
        deadlines = [twin.con.keepalive.deadline - twin.away for twin in self.twins]
        assert abs(deadlines[0] - deadlines[1]) < 1e-6 or deadlines[0] == deadlines[1]
        ends = [twin.con.ending for twin in self.twins]
        assert ends[0].code == ends[1].code and ends[0].cause == ends[1].cause
        assert one.output.reset == other.output.reset
        if one.phase.opening is None:
            told = [twin.told.all() for twin in self.twins]
            if one.websocket is not None and one.websocket.terms is not None:
                # Our output is compressed anew, so frames may differ in length.
                least = min(len(frames) for _, frames in told)
                told = [(b"", frames[: least - 1]) for _, frames in told]
            assert told[0] == told[1]
            assert bool(one.output.size) == bool(other.output.size)

    # --- the move ---

    def freeze(self, a: int, b: int) -> None:
        """Move the second twin to another process."""
        twin = self.twins[1]
        place = Place(
            self.settings, lambda pool: self.pools.get(pool, self.settings), self.policy, {}
        )
        away = AWAY * (a % 3)
        try:
            twin.con, making = copied(twin.con, place, self.now + twin.away, self.now + away)
        except UnmovableError:
            self.unmovable += 1
            with pytest.raises(UnmovableError):
                check_connection(twin.con)
            return
        check_connection(self.con)
        self.frozen += 1
        twin.away = away
        if twin.con.phase.opening is not None:
            # The moved connection is dialed anew.
            twin.told = Told()
            twin.con.connected(self.now + away)
        if making:
            twin.making = making[0]

    # --- the peer ---

    def hello(self, a: int, b: int) -> None:
        """Send the first data of the peer."""
        starts = {
            "refused": b"GE",
            "raw": b"hello",
            "websocket": UPGRADE % self.kind.offer,
            "get": b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n",
            "post": b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\nhalf and ",
            "chunks": b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5\r\nhello\r\n3;x=1\r\nyou\r\n0\r\n\r\n",
            "expect": b"POST /x HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Content-Length: 2\r\n\r\nhi",
            "proxy": b"PROXY TCP4 1.2.3.4 5.6.7.8 99 80\r\n",
            "wrong": b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n",
        }
        names = self.kind.name.split()
        if self.con.opened and self.con.websocket is not None:
            self._answer()
            return
        self.incoming += starts[names[a % len(names)]]

    def _answer(self) -> None:
        """Answer the handshake that we have sent, as a server."""
        from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
        from websockets.http11 import Request
        from websockets.server import ServerProtocol

        if self.con.websocket is None or self.con.websocket.opened or self.con.state is CLOSED:
            return
        peer = ServerProtocol(extensions=[ServerPerMessageDeflateFactory()])
        self.write(2, 0)
        peer.receive_data(self.twins[0].told.raw)
        for twin in self.twins:
            twin.told.raw = b""
        found = peer.events_received()
        if found and isinstance(found[0], Request):
            peer.send_response(peer.accept(found[0]))
            data = b"".join(peer.data_to_send())
            self._same(lambda twin, now: twin.con.receive_data(data, now))

    def say(self, a: int, b: int) -> None:
        """Send a message, a part of one, or a control frame, as the peer."""
        con, ws = self.con, self.con.websocket
        if ws is None:
            self.incoming += TEXTS[a % len(TEXTS)].encode()
            return
        if not ws.opened:
            return
        kind = b % 8
        if kind == 0:
            self._frame(0x89, b"ping%d" % a)
        elif kind == 1:
            self._frame(0x8A, b"")
        elif kind == 2 and a % 5 == 0:
            self._frame(0x88, b"\x03\xe8bye")
        elif kind == 3 and a % 7 == 0:
            self._frame((0x83, 0xC1, 0x81, 0x80)[a // 7 % 4], b"\xff\xfe")
        else:
            self._message(con, a, b)

    def _frame(self, head: int, payload: bytes) -> None:
        mask = b"\0\0\0\0"
        if self.con.opened:
            data = frame(head, payload, mask)
            size = len(payload)
            at = 2 if size < 126 else 4 if size < 65536 else 10
            data = data[:1] + bytes((data[1] & 127,)) + data[2:at] + payload
        else:
            data = frame(head, payload)
        self.incoming += data

    def _message(self, con: Connection, a: int, b: int) -> None:
        terms = con.websocket.terms if con.websocket is not None else None
        text = (TEXTS[a % len(TEXTS)] * (1 + b % 50)).encode()
        if a % 11 == 3:
            text = self.random.randbytes(3000 if b % 5 else 60_000) + text * 200
        if b % 7 == 0:
            # The cut may be in the middle of a code point.
            text = text[: len(text) // 2]
        opcode = 2 if a % 11 == 3 or b % 3 else 1
        final = bool(a // 3 % 3)
        if self.fragment:
            opcode = 0
        elif terms is not None and a % 4:
            self.fragment = "compressed"
        else:
            self.fragment = "plain"
        head = opcode | (0x80 if final else 0)
        if self.fragment == "compressed":
            assert terms is not None
            if opcode and (self._compressor is None or not terms.receive_takeover):
                self._compressor = zlib.compressobj(wbits=-max(9, terms.receive_bits))
            text = self._compressor.compress(text)
            if final or b % 5:
                text += self._compressor.flush(zlib.Z_SYNC_FLUSH)
            if final:
                text = text[:-4]
            head |= 0x40 if opcode else 0
        self._frame(head, text)
        if final:
            self.fragment = ""

    def read(self, a: int, b: int) -> None:
        """Let some of the peer's data arrive."""
        size = (1, 2, 7, 100, 5000, 1 << 20)[a % 6]
        data, self.incoming = self.incoming[:size], self.incoming[size:]
        if data:
            self._same(lambda twin, now: twin.con.receive_data(data, now))

    def leave(self, a: int, b: int) -> None:
        """Shut the peer's side."""
        if not self.eof and a % 4 == 0 and not self.incoming:
            self.eof = True
            self._same(lambda twin, now: twin.con.receive_eof(now))

    def lose(self, a: int, b: int) -> None:
        if a % 8 == 0:
            self._same(lambda twin, now: twin.con.lost("reset", now))

    # --- the gateway ---

    def write(self, a: int, b: int) -> None:
        """Let the system take some of the output."""

        def written(twin: Twin, now: float) -> Any:
            con, output = twin.con, twin.con.output
            if not output.size:
                return []
            data = bytes(output.data_to_send())
            left = len(output.chunks[0]) - output._sent
            size = (left // 2, left, len(data))[a % 3]
            twin.told.add(data[:size], con)
            return con.written(size, now)

        self._same(written)

    def pause(self, a: int, b: int) -> None:
        self._same(lambda twin, now: twin.con.pause(now))

    def resume(self, a: int, b: int) -> None:
        self._same(lambda twin, now: twin.con.resume(now))

    def wait(self, a: int, b: int) -> None:
        self.now += (0.001, 1.0, 9.0, 21.0)[a % 4]
        self._same(lambda twin, now: twin.con.handle_timeout(now))

    def follow(self, a: int, b: int) -> None:
        """Begin the next exchange after a request."""
        con = self.con
        if con.state is not CLOSED or con.ending.successor is None or con.output.size:
            return

        def go_on(twin: Twin, now: float) -> Any:
            assert twin.con.ending.successor is not None
            twin.con = twin.con.ending.successor(twin.next_id, now)
            twin.next_id += 1
            return twin.con.first_events(now)

        self._same(go_on)
        self._compressor, self.fragment = None, ""

    def drain(self, a: int, b: int) -> None:
        """Handle everything that a half-closed peer has sent."""
        if self.con.state is CLOSING and self.con.intake.half_closed:
            self._same(lambda twin, now: twin.con.drained(now))

    # --- handlers ---

    def send(self, a: int, b: int) -> None:
        """Send a message, or a part of one, as a handler."""
        con = self.con
        if not con.announced or con.is_making:
            return
        text = (TEXTS[a % len(TEXTS)] * (1 + b % 20)).encode()
        if a % 13 == 4:
            text = self.random.randbytes(20_000) * 3 + text
        kind = ("text", "binary")[b % 2] if a % 13 != 4 else "binary"
        final = bool(b // 2 % 3)

        def send(twin: Twin, now: float) -> Any:
            why = twin.con.send(text, kind, final, now)
            if why == UNFINISHED:
                twin.making = text
                self._making = kind, final
            return why

        self._same(send)

    def make(self, a: int, b: int) -> None:
        """Make the next piece of a large frame."""
        if not self.con.is_making:
            return
        kind, final = self._making

        def go_on(twin: Twin, now: float) -> bool:
            assert twin.making is not None
            why = twin.con.send(twin.making, kind, final, now)
            while why == UNFINISHED:
                why = twin.con.send(twin.making, kind, final, now)
            assert why is None
            return True

        self._same(go_on)

    def publish(self, a: int, b: int) -> None:
        """Publish a message to many connections."""
        text = TEXTS[1 + a % 4].encode()

        def publish(twin: Twin, now: float) -> Any:
            key = twin.con.framing_key
            if key is None:
                return None
            if isinstance(key, int):
                framed = frame_message(key, text, "text")
            elif len(text) < key.threshold:
                framed = frame_message(0, text, "text")
            else:
                packed = key.deflation(text).step()
                assert packed is not None
                framed = frame_packed(packed, "text")
            if twin.con.kind != "http":
                twin.con.send_framed(framed)
            return key == RAW_KEY

        if self.con.state is OPEN:
            self._same(publish)

    def drop(self, a: int, b: int) -> None:
        """Drop published messages, the oldest first."""
        self._same(lambda twin, now: twin.con.output.drop_oldest_framed(0))

    def close(self, a: int, b: int) -> None:
        cause = ("handler", "idle-timeout")[b % 2]
        if a % 4 == 0:
            self._same(lambda twin, now: twin.con.close(1001, "why", cause, now))
        elif a % 4 == 1:
            self._same(lambda twin, now: twin.con.close_now(1008, "why", "overflow", "slow", now))

    def decide(self, a: int, b: int) -> None:
        """Decide on a client, or answer a request, as a handler."""
        con = self.con
        if con.kind == "http":
            self._respond(a, b)
        elif con.undecided:
            if a % 4:
                self._same(lambda twin, now: twin.con.accept(None, [("X", "y")], now))
            else:
                self._same(lambda twin, now: twin.con.reject(Reject(7, 403, "no"), now))

    def _respond(self, a: int, b: int) -> None:
        if not self.con.undecided or self.con.state not in (CONNECTING,):
            return
        final = bool(a % 2)
        headers = [("X", "y")] + ([("Content-Length", "900")] if b % 2 and not final else [])
        respond = Respond(7, 200, headers, b"body", final=final)
        if a % 5 == 4:
            self._same(lambda twin, now: twin.con.phase.pass_on(twin.con, now))
        else:
            self._same(lambda twin, now: twin.con.phase.respond(twin.con, respond, now))
