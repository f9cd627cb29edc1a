"""A page, its WebSocket, and an HTTP API beside it, all on one port.

    cd examples/site
    wsraw run --workers handlers.py --plain-http handlers --static public

Then open http://127.0.0.1:8000/ in a browser, or ask with curl:

    curl http://127.0.0.1:8000/api/votes
    curl -d tea http://127.0.0.1:8000/api/votes

The page is a file of `--static`. Requests that on_request does not answer get files of `--static`.
"""

import collections

from wsraw import publish

DRINKS = ("coffee", "tea", "water")

votes = collections.Counter()
"""Votes of this worker only: with several workers, keep votes in a database."""


def on_connect(inf, con):
    if con.kind == "websocket":
        con.join("pages")


def on_request(request, con):
    if request.path != "/api/votes":
        return None
    if request.method == "GET":
        return dict(votes)
    if request.method != "POST":
        return 405, {"Allow": "GET, POST"}, "GET or POST\n"
    drink = request.body.decode(errors="replace").strip()
    if drink not in DRINKS:
        return 400, {}, f"vote for one of {', '.join(DRINKS)}\n"
    votes[drink] += 1
    publish("pages", drink)
    return 201, {}, "counted\n"
