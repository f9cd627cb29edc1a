"""WebSocket clients talk to a raw TCP server: each gets a connection of its own to it.

    TARGET=127.0.0.1:7000 wsraw run --workers examples/web_to_raw.py:2

Frames become bytes; bytes become binary frames. The two connections know each other by con.state,
so any worker may serve either of them. Who cannot take what the other sends slows that one down:
connections opened in an event are coupled with the connection of that event.
"""

import os

from wsraw import connection, open_client_connection

TARGET = os.environ.get("TARGET", "127.0.0.1:7000")


def on_connect(inf, con):
    if inf["Protocol"] == "websocket server":
        raw = open_client_connection(TARGET)
        raw.state = con
        con.state = raw
    else:
        con.close()  # A raw client; it could talk to the server itself.


def on_message(msg, con):
    # It need not stand yet: the gateway keeps what is sent until then.
    connection(con.state).send(msg["data"])


def on_error(error_message, con):
    print(f"{con}: {error_message}")


def on_close(con):
    if con.state is not None:
        orderly = con.close_cause in ("peer", "eof", "handler")
        connection(con.state).close(1000 if orderly else 1011, con.close_cause)
