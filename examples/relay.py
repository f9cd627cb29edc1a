"""Connect WebSocket clients to a raw TCP server, and look at each message on the way.

    TARGET=127.0.0.1:7000 wsraw run --workers examples/relay.py:2

Splicing (web_to_raw.py) forwards without a handler. Use this way if a handler must see, change or
hold back messages: here it stops the commands of an administrator. The two connections find each
other in con.state, so any worker may serve either of them. If one of them is too slow for the
other, the gateway stops reading from the other: a connection that is opened in an event is coupled
with that event's connection.
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
        con.close()  # Reject raw clients: they could connect to the server directly.


def on_message(msg, con):
    data = msg["data"]
    if isinstance(data, str) and data.startswith("admin "):
        con.send("not for you\n")
        return
    # The new connection need not be open yet: the gateway keeps what is sent until then.
    connection(con.state).send(data)


def on_error(error_message, con):
    print(f"{con}: {error_message}")


def on_close(con):
    if con.state is not None:
        orderly = con.close_cause in ("peer", "eof", "handler")
        connection(con.state).close(1000 if orderly else 1011, con.close_cause)
