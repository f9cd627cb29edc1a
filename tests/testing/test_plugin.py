"""The pytest plugin in projects that do not use it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import wsraw.testing


def test_the_plugin_imports_next_to_nothing() -> None:
    """pytest loads the plugin wherever wsraw is installed: it must not import the gateway or
    ZeroMQ.
    """
    source = (
        "import sys, pytest; before = set(sys.modules); import wsraw.testing.plugin;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout.split() == ["wsraw", "wsraw.testing", "wsraw.testing.plugin"]


def test_the_names_of_the_package_are_importable() -> None:
    assert [getattr(wsraw.testing, name).__name__ for name in wsraw.testing.__all__] == (
        wsraw.testing.__all__
    )
    with pytest.raises(AttributeError, match="no attribute 'Sever'"):
        wsraw.testing.Sever  # noqa: B018
