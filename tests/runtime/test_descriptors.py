"""How the descriptors of a process are shared out."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap

import pytest

from wsraw.gateway.sockets.descriptors import Descriptors
from wsraw.gateway.sockets.resolver import THREADS
from wsraw.runtime import descriptors

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="handles have no order there")


@pytest.mark.parametrize("limit", [64, 120, 256, 1024, 4096, 1 << 20])
@pytest.mark.parametrize("workers", [0, 1, 2, 14, 500])
def test_enough_descriptors_are_kept_back(limit: int, workers: int) -> None:
    """The reserve is enough for each possible worker and the worker that it replaces, and for
    look-ups of names.
    """
    kept = descriptors.reserve(limit, workers)
    most = descriptors.most_workers(limit, workers)
    look_ups = min(THREADS, Descriptors(limit, workers).look_ups)
    assert most >= workers
    assert look_ups >= 1
    assert descriptors.EACH_WORKER * most + descriptors.LOOK_UP * look_ups <= kept + 3
    assert kept - descriptors.EACH_WORKER * workers <= limit // 4


def test_descriptors_are_kept_back_for_workers_that_come_later() -> None:
    numbers = Descriptors(1000, 4)
    with socket.socket() as sock:
        numbers._top = sock.fileno() + 1
        assert not numbers.is_beyond(sock)
        assert numbers.is_last(sock.fileno())
        assert not numbers.has_room()
        numbers.expect(2)
        assert numbers._top == 1000 - descriptors.reserve(1000, 4)
        numbers.expect(40)
        assert numbers._top == 1000 - descriptors.reserve(1000, 40)
        assert numbers.has_room()


def test_without_a_limit_there_are_always_descriptors() -> None:
    assert Descriptors().has_room()
    assert Descriptors().most_connections() == 0
    assert Descriptors().look_ups >= THREADS


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prlimit is Linux's")
def test_a_worker_gets_the_limit_back_that_the_run_was_given() -> None:
    resource = pytest.importorskip("resource")
    line = "import resource; input(); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with subprocess.Popen(
        [sys.executable, "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        descriptors.give_back(child.pid, (77, hard))
        assert child.communicate("\n")[0] == "77\n"
    descriptors.give_back(child.pid, (77, hard))


def test_numbers_that_select_cannot_watch_are_not_given_out() -> None:
    """Where there is only select, the limit keeps such descriptors out of the loop. New clients
    wait or are refused then, as at any other limit.
    """
    resource = pytest.importorskip("resource")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] in range(descriptors.FD_SETSIZE):
        pytest.skip("there is a lower limit")
    lines = """
        import selectors, socket
        from wsraw.runtime import descriptors, selector
        selector.Selector = selectors.SelectSelector
        print(descriptors.raise_limit())
        watching = selectors.SelectSelector()
        try:
            while True:
                watching.register(socket.socket(), selectors.EVENT_READ)
        except OSError:
            watching.select(0)
            print("full")
        """
    said = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(lines)], stdout=subprocess.PIPE, text=True
    )
    assert said.stdout.split() == [str(descriptors.FD_SETSIZE), "full"]


@pytest.mark.parametrize(
    ("limit", "least", "most"), [(10, 1, 1), (1024, 512, 922), (1 << 20, 900_000, 943_719)]
)
def test_a_tenth_of_the_descriptors_is_left_free(limit: int, least: int, most: int) -> None:
    assert least <= Descriptors(limit).most_connections() <= most
