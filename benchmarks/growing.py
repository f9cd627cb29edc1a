"""Calculate, without measuring, what many gateways with many connections need.

The calculation multiplies the measured cost of a message on one machine by the assumed behaviour of
clients. `python -m benchmarks.growing` prints the result for 1,000,000 connections at 50 gateways,
which docs/growing.md quotes. Change the assumptions on the command line.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields

KIB = 1024


@dataclass
class Assumed:
    """Assumptions about the clients, and the numbers of clients and servers."""

    connections: int = 1_000_000
    gateways: int = 50
    nats: int = 3
    """Servers of the NATS cluster."""
    room: int = 20
    """Members of a room. Each client is in one room."""
    pause: float = 30.0
    """Seconds between two messages of a client to its room."""
    size: int = 200
    """Bytes of a message."""
    together: float = 0.0
    """The share of a room's members that a load balancer sends to one gateway, for example by
    the path of the URL. The others are spread at random.
    """


@dataclass
class Measured:
    """Measurements on two shared cores of a 2020s x86 server, CPython 3.11, not compiled; CPU in
    microseconds. The figures come from benchmarks/between.py, at 2,000 messages/s, and from
    benchmarks/RESULTS.md.
    """

    publish: float = 33.0
    """For a client's message at the gateway: from its socket to a worker, back, and to one
    member.
    """
    delivery: float = 5.3
    """For each further member, at the gateway."""
    arrival: float = 19.0
    """For a message of another node to one member, at the gateway."""
    agent: float = 26.0
    """For each message out or in, at the agent."""
    nats_in: float = 9.0
    nats_out: float = 6.0
    """For each message in, and for each node that gets it, at NATS."""
    connection: int = 6 * KIB
    """Bytes of a gateway's memory for an idle connection."""
    subscription: int = 750
    """Bytes of an agent's memory for a room."""
    nats_subscription: int = 850
    envelope: int = 120
    """Bytes around a message between nodes."""


def others(assumed: Assumed) -> float:
    """The average number of other gateways at which a room has members, seen from one of its
    members.

    Each spread member is at any gateway with the same probability. So a gateway has none of n
    members with the probability (1 - 1/G)^n.
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
