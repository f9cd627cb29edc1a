"""Sans-I/O. What a batch is, how long it may be, and from which length on it is not copied."""

from __future__ import annotations

from typing import Final, TypeAlias

from wsraw.link.records import MOST_RECORDS

Batch: TypeAlias = bytes | memoryview

NO_BATCH: Final = b"\xc1"
"""A byte that MessagePack never uses: what a message of several frames is taken for."""

LARGEST_BATCH: Final = 64 * 1024 * 1024
"""Bytes of a batch between the gateway and a worker of the same machine, in either direction: the
link is cut at a longer one."""

LARGEST_REMOTE_BATCH: Final = 16 * 1024 * 1024
"""The same for a batch that comes from a worker on another machine."""

RECORD_COST: Final = LARGEST_BATCH // MOST_RECORDS
"""Bytes that a command counts for beside its data: so a batch that is short enough has no more
records than the gateway reads."""

ROOM_FOR_ACKS: Final = 256 * 1024
"""Bytes of a batch that commands leave for the session and for as many acks as events may be in
flight."""

EVENT_LIMIT: Final = 256 * 1024 * 1024
"""Bytes that the commands of one event count for. What does not fit into a batch comes in several,
and the gateway keeps it until the ack has come."""

KEPT_COST: Final = RECORD_COST // 2
"""Bytes that a command which the gateway keeps counts for beside its own: what it takes decoded. So
a worker that counts RECORD_COST beside the data alone never sends too much."""

COPIED_BELOW: Final = 512 * 1024
"""Bytes of a batch from which on libzmq sends it where it lies: for less the bookkeeping costs more
than the copies."""

READ_IN_PLACE: Final = 8 * 1024
"""Bytes of a batch from which on it is read where it was received."""
