"""Masking in C, loaded without the package that contains it."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from wsraw.gateway.websocket.frames import _mask_in_python, apply_mask


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_each_byte_is_masked_by_its_byte_of_the_mask(data: bytes, mask: bytes) -> None:
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
    # The other function is for a library that was installed without a compiler.
    for function in (apply_mask, _mask_in_python()):
        assert function(data, mask) == masked
        assert function(memoryview(masked), mask) == data
        assert function(bytearray(masked), bytearray(mask)) == data


def loaded(lines: str) -> set[str]:
    told = subprocess.run(
        [sys.executable, "-c", f"import sys; {lines}; print(*sys.modules)"],
        capture_output=True,
        check=True,
        encoding="utf-8",
    )
    return set(told.stdout.split())


def test_the_function_in_c_comes_without_its_package() -> None:
    found = loaded("import wsraw.gateway.websocket.frames")
    assert not {"websockets", "importlib.metadata", "email"} & found
