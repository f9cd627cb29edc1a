"""A network between two namespaces, for kernels without netem: whole packets go from one tun device
to the other, late, or not at all.

    python wire.py NAMESPACE:DEVICE NAMESPACE:DEVICE

makes the devices. Each line on stdin sets `DELAY LOSS` (seconds and a share, for each direction),
and is answered with `ok`. The program ends with its stdin.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque
from collections.abc import Callable

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000

LARGEST = 1 << 16
"""The size of the largest packet; the MTU of the devices is far below it."""
MOST_HELD = 10_000
"""Packets on their way in one direction; further packets are lost, as with netem's `limit`."""
AT_ONCE = 64
"""Packets that are read from one device in a turn."""


class Line:
    """One direction. Sans-I/O: takes packets and the time, returns packets."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self.delay = 0.0
        self.loss = 0.0
        self._chance = chance
        self._held: deque[tuple[float, bytes]] = deque()

    def put(self, packet: bytes, now: float) -> None:
        if self._chance() < self.loss or len(self._held) >= MOST_HELD:
            return
        # Packets stay in order even if the delay has become shorter.
        last = self._held[-1][0] if self._held else 0.0
        self._held.append((max(last, now + self.delay), packet))

    def due(self, now: float) -> list[bytes]:
        packets = []
        while self._held and self._held[0][0] <= now:
            packets.append(self._held.popleft()[1])
        return packets

    def wake_in(self, now: float) -> float | None:
        """Seconds until the next packet is due, or None if there is none."""
        return max(0.0, self._held[0][0] - now) if self._held else None


def enter(namespace: str) -> None:
    """Move the calling thread, and processes that it starts, into that network."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}") as file:
        if libc.setns(file.fileno(), CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, f"{namespace}: {os.strerror(number)}")


def device(place: str) -> int:
    """Make a tun device in a namespace; it exists until its descriptor is closed."""
    namespace, _, name = place.partition(":")
    enter(namespace)
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return tun


def take(tun: int, line: Line, now: float) -> None:
    try:
        for _ in range(AT_ONCE):
            line.put(os.read(tun, LARGEST), now)
    except OSError:
        # There are no more packets, or the device is down.
        pass


def give(tun: int, packets: list[bytes]) -> None:
    for packet in packets:
        try:
            os.write(tun, packet)
        except OSError:
            # A device that is down takes no packets, as intended.
            pass


def main() -> int:
    here, there = (device(place) for place in sys.argv[1:])
    lines = {here: Line(), there: Line()}
    others = {here: there, there: here}
    print("ok", flush=True)
    while True:
        now = time.monotonic()
        waits = [wait for line in lines.values() if (wait := line.wake_in(now)) is not None]
        readable, _, _ = select.select([*lines, 0], [], [], min(waits, default=None))
        now = time.monotonic()
        for tun, line in lines.items():
            if tun in readable:
                take(tun, line, now)
            give(others[tun], line.due(now))
        if 0 in readable:
            said = os.read(0, 100).split()
            if not said:
                return 0
            for line in lines.values():
                line.delay, line.loss = map(float, said)
            print("ok", flush=True)


if __name__ == "__main__":
    sys.exit(main())
