"""Two gateways, NATS between them, and what happens when a gateway or NATS fails."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.deadline import DEADLINE, eventually
from tests.e2e.cluster.nats_server import NatsServer
from tests.e2e.serving import Serving, linux, serve
from tests.needs import KILL, reuse_port, signals
from tests.running import wsraw


def cluster_of(serving: Serving) -> dict[str, Any]:
    found: dict[str, Any] = serving.status()["gateway"]["cluster"]
    return found


def wait_for(serving: Serving, state: str, others: int) -> None:
    """Wait until a node is in that state and knows that many other nodes."""

    def look() -> bool:
        found = cluster_of(serving)
        return found["state"] == state and len(found["nodes"]) == others

    eventually(look, f"{state}, {others} other nodes; {cluster_of(serving)}")


@contextmanager
def nodes(
    room: Path, nats: NatsServer, *names: str, options: tuple[str, ...] = ()
) -> Iterator[list[Serving]]:
    with ExitStack() as stack:
        made = [
            stack.enter_context(serve(room, f"--cluster={nats.url}", f"--node={name}", *options))
            for name in names
        ]
        for each in made:
            wait_for(each, "connected", len(names) - 1)
        yield made


class Client:
    """A member of the room, which knows its reference."""

    def __init__(self, web: ClientConnection) -> None:
        self.web = web
        self.ref = self.hear().removeprefix("ref ")

    def say(self, text: str) -> None:
        self.web.send(text)

    def hear(self) -> str:
        return str(self.web.recv(timeout=DEADLINE))

    def ask(self, text: str) -> str:
        self.say(text)
        return self.hear()


@contextmanager
def client(serving: Serving) -> Iterator[Client]:
    with serving.ws() as web:
        yield Client(web)


def join(a: Client, b: Client) -> None:
    """Wait until each client receives what the other publishes, and until nothing more is on its
    way.
    """
    for one, other in ((a, b), (b, a)):

        def reaches(one: Client = one, other: Client = other) -> bool:
            one.say("joined?")
            try:
                return bool(other.web.recv(timeout=0.2) == "joined?")
            except TimeoutError:
                return False

        eventually(reaches, "a publish to come")
        one.say("joined!")
        while other.hear() != "joined!":
            pass


def test_a_room_spans_gateways(room: Path, nats: NatsServer) -> None:
    with nodes(room, nats, "one", "two") as (one, two), client(one) as a, client(two) as b:
        join(a, b)
        for n in range(100):
            a.say(f"a {n}")
        assert [b.hear() for _ in range(100)] == [f"a {n}" for n in range(100)]
        assert a.ask("count") == b.ask("count") == "count 2"
        own, other = json.loads(a.ask("members").removeprefix("members "))
        assert f"one/{own}" == a.ref
        assert other == b.ref
        # No message has come back to its sender, and none has come twice.
        b.say("last")
        assert a.hear() == "last"
        counts = cluster_of(two)["counts"]
        assert [counts[key] for key in ("missed", "repeated", "undelivered", "invalid")] == [0] * 4


@pytest.mark.long
def test_a_connection_is_reached_by_its_reference(room: Path, nats: NatsServer) -> None:
    with nodes(room, nats, "one", "two") as (one, two), client(one) as a, client(two) as b:
        a.say(f"to {b.ref} hello")
        assert b.hear() == "hello"
        a.say(f"to {a.ref} here")
        assert a.hear() == "here"
        a.say(f"to nobody/{b.ref.partition('/')[2]} lost")
        a.say(f"close {b.ref}")
        with pytest.raises(ConnectionClosed) as closed:
            b.hear()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "from afar")
        eventually(lambda: cluster_of(one)["counts"]["not_sent"] == 1, "the lost one to be counted")


def test_an_operator_kicks_at_another_gateway(room: Path, nats: NatsServer) -> None:
    with nodes(room, nats, "one", "two") as (one, two), client(one) as a, client(two) as b:
        a.say("user ann")
        b.say("user ann")
        with client(two) as c:
            done = wsraw("kick", c.ref, "--code=4000", f"--run-dir={one.folder}")
            assert (done.returncode, done.stdout) == (0, "told the other gateways\n"), done.stderr
            with pytest.raises(ConnectionClosed) as closed:
                c.hear()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4000
        eventually(lambda: cluster_of(one)["subscriptions"] == 2, "a subscription of the user")
        done = wsraw("kick", "--user=ann", "--all", f"--run-dir={two.folder}")
        assert done.stdout == "closed 1 connection, and told the other gateways\n", done.stderr
        for each in (a, b):
            with pytest.raises(ConnectionClosed):
                each.hear()
        two.run.line("wsraw kick: closed connection")


@pytest.mark.long
def test_a_user_has_connections_at_several_gateways(room: Path, nats: NatsServer) -> None:
    with nodes(room, nats, "one", "two") as (one, two), client(one) as a, client(two) as b:
        a.say("user ann")
        b.say("user ann")
        eventually(lambda: cluster_of(one)["subscriptions"] == 2, "a subscription of the user")
        eventually(lambda: cluster_of(two)["subscriptions"] == 2, "a subscription of the user")
        with client(one) as c:
            c.say("toann hello")
            assert a.hear() == b.hear() == "hello"


@pytest.mark.long
def test_a_group_is_subscribed_while_it_has_members_here(room: Path, nats: NatsServer) -> None:
    with nodes(room, nats, "one", "two") as (one, two), client(one) as a:
        eventually(lambda: cluster_of(one)["subscriptions"] == 1, "a subscription")
        assert cluster_of(two)["subscriptions"] == 0
        a.say("leave")
        eventually(lambda: cluster_of(one)["subscriptions"] == 0, "no subscription")


def test_nats_goes_and_comes_back(room: Path, nats: NatsServer) -> None:
    with nodes(room, nats, "one", "two") as (one, two), client(one) as a, client(two) as b:
        join(a, b)
        with client(one) as near:
            nats.kill()
            wait_for(one, "away", 0)
            wait_for(two, "away", 0)
            for n in range(10):
                a.say(f"alone {n}")
            assert [near.hear() for _ in range(10)] == [f"alone {n}" for n in range(10)]
            eventually(lambda: cluster_of(one)["counts"]["not_sent"] == 10, "10 not sent")
            assert a.ask("count") == "count 2"
            # Users that are bound while NATS is away are subscribed once it is back.
            b.say("user ann")
            with client(two) as c:
                c.say("user bob")
            nats.start()
            wait_for(one, "connected", 1)
            wait_for(two, "connected", 1)
            a.say("together")
            assert near.hear() == b.hear() == "together"
            assert a.ask("count") == "count 3"
            eventually(lambda: cluster_of(two)["subscriptions"] == 2, "a room and a user")
            a.say("toann hello")
            assert b.hear() == "hello"
        assert cluster_of(two)["counts"]["missed"] == 0


@pytest.mark.long
@signals
def test_an_agent_that_dies_is_replaced(room: Path, nats: NatsServer) -> None:
    with nodes(room, nats, "one", "two") as (one, two), client(one) as a, client(two) as b:
        join(a, b)
        os.kill(one.run.pid("agent"), KILL)
        one.run.line("warning wsraw: agent was killed by SIGKILL.*; starting another")
        one.run.line("agent started, pid", 2)
        wait_for(one, "connected", 1)
        join(a, b)
        assert one.status()["agent"]["restarts"] == 1


@pytest.mark.long
@linux
@signals
def test_a_stopped_agent_holds_up_nobody_and_is_killed(room: Path, nats: NatsServer) -> None:
    with nodes(room, nats, "one", "two") as (one, two), client(one) as a, client(one) as near:
        agent = one.run.pid("agent")
        os.kill(agent, signal.SIGSTOP)
        text = "x" * 500_000
        for _ in range(40):
            a.say(text)
        assert [near.hear() == text for _ in range(40)] == [True] * 40
        eventually(lambda: cluster_of(one)["counts"]["not_sent"] > 0, "some not sent")
        one.run.line("killing the agent of the cluster: it has said nothing for 15 s")
        wait_for(one, "connected", 1)
        with client(two) as b:
            join(a, b)


@pytest.mark.long
@linux
@signals
def test_a_stopped_nats_holds_up_nobody(room: Path, nats: NatsServer) -> None:
    with nodes(room, nats, "one", "two") as (one, two), client(one) as a, client(one) as near:
        os.kill(nats.pid, signal.SIGSTOP)
        try:
            text = "x" * 500_000
            for _ in range(60):
                a.say(text)
            assert [near.hear() == text for _ in range(60)] == [True] * 60
            wait_for(one, "away", 0)
            eventually(lambda: cluster_of(one)["counts"]["not_sent"] > 0, "some not sent")
        finally:
            os.kill(nats.pid, signal.SIGCONT)
        wait_for(one, "connected", 1)
        wait_for(two, "connected", 1)


@pytest.mark.long
@linux
def test_a_stopped_gateway_misses_what_is_too_much_and_the_other_does_not_wait(
    room: Path, nats: NatsServer
) -> None:
    # This test is not about slow clients: the output limit is high enough for all messages.
    limit = ("--output-limit=64MiB",)
    with (
        nodes(room, nats, "one", "two", options=limit) as (one, two),
        client(one) as a,
        client(two) as b,
    ):
        join(a, b)
        not_sent = cluster_of(one)["counts"]["not_sent"]
        count, rest = 60, "x" * 500_000
        with client(one) as near:
            os.kill(two.gateway, signal.SIGSTOP)
            try:
                for n in range(count):
                    # One by one, so that the agent of the first node can follow.
                    a.say(f"{n} {rest}")
                    assert near.hear() == f"{n} {rest}"
            finally:
                os.kill(two.gateway, signal.SIGCONT)

        heard: list[int] = []

        def all_known() -> bool:
            with suppress(TimeoutError):
                while True:
                    heard.append(int(str(b.web.recv(timeout=0.1)).partition(" ")[0]))
            counts = cluster_of(two)["counts"]
            lost = counts["undelivered"] + counts["missed"]
            lost += cluster_of(one)["counts"]["not_sent"] - not_sent
            return len(heard) + lost == count and counts["undelivered"] > 0

        eventually(all_known, "all to be delivered, or counted")
        assert heard == sorted(set(heard))
        join(a, b)


@pytest.mark.long
@signals
def test_a_gateway_that_dies_comes_back_into_the_cluster(room: Path, nats: NatsServer) -> None:
    with nodes(room, nats, "one", "two") as (one, two), client(two) as b:
        with client(one) as a:
            join(a, b)
            assert b.ask("count") == "count 2"
            os.kill(one.gateway, KILL)
            with pytest.raises(ConnectionClosed):
                a.hear()
        eventually(lambda: b.ask("count") == "count 1", "its members to be gone")
        one.run.line("gateway started", 2)
        wait_for(one, "connected", 1)
        with client(one) as a:
            join(a, b)


@signals
def test_the_members_of_a_node_that_dies_are_gone_within_five_seconds(
    room: Path, nats: NatsServer
) -> None:
    with nodes(room, nats, "one", "two") as (one, two), client(two) as b:
        with client(one) as a:
            join(a, b)
            # Kill all processes of the node: none of them can say goodbye.
            for pid in (one.run.process.pid, one.gateway, *one.run.pids("agent")):
                os.kill(pid, KILL)
        eventually(lambda: b.ask("count") == "count 1", "its members to be gone", 5.0)
        two.run.line("node one is gone")


PRESENCE = """
import json

import wsraw


def on_connect(inf, con):
    con.user = con.request.query["user"]
    con.join("room")


def on_join(group, con):
    wsraw.publish(group, f"{con.user} has come")


def on_leave(group, con):
    wsraw.publish(group, f"{con.user} has left")


async def on_message(msg, con):
    con.send(json.dumps(await wsraw.users("room")))
"""


@signals
def test_handlers_say_once_who_comes_and_who_leaves_also_with_a_gateway(
    room: Path, nats: NatsServer
) -> None:
    room.write_text(PRESENCE)
    names = ("one", "two", "three")
    with (
        nodes(room, nats, *names, options=("--presence=room",)) as (one, two, three),
        ExitStack() as stack,
    ):
        lines: list[str] = []
        ann = stack.enter_context(one.ws(path="/?user=ann"))
        assert ann.recv(DEADLINE) == "ann has come"

        def said(text: str) -> bool:
            with suppress(TimeoutError):
                while True:
                    lines.append(str(ann.recv(0.1)))
            return text in lines

        numbers = count()

        def reaches() -> bool:
            name = f"try{next(numbers)}"
            with two.ws(path=f"/?user={name}"):
                if not said(f"{name} has come"):
                    return False
            return eventually(lambda: said(f"{name} has left"))

        # The gateway of ann may not have told NATS yet that it has a member.
        eventually(reaches, "what is published elsewhere to reach ann")
        bob = stack.enter_context(two.ws(path="/?user=bob"))
        eventually(lambda: said("bob has come"))
        cats = [stack.enter_context(three.ws(path=f"/?user=cat{n}")) for n in range(10)]
        for n in range(10):
            eventually(lambda n=n: said(f"cat{n} has come"))  # type: ignore[misc]
        cats.pop().close()
        eventually(lambda: said("cat9 has left"))

        def users() -> dict[str, int]:
            bob.send("?")
            while True:
                found = str(bob.recv(DEADLINE))
                if found.startswith("{"):
                    there: dict[str, int] = json.loads(found)
                    return there

        assert users() == {"ann": 1, "bob": 1, **{f"cat{n}": 1 for n in range(9)}}
        for pid in (three.run.process.pid, three.gateway, *three.run.pids("agent")):
            os.kill(pid, KILL)
        for n in range(9):
            eventually(lambda n=n: said(f"cat{n} has left"))  # type: ignore[misc]
        eventually(lambda: users() == {"ann": 1, "bob": 1})
        said("")
        # Each arrival and departure was told once, whichever node told it.
        assert sorted(lines) == sorted(set(lines))


@pytest.mark.long
def test_of_two_gateways_with_one_name_the_second_keeps_out(room: Path, nats: NatsServer) -> None:
    same = (f"--cluster={nats.url}", "--node=same")
    with nodes(room, nats, "same") as (one,), client(one) as a, serve(room, *same) as late:
        late.run.line("this node keeps out of the cluster: another one is called 'same', at ")
        wait_for(late, "name in use", 0)
        with client(late) as b:
            b.say("heard by nobody")
        assert a.ask("count") == "count 1"


@pytest.mark.long
@linux
@reuse_port
def test_two_runs_on_one_port_are_one_service(room: Path, nats: NatsServer, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        options = (f"--cluster={nats.url}", "--reuse-port")
        with ExitStack() as stack:
            one, two = (
                stack.enter_context(serve(room, *options, listen=[f"127.0.0.1:{port}"]))
                for _ in range(2)
            )
            wait_for(one, "connected", 1)
            wait_for(two, "connected", 1)
            assert one.folder != two.folder
            clients = [stack.enter_context(client(one)) for _ in range(40)]
            by_node = {each.ref.partition("/")[0] for each in clients}
            assert by_node == {cluster_of(one)["node"], cluster_of(two)["node"]}
            eventually(lambda: clients[0].ask("count") == "count 40", "all members")
            clients[0].say("everybody")
            assert [each.hear() for each in clients[1:]] == ["everybody"] * 39
            # Each gateway is controlled through its own run folder.
            one.stop()
            assert one.run.wait() == 0
            assert two.status()["phase"] == "running"


@linux
@reuse_port
def test_without_reuse_port_the_address_is_taken(room: Path) -> None:
    with serve(room) as one:
        port = one.addresses[0][1]
        done = refused(room, f"--listen=127.0.0.1:{port}", "--reuse-port")
        assert done.startswith("error: cannot listen on") or "does not share it" in done
        assert "give the other run reuse_port, too" in done


def refused(room: Path, *options: str) -> str:
    done = wsraw("run", f"--workers={room}", *options)
    assert done.returncode != 0
    return done.stderr


@pytest.mark.long
def test_metrics_show_the_state_of_a_cluster(room: Path, nats: NatsServer) -> None:
    from wsraw.admin import metrics

    with nodes(room, nats, "one", "two") as (one, _):
        text = metrics.page(one.status(), "")[0].decode()
    assert "wsraw_cluster_connected 1.0" in text
    assert "wsraw_cluster_nodes 1.0" in text
    assert 'wsraw_cluster_messages_total{outcome="missed"} 0.0' in text


def test_without_a_cluster_its_modules_are_not_loaded(room: Path) -> None:
    with serve(room) as alone:
        data = alone.status()
        assert data["agent"] is None
        assert data["gateway"]["cluster"] is None
        assert alone.run.pids("agent") == []


@pytest.mark.long
def test_a_nats_that_restarts_all_the_time_costs_counted_messages_alone(
    room: Path, nats: NatsServer
) -> None:
    with nodes(room, nats, "one", "two") as (one, two), client(one) as a, client(two) as b:
        join(a, b)
        before = [cluster_of(each)["counts"] for each in (one, two)]
        said = 0
        for _ in range(6):
            nats.kill()
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                said += 1
                a.say(f"line {said}")
                time.sleep(0.005)
            nats.start()
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                said += 1
                a.say(f"line {said}")
                time.sleep(0.005)
        for each in (one, two):
            wait_for(each, "connected", 1)
        eventually(lambda: a.ask("count") == "count 2", "both members")
        heard: list[int] = []
        for number in range(1000):
            # The last message, if it comes, reveals the gap before it.
            a.say(f"end {number}")
            with suppress(TimeoutError):
                while not (line := str(b.web.recv(timeout=0.2))).startswith("end"):
                    heard += [int(line.removeprefix("line "))]
                break
        assert heard == sorted(set(heard))
        lost = said + number - len(heard)

        def counted() -> int:
            after = [cluster_of(each)["counts"] for each in (one, two)]
            not_sent = after[0]["not_sent"] - before[0]["not_sent"]
            missed: int = after[1]["missed"] - before[1]["missed"]
            return int(not_sent) + missed

        # Agents send their counts to their gateway once a second.
        eventually(lambda: counted() == lost, f"{lost} of {said + number} counted as lost")
