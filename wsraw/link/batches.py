"""Sans-I/O. Limits of batches, and the sizes from which they are not copied."""

from __future__ import annotations

from typing import Final, TypeAlias

from wsraw.link.records import MOST_RECORDS

Batch: TypeAlias = bytes | memoryview

NO_BATCH: Final = b"\xc1"
"""A byte that MessagePack never uses. It stands for a message of several frames."""

LARGEST_BATCH: Final = 64 * 1024 * 1024
"""Bytes of a batch between the gateway and a worker on the same machine, in either direction: a
longer one ends the link."""

LARGEST_REMOTE_BATCH: Final = 16 * 1024 * 1024
"""Bytes of a batch from a worker on another machine."""

RECORD_COST: Final = LARGEST_BATCH // MOST_RECORDS
"""Bytes that a command counts for, in addition to its data: so a batch within the limit has no more
records than the gateway reads."""

ROOM_FOR_ACKS: Final = 256 * 1024
"""Bytes of a batch that commands leave for the session number and for as many acks as events may be
in flight."""

EVENT_LIMIT: Final = 256 * 1024 * 1024
"""Bytes that the commands of one event may count for. Commands that do not fit into a batch come in
several, and the gateway keeps them until the ack has come."""

KEPT_COST: Final = RECORD_COST // 2
"""Bytes that a command which the gateway keeps counts for, in addition to its own, because it is
kept decoded. So a worker that only counts RECORD_COST in addition to the data never sends too
much."""

COPIED_BELOW: Final = 512 * 1024
"""Bytes of a batch from which libzmq sends it without a copy: for a smaller one, the bookkeeping
costs more than copying."""

READ_IN_PLACE: Final = 8 * 1024
"""Bytes of a batch from which it is read where it was received."""
