from __future__ import annotations

from wsraw.gateway.delivery.suspects import Suspects
from wsraw.link.records import Event, OnMessage
from wsraw.link.window import InFlight


def event() -> OnMessage:
    return OnMessage(1, 7, b"x", "raw")


def flight(of: Event) -> InFlight:
    return InFlight(of, None, 1, 0.0)


def knows_any(suspicion: Suspects) -> bool:
    return bool(suspicion.deaths or suspicion.losses)


def test_an_event_is_poison_after_max_deliveries_deaths_alone() -> None:
    suspicion, one = Suspects(3), flight(event())
    assert [suspicion.blame(one, alone) for alone in (True, False, False)] == [0, 0, 0]
    assert one.event in suspicion
    assert suspicion.blame(one, True) == 4, "all deaths are told, those in company too"
    assert one.event not in suspicion
    assert not knows_any(suspicion)


def test_the_number_of_deaths_until_poison_is_exact() -> None:
    suspicion, one = Suspects(2), flight(event())
    assert (suspicion.blame(one, True), suspicion.blame(one, True)) == (0, 2)
    assert Suspects(1).blame(one, True) == 1
    assert Suspects(1).blame(one, False) == 0


def test_events_are_told_apart_even_if_they_are_equal() -> None:
    suspicion, one, other = Suspects(2), event(), event()
    assert one == other
    suspicion.blame(flight(one), False)
    assert (one in suspicion, other in suspicion) == (True, False)
    suspicion.clear(other)
    assert knows_any(suspicion)
    suspicion.clear(one)
    assert not knows_any(suspicion)
    assert suspicion.blame(flight(one), True) == 0, "an ack forgets the deaths before"


def test_an_event_that_always_breaks_its_link_becomes_poison() -> None:
    """The event is not a suspect before the last loss that counts, as networks fail without any
    event's fault.
    """
    suspicion, one, other = Suspects(3), flight(event()), flight(event())
    assert (suspicion.blame(one, False, lost=True), suspicion.blame(other, False, lost=True)) == (
        0,
        0,
    )
    assert one.event not in suspicion
    assert knows_any(suspicion), "an ack must clear it"
    suspicion.clear(other.event)
    assert suspicion.blame(one, False, lost=True) == 0
    assert one.event in suspicion, "the next time it goes alone"
    assert suspicion.blame(one, False, lost=True) == 0
    assert suspicion.blame(one, True, lost=True) == 4
    assert not knows_any(suspicion)
    assert suspicion.blame(other, True, lost=True) == 0, "its ack has forgotten the loss before"


def test_lost_links_are_not_counted_as_deaths() -> None:
    suspicion, one = Suspects(3), flight(event())
    for _ in range(2):
        assert suspicion.blame(one, False, lost=True) == 0
    assert suspicion.blame(one, True) == 0
    assert suspicion.blame(one, True, lost=True) == 3


def test_a_death_that_was_none_is_taken_back() -> None:
    suspicion, one, other, cleared = Suspects(3), event(), event(), event()
    suspicion.blame(flight(one), False)
    for each in (one, other, cleared):
        suspicion.blame(flight(each), False)
    suspicion.clear(cleared)
    suspicion.forgive([one, other, cleared])
    assert suspicion.deaths == {id(one): 1}, "the earlier one counts"
