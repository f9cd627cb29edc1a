"""A client of /pub publishes, all other clients are members."""

from typing import Any

import wsraw


def on_connect(inf: Any, con: Any) -> None:
    if inf["url"] != "/pub":
        con.join("room")


def on_message(msg: Any, con: Any) -> None:
    wsraw.publish("room", msg["data"])
