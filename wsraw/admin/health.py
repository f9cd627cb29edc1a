"""Sans-I/O. Whether a run takes and serves clients, for load balancers and probes."""

from __future__ import annotations

from typing import Any

from wsraw.supervisor.status import problems


def not_ready(data: dict[str, Any]) -> list[str]:
    """Why the run should get no new clients now; empty if it should."""
    gateway = data["gateway"]
    # While some workers are in a crash loop, the others still serve clients.
    found = problems(data, with_loops=False)
    if gateway["crowded"]:
        found.append("the gateway holds too much memory to accept clients")
    most = gateway["max_connections"]
    if most and gateway["sockets"] >= most:
        found.append(f"there are {most} connections, the maximum (max_connections)")
    return found
