"""Sans-I/O. Questions to the gateway: which ones wait for an answer, and how handlers wait for it.

A question is sent at once, before the commands of the event that is being handled. Its answer comes
as a notice. A question without an answer fails when the session ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, Final, Generic, NamedTuple, TypeVar

from wsraw.link.records import Answer, Mark, Query, Reached, Record, Refused

T = TypeVar("T")
U = TypeVar("U")

MOST_QUERIES: Final = 100
"""Queries that the gateway may have to answer at a time; others wait here."""

PATIENCE: Final = 10.0
"""Seconds that `Asked.result` waits by default."""

LOST: Final = "there is no gateway, or it was lost before it answered"


class Asked(Generic[T]):
    """A question to the gateway, and its answer once that has come.

    In an async handler, await it. A plain handler waits by `result`.
    """

    __slots__ = ("_ask", "_error", "_is_done", "_then", "_value", "_wait")

    def __init__(
        self,
        wait: Callable[[Callable[[], bool], float], None],
        ask: Callable[[], object] | None = None,
    ) -> None:
        """`ask` is called before waiting, if the question must be asked first."""
        self._wait = wait
        self._ask = ask
        self._is_done = False
        self._value: T
        self._error: Exception | None = None
        self._then: list[Callable[[], object]] = []

    def __await__(self) -> Generator[Any, None, T]:
        """Raises ConnectionError if the gateway is lost before it has answered, and ValueError if
        it refuses to, with the reason."""
        self._begin()
        if not self._is_done:
            # Imported here, because plain handlers do not use asyncio.
            from asyncio import get_running_loop

            future = get_running_loop().create_future()

            def wake() -> None:
                # Unless the waiting handler was cancelled.
                if not future.done():
                    future.set_result(None)

            self._then.append(wake)
            yield from future
        return self._get()

    def result(self, timeout: float | None = PATIENCE) -> T:
        """The answer, in a plain handler: its worker does nothing else until it has come.

        Raises TimeoutError after `timeout` seconds (None: never), ConnectionError if the gateway is
        lost, ValueError if it refuses to answer, and RuntimeError where a wait would stop an
        asyncio loop, in which the answer would never come: there, await it in an ``async def``.
        """
        self._begin()
        if not self._is_done:
            self._wait(lambda: self._is_done, float("inf") if timeout is None else timeout)
        if not self._is_done:
            raise TimeoutError(f"the gateway has not answered within {timeout:g} s")
        return self._get()

    def map(self, change: Callable[[T], U]) -> Asked[U]:
        """A question with the same answer in another form."""
        other: Asked[U] = Asked(self._wait, self._begin)

        def end() -> None:
            if self._error is not None:
                other.fail(self._error)
            else:
                other.set(change(self._value))

        if self._is_done:
            end()
        else:
            self._then.append(end)
        return other

    def set(self, value: T) -> None:
        """Set the answer."""
        self._value = value
        self._end()

    def fail(self, error: Exception) -> None:
        """Fail the question: no answer will come."""
        self._error = error
        self._end()

    def _begin(self) -> None:
        ask, self._ask = self._ask, None
        if ask is not None and not self._is_done:
            ask()

    def _end(self) -> None:
        self._is_done = True
        then, self._then = self._then, []
        for each in then:
            each()

    def _get(self) -> T:
        if self._error is not None:
            raise self._error
        return self._value


class Joined(NamedTuple):
    """The answer to a join with `since`."""

    epoch: str
    """Distinguishes the history of the group from an earlier one, from before the gateway was
    restarted or the group was forgotten. Empty if the connection is closed."""
    offset: int
    """The number of the last message that was published before the connection joined. Later
    messages have the following numbers."""
    recovered: bool
    """The connection was sent everything that was published since the position."""
    replayed: int
    """How many messages the connection was sent."""

    @property
    def position(self) -> str:
        """The position after the last message that was sent: the `since` of a later join."""
        return f"{self.epoch}:{self.offset}"


Then = Callable[[Answer | Reached | Refused | None], None]
"""Called with the answer, or with the reason why there is none; None if the session has ended."""


class Questions:
    """The questions of one worker. `send` sends a record at once and returns False without a
    session; it raises RuntimeError in a thread."""

    def __init__(self, send: Callable[[Record], bool]) -> None:
        self._send = send
        self.wait: Callable[[Callable[[], bool], float], None] = cannot_wait
        """Receives until the first argument returns True, or for this many seconds."""
        self._asked: dict[int, Then] = {}
        self._queries = 0
        """Queries among the questions."""
        self._uncounted: set[int] = set()
        """Marks, and commands to join, which do not count as queries."""
        self._queued: deque[tuple[Query, Then]] = deque()
        self._next = 1

    # --- out ---

    def members(self, group: str) -> Asked[list[int | str]]:
        """The ids of the connections in a group, in the order in which they joined; of those at
        other gateways the references."""
        return self._list("members", group)

    def user_connections(self, user: str) -> Asked[list[int | str]]:
        """The ids of a user's connections, in the order in which they were bound; for those at
        other gateways, their references."""
        return self._list("user_connections", user)

    def _list(self, what: str, name: str) -> Asked[list[int | str]]:
        asked: Asked[list[int | str]] = Asked(self.wait)
        ids: dict[int | str, None] = {}

        def take(answer: Answer | Reached | Refused | None) -> None:
            if not isinstance(answer, Answer):
                asked.fail(_failure(answer))
                return
            # A connection that left and joined again meanwhile is listed twice.
            ids.update(dict.fromkeys(answer.value))
            if answer.next:
                self._query(what, name, answer.next, take)
            else:
                asked.set(list(ids))

        self._query(what, name, 0, take)
        return asked

    def count(self, group: str) -> Asked[int]:
        """How many connections are in a group."""
        return self._ask("count", group)

    def users(self, group: str) -> Asked[dict[str, int]]:
        """The users in a group, and how many connections each has there."""
        return self._ask("users", group)

    def buffered(self, con: int) -> Asked[int]:
        """The bytes that wait at the gateway for a connection."""
        return self._ask("buffered", "", con)

    def turn(self, name: str, seconds: float, then: Callable[[float | None], None]) -> None:
        """Ask to be the one worker of the pool that calls a timer: `then` gets the seconds until it
        should ask again, 0 to call it now, or None without a gateway."""

        def take(answer: Answer | Reached | Refused | None) -> None:
            then(answer.value if isinstance(answer, Answer) else None)

        self._query("turn", name, round(seconds * 1000), take)

    def drained(self, con: int) -> Asked[bool]:
        """Whether everything sent to a connection so far is written: True once it is, False once
        the connection is closed."""
        asked: Asked[bool] = Asked(self.wait)

        def take(answer: Answer | Reached | Refused | None) -> None:
            if isinstance(answer, Reached):
                asked.set(answer.written)
            else:
                asked.fail(_failure(answer))

        ref = self._ref(take)
        self._uncounted.add(ref)
        if not self._send(Mark(con, ref)):
            self.not_asked(ref)
        return asked

    def joined(self, ask: Callable[[], object]) -> tuple[int, Asked[Joined]]:
        """The number for a join command with an answer, and that answer. `ask` sends the
        command."""
        asked: Asked[Joined] = Asked(self.wait, ask)

        def take(answer: Answer | Reached | Refused | None) -> None:
            if not isinstance(answer, Answer):
                asked.fail(_failure(answer))
            elif isinstance(answer.value, str):
                asked.fail(ValueError(answer.value))
            else:
                asked.set(Joined(*answer.value))

        ref = self._ref(take)
        self._uncounted.add(ref)
        return ref, asked

    def not_asked(self, ref: int) -> None:
        """A join command was not sent, so there is no answer."""
        self._uncounted.discard(ref)
        then = self._asked.pop(ref, None)
        if then is not None:
            then(None)

    def _ask(self, what: str, arg: str = "", number: int = 0) -> Asked[Any]:
        asked: Asked[Any] = Asked(self.wait)

        def take(answer: Answer | Reached | Refused | None) -> None:
            if isinstance(answer, Answer):
                asked.set(answer.value)
            else:
                asked.fail(_failure(answer))

        self._query(what, arg, number, take)
        return asked

    def _query(self, what: str, arg: str, number: int, then: Then) -> None:
        query = Query(0, what, arg, number)
        if self._queries >= MOST_QUERIES:
            self._queued.append((query, then))
        else:
            self._put(query, then)

    def _put(self, query: Query, then: Then) -> None:
        query.ref = self._ref(then)
        self._queries += 1
        if not self._send(query):
            del self._asked[query.ref]
            self._queries -= 1
            then(None)

    def _ref(self, then: Then) -> int:
        ref = self._next
        self._next = ref + 1
        self._asked[ref] = then
        return ref

    # --- in ---

    def refused(self, refused: Refused) -> bool:
        """The gateway has refused a question, with the reason; False if it was not one of ours."""
        if refused.ref not in self._asked:
            return False
        self.answered(refused)
        return True

    def answered(self, answer: Answer | Reached | Refused) -> None:
        """An answer has come."""
        then = self._asked.pop(answer.ref, None)
        if then is None:
            return
        if answer.ref in self._uncounted:
            self._uncounted.discard(answer.ref)
        else:
            self._queries -= 1
        then(answer)
        while self._queued and self._queries < MOST_QUERIES:
            self._put(*self._queued.popleft())

    def lost(self) -> None:
        """The session is over: unanswered questions fail."""
        lost: Iterable[Then] = [*self._asked.values(), *(then for _, then in self._queued)]
        self._asked.clear()
        self._uncounted.clear()
        self._queued.clear()
        self._queries = 0
        for then in lost:
            then(None)


def _failure(answer: Answer | Reached | Refused | None) -> Exception:
    """The exception for those who wait for an answer that does not come."""
    return ValueError(answer.why) if isinstance(answer, Refused) else ConnectionError(LOST)


def cannot_wait(is_done: Callable[[], bool], seconds: float) -> None:
    """Raise RuntimeError: where an asyncio loop runs, the answer is awaited."""
    raise RuntimeError(
        "result() is for plain handlers of a worker without async ones: "
        "here, await the answer in an async def"
    )
