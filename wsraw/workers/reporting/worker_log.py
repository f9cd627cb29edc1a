"""Sans-I/O. The log of a worker, which configuring `logging` neither silences nor breaks.

``logging.config.dictConfig`` and ``fileConfig`` disable by default all loggers that are there and
not named in the configuration; in a handlers file that would be ours, and with it every traceback.
And a record factory of the handlers' may raise, where it looks for a user or a request that is not
there: that would end the worker for each exception it has to log.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any, Final


class Lasting(logging.Logger):
    """A logger that cannot be disabled. Its level and handlers can be set as those of any other."""

    @property
    def disabled(self) -> bool:
        """Never."""
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass

    def makeRecord(self, *args: Any, **options: Any) -> logging.LogRecord:  # noqa: N802
        """By the factory that is set, or as without any if that one raises."""
        try:
            return super().makeRecord(*args, **options)
        except Exception as error:
            name, level, path, line, message, values, exc_info = args[:7]
            record = logging.LogRecord(name, level, path, line, message, values, exc_info)
            record.msg = f"{record.getMessage()} (the log record factory has raised {error!r})"
            record.args = ()
            return record

    def handle(self, record: logging.LogRecord) -> None:
        """Never raises: whoever logs has more to do than that."""
        try:
            super().handle(record)
        except Exception as error:
            with suppress(Exception):
                raised = repr(record.exc_info[1]) if record.exc_info else ""
                text = f"error: {record.getMessage()} {raised} (logging that has raised {error!r})"
                print(text, file=sys.stderr)


log: Final = logging.getLogger("wsraw.worker")
# Whoever has asked for it before us has this object.
log.__class__ = Lasting
