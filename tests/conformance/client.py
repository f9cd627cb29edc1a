"""Handlers that are the client of the Autobahn test suite: they open every case and echo it.

The suite is a WebSocket server here. The suite sends the number of its cases at /getCaseCount,
plays case N at /runCase?case=N, and writes its report at /updateReports. tests/conformance/run.py
runs these handlers with one worker, which keeps the remaining cases in memory.
"""

import os

from wsraw import open_client_connection

URL = os.environ["AUTOBAHN_URL"]
LANES = int(os.environ.get("AUTOBAHN_LANES", "1"))

left = []
under_way = 0


def dial(path, part):
    con = open_client_connection(URL + path, couple=None)
    con.state = part


def next_case():
    global under_way
    if left:
        under_way += 1
        dial(f"/runCase?case={left.pop()}&agent=wsraw", "case")
    elif not under_way:
        dial("/updateReports?agent=wsraw", "report")


def on_start():
    dial("/getCaseCount", "count")


def on_message(msg, con):
    if con.state == "count":
        left.extend(range(int(msg["data"]), 0, -1))
        return None
    return msg if con.state == "case" else None


def on_close(con):
    global under_way
    if con.state == "report":
        print("conformance: the report is written")
    elif con.state == "count":
        for _ in range(LANES):
            next_case()
    else:
        under_way -= 1
        next_case()
