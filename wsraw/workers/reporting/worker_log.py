"""Sans-I/O. The worker's logger, which a handlers file cannot disable or break by accident.

``logging.config.dictConfig`` and ``fileConfig`` disable all existing loggers by default, which
would hide every traceback. And a log record factory of the handlers may raise, which would end the
worker."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any, Final


class Lasting(logging.Logger):
    """A logger that cannot be disabled. Level and handlers can be set as usual."""

    @property
    def disabled(self) -> bool:
        """Always False."""
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass

    def makeRecord(self, *args: Any, **options: Any) -> logging.LogRecord:  # noqa: N802
        """Make a record with the set factory, or with the default one if that raises."""
        try:
            return super().makeRecord(*args, **options)
        except Exception as error:
            name, level, path, line, message, values, exc_info = args[:7]
            record = logging.LogRecord(name, level, path, line, message, values, exc_info)
            record.msg = f"{record.getMessage()} (the log record factory has raised {error!r})"
            record.args = ()
            return record

    def handle(self, record: logging.LogRecord) -> None:
        """Handle a record without ever raising."""
        try:
            super().handle(record)
        except Exception as error:
            with suppress(Exception):
                raised = repr(record.exc_info[1]) if record.exc_info else ""
                text = f"error: {record.getMessage()} {raised} (logging that has raised {error!r})"
                print(text, file=sys.stderr)


log: Final = logging.getLogger("wsraw.worker")
# The class is changed in place, as handlers may hold this logger already.
log.__class__ = Lasting
