"""Both ends of the link, ready to exchange batches."""

from __future__ import annotations

from typing import Any

from wsraw.link import records as rec
from wsraw.link.gateway_end import GatewayEnd, who
from wsraw.link.window import LARGEST_WINDOW
from wsraw.link.worker_end import WorkerEnd

SESSION = 9
CON = 1 << rec.ID_EPOCH_SHIFT | 5


def message(con: int = CON, data: bytes = b"x") -> rec.OnMessage:
    return rec.OnMessage(0, con, data, "raw")


def worker_end(**changes: Any) -> WorkerEnd:
    asked: dict[str, Any] = {"pool": "p", "token": "t", "instance": "i", "language": "l"}
    return WorkerEnd(**{**asked, **changes})


def hello(**changes: Any) -> rec.Hello:
    asked: dict[str, Any] = {
        "version": rec.PROTOCOL_VERSION, "pool": "p", "instance": "i", "language": "l",
        "token": "t", "window": LARGEST_WINDOW, "concurrency": 1,
    }  # fmt: skip
    return rec.Hello(**{**asked, **changes})


def gateway_end(**changes: Any) -> GatewayEnd:
    end = GatewayEnd(b"id", rec.gateway_decoder())
    end.welcome(hello(**changes), SESSION, 1, range(100, 200))
    end.data_to_send()
    return end


def sent(end: WorkerEnd | GatewayEnd) -> list[Any] | None:
    """The batch that an end sends now: its session, then its records."""
    data = end.data_to_send()
    if data is None:
        return None
    decoder = rec.gateway_decoder() if isinstance(end, WorkerEnd) else rec.worker_decoder()
    session, records, wrong = decoder.decode(data)
    assert not wrong
    return [session, *records]


def to_worker(*records: rec.Record, session: int = SESSION) -> bytes:
    return rec.encode([session, *records])


def to_gateway(*records: rec.Record, session: int = SESSION) -> bytes:
    return rec.encode([session, *records])


WELCOME = rec.Welcome(1, SESSION, 1, 100, 5000, 10)


def ready_worker() -> WorkerEnd:
    end = worker_end()
    end.receive(who())
    end.data_to_send()
    end.receive(to_worker(WELCOME))
    return end
