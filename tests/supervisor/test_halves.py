from __future__ import annotations

import pytest

from wsraw.supervisor.halves import Halves, Outcome


def test_without_certificates_the_workers_alone_count() -> None:
    halves = Halves()
    halves.begin(reads=False)
    assert halves.replaced(True, "reloaded") == Outcome(True, "reloaded")


@pytest.mark.parametrize("refused", ["", "no.pem: no such file"])
@pytest.mark.parametrize("ok", [True, False])
@pytest.mark.parametrize("reads_first", [True, False])
def test_the_answer_comes_once_and_when_both_are_through(
    refused: str, ok: bool, reads_first: bool
) -> None:
    halves = Halves()
    halves.begin(reads=True)
    if reads_first:
        assert halves.read(refused) is None
        outcome = halves.replaced(ok, "workers")
    else:
        assert halves.replaced(ok, "workers") is None
        outcome = halves.read(refused)
    assert outcome is not None
    assert outcome.ok is (ok and not refused)
    assert outcome.text.startswith("workers")
    assert refused in outcome.text
    assert halves.read("") is None


def test_only_the_last_reload_counts() -> None:
    halves = Halves()
    halves.begin(reads=True)
    halves.read("wrong")
    halves.begin(reads=True)
    halves.read("")
    assert halves.replaced(True, "workers") == Outcome(True, "workers")
