"""``python -m wsraw``: the command line or, if WSRAW_PARENT is set, a child of the supervisor.

A child does not load the command line: without click a worker needs less memory.
"""

import os
import sys

if __name__ == "__main__":
    if "WSRAW_PARENT" in os.environ:
        from wsraw.child import main
    else:
        from wsraw.cli import main
    sys.exit(main())
