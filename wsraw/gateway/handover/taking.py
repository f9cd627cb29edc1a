"""I/O. The new gateway's side of a handover: it reports that it is ready, restores what the old one
sends, and serves when it is told to, or when the old one is dead. Until then it blocks."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any, Final

from wsraw.gateway.handover.channel import LAST, ChannelError, Frame, Receiver
from wsraw.gateway.handover.dialog import ADOPTED, LIVE, READY, REFUSED, Next, Taker, word
from wsraw.runtime.selector import READ, Selector

log = logging.getLogger("wsraw.gateway")

LONGEST_WAIT: Final = 3600.0
"""Seconds after which a wait for both sockets is repeated; the number does not matter."""


class Taking:
    """One handover. `take` gets each frame, and may raise ValueError with a text for people;
    `finish` is called after the last frame."""

    def __init__(
        self,
        words: socket.socket,
        records: socket.socket,
        take: Callable[[Frame], object],
        finish: Callable[[], dict[str, Any]],
    ) -> None:
        self._words = words
        self._records = records
        self._receiver = Receiver(records)
        self._take = take
        self._finish = finish
        self.taker = Taker()

    @property
    def why(self) -> str:
        """Why this gateway does not serve."""
        return self.taker.why

    def run(self, said: dict[str, Any]) -> bool:
        """Take over. Blocks. True: serve now, because the old gateway does not any more."""
        taker = self.taker
        self._say(word(READY, said))
        with Selector() as selector:
            selector.register(self._words, READ)
            selector.register(self._records, READ)
            while taker.over is None:
                for key, _ in selector.select(LONGEST_WAIT):
                    if key.fileobj is self._words:
                        if self._listen():
                            selector.unregister(self._words)
                    elif self._receive():
                        selector.unregister(self._records)
        serves = taker.over is Next.SERVE
        if serves:
            self._say(LIVE)
        self._words.close()
        self._receiver.close()
        return serves

    def _listen(self) -> bool:
        """Read words of the giver. True: there will be no more."""
        try:
            data = self._words.recv(65536)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            # It was closed before it had read all our words.
            data = b""
        if data:
            self.taker.receive(data)
            return False
        self.taker.end()
        if self._receiver.ended:
            self.taker.cut_off()
        return True

    def _receive(self) -> bool:
        """Take the frames that have arrived. True: there will be no more."""
        try:
            for frame in self._receiver.receive():
                if self.taker.over is not None:
                    return True
                if frame.kind != LAST:
                    self._take(frame)
                    continue
                counts = self._finish()
                if self.taker.adopted() is Next.WAIT:
                    self._say(word(ADOPTED, counts))
                return True
        except (ChannelError, ValueError) as error:
            self._refuse(str(error))
            return True
        except Exception as error:
            log.exception("what the old gateway has sent cannot be taken over")
            self._refuse(f"a bug in wsraw: {error!r}")
            return True
        if self._receiver.ended:
            self.taker.cut_off()
        return self._receiver.ended

    def _refuse(self, why: str) -> None:
        self._say(word(REFUSED, {"why": why}))
        self.taker.fail(why)

    def _say(self, data: bytes) -> None:
        try:
            # There is room: our words are few and short.
            self._words.send(data)
        except OSError:
            # The giver is gone; the end of its words shows that.
            pass
