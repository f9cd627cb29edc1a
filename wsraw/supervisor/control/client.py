"""I/O. The command line's end of the control link: a request, and its answer or answers."""

from __future__ import annotations

import math
import os
import selectors
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from wsraw.link.records import Decoder, Do, Done, LinkError, encode
from wsraw.runtime.link.client import LinkClient
from wsraw.supervisor.run_folder import folder as folders

LOOK_AGAIN: Final = 0.2
"""Seconds between two checks whether the run is still up."""

DESCRIBED: Final = 2.0
"""Seconds that each of several runs has to describe itself."""


class NoRunError(Exception):
    """No run can be asked; the text says what to do."""


class RequestRefusedError(Exception):
    """The run has refused the request; the text says why."""


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
        told = "\n".join(f"  {path}  {_describe(path)}" for path in live)
        raise NoRunError(
            f"there are {len(live)} runs; choose one with --run-dir or WSRAW_RUN_DIR:\n{told}"
        )
    raise NoRunError(
        f"no run in {folders.base()}; is `wsraw run` running as this user? If it has a "
        "--run-dir, give that here, too"
    )


def _describe(folder: Path) -> str:
    """The process of a run and its addresses, to distinguish it from others."""
    try:
        data = ask(folder, "status", (), DESCRIBED).data
    except (NoRunError, RequestRefusedError, TimeoutError):
        return "does not answer"
    return f"pid {data['pid']}, {' and '.join(data['listen']) or 'not listening yet'}"


def ask(
    folder: Path,
    what: str,
    args: Sequence[str] = (),
    timeout: float = 0.0,
    options: Mapping[str, Any] | None = None,
) -> Done:
    """Ask the run in that folder, and wait for its answer; `timeout` is in seconds, 0: none.

    Raises NoRunError if it is gone before that, RequestRefusedError if it does not take the
    request, TimeoutError if it takes too long.
    """
    with closing(_Conversation(folder)) as conversation:
        return conversation.ask(Do(1, what, list(args), dict(options or {})), timeout)


def pages(
    folder: Path, what: str, options: Mapping[str, Any], timeout: float = 0.0
) -> Iterator[Done]:
    """Ask the gateway of that run about connections, and yield its answers: all but the last have
    `more` set. The next answer is requested when the caller continues, and `timeout` applies to
    each answer. Closing the iterator ends the request at the gateway, too.

    Options and answers of each request are those of wsraw/gateway/inspection/. Raises the errors of
    `ask`.
    """
    with closing(_Conversation(folder)) as conversation:
        done = conversation.ask(Do(1, what, [], dict(options)), timeout)
        yield done
        while done.more:
            done = conversation.ask(Do(1, "more"), timeout)
            yield done


class _Conversation:
    """A connection to a run. Raises NoRunError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._decoder = Decoder(str, Done)
        try:
            self._token, endpoint = (folder / folders.CONTROL).read_text("utf-8").splitlines()
            self._client = LinkClient(endpoint)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is not complete"
            text = f"{folder / folders.CONTROL}: {why}; the run is starting or ending"
            raise NoRunError(text) from error

    def close(self) -> None:
        self._client.close()

    def ask(self, do: Do, timeout: float) -> Done:
        """Send a request, and wait for the answer."""
        until = time.monotonic() + timeout if timeout else math.inf
        try:
            request = encode([self._token, do])
        except (OverflowError, UnicodeEncodeError) as error:
            # A number with hundreds of digits, or bytes from a terminal that are not text.
            raise RequestRefusedError(f"it cannot be sent: {error}") from error
        try:
            return self._ask(request, until)
        except TimeoutError as error:
            raise TimeoutError(f"no answer within {timeout:g} s{error}") from None
        except LinkError as error:
            raise RequestRefusedError(f"its answer cannot be read: {error}") from error

    def _ask(self, request: bytes, until: float) -> Done:
        client, folder = self._client, self._folder
        is_sent = False
        while True:
            # Checked before reading: a run that ends without an answer has had time to give one.
            live = folders.is_live(folder)
            now = time.monotonic()
            client.work(now)
            is_sent = is_sent or client.send(request)
            while (batch := client.receive()) is not None:
                for record in self._decoder.decode(batch)[1]:
                    if isinstance(record, Done):
                        return record
            if client.is_lost and is_sent and folders.has_supervisor(folder):
                raise RequestRefusedError(f"the run does not answer: {client.why}")
            if not live or (client.is_lost and is_sent):
                raise NoRunError("the run ended without an answer")
            if client.is_lost:
                client.reconnect()
            if now >= until:
                if is_sent:
                    raise TimeoutError("; the run continues with it")
                raise TimeoutError(f": cannot connect ({client.why})" if client.why else "")
            _wait(client, min(until, now + LOOK_AGAIN, client.wait_until) - now)


def _wait(client: LinkClient, seconds: float) -> None:
    """Wait until the client has something to do, but at most this many seconds."""
    with selectors.DefaultSelector() as selector:
        if client.fileno() >= 0:
            write = selectors.EVENT_WRITE if client.wants_write else 0
            selector.register(client, selectors.EVENT_READ | write)
            selector.select(max(0.0, seconds))
        elif seconds > 0:
            time.sleep(seconds)


def wait_until_gone(folder: Path, timeout: float = 0.0) -> None:
    """Wait until nothing of the run is left. Raises TimeoutError."""
    until = time.monotonic() + timeout if timeout else float("inf")
    while folders.is_live(folder):
        if time.monotonic() >= until:
            raise TimeoutError(f"it has not ended within {timeout:g} s")
        time.sleep(LOOK_AGAIN / 10)
