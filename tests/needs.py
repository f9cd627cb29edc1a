"""Features of the system that a test may need. Windows has none of them; under `make
test-portable` Linux has none either.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket

import pytest

from wsraw.runtime.launch import HAS_SIGNALS
from wsraw.runtime.link.connection import HAS_UNIX

signals = pytest.mark.skipif(not HAS_SIGNALS, reason="no signals here that a process can handle")
unix_sockets = pytest.mark.skipif(not HAS_UNIX, reason="no unix sockets here")
reuse_port = pytest.mark.skipif(
    not hasattr(socket, "SO_REUSEPORT"), reason="addresses cannot be shared here"
)
curl = pytest.mark.skipif(not shutil.which("curl"), reason="no curl here")
pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no descriptors of processes here")

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
"""The signal with which os.kill ends a process at once."""

KILLED = r"(?:was killed by SIGKILL|exited with code 15)"
"""The text of the log about that process."""

ON_ITS_WAY = 0.0 if HAS_UNIX else 0.2
"""Seconds in which all that was sent arrives: on a unix socket it is there at once."""
