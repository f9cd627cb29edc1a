"""Clients that wait for what comes to their room; fastapi_push.py sends it.

The room is the parameter of a route, as in pools.toml (`/rooms/lobby`), else that of the query
(`/?room=lobby`).

A client is told its id first, which an application may keep to reach this one alone.
"""

from urllib.parse import parse_qs, urlsplit


def on_connect(inf, con):
    rooms = parse_qs(urlsplit(inf.get("url", "/")).query).get("room", ["lobby"])
    con.join(con.params.get("room", rooms[0]))
    con.send(str(con.id))
