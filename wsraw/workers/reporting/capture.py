"""I/O. What handlers log: in a worker process the root logger sends it to the log of the run.

The configuration of a handlers file wins. `logging.basicConfig` does nothing where the root logger
has a handler; here it replaces ours, unless it only sets a level. `dictConfig` and `fileConfig`
replace it by themselves. What an own handler prints to stderr or stdout is not logged twice.

A worker inside another program (embedded_asyncio.py) calls none of this.
"""

from __future__ import annotations

import logging
import sys
from functools import wraps
from typing import Any, Final

from wsraw.runtime.log.formats import FORMATS
from wsraw.runtime.log.formatters import ToReader, ToSupervisor

SOURCE: Final = "worker"
"""The source in the log of a worker that is started by hand."""


class RootHandler(logging.StreamHandler[Any]):
    """Logs records that no other handler prints."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record, unless a handler on its way prints it."""
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            for handler in logger.handlers:
                if handler is not self and _prints(handler):
                    return
            logger = logger.parent if logger.propagate else None
        super().emit(record)


def begin(level: str, form: str) -> ToSupervisor | ToReader:
    """Set up the root logger and wsraw's logger; return the formatter of their records. In a child
    of a supervisor, the latter is already set up (child.py)."""
    ours = logging.getLogger("wsraw")
    formatter: ToSupervisor | ToReader
    if ours.handlers:
        found = ours.handlers[0].formatter
        assert isinstance(found, ToSupervisor)
        formatter = found
    else:
        formatter = ToReader(FORMATS[form], SOURCE)
        handler = logging.StreamHandler()
        handler.setFormatter(formatter)
        ours.setLevel(level.upper())
        ours.addHandler(handler)
        ours.propagate = False
    root = logging.getLogger()
    root.setLevel(level.upper())
    root_handler = RootHandler()
    root_handler.setFormatter(formatter)
    root.addHandler(root_handler)
    _let_basic_config_win(root_handler)
    return formatter


def use_stderr(before: object) -> None:
    """Write to the present sys.stderr where it was another one before."""
    for name in ("", "wsraw"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is before:
                handler.setStream(sys.stderr)


def _prints(handler: logging.Handler) -> bool:
    stream = getattr(handler, "stream", None)
    return stream is not None and stream in (
        sys.stdout,
        sys.stderr,
        sys.__stdout__,
        sys.__stderr__,
    )


def _let_basic_config_win(ours: RootHandler) -> None:
    root, basic_config = logging.getLogger(), logging.basicConfig

    @wraps(basic_config)
    def configure(**options: Any) -> None:
        if root.handlers == [ours]:
            if set(options) <= {"level"}:
                if options.get("level") is not None:
                    root.setLevel(options["level"])
                return
            root.removeHandler(ours)
        basic_config(**options)

    logging.basicConfig = configure
