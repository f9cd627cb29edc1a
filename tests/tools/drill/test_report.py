from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import pytest

from wsraw.tools.drill.plan import Plan
from wsraw.tools.drill.report import BREACHES, LABELS, Report


def report(plan: Plan | None = None, failures: Sequence[str] = (), **changed: Any) -> Report:
    """A drill without a breach, and the changes to it."""
    names = {*LABELS, *BREACHES, "dead_letters_expected"}
    figures: dict[str, Any] = dict.fromkeys(names, 0)
    figures |= {
        "answered": 50_000,
        "disconnected": {},
        "disconnected_as_promised": {},
        "disconnected_with_gateway": {},
        "refused": {},
    }
    return Report(plan or Plan(), figures | changed, failures, ())


def row(text: str, name: str) -> str:
    (line,) = (line for line in text.splitlines() if line.strip().startswith(name))
    return line


def test_a_report_without_a_breach_marks_nothing() -> None:
    found = report()
    assert found.breaches() == []
    assert found.table().endswith("no breach")
    assert "<-" not in found.table()


@pytest.mark.parametrize(
    ("changed", "name", "said"),
    [
        ({"lost": 2}, "lost", "2 lost"),
        ({"duplicated": 2}, "duplicated", "2 duplicated"),
        ({"reordered": 2}, "reordered", "2 reordered"),
        ({"corrupted": 2}, "corrupted", "2 corrupted"),
        ({"disconnected": {"poison": 2}}, "poison", "2 disconnected"),
        ({"refused": {"connect: no": 2}}, "connect: no", "2 connects refused"),
        ({"closes_missing": 2}, "on_close missing", "2 on_close missing"),
        ({"closes_duplicated": 2}, "on_close duplicated", "2 on_close duplicated"),
        ({"states_lost": 2}, "con.state lost", "2 con.state lost"),
        ({"dead_letters": 2}, "dead letters", "2 dead letters, not 0"),
        ({"dead_letters_expected": 2}, "dead letters", "0 dead letters, not 2"),
        ({"answered": 0}, "messages answered", "nothing answered"),
    ],
)
def test_breaches_are_marked_in_the_table_and_listed_below(
    changed: dict[str, Any], name: str, said: str
) -> None:
    found = report(**changed)
    assert found.breaches() == [said]
    assert row(found.table(), name).endswith("<-")
    assert found.table().endswith(f"breach: {said}")


@pytest.mark.parametrize("changed", [{"hangs_unfinished": 1}, {"failures": ["reload: refused"]}])
def test_breaches_without_a_row_of_their_own_are_listed(changed: dict[str, Any]) -> None:
    assert len(report(**changed).breaches()) == 1


def test_a_failure_that_comes_again_and_again_is_said_once() -> None:
    found = report(failures=["reload: no", "status: no", "reload: no", "reload: no"])
    assert found.breaches() == ["reload: no (3 times)", "status: no"]
    assert json.loads(found.json())["failures"] == ["reload: no (3 times)", "status: no"]


@pytest.mark.parametrize(
    "changed",
    [
        {"disconnected_as_promised": {"worker-died": 5}, "cut_off": 7},
        {"disconnected_with_gateway": {"gateway-died": 5}, "cut_off": 7, "closes_unheld": 1},
        {"dead_letters": None},
        {"closes_missing": None, "states_lost": None},
        {"dead_letters": 3, "dead_letters_expected": 3},
    ],
)
def test_figures_that_are_promised_or_not_known_are_not_breaches(changed: dict[str, Any]) -> None:
    found = report(**changed)
    assert found.breaches() == []
    assert "<-" not in found.table()


def test_json_has_all_figures_and_no_nan() -> None:
    data = json.loads(report(latency_p99=math.nan, lost=1).json(), parse_constant=pytest.fail)
    assert data["latency_p99"] is None
    assert data["breaches"] == ["1 lost"]
    assert data["plan"]["websockets"] == 200
    assert set(LABELS) < set(data)


def test_the_table_has_rows_about_gateways_only_if_they_are_killed() -> None:
    assert "gateway" not in report().table()
    text = report(
        plan=Plan(kill_gateway_every=1.0),
        gateway_kills=3,
        disconnected_with_gateway={"gateway-died": 5},
        connects_lost=2,
    ).table()
    for line in ("disconnected with a gateway +5", "connects lost with a gateway +2"):
        assert re.search(line, text)
    assert re.search("kills of the gateway +3", text)
