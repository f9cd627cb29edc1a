"""Open one connection to another server, and publish what it sends to all clients.

    FEED=ws://127.0.0.1:9000/prices wsraw run --workers examples/feed.py:2

FEED may also be host:port, for a raw server. Raw clients get the feed once they have sent
something, because the first bytes tell a raw client from a WebSocket. With --first-byte-timeout a
silent client counts as raw after that time.
"""

import os

from wsraw import every, open_client_connection, publish

FEED = os.environ.get("FEED", "127.0.0.1:9000")

feed = None


@every(5)
def on_start():
    # Each worker calls this, but the gateway opens only one connection, because the connection has
    # a name. The gateway reconnects it by itself; the timer is for the time after a restart of the
    # gateway.
    global feed
    if feed is None or feed.closed:
        feed = open_client_connection(FEED, name="feed", reconnect=True)


def on_connect(inf, con):
    if not con.target:
        con.join("clients")


def on_message(msg, con):
    if not con.target:
        return  # A client has sent something: here clients only listen.
    data = msg["data"] if con.state is None else con.state + msg["data"]
    if msg.get("final", True):
        con.state = None
        publish("clients", data)
    else:
        con.state = data


def on_error(error_message, con):
    if con.target:
        print(f"feed {con.target}: {error_message}")
