"""One connection to another server; what comes from there goes to all clients.

    FEED=ws://127.0.0.1:9000/prices wsraw run --workers examples/feed.py:2

FEED may be host:port, too, for a raw server. Raw clients get the feed once they have sent
something: before that nobody can know that they are raw (or set --first-byte-timeout).
"""

import os

from wsraw import every, open_client_connection, publish

FEED = os.environ.get("FEED", "127.0.0.1:9000")

feed = None


@every(5)
def on_start():
    # Each worker asks; as it has a name, the gateway opens one. The gateway opens it again when it
    # ends; we do so only if the gateway itself is a new one.
    global feed
    if feed is None or feed.closed:
        feed = open_client_connection(FEED, name="feed", reconnect=True)


def on_connect(inf, con):
    if not con.target:
        con.join("clients")


def on_message(msg, con):
    if not con.target:
        return  # A client; here they only listen.
    data = msg["data"] if con.state is None else con.state + msg["data"]
    if msg.get("final", True):
        con.state = None
        publish("clients", data)
    else:
        con.state = data


def on_error(error_message, con):
    if con.target:
        print(f"feed {con.target}: {error_message}")
