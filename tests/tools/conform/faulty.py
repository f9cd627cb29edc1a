"""A worker with the common behaviour and one fault: `python faulty.py FAULT`.

The worker does no I/O, so that tests can drive it with a clock of their own. It is written from
docs/worker-protocol.md, and shares no code with wsraw's own workers.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from msgspec import msgpack

FAULTS = {
    # fault: (the rule that finds it, a part of the message)
    "deaf": ("hello", "a hello in answer to who"),
    "asks once": ("hello-again", "a hello in answer to who"),
    "no ack of errors": ("events", "an ack of [on_error"),
    "no verdict": ("verdict", "an ack of [on_connect"),
    "small queue": ("window", "an ack of"),
    "fixed fields": ("short-records", "has ended with code 1"),
    "fails without fields": ("short-records", "closed as after"),
    "no more fields": ("appended-fields", "has ended with code 1"),
    "no more notices": ("unknown-notices", "has ended with code 1"),
    "gives up": ("unknown-notices", "has ended with code 1"),
    "no empty batch": ("empty-batches", "has ended with code 1"),
    "friends only": ("unknown-connection", "has ended with code 1"),
    "no detach": ("attach", "has ended with code 1"),
    "hears nobody": ("presence", "an ack of [on_join"),
    "at home only": ("presence", "has ended with code 1"),
    "splices another": ("splice", "wanted: [splice"),
    "splices apart": ("splice", "not in the batch of the ack"),
    "splices all": ("splice", "last is the event"),
    "answers for the spliced": ("splice", "acked without a handler"),
    "small buffer": ("large", "an ack of"),
    "mean buffer": ("large", "an ack of"),
    "keeps": ("session-ends", "of the previous session"),
    "holds some": ("new-gateway", "held names connections"),
    "queues": ("new-gateway", "at a new gateway"),
    "stays away": ("new-gateway", "at a new gateway"),
    "wants inf": ("new-gateway", "has ended with code 1"),
    "knows already": ("new-gateway", "an ack of [on_close"),
    "no probe": ("probe", "a link began with"),
    "ignores drain": ("drain", "bye"),
    "forgets the last": ("drain", "from before the drain"),
    "stays": ("drain", "the end of the process after its bye"),
    "leaves in anger": ("idle-drain", "with code 1, not 0"),
    "tries again": ("shut-out", "sent hello again"),
    "waits outside": ("shut-out", "the end of the process after [0, [refused"),
    "waits inside": ("shut-out", "the end of the process after [109"),
    "shrugs": ("shut-out", "with code 0, not 4"),
    "latin-1": ("text", "wanted: [send"),
    "binary as text": ("binary", "wanted type binary"),
    "trims": ("raw", "wanted: [send"),
    "whole": ("fragments", "wanted final false"),
    "all letters": ("upper", "wanted: [send"),
    "cuts at 64 KiB": ("echo-large", "wanted: [send"),
    "cuts at 8 MiB": ("echo-large", "wanted: [send"),
    "out of order": ("order", "wanted now"),
    "no last answer": ("order", "20 messages, 19 answers"),
    "doubles": ("text", "a second one came"),
    "quick first": ("one-at-a-time", "did not wait"),
    "no answer": ("beside-ack", "not answered"),
    "ack first": ("beside-ack", "comes after its ack"),
    "command apart": ("beside-ack", "in an earlier batch"),
    "ack apart": ("beside-ack", "in a later batch"),
    "hoards": ("ack-in-time", "has waited for the handler"),
    "no state": ("state", "without a state command"),
    "state in memory": ("state", "wanted: [send"),
    "state of its own": ("state", "wanted: [send"),
    "one state": ("states-apart", "wanted: [send"),
    "does not open": ("open", "one open is expected"),
    "opens raw": ("open", "wanted: a websocket"),
    "opens for nobody": ("open", "wanted: the option during"),
    "opens in silence": ("open", "begins with opened"),
    "no hi": ("open", "without [send"),
    "answers answers": ("open", "must not be answered"),
    "no fence": ("fence", "the previous session"),
    "ack of the old": ("fence", "without its answer"),
    "drops what it does": ("busy-drain", "from before the drain"),
    "leaves empty-handed": ("large-drain", "was acked without"),
    "leaves in a hurry": ("large-drain", "has ended with code 0, without bye"),
    "own routing id": ("routing-id", "begins with a zero byte"),
    "two frames": ("batch", "2 frames"),
    "JSON": ("batch", "not an array"),
    "no such record": ("records", "[shout, "),
    "text as a number": ("records", "Expected"),
    "no such type": ("records", "a type is text or binary"),
    "long state": ("records", "is too long"),
    "part of nothing": ("records", "is not in flight"),
    "part beside acks": ("records", "without acks"),
    "gives back": ("records", "only for sessions with the limit shield"),
    "hello twice": ("hello-asked", "that no who"),
    "says hello": ("hello-asked", "that no who"),
    "wrong token": ("hello-fields", "token"),
    "wrong pool": ("hello-fields", "pool"),
    "wrong version": ("hello-fields", "version"),
    "no window": ("hello-fields", "window is at least 1"),
    "no concurrency": ("hello-fields", "concurrency is at least 1"),
    "no language": ("hello-fields", "language is not empty"),
    "two lines": ("hello-fields", "are one line"),
    "no instance": ("hello-fields", "instance is not empty"),
    "another instance": ("hello-fields", "keeps its instance"),
    "one instance": ("hello-fields", "an instance of its own"),
    "holds the dead": ("hello-held", "or is gone"),
    "no number": ("session", "number 0"),
    "hello and more": ("session", "hello is alone"),
    "next number": ("session", "no session"),
    "ack twice": ("ack-once", "is acked already"),
    "acks ahead": ("ack-once", "events go from 1"),
    "backwards": ("ack-order", "comes before"),
    "32 bits": ("ids", "does not know"),
    "own ids": ("ids", "each id of the range"),
    "state late": ("state-taken", "in flight any more"),
    "last words": ("bye-last", "a record after bye"),
    "last batch": ("bye-last", "a batch after bye"),
}


GOOD = ("", "in parts")
"""Workers without a fault."""

KEEP = ("keeps", "no fence", "ack of the old")
"""Faults of workers that keep something from an earlier session."""


class End(Exception):  # noqa: N818
    """The process exits with this code."""


class Worker:
    """Takes batches, and sends batches through `send`; `sleep` takes seconds."""

    def __init__(
        self,
        fault: str,
        environment: dict[str, str],
        send: Callable[[list[bytes]], None],
        sleep: Callable[[float], None],
    ) -> None:
        assert fault in FAULTS or fault in GOOD, fault
        self.fault = fault
        self.environment = environment
        self.send = send
        self.sleep = sleep
        self.session = 0
        self.ids: list[int] = []
        self.states: dict[int, bytes] = {}
        self.known: set[int] = set()
        self.opened: set[int] = set()
        self.ends: set[int] = set()
        self.about: dict[str, Any] = {}
        """The fields of the last attach."""
        self.spliced: set[int] = set()
        self.kept: list[Any] = []
        self.hellos = 0

    def start(self) -> None:
        """The worker has connected."""
        if self.fault == "no probe":
            self.say(0, [["ack", 1, 1]])
        if self.fault == "says hello":
            self.hello()

    def say(self, number: int, records: list[Any]) -> None:
        data = msgpack.encode([number, *records])
        if self.fault == "JSON" and number:
            data = b'{"session": 1}'
        self.send([data, b""] if self.fault == "two frames" else [data])

    def hello(self) -> None:
        fault, environment = self.fault, self.environment
        self.hellos += 1
        held = sorted(self.known | (self.ends if fault == "holds the dead" else set()))
        instance = environment["WSRAW_INSTANCE"]
        if fault == "another instance":
            instance += str(self.hellos)
        fields = [
            2 if fault == "wrong version" else 1,
            "default" if fault == "wrong pool" else environment["WSRAW_POOL"],
            {"one instance": "one", "no instance": ""}.get(fault, instance),
            {"no language": "", "two lines": "python\nfaulty"}.get(fault, "python/faulty"),
            "sesame" if fault == "wrong token" else environment["WSRAW_TOKEN"],
            0 if fault == "no window" else 100,
            0 if fault == "no concurrency" else 1,
            held[1:] if fault == "holds some" else held,
            False,
            ["on_join", "on_leave"],
        ]
        more = [["ack", 1, 1]] if fault == "hello and more" else []
        self.say(0, [["hello", *fields], *more])
        if fault == "hello twice":
            self.say(0, [["hello", *fields]])

    def receive(self, data: bytes) -> None:
        """Receive one message of the gateway. Raises End."""
        fault = self.fault
        if not data:
            return
        number, *records = msgpack.decode(data)
        if not records and fault == "no empty batch":
            raise End(1)
        batch: list[Any] = []
        if fault == "small queue" and len(records) > 6:
            del records[6:]
        messages = [record for record in records if record[0] == "on_message"]
        if fault == "quick first" and len(messages) == 2 and b"quick" in messages[1]:
            records.reverse()
        if fault in ("out of order", "backwards") and len(messages) > 2:
            records.reverse()
        since = 0.0
        for record in records:
            if record[0] == "who":
                if fault == "deaf" or (fault == "asks once" and self.hellos):
                    continue
                self.session = 0
                if fault not in KEEP:
                    self.kept = []
                self.hello()
            elif record[0] == "welcome":
                self.session = record[2]
                self.ids = list(range(record[4], record[5] + 1))
                if fault == "ack of the old":
                    self.flush(batch)
            elif number in (0, self.session):
                took = self.handle(record, batch)
                since += took
                if took and since > 0.001 and fault != "hoards":
                    self.flush(batch)
                    since = 0.0
        self.flush(batch)

    def flush(self, batch: list[Any]) -> None:
        """Send the commands of the handlers; a worker that keeps something sends it with the
        next batch.
        """
        fault = self.fault
        if fault in KEEP and batch:
            slow = any(record[0] == "send" and record[2][:4] == b"slow" for record in batch)
            old = any(record[0] == "send" and b"of the old" in record[2] for record in batch)
            if old if fault == "keeps" else slow or old:
                acks = [record for record in batch if record[0] == "ack"]
                self.kept += acks if fault == "ack of the old" else batch
                batch.clear()
                return
        if self.kept and self.session:
            batch[:0] = self.kept
            self.kept = []
        if batch:
            number = self.session
            number = {"no number": 0, "next number": number + 1}.get(fault, number)
            self.say(number, batch)
            batch.clear()

    def handle(self, record: list[Any], batch: list[Any]) -> float:
        """Handle one record, and add its commands and its ack to the batch. Returns the seconds
        that it took.
        """
        fault = self.fault
        tag, *fields = record
        if tag == "refused":
            if fields[0] == 0:
                if fault == "tries again":
                    self.hello()
                if fault != ("waits inside" if self.session else "waits outside"):
                    raise End(0 if fault == "shrugs" else 4)
            if fault == "gives up":
                raise End(1)
        elif tag == "attach":
            con = fields[0]
            self.about = fields[4] if len(fields) > 4 else {}
            if fault == "state of its own" and con in self.known:
                return 0.0
            if fault == "wants inf" and fields[1] is None:
                raise End(1)
            self.known.add(con)
            if fault == "no more fields" and len(fields) > 5:
                raise End(1)
            if fault != "state in memory" or con not in self.states:
                self.states[con] = fields[2]
        elif tag == "detach":
            if fault == "no detach":
                raise End(1)
            self.known.discard(fields[0])
        elif tag == "drain":
            self.drain(batch)
        elif tag.startswith("on_"):
            return self.event(tag, fields, batch)
        elif fault == "no more notices":
            raise End(1)
        return 0.0

    def drain(self, batch: list[Any]) -> None:
        fault = self.fault
        if fault == "ignores drain":
            return
        large = [record for record in batch if record[0] == "send" and len(record[2]) > 1 << 20]
        if fault == "leaves in a hurry" and large:
            raise End(0)
        if fault == "leaves empty-handed":
            batch[:] = [record for record in batch if record not in large]
        batch.append(["bye"])
        if fault == "last words":
            batch.append(["ack", 1, 1])
        self.flush(batch)
        if fault == "last batch":
            self.say(self.session, [["ack", 1, 1]])
        if fault != "stays":
            raise End(1 if fault == "leaves in anger" else 0)

    def event(self, tag: str, fields: list[Any], batch: list[Any]) -> float:
        fault = self.fault
        seq, con, *rest = fields
        commands: list[Any] = []
        took = 0.0
        if fault == "friends only" and tag != "on_connect" and con not in self.known:
            raise End(1)
        if tag == "on_connect":
            if fault == "fixed fields":
                try:
                    _, _, _, _, _, _, *_ = fields
                except ValueError:
                    raise End(1) from None
            if fault == "fails without fields" and len(rest) < 2:
                commands.append(["close", con, 1011, "internal error"])
            if fault == "no verdict" and rest[1]:
                return 0.0
            self.known.add(con)
            if con in self.opened and fault != "no hi":
                commands.append(["send", con, b"hi", "text"])
        elif tag == "on_message":
            data, kind, final = (*rest, True)[:3]
            limit = {"small buffer": 1 << 16, "mean buffer": 1 << 23}.get(fault)
            if limit and len(data) > limit:
                return 0.0
            if (fault, data) in (
                ("forgets the last", b"message 19"),
                ("drops what it does", b"beside it"),
            ):
                return 0.0
            if data.startswith(b"splice "):
                other = int(data.split()[1])
                first, last = (other, con) if fault == "splices another" else (con, other)
                seqs = [seq + 1000] * 2 if fault == "splices all" else [seq] * 2
                self.spliced |= {con, other}
                if fault == "splices apart":
                    self.flush(batch)
                    self.say(self.session, [["splice", first, last, *seqs]])
                else:
                    commands.append(["splice", first, last, *seqs])
            elif con in self.spliced and fault != "answers for the spliced":
                pass
            elif con not in self.opened or fault == "answers answers":
                took = self.message(con, data, kind, final, commands)
        elif tag in ("on_join", "on_leave"):
            if fault == "hears nobody":
                return 0.0
            if fault == "at home only" and con not in self.opened and "ref" in self.about:
                raise End(1)
        elif tag == "on_error":
            if fault == "no ack of errors":
                return 0.0
        elif tag == "on_close":
            if fault == "knows already" and rest[2] == "gateway-died":
                return 0.0
            self.known.discard(con)
            self.ends.add(con)
        self.finish(seq, commands, batch)
        return took

    def finish(self, seq: int, commands: list[Any], batch: list[Any]) -> None:
        fault = self.fault
        acks = [["ack", seq, seq]]
        if fault == "ack twice":
            acks *= 2
        if fault == "acks ahead":
            acks = [["ack", seq, seq + 1000]]
        if fault in ("command apart", "ack apart") and commands:
            first, second = commands, acks
            if fault == "ack apart":
                first, second = second, first
            self.flush(batch)
            self.say(self.session, first)
            self.say(self.session, second)
            return
        if fault == "part beside acks":
            acks.append(["part", seq])
        if fault == "gives back":
            acks.append(["give_back", seq])
        if fault in ("in parts", "part of nothing") and commands:
            self.flush(batch)
            for command in commands:
                part = seq + 1000 if fault == "part of nothing" else seq
                self.say(self.session, [command, ["part", part]])
            self.say(self.session, acks)
            return
        late = [each for each in commands if each[0] == "state" and fault == "state late"]
        early = [each for each in commands if each not in late]
        batch += [*acks, *early] if fault == "ack first" else [*early, *acks, *late]

    def message(self, con: int, data: bytes, kind: str, final: bool, commands: list[Any]) -> float:
        fault = self.fault
        took = 0.0
        place = 0 if fault == "one state" else con
        count = int(self.states.get(place) or b"0") + 1
        self.states[place] = b"%d" % count
        if fault != "no state":
            more = bytes(1 << 16) if fault == "long state" else b""
            commands.append(["state", con, self.states[place] + more])
        word, _, rest = data.partition(b" ")
        answer = data
        if word == b"upper":
            answer = rest.upper()
            if fault == "all letters" and kind == "text":
                answer = rest.decode().upper().encode()
        elif data == b"count":
            answer = b"%d" % count
        elif word == b"slow":
            took = int(rest) / 1000
            self.sleep(took)
        elif word == b"open":
            opened = self.ids.pop(0) + (1 << 20 if fault == "own ids" else 0)
            self.opened.add(opened)
            self.known.add(opened)
            options = {} if fault == "opens for nobody" else {"during": con}
            if fault != "does not open":
                protocol = "raw" if fault == "opens raw" else "websocket"
                fields = [rest.decode(), protocol, "/", "conform", ""]
                commands.append(["open", opened, *fields, options])
            answer = b"done" if fault == "opens in silence" else b"opened %d" % opened
        command = self.answer(con, answer, kind, final)
        forgotten = {"no last answer": b"message 99", "no answer": b"message 59"}.get(fault)
        commands += [command] * (0 if data == forgotten else 2 if fault == "doubles" else 1)
        return took

    def answer(self, con: int, data: bytes, kind: str, final: bool) -> list[Any]:
        fault = self.fault
        kind = "binary" if kind == "raw" and fault != "trims" else kind
        if fault == "trims" and kind == "raw":
            kind, data = "binary", data.strip()
        if fault == "latin-1" and kind == "text":
            data = data.decode().encode("latin-1", "replace")
        if fault == "binary as text":
            kind = "text"
        if fault == "no such type":
            kind = "utf-8"
        if fault == "whole":
            final = True
        if fault.startswith("cuts at"):
            data = data[: 1 << 16 if "KiB" in fault else 1 << 23]
        if fault == "32 bits":
            con &= 0xFFFFFFFF
        if fault == "no such record":
            return ["shout", con, data]
        return ["send", con, 7 if fault == "text as a number" else data, kind, final]


def main() -> int:
    """Run the same worker on a real link."""
    import zmq

    (fault,) = sys.argv[1:]
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.set(zmq.IMMEDIATE, 0 if fault == "queues" else 1)
    socket.set(zmq.PROBE_ROUTER, 0 if fault == "no probe" else 1)
    socket.set(zmq.LINGER, 2000)
    if fault == "stays away":
        socket.set(zmq.RECONNECT_IVL, -1)
    if fault == "own routing id":
        socket.set(zmq.ROUTING_ID, b"me")
    socket.connect(os.environ["WSRAW_ENDPOINT"])
    worker = Worker(fault, dict(os.environ), socket.send_multipart, time.sleep)
    worker.start()
    try:
        while True:
            worker.receive(socket.recv())
    except End as end:
        return int(str(end))
    finally:
        socket.close()
        context.term()


if __name__ == "__main__":
    sys.exit(main())
