"""Sans-I/O. How connections ended: as the client saw it, and as the handlers were told."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass


@dataclass
class Life:
    """One connection, from its beginning to its end."""

    kind: str
    """`websocket`, `raw`, `witness`, or `hanger`, which must be disconnected."""
    name: str
    """The client's address."""
    header: str = ""
    """What its `con.state` must be: the beginning of its first record, once that was answered."""
    heard_of: bool = True
    """Whether a worker must have heard of it; not so of a raw one that sent nothing."""
    how: str = ""
    """How it ended before its time, as the client saw it; empty if we closed it."""
    cause: str = ""
    """What its on_close said; empty if that is not known."""
    kept: str = ""


@dataclass(frozen=True)
class Told:
    """What the witness was told: the arguments of one on_close."""

    name: str
    code: str
    cause: str
    kept: str


class Ends:
    """All ends of a drill. An address can come again, so ends are matched in order.

    `gateway_dies`: connections may be lost with it. `unheld`: a connection that was just without a
    worker then gets no on_close (docs/troubleshooting.md).
    """

    def __init__(self, gateway_dies: bool = False, unheld: bool = False) -> None:
        self.closes_unheld = 0
        """Lost with a gateway, and nobody was told: no breach where workers die, too."""
        self._gateway_dies = gateway_dies
        self._unheld = unheld
        self.lives: list[Life] = []
        self.closes_missing = 0
        self.closes_doubled = 0
        self.states_lost = 0
        self._told: dict[str, list[Told]] = defaultdict(list)
        self._lives: dict[str, list[Life]] = defaultdict(list)

    def ended(self, life: Life) -> None:
        """A client's connection is over."""
        self.lives.append(life)
        self._lives[life.name].append(life)

    def told(self, told: Told) -> None:
        """The witness heard of one. Those of other clients of the same run do not count."""
        self._told[told.name].append(told)

    def all_told(self) -> bool:
        """Whether there is nothing left to hear."""
        return all(
            len(self._told[name]) >= sum(life.heard_of for life in lives)
            for name, lives in self._lives.items()
        )

    def settle(self) -> None:
        """Give each life its on_close, and count those that do not fit. Once, at the end."""
        for name, lives in self._lives.items():
            heard = self._told[name]
            expected = lives if len(heard) >= len(lives) else [x for x in lives if x.heard_of]
            missing = max(0, len(expected) - len(heard))
            if self._unheld and missing:
                unheld = min(missing, sum(self._is_lost(life) for life in expected))
                self.closes_unheld += unheld
                missing -= unheld
            self.closes_missing += missing
            self.closes_doubled += max(0, len(heard) - len(expected))
            for life, told in zip(expected, heard, strict=False):
                life.cause, life.kept = told.cause, told.kept
                self.states_lost += bool(life.header) and life.header != life.kept

    def disconnected(self, delivery: str) -> tuple[Counter[str], Counter[str]]:
        """How often which cause disconnected a client: where it should not, and where it may.
        Those that were lost with a gateway are in neither."""
        wrong: Counter[str] = Counter()
        expected: Counter[str] = Counter()
        for life in self.lives:
            if life.how and not self._is_lost(life):
                may = _may_end(life, delivery)
                (expected if may else wrong)[life.cause or life.how] += 1
        return wrong, expected

    def lost(self) -> Counter[str]:
        """Those that were lost with a gateway, by cause."""
        return Counter(
            life.cause or life.how for life in self.lives if life.how and self._is_lost(life)
        )

    def _is_lost(self, life: Life) -> bool:
        """Cut off without a word, or told that the server goes away, as by a gateway whose
        supervisor is dead."""
        if life.cause not in ("", "gateway-died", "going-away"):
            return False
        return self.may_be_lost(life.how)

    def may_be_lost(self, how: str) -> bool:
        """Whether it looks to the client as if its gateway had gone."""
        return self._gateway_dies and how.startswith(
            ("eof", "connection reset", "broken pipe", "1001")
        )


def _may_end(life: Life, delivery: str) -> bool:
    """Whether the promises allow that end (docs/worker-protocol.md, delivery modes and rule 11)."""
    if delivery == "at-most-once":
        cause = "worker-died"
    elif life.kind == "hanger":
        cause = "poison"
    else:
        return False
    # Nobody was told: then the close code, or for raw the reset, is all there is to judge by.
    return life.cause == cause or (
        not life.cause and life.how.startswith(("1011", "connection reset"))
    )
