from __future__ import annotations

from typing import Any

import pytest

from tests.tools.top.played import by_hand, figures, gateway, handler, pool, silent, totals, worker
from wsraw.tools.display_width import cells
from wsraw.tools.top.rates import Meter
from wsraw.tools.top.view import ALARM, HEADING, lines

WIDTHS = range(20, 201)


def measured(now: dict[str, Any], before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Figures with the rates of two seconds, or without rates."""
    meter = Meter()
    if before is not None:
        meter.measure(0.0, before)
    return meter.measure(2.0, now)


def view(now: dict[str, Any], width: int = 100, height: int = 0, **more: str) -> list[str]:
    found = lines(measured(now, figures()), "12:00:03", width, height, **more)
    return [line.text for line in found]


def busy(workers: int = 2) -> dict[str, Any]:
    return figures(
        listen=["ws://127.0.0.1:8000", "tcp://127.0.0.1:8000"],
        gateway=gateway(
            totals=[totals(received=24690, received_bytes=3 << 20, sent=3, sent_bytes=100,
                           closed={"peer": 4})],
            accepted={"127.0.0.1:8000": 20},
            paused=2, paused_longest=5.0, unwritten=3, bytes=1 << 28, crowded=True,
            limits={"message_rate": 1120, "byte_rate": 5},
            loop={"turns": 1, "seconds": 0.5, "long": [], "lag": 0.012},
        ),
        pools=[pool(acked=2000, in_flight=5, longest_in_flight=0.25, parked=7, longest_parked=3.0)],
        workers=[worker(n, acked=10 * n, in_flight=n, oldest=n / 10)
                 for n in range(1, workers + 1)],
    )  # fmt: skip


def test_a_run_is_shown_on_a_usual_terminal() -> None:
    assert view(busy(), 80) == [
        "12:00:03   pid 40   up 1.0 min   ws://127.0.0.1:8000   tcp://127.0.0.1:8000",
        "",
        "messages      in 12,345/s   out 1.5/s",
        "data          in 1.5 MiB/s   out 50 bytes/s",
        "connections   4   accepted 10/s   closed 2/s   websocket 3   raw 1",
        "              sockets 4 of 18,000",
        "slow clients  output waiting 3   paused 2 (longest 5.0 s)",
        "memory        256.0 MiB of 1.0 GiB (25%)   crowded   process 29.6 MiB",
        "loop          busy 25%   late by 12 ms",
        "limits        byte_rate 5 (+5)   message_rate 1,120 (+1,120)",
        "",
        "pool     ready    acked  in flight  parked  oldest  waiting  connections",
        "default    2/2  1,000/s          5       7   3.0 s        0            4",
        "",
        "worker  state  acked  in flight  window  oldest    memory  restarts  runs",
        "1       ready    5/s          1       4  100 ms  23.8 MiB         0  chat.py",
        "2       ready   10/s          2       4  200 ms  23.8 MiB         0  chat.py",
    ]


def test_a_run_is_shown_on_a_narrow_terminal() -> None:
    assert view(busy(), 40) == [
        "12:00:03   pid 40   up 1.0 min",
        "  ws://127.0.0.1:8000",
        "  tcp://127.0.0.1:8000",
        "",
        "messages  in 12,345/s  out 1.5/s",
        "data  in 1.5 MiB/s  out 50 bytes/s",
        "connections  4  accepted 10/s",
        "  closed 2/s  websocket 3  raw 1",
        "  sockets 4 of 18,000",
        "slow clients  output waiting 3",
        "  paused 2 (longest 5.0 s)",
        "memory  256.0 MiB of 1.0 GiB (25%)",
        "  crowded  process 29.6 MiB",
        "loop  busy 25%  late by 12 ms",
        "limits  byte_rate 5 (+5)",
        "  message_rate 1,120 (+1,120)",
        "",
        "pool     ready    acked  parked  oldest",
        "default    2/2  1,000/s       7   3.0 s",
        "",
        "worker  state  acked  in flight  oldest",
        "1       ready    5/s          1  100 ms",
        "2       ready   10/s          2  200 ms",
    ]


def test_an_answer_without_rates_has_dashes() -> None:
    found = [line.text for line in lines(measured(figures()), "12:00:03", 80)]
    assert "messages      in -   out -" in found
    assert "loop          busy -   late by 1 ms" in found
    assert "limits        none reached" in found


def test_what_cannot_be_right_is_shown_all_the_same() -> None:
    """A loop may seem to have worked longer than the time that passed, as two clocks differ."""
    late = gateway(loop={"turns": 1, "seconds": 2.1, "long": [], "lag": 0.0}, memory_limit=0)
    found = view(figures(gateway=late))
    assert "loop          busy 100%   late by 0" in found
    assert "memory        0 bytes of 0 bytes   process 29.6 MiB" in found


CASES = {
    "idle": figures(),
    "busy": busy(40),
    "silent": silent(),
    "empty": figures(workers=[], pools=[pool(workers_wanted=0, ready=0)], listen=[]),
    "many pools": figures(pools=[pool(name=f"pool-{n}") for n in range(30)]),
    "remote": figures(by_hand=[by_hand(address="10.0.0.7:5000", key="laptop" * 9), by_hand()]),
    "wide": figures(
        workers=[worker(runs="蛇" * 50), worker(2, pool="c\u0301" * 30)],
        problems=["蛇 " * 80, "x" * 300],
        listen=["unix:/" + "蛇" * 70],
    ),
    "hostile": figures(
        workers=[worker(runs="\x1b[2J\nx\ty\u202e"), worker(2, state="hung")],
        by_hand=[by_hand(key="\x07\x9b1m", address="a\r\nb", language="\x1b]0;x\x07")],
        pools=[pool(name="a\x1b[31m\nb")],
        gateway=gateway(limits={"a\x1b\n": 1}),
        problems=["the pool a\x1b[31m\nb has no ready worker"],
        listen=["unix:/\x1b[2J\n"],
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("trouble", ["", "the run does not answer: " + "why\x1b " * 20])
def test_every_line_fits_and_has_no_control_characters(case: str, trouble: str) -> None:
    for state in (measured(CASES[case]), measured(CASES[case], figures())):
        for width in WIDTHS:
            for line in lines(state, "12:00:03", width, 0, trouble, "q: quit"):
                assert sum(map(cells, line.text)) <= width, line
                assert not any(char < " " or "\x7f" <= char <= "\x9f" for char in line.text)
                assert "\u202e" not in line.text
                assert line.text == line.text.rstrip()


@pytest.mark.parametrize("case", CASES)
def test_there_are_never_more_lines_than_the_screen_has(case: str) -> None:
    for width in (20, 40, 80, 200):
        whole = lines(measured(CASES[case]), "12:00:03", width)
        for height in range(1, 80):
            found = lines(measured(CASES[case]), "12:00:03", width, height)
            assert len(found) <= height
            if len(whole) <= height:
                assert found == whole


def test_the_names_of_pools_and_workers_are_shown_on_every_screen() -> None:
    for width in WIDTHS:
        found = view(busy(), width)
        for start in ("pool", "default", "worker", "1 ", "2 "):
            assert any(line.startswith(start) for line in found), (width, start)


def test_a_wider_screen_never_shows_fewer_columns() -> None:
    shown = [next(line for line in view(busy(), width) if line.startswith("worker"))
             for width in WIDTHS]  # fmt: skip
    counts = [len([part for part in line.split("  ") if part]) for line in shown]
    assert counts[0] == 3
    assert counts[-1] == 9
    assert counts == sorted(counts)


def test_workers_that_need_a_look_are_shown_first_where_there_is_no_room() -> None:
    state = busy(40)
    state["workers"][7] |= {"state": "hung"}
    state["workers"][2] |= {"oldest": 100.0}
    found = view(state, 80, 20)
    assert len(found) == 20
    assert [line.split()[0] for line in found[15:19]] == ["3", "8", "39", "40"]
    assert found[19] == "… 36 more, with less to do"


def test_the_pool_of_a_worker_is_shown_if_there_are_several() -> None:
    assert not any(" pool " in line for line in view(figures()))
    found = view(figures(workers=[worker(), worker(2, pool="chat")]))
    assert any("  pool " in line for line in found)


def test_workers_by_hand_are_named() -> None:
    state = figures(by_hand=[by_hand(), by_hand(address="10.0.0.7:50", key="den"),
                             by_hand(address="10.0.0.8:50")])  # fmt: skip
    found = view(state)
    for name in ("by hand", "den at 10.0.0.7:50", "10.0.0.8:50"):
        assert any(line.startswith(name) for line in found)


def test_a_gateway_that_does_not_answer_is_shown_without_its_figures() -> None:
    found = lines(measured(silent(), figures()), "12:00:03", 80)
    assert found[1].text == "the gateway does not answer"
    assert found[1].style == ALARM
    texts = [line.text for line in found]
    assert not any(text.startswith("messages") for text in texts)
    assert "default    -/2      -          -       -       -        -            -" in texts


def test_trouble_is_shown_above_the_last_answer() -> None:
    found = lines(measured(figures()), "12:00:03", 80, trouble="the run has ended")
    assert [(line.text, line.style) for line in found[:3]] == [
        ("the run has ended", ALARM),
        ("the last answer:", ""),
        ("12:00:03   pid 40   up 1.0 min   ws://127.0.0.1:8000", HEADING),
    ]


def test_trouble_from_the_beginning_is_all_that_is_shown() -> None:
    found = lines(None, "12:00:03", 20, trouble="the run does not answer: no answer within 3 s")
    assert [line.text for line in found] == [
        "the run does not", "  answer: no answer", "  within 3 s",
    ]  # fmt: skip


def test_a_reload_is_shown() -> None:
    assert "reloading" in view(figures(reloading=True))


@pytest.mark.parametrize("state", ["hung", "dead"])
def test_a_worker_that_does_not_serve_is_an_alarm(state: str) -> None:
    found = lines(measured(figures(workers=[worker(), worker(2, state=state)])), "", 80)
    assert [line.style for line in found[-2:]] == ["", ALARM]


def test_a_pool_without_a_ready_worker_is_an_alarm() -> None:
    found = lines(measured(figures(pools=[pool(), pool(name="chat", ready=0)], workers=[])), "", 80)
    assert [line.style for line in found[-2:]] == ["", ALARM]
    assert found[-1].text.startswith("chat")


def test_the_slowest_handlers_are_shown_and_those_that_raise_stand_out() -> None:
    handlers = {
        "on_message": handler(calls=200, seconds=1.0, slower=[0] * 6 + [200] + [0] * 9),
        "on_close": handler(calls=3, exceptions=3),
        "on_error": handler(),
    }
    found = lines(measured(figures(pools=[pool(handlers=handlers)]), figures()), "x", 80)
    at = next(n for n, line in enumerate(found) if line.text.startswith("handler"))
    assert [line.text for line in found[at : at + 4]] == [
        "handler     calls  mean       p99  exceptions",
        "on_message  100/s  5 ms     25 ms         0/s",
        "on_close    1.5/s     0  0.099 ms       1.5/s",
        "",
    ]
    assert [line.style for line in found[at : at + 3]] == [HEADING, "", ALARM]


def test_no_more_handlers_than_have_room_are_shown() -> None:
    names = ("on_connect", "on_message", "on_request", "on_error", "on_close", "on_start", "every")
    pools = [
        pool(name=name, handlers=dict.fromkeys(names, handler(calls=2))) for name in ("a", "b")
    ]
    before = figures(pools=[pool(name="a"), pool(name="b")])
    found = [line.text for line in lines(measured(figures(pools=pools), before), "x", 80)]
    at = next(n for n, text in enumerate(found) if text.startswith("handler"))
    assert found[at].endswith("pool")
    assert found[at + 7] == ""


def test_slow_clients_are_named() -> None:
    row = {"id": 68719476737, "output": 431_000, "last_out": 2.1, "peer": "h:1", "path": "/a"}
    data = measured(figures(pools=[pool()])) | {"slow_clients": [row | {"pool": "default"}]}
    found = [line.text for line in lines(data, "x", 80)]
    at = next(n for n, text in enumerate(found) if text.startswith("slow client "))
    assert found[at + 1].split() == [
        "68719476737",
        "420.9",
        "KiB",
        "2.1",
        "s",
        "h:1",
        "/a",
        "default",
    ]
