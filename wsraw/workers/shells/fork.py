"""I/O. What becomes of a worker in a process that is forked from it.

The child has copies of all that the worker has: its signal handlers, its link, the frames of the
handler that runs. It must be an ordinary process all the same, as it is neither a worker nor known
to anybody. So right after the fork whoever has something to give up there gives it up. Programs
that are executed need none of this: descriptors of wsraw are not inheritable, and no signal is
ignored.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

_in_child: dict[object, Callable[[], object]] = {}


def in_child(function: Callable[[], object]) -> Callable[[], None]:
    """Call a function in each process that is forked from this one, before anything else there.

    What this returns takes that back. Where nobody can fork, the function is never called.
    """
    key = object()
    _in_child[key] = function
    return lambda: _in_child.pop(key, None) and None


def _forked() -> None:
    functions = list(_in_child.values())
    # What the child forks in its turn has nothing of ours any more.
    _in_child.clear()
    for function in functions:
        try:
            function()
        except Exception:
            # The others have their turn all the same.
            traceback.print_exc()


def end(error: BaseException | None) -> NoReturn:
    """End a forked child that has come back to our code, as it is no worker.

    Without the finally blocks and the exit handlers that wait for the worker's own end: they belong
    to the worker's process. The exit code is that of `sys.exit`; 1 for another exception, whose
    traceback is shown.
    """
    code = 0
    if isinstance(error, SystemExit):
        if isinstance(error.code, int):
            code = error.code & 0xFF
        elif error.code is not None:
            print(error.code, file=sys.stderr)
            code = 1
    elif error is not None:
        traceback.print_exception(error)
        code = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
