"""``python -m wsraw``: the command line, or, with WSRAW_PARENT set, a child of the supervisor.

A child goes past the command line, so that no worker process carries click.
"""

import os
import sys

if __name__ == "__main__":
    if "WSRAW_PARENT" in os.environ:
        from wsraw.child import main
    else:
        from wsraw.cli import main
    sys.exit(main())
