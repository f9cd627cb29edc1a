"""I/O. A run as the drill starts it: what `wsraw run` does, until stdin ends.

So a drill that is killed leaves no run behind, and one that is done can stop its run in good order
on any platform.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from wsraw.config import settings as settings_module
from wsraw.supervisor import supervisor

WRONG_USE = 2


def main() -> int:
    """Serve with the settings of the command line, as JSON; returns the exit code."""
    threading.Thread(target=_stop_at_eof, daemon=True).start()
    try:
        return supervisor.run(settings_module.from_json(sys.argv[1]))
    except supervisor.CannotStart as error:
        print(f"wsraw: {error}", file=sys.stderr)
        return WRONG_USE


def _stop_at_eof() -> None:
    # Not sys.stdin: a thread that sleeps inside it would hold its lock at the end.
    while os.read(0, 1):
        pass
    if sys.platform == "win32":
        signal.raise_signal(signal.SIGTERM)
    else:
        # To the process, so that it reaches a main thread that sleeps.
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
