"""Do what the workers of all languages do, so that one test drives them all (docs/conform.md).

    wsraw run --workers examples/common.py:2

`upper TEXT` is answered with TEXT in capitals (a to z), `count` with the number of messages that
the client has sent. `slow N` is sent back after N milliseconds. `open URL` opens a connection and
sends "hi" through it. `splice ID` lets the gateway forward between the client and that connection.
Everything else is sent back unchanged.
"""

import time

from wsraw import open_client_connection


def on_connect(inf, con):
    if con.target:
        con.send("hi")


def on_message(msg, con):
    if con.target:
        # This connection was opened by a handler. Two such ends that answer each other would never
        # stop.
        return None
    con.state = (con.state or 0) + 1
    data = msg["data"]
    # As bytes, upper() changes ASCII letters only.
    text = data.encode() if isinstance(data, str) else data
    word, _, rest = text.partition(b" ")
    if word == b"upper":
        answer = rest.upper()
    elif text == b"count":
        answer = b"%d" % con.state
    elif word == b"open":
        opened = open_client_connection(rest.decode(), "websocket")
        answer = b"opened %d" % opened.id
    elif word == b"splice" and rest.isdigit():
        con.splice(int(rest))
        return None
    else:
        if word == b"slow" and rest.isdigit():
            time.sleep(int(rest) / 1000)
        return msg
    return {**msg, "data": answer.decode() if isinstance(data, str) else answer}
