"""Sans-I/O. Requests of the command line that the gateway answers, page by page.

The gateway sends a page when it is asked for one, so that nothing fills up between it and somebody
who reads slowly. If whoever asked has gone, the gateway is told to stop; if the gateway has gone,
everybody who waits for it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from wsraw.link.records import Ask, Do, Done, Enough, More, Page

W = TypeVar("W", bound=Hashable)

MOST: Final = 64
"""Requests under way at a time."""

GONE: Final = "the gateway has ended, or does not answer any more"
"""What those are told who wait for it. Which of the two it is shows only later."""


class ForwardedRequests(Generic[W]):
    """All requests that the gateway has. `tell` returns False if there is no gateway that reads;
    `answer` gets who asked, and what."""

    def __init__(
        self,
        tell: Callable[[Ask | More | Enough], bool],
        answer: Callable[[W, Done], object],
    ) -> None:
        self._tell = tell
        self._answer = answer
        self._last = 0
        self._asked: dict[int, tuple[W, int]] = {}
        """Who asked, and under which number, by the number that the gateway knows."""
        self._numbers: dict[tuple[W, int], int] = {}

    def begin(self, who: W, do: Do) -> None:
        """Pass a request on to the gateway."""
        why = ""
        if (who, do.ref) in self._numbers:
            why = f"request {do.ref} is under way"
        elif len(self._asked) >= MOST:
            why = f"{MOST} requests are under way; try again later"
        elif not self._tell(Ask(self._last + 1, do.what, do.options)):
            why = "the gateway does not answer now; try again"
        if why:
            self._answer(who, Done(do.ref, False, why))
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
            self._answer(who, Done(ref, False, GONE))

    def page(self, page: Page) -> None:
        """The gateway has answered. Nobody waits for it if its link was lost in between."""
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
        """The gateway has gone: answer everybody."""
        for number, (who, ref) in list(self._asked.items()):
            self._forget(number)
            self._answer(who, Done(ref, False, why))

    def _forget(self, number: int) -> None:
        del self._numbers[self._asked.pop(number)]
