"""uvicorn #511, rapidpro/ureport #1396: a handlers file that configures logging must not silence the server's errors.

Input: logging.config.dictConfig({"version": 1, ...}) at the top of the file (its default disables all loggers that are
there), and a handler that raises. Right: the traceback is in the log (docs/handlers.md, "When a handler raises").
"""

from lib import *

HANDLERS = """
import logging.config
logging.config.dictConfig({
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"level": "INFO", "handlers": ["console"]},
})
log = logging.getLogger("shop")

def on_message(msg, con):
    logging.info("an order came")
    con.send(str(1 / int(msg["data"])))
"""
found = {}
for how in ("at the top of the file", "in on_start"):
    text = HANDLERS
    if how == "in on_start":
        config = text[text.index("logging.config.dictConfig") : text.index("log = ")]
        text = text.replace(config, "def on_start():\n" + textwrap.indent(config, "    "))
    run = Run(text)
    run.ask(b"0", 3)
    time.sleep(0.7)
    found[how] = "ZeroDivisionError" in run.log()
    print(
        f"{how}: traceback in the log: {found[how]}; lines of the worker:",
        [l for l in run.log().splitlines() if "worker 1:" in l],
    )
verdict(all(found.values()), f"traceback in the log: {found}")
