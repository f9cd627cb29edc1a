"""The handlers file of the drill's own run: an echo that can hang and that reports each on_close.

The handlers keep the first bytes of each connection in `con.state`, so that on_close shows whether
the state survived every death of a worker. Reports go to files (close_log.py).
"""

import os
import time
from typing import Any

from wsraw import Connection
from wsraw.tools.drill.load.record import HEADER
from wsraw.tools.drill.target.close_log import VARIABLE

HANG = "wsraw drill: hang"


def on_message(msg: dict[str, Any], con: Connection) -> Any:
    data = msg["data"]
    while data == HANG:
        time.sleep(60)
    kept = con.state or b""
    if len(kept) < HEADER:
        con.state = kept + (data.encode() if isinstance(data, str) else data)[: HEADER - len(kept)]
    return msg


def on_close(con: Connection) -> None:
    kept = (con.state or b"").decode("ascii", "backslashreplace") or "-"
    report(f"{con.peer} {con.close_code} {con.close_cause} {kept} {con.id} {con.delivery}\n")


def report(line: str) -> None:
    if folder := os.environ.get(VARIABLE):
        path = os.path.join(folder, str(os.getpid()))
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, line.encode())
        os.close(file)


# Create a file: it shows that these handlers report.
report("")
