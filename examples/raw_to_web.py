"""Connect raw TCP clients to a WebSocket server: each client gets a connection of its own.

    TARGET=ws://127.0.0.1:9000/ wsraw run --workers examples/raw_to_web.py:2

Bytes become binary messages, one for each piece that arrives; frames become bytes. With
framing="line" each line is a message. web_to_raw.py does the same in the other direction.
"""

import os

from wsraw import open_client_connection

TARGET = os.environ.get("TARGET", "ws://127.0.0.1:9000/")


def on_connect(inf, con):
    if inf["Protocol"] == "raw":
        con.splice(open_client_connection(TARGET, "websocket"))
    elif inf["Protocol"] == "websocket server":
        con.close(1003, "raw clients only")


def on_error(error_message, con):
    print(f"{con}: {error_message}")
