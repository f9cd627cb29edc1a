"""Ask WebSocket clients for a ticket, then connect them to a raw TCP server.

    TARGET=127.0.0.1:5900 TICKET=secret wsraw run --workers examples/tunnel.py

The first message is the ticket. After that the gateway forwards between the two connections by
itself: no handler is called for the data, so a worker may be slow, or be replaced.
"""

import os
from hmac import compare_digest

from wsraw import open_client_connection

TARGET = os.environ.get("TARGET", "127.0.0.1:5900")
TICKET = os.environ.get("TICKET", "secret")


def on_message(msg, con):
    data = msg["data"]
    ticket = data if isinstance(data, bytes) else data.encode()
    if not compare_digest(ticket, TICKET.encode()):
        con.close(1008, "wrong ticket")
        return
    con.send("welcome")
    con.splice(open_client_connection(TARGET))


def on_error(error_message, con):
    print(f"{con}: {error_message}")
