"""I/O. A run as the drill starts it: like `wsraw run`, but it stops when stdin ends.

So a killed drill leaves no run behind, and a drill can stop its run gracefully on any platform.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from wsraw.config import settings as settings_module
from wsraw.runtime import launch
from wsraw.supervisor import supervisor
from wsraw.supervisor.replacing import replacement

WRONG_USE = 2


def main() -> int:
    """Run with the settings of the command line, as JSON; returns the exit code."""
    settings, record = settings_module.from_json(sys.argv[1]), None
    told = replacement.taken()
    if told is not None:
        # This process replaces a run that is upgraded, or checks whether it can.
        record = supervisor.understood(told[0])
        if told[1]:
            print(replacement.UNDERSTOOD)
            return 0
    threading.Thread(target=_stop_at_eof, daemon=True).start()
    try:
        return supervisor.run(settings, reread=lambda: settings, record=record)
    except supervisor.StartError as error:
        print(f"wsraw: {error}", file=sys.stderr)
        return WRONG_USE


def _stop_at_eof() -> None:
    # Not sys.stdin: a thread that reads it would hold its lock at exit.
    while os.read(0, 1):
        pass
    if launch.HAS_SIGNALS:
        # To the process, so that it wakes a sleeping main thread.
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
