"""Honest clients that work while others attack."""

from __future__ import annotations

import threading

from tests.e2e.serving import TIMEOUT, Serving


class Observer:
    """A verified echo over a WebSocket and over a raw connection, repeated until the block ends."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._over = threading.Event()
        self._errors: list[BaseException] = []
        self.echoes = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Observer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        if self._errors and error[0] is None:
            raise self._errors[0]

    def _run(self) -> None:
        try:
            with self._serving.ws() as web, self._serving.tcp() as raw:
                while not self._over.is_set():
                    text = f"{self.echoes:08d}"
                    web.send(text)
                    raw.sendall(text.encode())
                    assert web.recv(TIMEOUT) == text
                    assert raw.recv(100) == text.encode()
                    self.echoes += 1
        except BaseException as error:
            self._errors.append(error)
