"""A second of each target, and every input that ever broke one; `make fuzz` runs longer."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz import crashes
from tests.fuzz.engine import failure, fuzz, shorten
from tests.fuzz.gateway import attack
from tests.fuzz.target import Target, load, names

KNOWN = list(crashes.known())


@pytest.fixture(autouse=True)
def _without_a_log() -> Iterator[None]:
    # Bad input is logged, and here all input is bad.
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.long
@pytest.mark.parametrize("name", names())
def test_a_second_of_fuzzing_finds_nothing(name: str) -> None:
    target = load(name)
    # This many inputs take about that long.
    result = fuzz(target, seed=1, inputs=len(target.seeds) + 500)
    assert result.broken is None, f"{result.broken!r}; see python -m tests.fuzz {name} --seed 1"
    assert result.outcomes > 5


@pytest.mark.parametrize(("name", "file"), KNOWN, ids=[file.stem for _, file in KNOWN])
def test_an_input_that_once_broke_a_target_breaks_it_no_more(name: str, file: Path) -> None:
    load(name).run(crashes.read(file))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_few_hundred_hostile_inputs_leave_the_gateway_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert attack(seed=1, inputs=400, seconds=0, warm_up=200) == 0
    assert "400 inputs" in capsys.readouterr().out


def test_a_fault_is_found_and_shortened_and_stored(tmp_path: Path) -> None:
    def run(data: bytes) -> int:
        assert b"\xff\xff" not in data or b"(" not in data
        return (b"\xff" in data) + 2 * (b"(" in data)

    target = Target("planted", run, [b"a long input (with a part that matters)"])
    broken = fuzz(target, seed=1, inputs=100_000).broken
    assert broken is not None
    short = shorten(target, broken)
    assert sorted(short) == [*b"(\xff\xff"]
    assert "AssertionError" in failure(target, short)
    assert crashes.read(crashes.save("planted", short, "here", tmp_path)) == short


def test_the_same_seed_gives_the_same_inputs() -> None:
    def inputs(seed: int) -> list[bytes]:
        given: list[bytes] = []
        target = Target("seen", lambda data: given.append(data) or len(data), [b"seed"])
        fuzz(target, seed, inputs=500)
        return given

    assert inputs(1) == inputs(1) != inputs(2)


def test_a_stored_case_may_repeat_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a-b.case"
    file.write_text("# origin: here\nb'x'\n3 * b'9'\nb' * '\n")
    assert crashes.read(file) == b"x999 * "
