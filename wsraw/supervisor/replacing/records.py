"""Sans-I/O. What a supervisor passes to the program that replaces it: its state, and the numbers of
the descriptors that it keeps open.

Fields are only appended, each with a default: the other version may be older or newer. Times are in
seconds from the moment of the replacement, because the replacement counts as taking no time.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from wsraw.config.programs import Program
from wsraw.supervisor.decisions.child import ChildState
from wsraw.supervisor.decisions.versions import Version

FORMAT: Final = 1
"""Raised where appending fields is not enough; records with another number are refused."""


class NotUnderstoodError(ValueError):
    """A record cannot be used; the text says why."""


class StateRecord(msgspec.Struct, array_like=True):
    """A part of the state, encoded as an array."""


class ProcessRecord(StateRecord):
    """A process of a child, or the unread output of one that has ended."""

    pid: int
    """The pid; 0: it has ended."""
    stdin: int
    stdout: int
    kind: str
    hears: bool
    rest: bytes
    """The beginning of an incomplete line."""
    lines: list[str]
    """The last lines."""
    is_killed: bool = False
    offers: int = -1
    """The socket on which a gateway is offered a successor."""
    name: str = ""
    pool: str = ""


class ChildRecord(StateRecord):
    """The state of a Child."""

    program: Program | None
    pool: str
    state: ChildState
    n: int
    token: str
    early_deaths: int
    restarts: int
    last_death: tuple[float, str, str]
    spawn_at: float
    spawned_at: float
    ready_at: float | None
    is_proved: bool
    hello_by: float
    kill_at: float
    why_killed: str
    is_killed: bool
    is_aborted: bool
    title: str
    outdated: str
    replace_at: float
    becomes: Program | None
    version: Version
    process: ProcessRecord | None = None


class RestartsRecord(StateRecord):
    """The state of a Restarts."""

    is_looping: bool
    counts: dict[str, int]
    deaths: list[float]
    recent: list[tuple[int, int, float]]
    """The number of a child in the list of all, the number of its process, and when it died."""


class VersionsRecord(StateRecord):
    """The state of a Versions."""

    wanted: Version
    served: list[int]
    before: Version
    is_going_back: bool


class PoolRecord(StateRecord):
    """The state of a Pool. Children are numbers in the list of all; -1: none."""

    name: str
    programs: list[Program]
    workers: list[int]
    leaving: list[int]
    successor: int
    replaced: int
    proved: list[Program]
    restarts: RestartsRecord
    versions: VersionsRecord
    is_reloading: bool
    is_catching_up: bool
    refused_at: float | None
    is_scaling: bool
    outcomes: dict[str, int] = {}
    """How its canaries have ended."""
    last_outcome: dict[str, Any] | None = None
    promoted: int = 0


class PolicyRecord(StateRecord):
    """The Policy of a run that is up, without canaries and upgrades."""

    children: list[ChildRecord]
    gateway: int
    leaving: list[int]
    """The earlier gateways."""
    pools: list[PoolRecord]
    unwanted: list[str]
    restarts: RestartsRecord
    """The restarts of the gateway."""
    has_been_up: bool
    endpoint: str
    listened: bool
    spawned: int
    version: int


class FolderRecord(StateRecord):
    """The run folder."""

    path: str
    is_ours: bool
    lock: int
    shield: int
    """-1: none."""
    texts: dict[str, str]
    seen: dict[str, tuple[int, int, int, int]]
    epoch: int


class ControlRecord(StateRecord):
    """The control link."""

    listener: int
    path: str
    client_token: str
    token: str
    old_token: str


class PendingRecord(StateRecord):
    """An unanswered request of the command line."""

    link: int
    """The descriptor of its link."""
    pid: int
    ref: int
    what: str
    asked: str
    outcomes: list[tuple[str, bool | None, str]]
    """Its parts in order, each with its outcome; None: it is not settled."""


class HelperRecord(StateRecord):
    """The admin process, or the agent of a cluster."""

    child: int
    socket: int = -1
    endpoint: str = ""
    is_up: bool = True


class NextRecord(StateRecord):
    """What the new program must do after the replacement."""

    installation: tuple[str, str, str] | None = None
    """The installation of the new gateway and workers, if it is not the supervisor's own."""
    reload: list[str] | None = None
    """Pools to reload after the replacement; None: no reload waits for it."""
    upgrades: bool = True
    """Whether the gateway must be upgraded."""
    back: list[str] = []
    """The command line of the program before, if that is another one."""


class RunRecord(StateRecord):
    """The whole record."""

    format: int
    version: str
    """The version of the wsraw that has written the record."""
    settings: str
    policy: PolicyRecord
    folder: FolderRecord
    spare: FolderRecord | None
    control: ControlRecord
    sockets: list[int]
    """The sockets of the listeners, in the order of the settings."""
    passed: list[str]
    """Names of the sockets that the service manager has passed."""
    numbers: list[int]
    names: dict[int, str]
    link: int
    """Where workers find each gateway, if there are no unix sockets; -1: there are."""
    addresses: list[str]
    standalone_token: str
    node: str
    age: float
    admin: HelperRecord | None
    agent: HelperRecord | None
    unread: list[ProcessRecord]
    last_output: str
    pending: list[PendingRecord]
    refusals: dict[str, tuple[float, str]]
    log: list[tuple[int, str, str]]
    next: NextRecord
    more: dict[str, Any] = {}
    limit: tuple[int, int] | None = None
    """The limit on open files, before the run raised it."""

    def descriptors(self) -> list[int]:
        """All descriptors that the record names."""
        folders = [self.folder] if self.spare is None else [self.folder, self.spare]
        processes = [each.process for each in self.policy.children if each.process is not None]
        numbers = [
            *self.sockets,
            self.link,
            self.control.listener,
            *(number for each in folders for number in (each.lock, each.shield)),
            *(
                number
                for each in (*processes, *self.unread)
                for number in (each.stdin, each.stdout, each.offers)
            ),
            *(each.link for each in self.pending),
            self.admin.socket if self.admin is not None else -1,
        ]
        return [number for number in numbers if number >= 0]


_encoder: Final = msgspec.msgpack.Encoder()


def encode(record: RunRecord) -> bytes:
    return _encoder.encode(record)


def decode(data: bytes) -> RunRecord:
    """The record in these bytes. Raises NotUnderstoodError."""
    try:
        head = msgspec.msgpack.decode(data)
        found, version = head[0], head[1]
    except (ValueError, TypeError, LookupError) as error:
        raise NotUnderstoodError(f"the record of the old supervisor is damaged: {error}") from error
    if found != FORMAT:
        raise NotUnderstoodError(
            f"the supervisor of wsraw {version} writes its state in format {found}, and this "
            f"wsraw reads format {FORMAT}: stop the run, and start it again"
        )
    try:
        return msgspec.msgpack.decode(data, type=RunRecord)
    except msgspec.MsgspecError as error:
        raise NotUnderstoodError(
            f"the state of the supervisor of wsraw {version} cannot be read here: {error}"
        ) from error
