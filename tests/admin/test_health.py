from __future__ import annotations

from tests.admin.test_metrics import busy, figures
from tests.supervisor.policy_run import Run
from wsraw.admin.health import not_ready


def test_a_run_whose_pools_have_workers_is_ready() -> None:
    assert not_ready(figures(busy())) == []


def test_a_pool_without_a_ready_worker_is_a_reason() -> None:
    run = Run(1).up()
    run.exit(run.worker)
    assert not_ready(figures(busy(), run)) == ["the pool default has no ready worker"]


def test_a_crash_loop_beside_workers_that_serve_is_no_reason() -> None:
    run = Run(2, restart_intensity=0).up()
    run.exit(run.policy.workers[1])
    assert run.policy.is_looping
    assert not_ready(figures(busy(), run)) == []


def test_a_gateway_that_takes_no_clients_is_a_reason() -> None:
    data = figures(busy())
    data["gateway"]["crowded"] = True
    data["gateway"]["sockets"] = data["gateway"]["max_connections"] = 5
    assert len(not_ready(data)) == 2
    assert not_ready(figures()) == ["the gateway does not answer"]


def test_a_run_that_stops_is_not_ready() -> None:
    run = Run(1).up()
    run.do(run.policy.stop(run.now))
    assert "the run is stopping" in not_ready(figures(busy(), run))
