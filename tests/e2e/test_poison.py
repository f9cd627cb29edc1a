"""A message that kills each worker that handles it, among busy clients in the same batches."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.e2e.serving import TIMEOUT, Serving, receive_exactly, serve

Write = Callable[[str], Path]

BOOM = """
import os
def on_message(msg, con):
    if msg["data"] == "boom":
        os._exit(9)
    return msg
"""
NEIGHBOURS = 30
SIZE = 12


class Neighbour(threading.Thread):
    """Keeps four numbered messages in flight, and checks that each answer is the next one."""

    def __init__(self, serving: Serving, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.sock = serving.tcp()
        self.over = over
        self.answered = 0
        self.error = ""

    def run(self) -> None:
        sent = 0
        try:
            while not self.over.is_set() or self.answered < sent:
                while sent < self.answered + 4 and not self.over.is_set():
                    self.sock.sendall(b"%*d" % (SIZE, sent))
                    sent += 1
                answer = receive_exactly(self.sock, SIZE)
                if answer != b"%*d" % (SIZE, self.answered):
                    self.error = f"{answer!r} instead of {self.answered}"
                    return
                self.answered += 1
        except OSError as error:
            self.error = f"after {self.answered}: {error}"
        finally:
            self.sock.close()


def test_a_message_that_kills_three_workers_becomes_a_dead_letter(handlers: Write) -> None:
    with serve(handlers(BOOM), workers=2) as serving:
        serving.run.line("is ready", 2)
        over = threading.Event()
        neighbours = [Neighbour(serving, over) for _ in range(NEIGHBOURS)]
        for neighbour in neighbours:
            neighbour.start()
        with serving.ws() as client:
            client.send("boom")
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(TIMEOUT)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1011
        before = sum(neighbour.answered for neighbour in neighbours)
        serving.run.line("is ready", 5)
        over.set()
        for neighbour in neighbours:
            neighbour.join(TIMEOUT)
            assert not neighbour.is_alive()
            assert neighbour.error == ""
        assert before > NEIGHBOURS, "they were busy"
        assert str(serving).count("exited with code 9") == 3
        assert serving.folder is not None
        letters = (serving.folder / "dead-letters.jsonl").read_text().splitlines()
        [letter] = map(json.loads, letters)
        assert (letter["deaths"], letter["kind"]) == (3, "websocket")
        # Dead letters would keep the temporary folder, and `serve` checks that the folder is gone.
        (serving.folder / "dead-letters.jsonl").unlink()
