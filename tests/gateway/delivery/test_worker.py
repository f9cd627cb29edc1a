from __future__ import annotations

import pytest

from tests.gateway.harness import Harness
from wsraw.gateway.delivery.entry import Worker
from wsraw.gateway.delivery.worker import ID_RANGE, RemoteWorker
from wsraw.link.records import gateway_decoder


@pytest.mark.parametrize(
    ("number", "remote", "name"),
    [
        (7, None, "worker 7"),
        (0, None, "worker 0061"),
        (0, RemoteWorker("10.0.0.1"), "worker 0061 (at 10.0.0.1)"),
        (0, RemoteWorker("10.0.0.1", "key"), "worker 0061 (key at 10.0.0.1)"),
    ],
)
def test_the_log_names_a_worker_by_number_or_by_identity_and_address(
    number: int, remote: RemoteWorker | None, name: str
) -> None:
    worker = Worker(b"\0a", gateway_decoder(), 0.0, remote)
    worker.number = number
    assert worker.name == name


def test_each_id_of_its_ranges_may_be_opened_once() -> None:
    harness = Harness()
    worker = harness.worker().worker
    first = harness.registry.ids.new_range(worker)[0]
    assert worker.take_id(first)
    assert not worker.take_id(first)
    assert not worker.take_id(first + ID_RANGE)
    assert len(worker.ids) == 2
    assert all(worker.take_id(con) for con in range(first + 1, first + ID_RANGE))
    assert len(worker.ids) == 1, "a range that is used up is dropped"
