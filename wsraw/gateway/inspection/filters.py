"""Sans-I/O. Which connections an operator's options match."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping
from itertools import chain, islice
from typing import Any, Final

from wsraw.config.addresses import UNIX, Networks, parse_address
from wsraw.config.patterns import Pattern, split
from wsraw.config.pools import known_pools
from wsraw.gateway.connection.connection import Connection, ConnectionState
from wsraw.gateway.delivery.entry import Entry, entry_of
from wsraw.gateway.delivery.registry import Registry
from wsraw.link.rules import split_host_port

KINDS: Final = ("websocket", "raw", "unknown")

STEP: Final = 16
"""Connections that are checked in a step."""

Test = Callable[[Connection, Entry | None], bool]


class Filter:
    """The connections that match all given options: `pool`, `group`, `user`, `address`, `path`,
    `kind`, `state`, `worker`, `slow`, `paused`, `idle` and `opened`.

    Raises ValueError with a line that says what to write instead.
    """

    def __init__(self, options: Mapping[str, Any], registry: Registry) -> None:
        self._registry = registry
        self._flow = registry.flow
        self.group = _text(options, "group")
        """Only members of this group can match."""
        self.user = _text(options, "user")
        """Only connections of this user can match."""
        self._tests: list[Test] = []
        for name, make in self._makers.items():
            value = options.get(name)
            if value is not None and value is not False and value != "":
                self._tests.append(make(self, options))
        if self.group:
            group = self.group
            self._tests.append(lambda con, entry: entry is not None and _is_member(entry, group))
        if self.user:
            user = self.user
            self._tests.append(lambda con, entry: entry is not None and entry.user == user)

    @property
    def is_for_all(self) -> bool:
        """Whether every connection matches."""
        return not self._tests

    def each(self) -> Generator[list[Connection]]:
        """The connections that may match, some at a time: those that exist at the beginning,
        without those that have ended since."""
        registry = self._registry
        groups = registry.groups
        others: list[Connection] = []
        if self.user:
            entries = list(groups.users.of(self.user))
        elif self.group:
            entries = list(groups.members(self.group))
        else:
            entries, others = list(registry.entries.values()), list(registry.flow.without_entry)
        every = chain((entry.con for entry in entries if not entry.gone), others)
        while cons := list(islice(every, STEP)):
            yield [con for con in cons if con.entry is None or not con.entry.gone]

    def matches(self, con: Connection) -> bool:
        """Whether a connection matches now."""
        entry = entry_of(con)
        return all(test(con, entry) for test in self._tests)

    # --- one option each ---

    def _pool(self, options: Mapping[str, Any]) -> Test:
        pool = _text(options, "pool")
        if pool not in self._registry.pools:
            known = known_pools(list(self._registry.pools))
            raise ValueError(f"there is no pool {pool!r}; {known}")
        found = self._registry.pools[pool]
        if found.name != pool:
            # It is a canary; all of its connections have an entry.
            return lambda con, entry: entry is not None and entry.pool is found
        return lambda con, entry: (entry.pool.name if entry is not None else con.pool) == pool

    def _address(self, options: Mapping[str, Any]) -> Test:
        text = _text(options, "address")
        _, port = split_host_port(text) or ("", None)
        if port is not None and parse_address(text) is None:
            return lambda con, entry: con.about.get("peer") == text
        networks = Networks([text])
        return lambda con, entry: _address_of(con) in networks

    def _path(self, options: Mapping[str, Any]) -> Test:
        pattern = Pattern(_text(options, "path"))
        return lambda con, entry: _has_path(con, pattern)

    def _kind(self, options: Mapping[str, Any]) -> Test:
        kind = _choice(options, "kind", KINDS)
        return lambda con, entry: (con.kind or "unknown") == kind

    def _state(self, options: Mapping[str, Any]) -> Test:
        state = _choice(options, "state", [state.value for state in ConnectionState])
        return lambda con, entry: con.state.value == state

    def _worker(self, options: Mapping[str, Any]) -> Test:
        n = int(_number(options, "worker"))
        return lambda con, entry: (
            entry is not None and entry.holder is not None and entry.holder.number == n
        )

    def _slow(self, options: Mapping[str, Any]) -> Test:
        flow = self._flow
        return lambda con, entry: entry is not None and flow.is_slow(entry)

    def _paused(self, options: Mapping[str, Any]) -> Test:
        return lambda con, entry: entry is not None and entry.pauses != 0

    def _idle(self, options: Mapping[str, Any]) -> Test:
        seconds, flow = _number(options, "idle"), self._flow
        return lambda con, entry: entry is not None and flow.now - entry.carried_at >= seconds

    def _opened(self, options: Mapping[str, Any]) -> Test:
        return lambda con, entry: con.opened

    _makers: Final[dict[str, Callable[[Filter, Mapping[str, Any]], Test]]] = {
        "pool": _pool,
        "kind": _kind,
        "state": _state,
        "worker": _worker,
        "slow": _slow,
        "paused": _paused,
        "idle": _idle,
        "opened": _opened,
        "address": _address,
        "path": _path,
    }
    """By option; cheap tests come first."""


# --- what tests ask ---


def _is_member(entry: Entry, group: str) -> bool:
    return entry.groups is not None and group in entry.groups


def _address_of(con: Connection) -> Any:
    """The address of the peer, `unix`, or None. For a connection that a handler has opened, the
    address that the handler has given, if it has given one."""
    peer: str = con.about.get("peer", "")
    if con.opened and not peer:
        peer = con.target.partition("://")[2] or con.target
        peer = peer.partition("/")[0].rpartition("@")[2]
    if peer.partition(":")[0] == UNIX:
        return UNIX
    whole = parse_address(peer)
    return parse_address(peer.rpartition(":")[0].strip("[]")) if whole is None else whole


def _has_path(con: Connection, pattern: Pattern) -> bool:
    url = con.inf.get("url")
    segments = split(url) if url else None
    return segments is not None and pattern.match(segments) is not None


# --- options ---


def _text(options: Mapping[str, Any], name: str) -> str:
    value = options.get(name, "")
    if not isinstance(value, str):
        raise ValueError(f"{name}: {value!r} is not a text")
    return value


def _number(options: Mapping[str, Any], name: str) -> float:
    value = options.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}: {value!r} is not a number")
    return value


def _choice(options: Mapping[str, Any], name: str, choices: Collection[str]) -> str:
    value = options.get(name)
    if value not in choices:
        raise ValueError(f"{name}: {value!r}: write {', '.join(choices)}")
    return str(value)
