"""The features of nats-py that the agent relies on, in the installed version."""

from __future__ import annotations

import asyncio
import tracemalloc
from importlib import metadata
from typing import TYPE_CHECKING

from tests.deadline import DEADLINE
from tests.e2e.cluster.nats_server import NatsServer
from tests.e2e.serving import linux

if TYPE_CHECKING:
    from nats.aio.client import Client

pytestmark = linux

SUBJECTS = 2000


async def until(condition: object, what: str) -> None:
    assert callable(condition)
    for _ in range(int(DEADLINE * 20)):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}")


async def reached(speaker: Client, subject: str, heard: list[tuple[str, bytes]]) -> None:
    """Wait until the server knows the last subscription, and until all test messages have
    arrived.
    """
    heard.clear()
    while (subject, b"there") not in heard:
        await speaker.publish(subject, b"there?")
        await asyncio.sleep(0.05)
        if heard:
            await speaker.publish(subject, b"there")
            await until(lambda: heard[-1] == (subject, b"there"), "the last of it")
    heard.clear()


def test_one_sink_takes_the_messages_of_all_subscriptions(nats: NatsServer) -> None:
    """A node may have tens of thousands of subscriptions, so each one must need little memory."""
    asyncio.run(_listen_to_many(nats))


async def _listen_to_many(nats: NatsServer) -> None:
    from nats.aio.client import Client

    from wsraw.cluster.bus import Bus, Servers

    heard: list[tuple[str, bytes]] = []
    ups: list[bool] = []
    bus = Bus(
        Servers((nats.url,), "test"),
        lambda subject, data: heard.append((subject, data)),
        lambda: ups.append(True),
        lambda: ["first"],
    )
    task = asyncio.get_running_loop().create_task(bus.run())
    speaker = Client()
    await speaker.connect(nats.url)
    try:
        await until(lambda: ups, "a connection")
        bus.subscribe("warm.up", True)
        await until(lambda: len(bus._subscribed) == 2, "a subscription")
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for n in range(SUBJECTS):
                bus.subscribe(f"s.{n}", True)
            await until(lambda: len(bus._subscribed) == SUBJECTS + 2, "all subscriptions")
            each = (tracemalloc.get_traced_memory()[0] - before) / SUBJECTS
        finally:
            tracemalloc.stop()
        assert each < 1024, (
            f"nats-py {metadata.version('nats-py')} takes {each:.0f} bytes for a subscription: "
            "look what Bus._listen can leave out"
        )
        await reached(speaker, f"s.{SUBJECTS - 1}", heard)
        wanted = [(f"s.{n}", b"%d" % n) for n in range(SUBJECTS)] * 2
        for subject, data in [*wanted, ("nobody", b""), ("first", b"end")]:
            await speaker.publish(subject, data)
        await speaker.flush()
        await until(lambda: len(heard) > len(wanted), "all messages, each given to the one sink")
        assert heard == [*wanted, ("first", b"end")]
        for n in range(SUBJECTS):
            bus.subscribe(f"s.{n}", False)
        await until(lambda: len(bus._subscribed) == 2, "fewer subscriptions")
        nats.kill()
        nats.start()
        await until(lambda: len(ups) == 2, "another connection")
        await until(lambda: speaker.is_connected, "the speaker")
        await reached(speaker, "warm.up", heard)
        for subject in ("s.1", "first", "warm.up"):
            await speaker.publish(subject, b"again")
        await until(lambda: len(heard) > 1, "what is still listened to")
        assert heard == [("first", b"again"), ("warm.up", b"again")]
    finally:
        task.cancel()
        await speaker.close()
        await asyncio.gather(task, return_exceptions=True)


def test_an_error_without_a_text_is_put_into_words() -> None:
    asyncio.run(_hear_of_errors())


async def _hear_of_errors() -> None:
    from wsraw.cluster.bus import Bus, Servers

    bus = Bus(Servers((), "test"), lambda subject, data: None, lambda: None, list)
    for error, why in ((TimeoutError(), "no answer in time"), (OSError("refused"), "refused")):
        await bus._error(error)
        assert bus.why == why
