"""``python -m wsraw``: the command line or, if WSRAW_PATH is set, a child of the supervisor.

A child does not load the command line: without click a worker needs less memory.
"""

import os
import sys

if __name__ == "__main__":
    if "WSRAW_PATH" in os.environ:
        # Before anything else is imported; `path` in process.py has the reasons.
        sys.path[:] = os.environ.pop("WSRAW_PATH").split(os.pathsep)
        from wsraw.child import main
    else:
        from wsraw.cli import main
    sys.exit(main())
