from __future__ import annotations

from wsraw.link.records import Ask, Do, Done, Enough, More, Page
from wsraw.supervisor.control.forwarded import GONE, MOST, ForwardedRequests


class Between:
    """Requests between clients of the control socket and a gateway."""

    def __init__(self) -> None:
        self.told: list[Ask | More | Enough] = []
        self.answered: list[tuple[str, Done]] = []
        self.reads = True
        self.forwarded: ForwardedRequests[str] = ForwardedRequests(
            self.tell, lambda who, done: self.answered.append((who, done))
        )

    def tell(self, record: Ask | More | Enough) -> bool:
        if self.reads:
            self.told.append(record)
        return self.reads

    def begin(self, who: str, ref: int = 1) -> None:
        self.forwarded.begin(who, Do(ref, "connections", [], {"limit": 3}))


def test_each_request_has_a_number_of_its_own_at_the_gateway() -> None:
    between = Between()
    between.begin("a")
    between.begin("b")
    between.begin("a", 2)
    assert between.told == [Ask(n, "connections", {"limit": 3}) for n in (1, 2, 3)]
    between.forwarded.page(Page(3, True, "", "rows", more=True))
    between.forwarded.page(Page(2, False, "no"))
    assert between.answered == [
        ("a", Done(2, True, "", "rows", more=True)),
        ("b", Done(1, False, "no")),
    ]


def test_the_next_page_is_asked_for_until_the_last_one_has_come() -> None:
    between = Between()
    between.begin("a")
    between.forwarded.page(Page(1, True, more=True))
    between.forwarded.more("a", 1)
    between.forwarded.page(Page(1, True))
    assert between.told[1:] == [More(1)]
    between.forwarded.more("a", 1)
    assert between.told[2:] == []
    assert between.answered[-1] == ("a", Done(1, False, "request 1 is over"))
    # The client can use the number of the request again.
    between.begin("a")
    assert between.told[2:] == [Ask(2, "connections", {"limit": 3})]


def test_nobody_can_go_on_with_the_request_of_another() -> None:
    between = Between()
    between.begin("a")
    between.forwarded.more("b", 1)
    assert between.told[1:] == []
    assert between.answered == [("b", Done(1, False, "request 1 is over"))]


def test_the_gateway_is_told_when_whoever_asked_has_gone() -> None:
    between = Between()
    for who in ("a", "b", "a"):
        between.begin(who, len(between.told) + 1)
    between.forwarded.leave("a")
    assert between.told[3:] == [Enough(1), Enough(3)]
    between.forwarded.page(Page(1, True))
    between.forwarded.leave("a")
    assert between.answered == []
    assert len(between.told) == 5


def test_everybody_is_told_when_the_gateway_has_gone() -> None:
    between = Between()
    between.begin("a")
    between.begin("b")
    between.forwarded.end("it has gone")
    assert between.answered == [
        (who, Done(1, False, "it has gone", unanswered=True)) for who in "ab"
    ]
    between.forwarded.page(Page(1, True))
    between.forwarded.end("again")
    assert len(between.answered) == 2


def test_a_gateway_that_does_not_read_gets_no_request() -> None:
    between = Between()
    between.reads = False
    between.begin("a")
    assert between.answered == [
        ("a", Done(1, False, "the gateway does not answer now; try again", unanswered=True))
    ]
    between.reads = True
    between.begin("a")
    between.reads = False
    between.forwarded.more("a", 1)
    assert between.answered[1:] == [("a", Done(1, False, GONE, unanswered=True))]


def test_a_number_that_is_in_use_is_refused() -> None:
    between = Between()
    between.begin("a")
    between.begin("a")
    assert between.answered == [("a", Done(1, False, "request 1 is under way"))]


def test_requests_are_bounded() -> None:
    between = Between()
    for n in range(MOST + 1):
        between.begin("a", n)
    assert len(between.told) == MOST
    assert between.answered == [
        ("a", Done(MOST, False, f"{MOST} requests are under way; try again later", unanswered=True))
    ]
    between.forwarded.leave("a")
    between.begin("a")
    assert len(between.answered) == 1
