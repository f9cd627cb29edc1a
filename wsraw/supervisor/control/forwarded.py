"""Sans-I/O. Requests of the command line that the gateway answers, page by page.

The gateway sends a page when it is asked for one, so that no buffer fills up for a slow reader. If
the command line has gone, the gateway is told to send no more; if the gateway has gone, all waiting
requests are answered with an error.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from wsraw.link.records import Ask, Do, Done, Enough, More, Page

W = TypeVar("W", bound=Hashable)

MOST: Final = 64
"""Requests in progress at a time."""

GONE: Final = "the gateway has ended, or does not answer any more"
"""The error for requests whose gateway has gone. Which of the two it is shows only later."""


class ForwardedRequests(Generic[W]):
    """The requests that the gateway works on. `tell` returns False if no gateway reads; `answer`
    gets the link that asked, and the answer."""

    def __init__(
        self,
        tell: Callable[[Ask | More | Enough], bool],
        answer: Callable[[W, Done], object],
    ) -> None:
        self._tell = tell
        self._answer = answer
        self._last = 0
        self._asked: dict[int, tuple[W, int]] = {}
        """The link that asked, and its request number, by the number that the gateway knows."""
        self._numbers: dict[tuple[W, int], int] = {}

    def begin(self, who: W, do: Do) -> None:
        """Pass a request on to the gateway."""
        why = ""
        if (who, do.ref) in self._numbers:
            self._answer(who, Done(do.ref, False, f"request {do.ref} is under way"))
            return
        if len(self._asked) >= MOST:
            why = f"{MOST} requests are under way; try again later"
        elif not self._tell(Ask(self._last + 1, do.what, do.options)):
            why = "the gateway does not answer now; try again"
        if why:
            self._answer(who, Done(do.ref, False, why, unanswered=True))
            return
        self._last += 1
        self._asked[self._last] = who, do.ref
        self._numbers[who, do.ref] = self._last

    def more(self, who: W, ref: int) -> None:
        """Ask the gateway for the next page."""
        number = self._numbers.get((who, ref))
        if number is None:
            self._answer(who, Done(ref, False, f"request {ref} is over"))
        elif not self._tell(More(number)):
            self._forget(number)
            self._answer(who, Done(ref, False, GONE, unanswered=True))

    def page(self, page: Page) -> None:
        """Handle the gateway's answer. If the link that asked was lost in between, nobody waits for
        it."""
        if page.ref in self._asked:
            who, ref = self._asked[page.ref]
            if not page.more:
                self._forget(page.ref)
            self._answer(who, Done(ref, page.ok, page.text, page.data, page.more))

    def leave(self, who: W) -> None:
        """Forget the requests of a client that has gone."""
        for number in [n for n, (each, _) in self._asked.items() if each == who]:
            self._forget(number)
            self._tell(Enough(number))

    def end(self, why: str) -> None:
        """The gateway has gone: answer all requests."""
        for number, (who, ref) in list(self._asked.items()):
            self._forget(number)
            self._answer(who, Done(ref, False, why, unanswered=True))

    def _forget(self, number: int) -> None:
        del self._numbers[self._asked.pop(number)]
