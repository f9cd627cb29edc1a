"""I/O. The command line's end of the control link: one request, one answer."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import zmq

from wsraw.link.records import Decoder, Do, Done, encode
from wsraw.supervisor.run_folder import folder as folders

LOOK_AGAIN: Final = 0.2
"""Seconds between two checks whether the run is still up."""


class NoRunError(Exception):
    """There is no run to ask; the text says what to do."""


def find(run_dir: str) -> Path:
    """The run folder: the given one, or that of the only live run. Raises NoRunError."""
    if run_dir:
        path = Path(run_dir).absolute()
        try:
            os.stat(path / "lock")
        except PermissionError as error:
            text = f"{path}: {error.strerror}; the run belongs to another user"
            raise NoRunError(text) from error
        except OSError:
            pass
        if not folders.is_live(path):
            raise NoRunError(f"no run in {path}; is `wsraw run --run-dir {run_dir}` up?")
        return path
    live = [path for path in folders.fresh_folders() if folders.is_live(path)]
    if len(live) == 1:
        return live[0]
    if live:
        names = ", ".join(map(str, live))
        raise NoRunError(f"there are {len(live)} runs; choose one with --run-dir: {names}")
    raise NoRunError(
        f"no run in {folders.base()}; is `wsraw run` running as this user? A run with a --run-dir "
        "is found by that"
    )


def ask(folder: Path, what: str, args: Sequence[str] = (), timeout: float = 0.0) -> Done:
    """Ask the run in that folder, and wait for its answer; `timeout` is seconds, 0 none.

    Raises NoRunError if it is gone before that, TimeoutError if it takes too long.
    """
    try:
        lines = (folder / folders.CONTROL).read_text("utf-8").splitlines()
        token, endpoint = lines
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not complete"
        text = f"{folder / folders.CONTROL}: {why}; the run is starting or ending"
        raise NoRunError(text) from error
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    try:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(endpoint)
        socket.send(encode([token, Do(1, what, list(args))]))
        return _wait(socket, folder, timeout)
    finally:
        socket.close()
        context.term()


def _wait(socket: Any, folder: Path, timeout: float) -> Done:
    decoder = Decoder(str, Done)
    until = time.monotonic() + timeout if timeout else float("inf")
    while True:
        live = folders.is_live(folder)
        if socket.poll(int(LOOK_AGAIN * 1000)):
            for record in decoder.decode(socket.recv())[1]:
                if isinstance(record, Done):
                    return record
        elif not live:
            raise NoRunError("the run ended without an answer")
        if time.monotonic() >= until:
            raise TimeoutError(f"no answer within {timeout:g} s; the run continues with it")


def wait_until_gone(folder: Path, timeout: float = 0.0) -> None:
    """Until nothing of the run is left. Raises TimeoutError."""
    until = time.monotonic() + timeout if timeout else float("inf")
    while folders.is_live(folder):
        if time.monotonic() >= until:
            raise TimeoutError(f"it has not ended within {timeout:g} s")
        time.sleep(LOOK_AGAIN / 10)
