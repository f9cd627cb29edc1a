"""Measure the events a second of one worker's machine, in process and without sockets: it reads
batches of the gateway, calls handlers, and writes batches for the gateway.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import threading
import time
from pathlib import Path

from wsraw.link.records import (
    ID_EPOCH_SHIFT,
    PROTOCOL_VERSION,
    OnConnect,
    OnMessage,
    Welcome,
    Who,
    encode,
)
from wsraw.link.worker_end import WorkerEnd
from wsraw.workers.loading import handlers
from wsraw.workers.runtime import Runtime

SESSION = 7
FIRST = 1 << ID_EPOCH_SHIFT
CONNECTIONS = 64
BATCH = 256
"""Events in a batch, as under load."""

HANDLERS = {
    "empty": "def on_message(msg, con):\n    pass\n",
    "echo, returned": "def on_message(msg, con):\n    return msg\n",
    "echo, sent": "def on_message(msg, con):\n    con.send(msg['data'])\n",
}


def runtime(source: str, folder: Path) -> Runtime:
    """A worker in a session, with some connections."""
    file = folder / "handlers.py"
    file.write_text(source)
    link = WorkerEnd(pool="default", token="", instance="bench", language="bench")
    run = Runtime(link, handlers.load(str(file)), "close", threading.get_ident)
    run.receive(encode([0, Who()]))
    link.data_to_send()
    welcome = Welcome(PROTOCOL_VERSION, SESSION, 1, FIRST, FIRST + 65535, 10_000)
    connects = [OnConnect(n + 1, FIRST + n, {}) for n in range(CONNECTIONS)]
    run.receive(encode([SESSION, welcome, *connects]))
    work(run)
    return run


def work(run: Runtime) -> None:
    """Handle a batch as a shell does."""
    queue, handle = run.queue, run.handle
    while queue:
        handle(queue.popleft())
    run.link.data_to_send()


def measure(source: str, count: int, rounds: int) -> float:
    """Events a second in the best of some rounds."""
    with tempfile.TemporaryDirectory() as name:
        run = runtime(source, Path(name))
    seq = CONNECTIONS
    batches = []
    for _ in range(count):
        events = []
        for _ in range(BATCH):
            seq += 1
            events.append(OnMessage(seq, FIRST + seq % CONNECTIONS, b"x" * 64, "text"))
        batches.append(encode([SESSION, *events]))
    gc.collect()
    best = float("inf")
    for _ in range(rounds):
        begun = time.perf_counter()
        for batch in batches:
            run.receive(batch)
            work(run)
        best = min(best, time.perf_counter() - begun)
    return count * BATCH / best


def main() -> None:
    """Print a line for each handler."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a moment only")
    quick = parser.parse_args().quick
    for name, source in HANDLERS.items():
        rate = measure(source, 5 if quick else 400, 1 if quick else 7)
        print(f"{name:<15} {rate:>9,.0f} events/s  {1e6 / rate:.2f} us each", flush=True)


if __name__ == "__main__":
    main()
