from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.authority import server_file
from tests.gateway.socket_harness import SocketHarness
from tests.gateway.tls_client import Serve


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    made: list[SocketHarness] = []

    def serve(listen: str = "127.0.0.1:0", **settings: Any) -> SocketHarness:
        settings.setdefault("tls_cert", (server_file(tmp_path),))
        made.append(SocketHarness(listen, **settings))
        return made[-1]

    yield serve
    for served in made:
        served.close()
