"""Sans-I/O. What a drill is told to do."""

from __future__ import annotations

from dataclasses import dataclass

from wsraw.config import programs
from wsraw.link.rules import split_host_port


class PlanError(ValueError):
    """A plan that cannot be done; the text says what to write instead."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Times are seconds; an interval of 0 means never."""

    connect: str = ""
    """HOST:PORT of a run that is up; empty: a run of our own."""
    run_dir: str = ""
    """The run folder of that run; without it there is load only, and no trouble."""
    seconds: float = 30.0
    workers: int = 4
    """Of the drill's own handlers, in a run of our own."""
    also: tuple[str, ...] = ()
    """More of them, as `wsraw run --workers` takes them; they must do what echo.py does."""
    websockets: int = 200
    raw: int = 50
    rate: float = 5000.0
    """Messages a second, on all connections together."""
    size: int = 64
    kill_every: float = 0.5
    hang_every: float = 0.0
    stop_every: float = 10.0
    stop_for: float = 2.0
    reload_every: float = 5.0
    scale_every: float = 0.0
    kill_gateway_every: float = 0.0
    kill_supervisor_every: float = 0.0
    delivery: str = "at-least-once"
    handler_timeout: float = 2.0
    """Of a run of our own, if there are hangs."""
    log: str = ""
    """A file for the log of a run of our own."""

    @property
    def connections(self) -> int:
        """How many are verified."""
        return self.websockets + self.raw

    @property
    def everybody_dies(self) -> bool:
        """Whether connections are lost with their gateway, which nothing could keep."""
        return bool(self.kill_gateway_every or self.kill_supervisor_every)

    @property
    def workers_die(self) -> bool:
        """Whether workers end, too, so that a connection may just be without one."""
        return bool(
            self.kill_every
            or self.stop_every
            or self.reload_every
            or self.scale_every
            or self.kill_supervisor_every
        )

    def __post_init__(self) -> None:
        """Raises PlanError."""
        if not self.connections:
            raise PlanError("--websockets and --raw are both 0; the drill needs connections")
        if not self.workers and not self.also:
            raise PlanError("--workers: the drill needs at least one")
        try:
            programs.parse_all(self.also)
        except ValueError as error:
            raise PlanError(f"--{error}") from error
        if self.scale_every and not self.workers:
            raise PlanError(
                "--scale-every changes how many of the drill's own workers there are: give "
                "--workers N, too"
            )
        if self.connect:
            self.address()
        elif self.run_dir:
            raise PlanError("--run-dir needs --connect HOST:PORT of the same run")
        if self.connect and self.kill_supervisor_every:
            raise PlanError(
                "--kill-supervisor-every is for a run of the drill's own, which it can start "
                "again: leave out --connect"
            )
        if self.hang_every and self.everybody_dies:
            raise PlanError(
                "--hang-every with a gateway that dies: the message that hangs is lost with it; "
                "leave one of them out"
            )

    def address(self) -> tuple[str, int]:
        """Host and port of `connect`. Raises PlanError."""
        host, port = split_host_port(self.connect) or ("", None)
        if not port:
            raise PlanError(f"--connect {self.connect}: write HOST:PORT, as in 127.0.0.1:8000")
        return host, port
