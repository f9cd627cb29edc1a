"""A client whose JSON has a lone surrogate ("\\ud800") in what the handler uses as a group name kills a worker with
each delivery: what cannot be encoded is found when the batch is sent, outside of the handler's try."""

import json, time
from lib import *

H = """
import json
def on_message(msg, con):
    m = json.loads(msg["data"])
    con.join(m["room"])
    con.send("joined")
"""


def case():
    run = Run(H, workers=2)
    a = WS(run.port)
    a.send('{"room": "lobby"}')
    assert a.text() == "joined"
    b = WS(run.port)
    b.send('{"room": "\\ud800"}')
    got = b.recv()
    time.sleep(1)
    deaths = [l for l in run.lines if "is gone; its events go to others" in l]
    print("\n".join(l for l in run.lines if "worker" in l)[-3500:])
    print("client got:", got, "deaths:", len(deaths))
    letters = run.cli("dead-letters").stdout
    print(letters)
    verdict(
        bool(deaths),
        f"{len(deaths)} workers died of one message of one client; the handler should raise (1011) instead",
    )


main(case)
