"""For all tests. A machine that is busy elsewhere is no fault of the code under test."""

import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import settings

from wsraw.gateway.counters import Counters
from wsraw.runtime.compiled import is_compiled

# Hypothesis' own deadline counts milliseconds of wall clock; tests that wait have one of ours.
settings.register_profile("wsraw", deadline=None)
settings.load_profile("wsraw")

if is_compiled() != bool(os.environ.get("WSRAW_TEST_COMPILED")):
    raise RuntimeError(
        "the hot path is compiled, and nobody has asked for that: make clean"
        if is_compiled()
        else "the hot path is not compiled: make test-compiled does it"
    )

# Started by nohup, or with & in a script, we ignore these, and so would all that tests start: what
# is ignored stays so in programs, what is handled does not.
for _name in ("SIGINT", "SIGHUP"):
    _number = getattr(signal, _name, None)
    if _number is not None and signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda number, frame: None)

# Also where wsraw is not installed, and its entry point does not do it.
pytest_plugins = ["pytester", "wsraw.testing.plugin"]

_faults: list[tuple[str, BaseException]] = []
_fault = Counters.fault


def _remember(self: Counters, who: str, error: BaseException) -> None:
    _faults.append((who, error))
    _fault(self, who, error)


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
