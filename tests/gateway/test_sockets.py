"""Many sockets at once; what one of them does is in test_endpoint.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gateway.served import Served

from wsraw.gateway import sockets as s


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.close()


def test_a_flush_writes_to_so_many_and_leaves_the_rest(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s, "WRITE_BUDGET", 2)
    for _ in range(3):
        served.connect()
    served.until(lambda: not served.sockets.dirty)
    for endpoint in served.sockets.endpoints:
        served.sockets.dirty[endpoint.con] = None
    served.sockets.flush()
    assert len(served.sockets.dirty) == 1
    served.sockets.flush()
    assert not served.sockets.dirty


def test_who_has_not_said_what_it_is_is_closed_at_a_stop_without_a_handler(served: Served) -> None:
    silent = served.connect()
    served.sockets.close_unannounced()
    assert served.con.close_cause == "going-away"
    silent.close()
    served.until(lambda: not served.sockets.endpoints)
    assert served.heard == []
    assert not served.sockets.unwritten()


def test_listeners_pause_while_it_is_crowded(served: Served) -> None:
    [listener] = served.sockets.listeners
    told: list[bool] = []
    judge = listener.judge
    listener.judge = lambda room, now: told.append(room) or judge(room, now)  # type: ignore[assignment,func-returns-value]
    served.turn()
    served.stage.router.flow.crowded = True
    served.turn()
    assert told == [True, False]


def test_close_frees_everything(served: Served) -> None:
    client = served.connect()
    served.sockets.close()
    assert served.sockets.listeners == []
    assert not served.sockets.endpoints
    client.setblocking(True)
    client.settimeout(15)
    assert client.recv(1) == b""
