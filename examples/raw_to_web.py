"""Connect raw TCP clients to a WebSocket server: each gets a connection of its own.

    TARGET=ws://127.0.0.1:9000/ wsraw run --workers examples/raw_to_web.py:2

Bytes become binary messages, one for each piece that arrives; frames become bytes. For the rest
see web_to_raw.py, which is the same in the other direction.
"""

import os

from wsraw import connection, open_client_connection

TARGET = os.environ.get("TARGET", "ws://127.0.0.1:9000/")


def on_connect(inf, con):
    if inf["Protocol"] == "raw":
        web = open_client_connection(TARGET, "websocket")
        web.state = con
        con.state = web
    elif inf["Protocol"] == "websocket server":
        con.close(1003, "raw clients only")
    # Otherwise it is our own connection to the server, which is open now.


def on_message(msg, con):
    connection(con.state).send(msg["data"])


def on_error(error_message, con):
    print(f"{con}: {error_message}")


def on_close(con):
    if con.state is not None:
        orderly = con.close_cause in ("peer", "eof", "handler")
        connection(con.state).close(1000 if orderly else 1011, con.close_cause)
