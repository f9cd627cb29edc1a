from __future__ import annotations

import pytest

from wsraw import cli
from wsraw.tools.drill import drill
from wsraw.tools.drill.plan import Plan


def test_a_drill_hears_the_run_folder_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Plan] = []
    monkeypatch.setattr(drill, "main", lambda plan, as_json: plans.append(plan) or 0)
    monkeypatch.setenv("WSRAW_RUN_DIR", "/run/one")
    assert cli.main(["drill", "--connect=127.0.0.1:8000"]) == 0
    assert cli.main(["drill", "--connect=127.0.0.1:8000", "--run-dir=/run/two"]) == 0
    assert cli.main(["drill"]) == 0, "it starts a run of its own"
    assert [plan.run_dir for plan in plans] == ["/run/one", "/run/two", ""]
