"""For all tests. A machine that is busy elsewhere is no fault of the code under test."""

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

# Hypothesis' own deadline, and what it calls too slow, count wall clock; tests that wait have a
# deadline of ours.
settings.register_profile("wsraw", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wsraw")

if is_compiled() != bool(os.environ.get("WSRAW_TEST_COMPILED")):
    raise RuntimeError(
        "the hot path is compiled, and nobody has asked for that: make clean"
        if is_compiled()
        else "the hot path is not compiled: make test-compiled does it"
    )

# What a parent ignores or blocks stays so in the programs that it starts; what it handles does not.
# Started by nohup, or with & in a script, we would hand that on to the processes under test.
for _number in signal.valid_signals():
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda number, frame: None)
if hasattr(signal, "pthread_sigmask"):
    signal.pthread_sigmask(signal.SIG_SETMASK, ())

# Runs look at each other in the folder that holds their run folders: one waits for the address of
# another that is leaving. Tests side by side, and runs outside of the tests, each have their own.
os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="runs-")
atexit.register(shutil.rmtree, os.environ["XDG_RUNTIME_DIR"], ignore_errors=True)

# Also where wsraw is not installed, and its entry point does not do it.
pytest_plugins = ["pytester", "wsraw.testing.plugin"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """More than there are cores: most tests wait for processes most of the time."""
    return 2 + 2 * (os.cpu_count() or 1)


_faults: list[tuple[str, BaseException]] = []
_fault = Counters.fault


def _remember(self: Counters, who: str, error: BaseException, *subject: Subject) -> None:
    _faults.append((who, error))
    _fault(self, who, error, *subject)


Counters.fault = _remember  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """The gateway goes on when its own code raises; a test fails for that, unless it asks for the
    fixture `faults`."""
    _faults.clear()
    yield
    if _faults and "faults" not in getattr(item, "fixturenames", ()):
        who, error = _faults[0]
        raise AssertionError(f"{who} was ended by a fault of our own") from error


@pytest.fixture
def faults() -> list[tuple[str, BaseException]]:
    """Who was ended by a fault of the gateway's own code, and by which."""
    return _faults
