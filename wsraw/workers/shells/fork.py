"""I/O. Turns a process that a handler forks into an ordinary process, instead of a second worker.

The child has copies of the worker's signal handlers, link and stack. Right after the fork,
functions registered here release them. Executed programs need none of this: wsraw's descriptors are
not inheritable, and no signal is ignored.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

_in_child: dict[object, Callable[[], object]] = {}


def in_child(function: Callable[[], object]) -> Callable[[], None]:
    """Call a function right after the fork in each process that is forked from this one.

    Returns a function that undoes this.
    """
    key = object()
    _in_child[key] = function
    return lambda: _in_child.pop(key, None) and None


def _forked() -> None:
    functions = list(_in_child.values())
    # Not again in processes that the child forks.
    _in_child.clear()
    for function in functions:
        try:
            function()
        except Exception:
            # Run the other functions all the same.
            traceback.print_exc()


def end(error: BaseException | None) -> NoReturn:
    """End a forked child that returns to our code.

    Finally blocks and exit handlers are skipped, because they belong to the worker's process. The
    exit code is that of `sys.exit`, or 1 for another exception, whose traceback is printed.
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
