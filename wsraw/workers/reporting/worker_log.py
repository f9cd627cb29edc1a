"""Sans-I/O. The worker's logger, which a handlers file cannot disable or break by accident.

``logging.config.dictConfig`` and ``fileConfig`` disable all existing loggers by default, which
would hide every traceback. And a log record factory of the handlers may raise, which would end the
worker."""

from __future__ import annotations

import logging
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

    def _log(  # type: ignore[override]
        self, level: int, msg: object, args: Any, exc_info: Any = None, **options: Any
    ) -> None:
        """Log, or write to stderr if the record factory, a filter or a handler raises."""
        try:
            super()._log(level, msg, args, exc_info, stacklevel=2, **options)
        except Exception as error:
            text = f"error: {msg} (logging that has raised %r)"
            record = logging.LogRecord(self.name, level, "", 0, text, (*args, error), exc_info)
            logging.StreamHandler().handle(record)


log: Final = logging.getLogger("wsraw.worker")
# The class is changed in place, because handlers may already hold this logger.
log.__class__ = Lasting
