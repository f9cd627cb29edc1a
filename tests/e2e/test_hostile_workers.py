"""Hostile input on the worker link must not end the gateway, leak memory there, or disturb
others. The attackers have the token or not, as an admitted worker may be hostile, too. They
attack both links: the local link in the gateway's own loop, and the link of libzmq for other
machines.
"""

from __future__ import annotations

import os
import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.deadline import DEADLINE, UNIT, eventually
from tests.e2e.observer import Observer
from tests.e2e.remote import Keys, RemoteWorker, endpoint, gateway, remote_workers_ready
from tests.e2e.serving import Serving, has_traceback, linux
from tests.running import wsraw
from wsraw.link.batches import EVENT_LIMIT, LARGEST_BATCH, LARGEST_REMOTE_BATCH
from wsraw.link.records import decode_value, encode

pytestmark = linux

MIB = 1 << 20
GROWTH = 48 * MIB
"""Memory that allocators keep. The attacks send several times as much."""


LINKS = {"local": LARGEST_BATCH, "remote": LARGEST_REMOTE_BATCH}
"""The links of a gateway, and the longest batch of each."""


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    with gateway(workers=2) as serving:
        yield serving
        assert len(serving.run.pids()) == 3, f"somebody had to be started again\n{serving}"


class Attacker:
    """Sockets that connect to the link, and the records that start a session."""

    def __init__(self, serving: Serving, link: str = "remote") -> None:
        assert serving.folder is not None
        self.endpoint = serving.link if link == "local" else endpoint(serving)
        self.largest_batch = LINKS[link]
        self.is_local = link == "local"
        self.token = (serving.folder / "token").read_text().strip()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []
        """References to all sockets: a socket without one would be closed, with a warning."""

    def __enter__(self) -> Attacker:
        return self

    def __exit__(self, *error: object) -> None:
        self.context.destroy(linger=0)

    def connect(self, **options: int | bytes) -> zmq.Socket[bytes]:
        sock = self.context.socket(zmq.DEALER)
        sock.set(zmq.SNDTIMEO, int(5000 * UNIT))
        sock.set(zmq.RCVTIMEO, int(1000 * DEADLINE))
        for name, value in options.items():
            sock.set(getattr(zmq, name), value)
        sock.connect(self.endpoint)
        self._sockets.append(sock)
        return sock

    def connect_plainly(self) -> socket.socket:
        """A plain socket that does not speak ZMTP."""
        scheme, _, address = self.endpoint.partition("://")
        if scheme == "ipc":
            sock = socket.socket(socket.AF_UNIX)
            # A socket with a timeout would not wait for room in the queue.
            sock.connect(address)
            sock.settimeout(DEADLINE)
            return sock
        host, _, port = address.rpartition(":")
        return socket.create_connection((host, int(port)), DEADLINE)

    def hello(self, **changes: Any) -> list[Any]:
        # The attacker has a pool of its own, so that honest clients get honest workers.
        fields = {
            "version": 1, "pool": "hostile", "instance": os.urandom(8).hex(),
            "language": "hostile", "token": self.token, "window": 10, "concurrency": 1,
        }  # fmt: skip
        return ["hello", *{**fields, **changes}.values()]

    def enter(
        self, sock: zmq.Socket[bytes] | None = None, **changes: Any
    ) -> tuple[zmq.Socket[bytes], int]:
        """A socket with a session, and the number of the session."""
        sock = sock or self.connect()
        sock.send(encode([0, self.hello(**changes)]))
        while True:
            number, *records = decode_value(sock.recv())
            if records and records[0][0] == "welcome":
                return sock, number

    def say(self, sock: zmq.Socket[bytes], *data: bytes) -> None:
        """Send until the gateway takes no more."""
        for each in data:
            try:
                sock.send(each)
            except zmq.Again:
                return

    def until_read(self, sock: zmq.Socket[bytes], session: int) -> None:
        """Wait until the gateway has read everything before this: it answers a query or shuts us
        out. The query is repeated, as an answer may be left out among many rejections.
        """

        def answered() -> bool:
            self.say(sock, encode([session, ["query", 77, "members", "nobody"]]))
            while sock.poll(500):
                _, *records = decode_value(sock.recv())
                for record in records:
                    if record[:2] in (["answer", 77], ["refused", 0]) or record[0] == "who":
                        return True
            return False

        eventually(answered, "an answer")


Attack = Callable[[Attacker, random.Random], None]


def until_shut_out(sock: zmq.Socket[bytes]) -> str:
    while True:
        _, *records = decode_value(sock.recv())
        for record in records:
            if record[0] == "refused" and record[1] == 0:
                return str(record[3])


def garbage(attacker: Attacker, rng: random.Random) -> None:
    for _ in range(50):
        sock = attacker.connect()
        attacker.say(sock, b"\xc1" + rng.randbytes(rng.randrange(5000)))
        assert until_shut_out(sock)
        sock.close()


def garbage_behind_a_hello(attacker: Attacker, rng: random.Random) -> None:
    for _ in range(20):
        sock, session = attacker.enter()
        batch = bytearray(encode([session, ["send", 1, b"x" * 50], ["ack", 1, 1]] * 3))
        for _ in range(5):
            batch[rng.randrange(len(batch))] = rng.randrange(256)
        attacker.say(sock, bytes(batch), b"\xc1")
        assert until_shut_out(sock)
        sock.close()


def several_frames(attacker: Attacker, rng: random.Random) -> None:
    sock, _ = attacker.enter()
    sock.send_multipart([b"x"] * 1000)
    assert "not a batch" in until_shut_out(sock)


def huge_arrays(attacker: Attacker, rng: random.Random) -> None:
    count = 8 * MIB
    head = b"\xdd" + count.to_bytes(4, "big")
    for body in (b"\x00", b"\xc0", b"\x90"):
        sock = attacker.connect()
        monitor = sock.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        attacker.say(sock, head + body * (count - 1))
        # The local link shuts out a stranger as soon as it has announced the length of a long
        # batch.
        assert monitor.poll(1000 * DEADLINE) if attacker.is_local else until_shut_out(sock)
        sock, session = attacker.enter()
        attacker.say(sock, head + encode(session) + body * (count - 1))
        assert "records" in until_shut_out(sock)
    # This record has an option with that many values. The next one announces 4,294,967,295 fields,
    # and has none.
    sock, session = attacker.enter()
    options = encode("except") + head + b"\x00" * count
    record = encode(["publish", "g", b"x", "text"])[1:]
    attacker.say(sock, b"\x92" + encode(session) + b"\x95" + record + b"\x81" + options)
    attacker.until_read(sock, session)
    # The first session may have been shut out for that, and would get no more answers.
    sock, session = attacker.enter()
    attacker.say(sock, b"\x92" + encode(session) + b"\xdd\xff\xff\xff\xff")
    assert until_shut_out(sock)


def deep_nesting(attacker: Attacker, rng: random.Random) -> None:
    for depth in (500, 100_000, MIB):
        sock, session = attacker.enter()
        attacker.say(sock, b"\x92" + encode(session) + b"\x91" * depth + b"\xc0")
        attacker.until_read(sock, session)
        sock, session = attacker.enter()
        record = encode(["publish", "g", b"x", "text"])[1:] + b"\x81\xa6except"
        deep = b"\x95" + record + b"\x91" * depth + b"\xc0"
        attacker.say(sock, b"\x92" + encode(session) + deep)
        attacker.until_read(sock, session)


def batches_too_large(attacker: Attacker, rng: random.Random) -> None:
    """The gateway closes the link."""
    monitored, _ = attacker.enter()
    attacker.say(monitored, bytes(attacker.largest_batch + 1))
    sock, session = attacker.enter()
    attacker.say(sock, encode([session, ["send", 1, bytes(attacker.largest_batch - 100)]]))
    attacker.until_read(sock, session)


def wrong_ids(attacker: Attacker, rng: random.Random) -> None:
    sock, session = attacker.enter()
    for con in (0, -1, 1, 1 << 36, (1 << 36) + (1 << 35), 1 << 53, (1 << 64) - 1, 1 << 63):
        attacker.say(
            sock,
            encode([
                session,
                *(["send", con, b"x"], ["close", con], ["state", con, b"x"], ["join", con, "g"]),
                *(["leave", con, "g"], ["couple", con, con], ["splice", con, con]),
                *(["mark", con, 1], ["accept", con], ["reject", con, 200], ["open", con, "x:1"]),
            ]),
        )  # fmt: skip
    attacker.until_read(sock, session)


def acks_of_what_it_never_had(attacker: Attacker, rng: random.Random) -> None:
    sock, session = attacker.enter()
    for first, last in ((1, 1), (0, 0), (-5, 5), (1, (1 << 63) - 1), (5, 1), (1, 10**9)):
        for number in (session, session - 1, session + 1, -1, (1 << 64) - 1):
            attacker.say(sock, encode([number, ["ack", first, last]] * 1))
    attacker.until_read(sock, session)


def parts_of_what_it_never_had(attacker: Attacker, rng: random.Random) -> None:
    for seq in (1, 0, -1, 10**9, (1 << 64) - 1):
        sock, session = attacker.enter()
        attacker.say(sock, encode([session, ["send", 1, b"x"], ["part", seq]]))
        assert "not in flight" in until_shut_out(sock)


def parts_without_an_end(attacker: Attacker, rng: random.Random) -> None:
    """The parts exceed the limit of an event; or stay below it, until their worker leaves."""
    data = bytes(attacker.largest_batch - 1000)
    for count in (EVENT_LIMIT // attacker.largest_batch + 1, 2):
        # The pool is that of the honest workers, as in `odd_options`.
        sock, session = attacker.enter(pool="default")
        seq, con = some_event(sock, session)
        part = encode([session, ["send", con, data], ["part", seq]])
        attacker.say(sock, *[part] * count)
        if count > 2:
            assert f"{EVENT_LIMIT} bytes" in until_shut_out(sock)
        else:
            attacker.until_read(sock, session)
        sock.close(0)


def some_event(sock: zmq.Socket[bytes], session: int) -> tuple[int, int]:
    """Seq and connection of an event that the worker gets: one of an honest client, or the
    on_close of a connection that it fails to open.
    """
    sock.send(encode([session, ["query", 3, "ids"]]))
    while True:
        number, *records = decode_value(sock.recv())
        for record in records:
            if record[:2] == ["answer", 3]:
                con = record[2][0]
                sock.send(encode([session, ["open", con, "127.0.0.1:1"]]))
            elif record[0].startswith("on_") and number == session:
                return record[1], record[2]


def odd_options(attacker: Attacker, rng: random.Random) -> None:
    # The pool is that of the honest workers: another worker handles the on_close of a connection
    # that this one has opened.
    sock, session = attacker.enter(pool="default")
    for value in (None, -1, 1.5, "x", b"\xff", [], {}, [[]], {"a": {}}, float("nan")):
        attacker.say(sock, encode([session, ["query", 3, "ids"]]))
        first = None
        while first is None:
            _, *records = decode_value(sock.recv())
            first = next((r[2][0] for r in records if r[0] == "answer" and r[1] == 3), None)
        names = ("during", "couple", "name", "reconnect", "headers", "subprotocols")
        for n, name in enumerate((*names, "connect_timeout")):
            options = {name: value}
            open_ = ["open", first + n, "127.0.0.1:1", "websocket", "/", "", "", options]
            attacker.say(sock, encode([session, open_, ["close", first + n]]))
        attacker.say(sock, encode([session, ["publish", "g", b"", "text", {"except": value}]]))
    attacker.until_read(sock, session)


def floods(attacker: Attacker, rng: random.Random) -> None:
    sock, session = attacker.enter()
    query = encode([session, *[["query", 5, "ids"]] * 500])
    wrong = encode([session, *[["send", 5, b"x" * 100]] * 500])
    attacker.say(sock, *[query, wrong] * 100)
    # The answers are not read meanwhile; afterwards they are there, or the gateway has shut us out.
    attacker.until_read(sock, session)


def floods_of_the_shut_out(attacker: Attacker, rng: random.Random) -> None:
    sock = attacker.connect()
    attacker.say(sock, b"\xc1")
    assert until_shut_out(sock)
    attacker.say(sock, *[bytes(4 * MIB)] * 30)


def a_thousand_identities(attacker: Attacker, rng: random.Random) -> None:
    for n in range(1000):
        sock = attacker.context.socket(zmq.DEALER)
        sock.set(zmq.LINGER, 0)
        if n % 2:
            sock.set(zmq.PROBE_ROUTER, 1)
        sock.connect(attacker.endpoint)
        if n % 5 == 0:
            sock.send(encode([0, attacker.hello(token="guessed")]))
        if n % 50 == 49:
            # Wait for an answer, so that the connections do arrive.
            last = attacker.connect()
            last.send(encode([0]))
            last.recv()
        sock.close(0)


def many_sessions(attacker: Attacker, rng: random.Random) -> None:
    socks = [attacker.enter() for _ in range(50)]
    for sock, session in socks:
        attacker.say(sock, encode([session, ["bye"]]) if rng.random() < 0.5 else b"\xc1")


def zmtp_garbage(attacker: Attacker, rng: random.Random) -> None:
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\x00" + bytes(31)
    for n in range(200):
        sock = attacker.connect_plainly()
        what = (
            rng.randbytes(rng.randrange(200)),
            greeting[: rng.randrange(64)],
            greeting + rng.randbytes(100),
            greeting + b"\x06\xff\xff\xff\xff\xff\xff\xff\xff",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        )[n % 5]
        try:
            sock.sendall(what)
        except OSError:
            pass
        sock.close()


ATTACKS: list[Attack] = [
    garbage,
    garbage_behind_a_hello,
    several_frames,
    huge_arrays,
    deep_nesting,
    batches_too_large,
    wrong_ids,
    acks_of_what_it_never_had,
    parts_of_what_it_never_had,
    parts_without_an_end,
    odd_options,
    floods,
    floods_of_the_shut_out,
    a_thousand_identities,
    many_sessions,
    zmtp_garbage,
]


@pytest.mark.parametrize("link", ["local", pytest.param("remote", marks=pytest.mark.long)])
@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.__name__ for attack in ATTACKS])
def test_a_hostile_worker_leaves_nothing_behind(
    serving: Serving, attack: Attack, link: str
) -> None:
    gateway_pid = serving.gateway
    eventually(lambda: serving.descriptors() < 60, "the attack before to be over")
    descriptors, memory = serving.descriptors(), serving.rss()
    with Observer(serving) as observer:
        for n in range(2):
            with Attacker(serving, link) as attacker:
                attack(attacker, random.Random(n))
        echoes = observer.echoes
        eventually(lambda: observer.echoes > echoes + 10, "the observer to be served")
    eventually(lambda: serving.descriptors() <= descriptors, "descriptors to be free")
    assert serving.gateway == gateway_pid
    assert not has_traceback(str(serving)), str(serving)
    # The session of a worker that was started by hand ends at the check of its link, once a second.
    # Then the gateway drops what it has kept of the session.
    eventually(lambda: serving.rss() - memory < GROWTH, f"less than {GROWTH / MIB:.0f} MiB more")
    eventually(
        lambda: serving.status()["gateway"]["connections"]["total"] == 0,
        "what it had opened to be closed",
    )
    seen = serving.status()
    assert [worker["state"] for worker in seen["workers"]] == ["ready", "ready"]


@pytest.mark.parametrize("link", LINKS)
def test_a_worker_that_polls_late_learns_why_it_is_rejected(serving: Serving, link: str) -> None:
    """With IMMEDIATE, libzmq drops unread messages at a poll after the connection has ended."""
    with Attacker(serving, link) as attacker:
        sock, _ = attacker.enter(attacker.connect(IMMEDIATE=1))
        sock.send(b"\xc1")
        # The gateway needs less time on most machines.
        time.sleep(0.3)
        assert sock.poll(1000 * DEADLINE)
        assert "not a batch" in until_shut_out(sock)


@pytest.mark.parametrize("link", LINKS)
def test_the_log_names_hostile_workers_and_is_not_flooded(serving: Serving, link: str) -> None:
    before = len(serving.run.lines)
    with Attacker(serving, link) as attacker:
        for n in range(3):
            garbage(attacker, random.Random(n))
        sock, session = attacker.enter()
        attacker.say(sock, encode([session, *[["send", 5, b"x"]] * 500]))
        attacker.until_read(sock, session)
    where = r"\(at 127\.0\.0\.1\)" if link == "remote" else r"\w"

    def told() -> list[str]:
        return [line for line in serving.run.lines[before:] if re.search("error|warning", line)]

    eventually(
        lambda: (
            any(re.search(rf"worker \w+ {where}", line) for line in told())
            or any("more such lines were left out" in line for line in serving.run.lines)
        ),
        "its name in the log",
    )
    assert len(told()) < 60


def test_a_worker_cannot_read_or_set_the_state_of_a_connection_that_it_does_not_hold(
    tmp_path: Path,
) -> None:
    """The worker can neither ack another worker's events nor set the state of their connections."""
    handlers = tmp_path / "handlers.py"
    handlers.write_text(
        "def on_connect(inf, con):\n    con.state = 'mine'\n"
        "def on_message(msg, con):\n    return f'{con.id} {con.state}'\n"
    )
    with gateway(handlers=handlers) as serving, serving.ws() as client:
        client.send("who?")
        con = int(str(client.recv(DEADLINE)).split()[0])
        with Attacker(serving) as attacker:
            sock, session = attacker.enter()
            for record in (["state", con, b"\xa5yours"], ["splice", con, con], ["reject", con, 1]):
                attacker.say(sock, encode([session, record]))
                _, *told = decode_value(sock.recv())
                assert told[0][0] == "refused"
            for n in range(1, 20):
                attacker.say(sock, encode([session, ["send", con, b"forged"], ["ack", n, n]]))
                attacker.say(sock, encode([session - 1, ["send", con, b"forged"]]))
            attacker.until_read(sock, session)
        client.send("still?")
        assert client.recv(DEADLINE) == f"{con} mine", "a forged batch took effect"


def test_a_peer_without_a_key_does_not_disturb_workers_with_one(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    keys.add("alice")
    with gateway(*keys.of_gateway()) as serving:
        with RemoteWorker(f"--connect={endpoint(serving)}", *keys.of_worker("alice")):
            remote_workers_ready(serving, 1)
            descriptors = serving.descriptors()
            with Observer(serving) as observer, Attacker(serving) as attacker:
                zmtp_garbage(attacker, random.Random(1))
                server = (tmp_path / "gateway.pub").read_text().split()[0].encode()
                for _ in range(100):
                    public, secret = zmq.curve_keypair()
                    sock = attacker.connect(
                        CURVE_PUBLICKEY=public, CURVE_SECRETKEY=secret, CURVE_SERVERKEY=server
                    )
                    sock.set(zmq.LINGER, 0)
                serving.run.line("was rejected: its key is not in worker_keys")
                echoes = observer.echoes
                eventually(lambda: observer.echoes > echoes + 10)
            eventually(lambda: serving.descriptors() <= descriptors)
            assert [each["key"] for each in serving.status()["by_hand"]] == ["alice"]
            shown = wsraw("status", f"--run-dir={serving.folder}")
            assert shown.returncode == 0
        assert len([line for line in serving.run.lines if "is not let in" in line]) < 40
