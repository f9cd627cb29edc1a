from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import nats_server
from tests.e2e.cluster.nats_server import NatsServer


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    nats_server.need()
    with NatsServer(tmp_path) as server:
        yield server


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """The handlers of a room whose name has characters with a meaning in subjects of NATS."""
    file = tmp_path / "room.py"
    file.write_text(ROOM)
    return file


ROOM = """
import json

import wsraw

ROOM = "a room.*>é"


def on_connect(inf, con):
    con.join(ROOM)
    con.send("ref " + con.ref)


async def on_message(msg, con):
    word, _, rest = msg["data"].partition(" ")
    if word == "count":
        con.send(f"count {await wsraw.count(ROOM)}")
    elif word == "members":
        con.send("members " + json.dumps(await wsraw.members(ROOM)))
    elif word == "to":
        ref, _, text = rest.partition(" ")
        wsraw.connection(ref).send(text)
    elif word == "close":
        wsraw.connection(rest).close(4000, "from afar")
    elif word == "user":
        con.user = rest
    elif word == "toann":
        wsraw.send_to_user("ann", rest)
    elif word == "leave":
        con.leave(ROOM)
    else:
        wsraw.publish(ROOM, msg["data"], exclude=[con])
"""
