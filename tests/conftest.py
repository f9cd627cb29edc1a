"""Fixtures and settings of all tests. A busy machine must not make a test fail."""

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from wsraw.cli import is_compiled
from wsraw.gateway.counters import Counters
from wsraw.runtime.log.line import Subject

# Hypothesis measures its deadline, and what it calls too slow, by wall clock; tests that wait have
# deadlines of ours.
settings.register_profile("wsraw", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wsraw")

if is_compiled() != bool(os.environ.get("WSRAW_TEST_COMPILED")):
    raise RuntimeError(
        "the hot path is compiled, and nobody has asked for that: make clean"
        if is_compiled()
        else "the hot path is not compiled: make test-compiled does it"
    )

# Programs inherit the signals that their parent ignores or blocks, but not its handlers. A pytest
# that was started by nohup, or with & in a script, would pass them on to the processes under test.
for _number in signal.valid_signals():
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda number, frame: None)
if hasattr(signal, "pthread_sigmask"):
    signal.pthread_sigmask(signal.SIG_SETMASK, ())

# A run looks at other runs in the folder that holds its run folder: it waits for the address of one
# that is leaving. So parallel tests, and runs outside of the tests, have folders of their own.
os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="runs-")
atexit.register(shutil.rmtree, os.environ["XDG_RUNTIME_DIR"], ignore_errors=True)

# The plugin is also needed where wsraw is not installed and has no entry point.
pytest_plugins = ["pytester", "wsraw.testing.plugin"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """There are more workers than cores, as most tests mostly wait for processes."""
    return 2 + 2 * (os.cpu_count() or 1)


_faults: list[tuple[str, BaseException]] = []
_fault = Counters.fault


def _remember(self: Counters, who: str, error: BaseException, *subject: Subject) -> None:
    _faults.append((who, error))
    _fault(self, who, error, *subject)


Counters.fault = _remember  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """The gateway continues when its own code raises. The test fails then, unless it uses the
    fixture `faults`.
    """
    _faults.clear()
    yield
    if _faults and "faults" not in getattr(item, "fixturenames", ()):
        who, error = _faults[0]
        raise AssertionError(f"{who} was ended by a fault of our own") from error


@pytest.fixture
def faults() -> list[tuple[str, BaseException]]:
    """The connections and workers that were ended by a fault of the gateway's own code, and the
    exceptions.
    """
    return _faults
