"""Log records of handlers, in a process of its own, as `logging` is global and pytest has
handlers in ours.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.deadline import DEADLINE
from tests.running import environment

BEGIN = """
import logging, sys
from wsraw.workers.reporting import capture
from wsraw.workers.reporting.worker_log import log as own
capture.begin("{level}", "json")
shop = logging.getLogger("shop")
"""


def said(code: str, level: str = "info", folder: Path | None = None) -> list[dict[str, Any] | str]:
    """The stderr of a worker with this code: lines of the log, and other lines unchanged."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN.format(level=level) + textwrap.dedent(code)],
        env=environment(),
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=DEADLINE,
        check=True,
    )
    assert done.stdout == ""
    return [json.loads(x) if x[:1] == "{" else x for x in done.stderr.splitlines()]


def short(lines: list[dict[str, Any] | str]) -> list[str]:
    """The level and the message of each line of the log."""
    return [x if isinstance(x, str) else f"{x['level']} {x['message']}" for x in lines]


EACH = """
shop.debug("d")
shop.info("i")
shop.warning("w")
logging.info("of the root")
"""


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug d", "info i", "warning w", "info of the root"]),
        ("info", ["info i", "warning w", "info of the root"]),
        ("error", []),
    ],
)
def test_handlers_log_from_the_level_of_the_run_on(level: str, shown: list[str]) -> None:
    assert short(said(EACH, level)) == shown


def test_a_level_of_the_handlers_wins() -> None:
    assert short(said('shop.setLevel("DEBUG"); shop.debug("d"); logging.debug("r")')) == ["debug d"]
    only = "logging.basicConfig(level=logging.DEBUG)"
    assert short(said(f"{only}{EACH}"))[0] == "debug d"
    assert short(said(f'logging.basicConfig(level="ERROR"){EACH}')) == []
    assert short(said(f"logging.basicConfig(){EACH}"))[0] == "info i"


FORMATTED = ["INFO=i", "WARNING=w", "INFO=of the root"]


@pytest.mark.parametrize(
    "config",
    [
        'logging.basicConfig(format="%(levelname)s=%(message)s")',
        'logging.basicConfig(format="%(levelname)s=%(message)s", level=logging.INFO, force=True)',
        """
handler = logging.StreamHandler(sys.stderr)
handler.setFormatter(logging.Formatter("%(levelname)s=%(message)s"))
logging.basicConfig(handlers=[handler])
""",
        """
import logging.config
logging.config.dictConfig({
    "version": 1,
    "formatters": {"f": {"format": "%(levelname)s=%(message)s"}},
    "handlers": {"h": {"class": "logging.StreamHandler", "formatter": "f"}},
    "root": {"handlers": ["h"], "level": "INFO"},
})
shop.disabled = False
""",
        """
handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter("%(levelname)s=%(message)s"))
logging.getLogger().addHandler(handler)
""",
    ],
    ids=["format", "force", "handlers", "dictConfig", "addHandler"],
)
def test_a_configuration_of_the_handlers_wins_and_nothing_is_logged_twice(config: str) -> None:
    assert said(config + EACH) == FORMATTED


def test_a_handler_of_one_logger_prints_its_records_and_others_stay_records() -> None:
    code = """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s=%(message)s"))
    shop.addHandler(handler)
    logging.getLogger("shop.orders").info("one")
    logging.getLogger("bank").info("two")
    """
    assert short(said(code)) == ["shop.orders=one", "info two"]


def test_a_handler_that_does_not_print_takes_nothing_away(tmp_path: Path) -> None:
    code = 'logging.getLogger().addHandler(logging.FileHandler("log")); shop.info("i")'
    assert short(said(code, folder=tmp_path)) == ["info i"]
    assert (tmp_path / "log").read_text() == "i\n"
    (tmp_path / "log").unlink()
    code = 'logging.basicConfig(filename="log", format="%(message)s"); shop.info("i")'
    assert said(code, folder=tmp_path) == [], "as it says: to that file"
    assert (tmp_path / "log").read_text() == "i\n"


@pytest.mark.parametrize(
    "config",
    [
        "",
        'logging.basicConfig(filename="/dev/null")',
        'import logging.config; logging.config.dictConfig({"version": 1})',
        'from logging.config import dictConfig; dictConfig({"version": 1, "root": {"level": 50}})',
        "logging.getLogger().handlers.clear()",
        "logging.shutdown()",
    ],
)
def test_no_configuration_silences_our_own_tracebacks(config: str) -> None:
    code = f"""
{config}
try:
    1 / 0
except ZeroDivisionError as error:
    own.error("%s raised", "on_message", exc_info=error)
"""
    [line] = said(code)
    assert isinstance(line, dict)
    assert (line["level"], line["message"]) == ("error", "on_message raised")
    assert line["exception"].endswith("ZeroDivisionError: division by zero")


def test_a_record_that_cannot_be_formatted_is_reported_and_ends_nothing() -> None:
    lines = said('shop.info("%d", "x"); shop.info("after")')
    assert "--- Logging error ---" in lines
    assert short(lines)[-1] == "info after"


def test_a_worker_in_another_program_leaves_its_logging_alone() -> None:
    code = """
    import logging, sys
    root, basic, last = logging.getLogger(), logging.basicConfig, logging.lastResort
    import wsraw.workers.embedded_asyncio, wsraw.workers.embedded_threads, wsraw.testing.app
    assert root.handlers == [] and root.level == logging.WARNING
    assert logging.getLogger("wsraw").handlers == [] and logging.getLogger("wsraw").propagate
    assert logging.basicConfig is basic and logging.lastResort is last
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
