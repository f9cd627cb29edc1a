"""Connect WebSocket clients to a raw TCP server: each client gets a connection of its own.

    TARGET=127.0.0.1:7000 wsraw run --workers examples/web_to_raw.py:2

Frames become bytes; bytes become binary frames. The gateway forwards by itself: no handler is
called for the data. `wsraw bridge` does the same without any handler; tunnel.py asks for a ticket
first, and relay.py looks at each message.
"""

import os

from wsraw import open_client_connection

TARGET = os.environ.get("TARGET", "127.0.0.1:7000")


def on_connect(inf, con):
    if inf["Protocol"] == "websocket server":
        con.splice(open_client_connection(TARGET))
    else:
        con.close()  # Reject raw clients: they could connect to the server directly.


def on_error(error_message, con):
    print(f"{con}: {error_message}")
