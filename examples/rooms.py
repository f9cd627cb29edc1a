"""Let clients wait for messages to their room; fastapi_push.py sends the messages.

The room is the parameter of a route, as in pools.toml (`/rooms/lobby`), or of the query
(`/?room=lobby`).

The first message to a client is the id of its connection. An application may keep the id to send to
this client only.
"""

from urllib.parse import parse_qs, urlsplit


def on_connect(inf, con):
    rooms = parse_qs(urlsplit(inf.get("url", "/")).query).get("room", ["lobby"])
    con.join(con.params.get("room", rooms[0]))
    con.send(str(con.id))
