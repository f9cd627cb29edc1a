"""One connection of `wsraw connect`, from its opening to its exit code."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Final

from websockets.exceptions import ConnectionClosed

from wsraw.tools.connect import sources
from wsraw.tools.connect.channels import Channel, Ended, Message
from wsraw.tools.connect.dialing import NotConnectedError, open_channel, tls_context
from wsraw.tools.connect.output import Interactive, Json, Output, Plain
from wsraw.tools.connect.plan import Plan
from wsraw.tools.connect.sources import Source
from wsraw.tools.connect.typed import HELP, Close, Help, Item, Mistake, Ping, Say

OK: Final = 0
WRONG_INPUT: Final = 2
LOST: Final = 3
"""The connection was lost, or closed with a code that is not normal."""
TOO_FEW: Final = 4
"""Fewer messages than --count have come."""
INTERRUPTED: Final = 130

CLOSING: Final = 2.0
"""Seconds that the peer may take to close."""


def main(plan: Plan) -> int:
    """Connect, and stay until the end; returns the exit code.

    Raises NotConnectedError and PlanError.
    """
    is_interactive = (
        plan.commands is None and not plan.as_json and _is_terminal(0) and _is_terminal(1)
    )
    context = tls_context(plan)
    ready = sources.given(plan, plan.commands) if plan.commands is not None else None
    output: Output = (
        Json() if plan.as_json else Interactive() if is_interactive else Plain(binary=plan.binary)
    )

    async def connect() -> int:
        channel = await open_channel(plan, context, by_lines=is_interactive)
        output.opened(plan, channel)
        reads = sources.terminal if is_interactive else sources.piped
        source = ready if ready is not None else reads(plan)
        try:
            return await Session(plan, channel, source, output, is_interactive).run()
        finally:
            source.close()

    try:
        return asyncio.run(connect())
    except NotConnectedError as error:
        output.failed(str(error))
        raise
    except KeyboardInterrupt:
        if is_interactive:
            print()
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout wants no more (`| head -1`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return OK


def _is_terminal(descriptor: int) -> bool:
    stream = (sys.stdin, sys.stdout)[descriptor]
    return stream is not None and stream.isatty()


class Session:
    """An open connection, its input and its output."""

    def __init__(
        self,
        plan: Plan,
        channel: Channel,
        source: Source,
        output: Output,
        is_interactive: bool,
    ) -> None:
        self._plan = plan
        self._channel = channel
        self._source = source
        self._output = output
        self._is_interactive = is_interactive
        self._count = 0
        self._enough = asyncio.Event()
        self._last = time.monotonic()
        """When something was sent or has come."""
        self._pings: set[asyncio.Task[None]] = set()
        self._wrong_input = ""

    async def run(self) -> int:
        """Send and show until the end; returns the exit code."""
        receiving = asyncio.create_task(self._receive())
        try:
            ended = await self._until_end(receiving)
        except BaseException:
            # After an interrupt, the peer must learn that we leave.
            await self._close(receiving, 1000, "")
            raise
        finally:
            for task in (receiving, *self._pings):
                task.cancel()
        # No prompt may follow the last line.
        self._source.close()
        self._output.ended(ended)
        if self._wrong_input:
            self._output.notice(f"wsraw: {self._wrong_input}")
            return WRONG_INPUT
        if self._count < self._plan.count:
            self._output.notice(f"wsraw: {self._count} of {self._plan.count} messages have arrived")
            return TOO_FEW
        return OK if ended.is_normal else LOST

    async def _until_end(self, receiving: asyncio.Task[Ended]) -> Ended:
        sending = asyncio.create_task(self._send_all())
        enough = asyncio.create_task(self._enough.wait())
        try:
            await asyncio.wait({receiving, sending, enough}, return_when="FIRST_COMPLETED")
            closing = Close(1000, "")
            if sending.done() and not receiving.done():
                asked = sending.result()
                if not self._is_interactive and not self._wrong_input:
                    if asked is None:
                        await self._channel.end_input()
                    # Answers to what was sent before a close come first.
                    await self._until_silence(receiving, enough)
                closing = asked or closing
            return await self._close(receiving, *closing)
        finally:
            for task in (sending, enough):
                task.cancel()

    async def _close(self, receiving: asyncio.Task[Ended], code: int, reason: str) -> Ended:
        """Close; return how the connection has ended, which may have happened in another way by
        now."""
        if not receiving.done():
            try:
                async with asyncio.timeout(CLOSING):
                    await self._channel.close(code, reason)
                    return await asyncio.shield(receiving)
            except TimeoutError:
                return Ended(
                    "us", None, "", "closed by this client; the peer has not answered", True
                )
        return receiving.result()

    async def _until_silence(
        self, receiving: asyncio.Task[Ended], enough: asyncio.Task[bool]
    ) -> None:
        """Wait for answers until none has come for the plan's `wait` seconds."""
        self._last = max(self._last, time.monotonic())
        while not (receiving.done() or enough.done()):
            left = self._last + self._plan.wait - time.monotonic()
            if self._plan.wait and left <= 0:
                return
            await asyncio.wait(
                {receiving, enough},
                timeout=left if self._plan.wait else None,
                return_when="FIRST_COMPLETED",
            )

    # --- what comes ---

    async def _receive(self) -> Ended:
        while True:
            received = await self._channel.receive()
            if isinstance(received, Ended):
                return received
            if self._enough.is_set():
                continue
            self._last = time.monotonic()
            self._output.message(received)
            self._count += _count(received)
            if self._plan.count and self._count >= self._plan.count:
                self._enough.set()

    # --- what is sent ---

    async def _send_all(self) -> Close | None:
        """Send until the input ends, or asks to close."""
        while (item := await self._source.next()) is not None:
            if isinstance(item, Close):
                return item
            if isinstance(item, Mistake) and not self._is_interactive:
                self._wrong_input = item.text
                return None
            try:
                await self._do(item)
            except (ConnectionClosed, OSError):
                # The receiving side reports how the connection has ended.
                await asyncio.Event().wait()
            self._last = time.monotonic()
        return None

    async def _do(self, item: Item) -> None:
        match item:
            case Say(data):
                await self._channel.send(data)
            case Ping(data):
                task = asyncio.create_task(self._ping(data))
                self._pings.add(task)
                task.add_done_callback(self._pings.discard)
                # The ping is sent before later data.
                await asyncio.sleep(0)
            case Help():
                self._output.notice(HELP)
            case Mistake(text):
                self._output.notice(text)

    async def _ping(self, data: bytes) -> None:
        try:
            seconds = await self._channel.ping(data)
        except (ConnectionClosed, RuntimeError):
            return  # Closed before the answer, or the same data is on its way already.
        self._last = time.monotonic()
        self._output.pong(seconds)


def _count(message: Message) -> int:
    """Count a message. A stream has no messages, so its lines are counted."""
    if message.kind == "raw":
        assert isinstance(message.data, bytes)
        return message.data.count(b"\n")
    return 1
