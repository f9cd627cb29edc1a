"""The handlers file of the drill's own run: an echo that can hang, and that tells of each end.

It keeps the first bytes of each connection in `con.state`, so that on_close shows whether the state
has moved along through every death. Ends are told to a witness, or written into a file where the
witness would be among the dead (ledger.py).
"""

import os
import time
from typing import Any

from wsraw import Connection, publish
from wsraw.tools.drill.load.record import HEADER
from wsraw.tools.drill.target.ledger import VARIABLE

LEDGER = os.environ.get(VARIABLE)

WATCH = "wsraw drill: watch"
HANG = "wsraw drill: hang"


def on_message(msg: dict[str, Any], con: Connection) -> Any:
    """Echo it, unless it is one of the two words to us."""
    data = msg["data"]
    if data == WATCH:
        con.join(WATCH)
        return f"{WATCH} {con.peer}"
    while data == HANG:
        time.sleep(60)
    kept = con.state or b""
    if len(kept) < HEADER:
        con.state = kept + (data.encode() if isinstance(data, str) else data)[: HEADER - len(kept)]
    return msg


def on_close(con: Connection) -> None:
    """Tell the witness: who, why, and what was kept of it."""
    kept = (con.state or b"").decode("ascii", "backslashreplace") or "-"
    told = f"{con.peer} {con.close_code} {con.close_cause} {kept}"
    if LEDGER is None:
        publish(WATCH, told)
        return
    # One write, so that lines of several workers do not mix.
    file = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{told} {con.id} {con.delivery}\n".encode())
    os.close(file)
