"""Sans-I/O. The log of a worker, which configuring `logging` does not silence.

``logging.config.dictConfig`` and ``fileConfig`` disable by default all loggers that are there and
not named in the configuration; in a handlers file that would be ours, and with it every traceback.
"""

from __future__ import annotations

import logging
from typing import Final


class Lasting(logging.Logger):
    """A logger that cannot be disabled. Its level and handlers can be set as those of any other."""

    @property
    def disabled(self) -> bool:
        """Never."""
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass


log: Final = logging.getLogger("wsraw.worker")
# Whoever has asked for it before us has this object.
log.__class__ = Lasting
