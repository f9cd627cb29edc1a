"""A calculation, not a measurement: what many gateways with many connections need.

It takes what one message costs, as measured on one machine, and how clients behave, as assumed, and
multiplies. `python -m benchmarks.growing` prints it for 1,000,000 connections at 50 gateways;
docs/growing.md quotes that. Change the assumptions on the command line.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields

KIB = 1024


@dataclass
class Assumed:
    """How clients behave, and how many there are of all."""

    connections: int = 1_000_000
    gateways: int = 50
    nats: int = 3
    """Servers of the NATS cluster."""
    room: int = 20
    """Members of a room. Each client is in one."""
    pause: float = 30.0
    """Seconds between two messages of a client to its room."""
    size: int = 200
    """Bytes of a message."""
    together: float = 0.0
    """Share of the members of a room that a load balancer brings to one gateway, by the path of the
    URL for example. The others are spread at random."""


@dataclass
class Measured:
    """On two shared cores of a 2020s x86 server, CPython 3.11, not compiled; CPU in microseconds.
    benchmarks/between.py, at 2,000 messages/s, and benchmarks/RESULTS.md."""

    publish: float = 33.0
    """At the gateway, for a message of a client from its socket to a worker, back, and to one
    member."""
    delivery: float = 5.3
    """At the gateway, for each further member."""
    arrival: float = 19.0
    """At the gateway, for a message of another node, to one member."""
    agent: float = 26.0
    """At the agent, for each message out or in."""
    nats_in: float = 9.0
    nats_out: float = 6.0
    """At NATS, for each message in, and for each node that gets it."""
    connection: int = 6 * KIB
    """Bytes of a gateway's memory for an idle connection."""
    subscription: int = 750
    """Bytes of an agent's memory for a room."""
    nats_subscription: int = 850
    envelope: int = 120
    """Bytes around a message between nodes."""


def others(assumed: Assumed) -> float:
    """At how many other gateways a room has members, on average, seen from one of its members.

    Each of the members who are spread is at any gateway with the same chance. So a gateway has none
    of n with the chance (1 - 1/G)^n.
    """
    spread = (assumed.room - 1) * (1 - assumed.together)
    gateways = assumed.gateways
    return (gateways - 1) * (1 - (1 - 1 / gateways) ** spread)


def lines(assumed: Assumed, measured: Measured) -> list[str]:
    """The calculation, line by line."""
    a, m = assumed, measured
    rooms = a.connections / a.room
    published = a.connections / a.pause
    away = others(a)
    own = published / a.gateways
    arrivals = published * away / a.gateways
    deliveries = published * (a.room - 1) / a.gateways
    further = max(0.0, deliveries - own - arrivals)
    gateway = own * m.publish + arrivals * m.arrival + further * m.delivery
    agent = (own + arrivals) * m.agent
    nats = (published * m.nats_in + published * away * m.nats_out) / a.nats
    subscribed = rooms * (1 + away) / a.gateways
    bits = arrivals * (a.size + m.envelope) * 8
    connections = a.connections / a.gateways
    memory = connections * m.connection
    stadium = connections * m.delivery / 1e6
    to_each, from_each = published / a.nats, published * away / a.nats
    nodes = a.gateways - 1
    return [
        f"{a.connections:,} connections at {a.gateways} gateways, rooms of {a.room}, a message of "
        f"{a.size} bytes each {a.pause:g} s, {a.together:.0%} of a room at one gateway",
        f"published in all        {published:12,.0f}/s",
        f"deliveries in all       {published * (a.room - 1):12,.0f}/s",
        f"a room has members at   {away:12.1f} other gateways",
        "each gateway:",
        f"  connections           {connections:12,.0f}",
        f"  memory of these       {memory / KIB / KIB:12,.0f} MiB",
        f"  published here        {own:12,.0f}/s",
        f"  from other nodes      {arrivals:12,.0f}/s, {bits / 1e6:.0f} Mbit/s",
        f"  delivered             {deliveries:12,.0f}/s",
        f"  gateway's core        {gateway / 1e6:12.0%}",
        f"  agent's core          {agent / 1e6:12.0%}",
        f"  rooms subscribed      {subscribed:12,.0f}, "
        f"{subscribed * m.subscription / KIB / KIB:.0f} MiB of the agent",
        f"each of {a.nats} NATS servers:",
        f"  messages in, out      {to_each:12,.0f}/s, {from_each:,.0f}/s",
        f"  cores                 {nats / 1e6:12.1f}",
        f"  subscriptions         {subscribed * a.gateways:12,.0f}, "
        f"{subscribed * a.gateways * m.nats_subscription / KIB / KIB:.0f} MiB",
        "one message to all connections:",
        f"  until the last has it {stadium:12.2f} s of each gateway's core",
        f"heartbeats in all       {a.gateways * nodes:12,}/s delivered",
        f"one question, as count  {2 * nodes:12,} messages",
    ]


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    for field in fields(Assumed):
        kind = float if field.type == "float" else int
        parser.add_argument(f"--{field.name}", type=kind, default=field.default)
    args = parser.parse_args()
    print("\n".join(lines(Assumed(**vars(args)), Measured())))


if __name__ == "__main__":
    main()
