"""The pytest plugin. It imports little, because all test runs load it where wsraw is installed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from wsraw.testing import App, Server


@pytest.fixture
def wsraw_app(request: pytest.FixtureRequest) -> Iterator[Callable[..., App]]:
    """Make a `wsraw.testing.App`: ``app = wsraw_app("handlers.py", verdict="handlers")``.

    A path is looked for beside the test file, then from the current folder.
    """
    from wsraw.testing import App

    made: list[App] = []

    def make(handlers: object, **settings: Any) -> App:
        made.append(App(_beside(request, handlers), **settings))
        return made[-1]

    yield make
    for app in made:
        app.close()


@pytest.fixture
def wsraw_server(request: pytest.FixtureRequest) -> Iterator[Callable[..., Server]]:
    """Start a `wsraw.testing.Server`: ``server = wsraw_server("handlers.py", workers=2)``.

    Its log is shown if the test fails. A path is looked for beside the test file, then from the
    current folder.
    """
    from wsraw.testing import Server

    made: list[Server] = []

    def make(handlers: Any = None, **settings: Any) -> Server:
        made.append(Server(_beside(request, handlers), **settings))
        return made[-1]

    yield make
    # Stop all of them, also if the first one fails.
    failures = []
    for server in made:
        try:
            server.stop()
        except AssertionError as error:
            failures.append(error)
        print(f"--- wsraw on port {server.port} ---", server.log, sep="\n")
    if failures:
        raise failures[0]


def _beside(request: pytest.FixtureRequest, handlers: Any) -> Any:
    if isinstance(handlers, str | os.PathLike):
        there = Path(request.path).parent / handlers
        if there.exists():
            return there
    return handlers
