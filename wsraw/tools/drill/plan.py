"""Sans-I/O. The options of a drill."""

from __future__ import annotations

from dataclasses import dataclass

from wsraw.config import programs
from wsraw.link.rules import split_host_port


class DrillError(Exception):
    """Options contradict each other, the run or the load cannot begin, or the run did not carry out
    a request; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The options of a drill, one attribute each. Times are seconds; an interval of 0: never."""

    connect: str = ""
    """HOST:PORT of a run that is up; empty: start one."""
    run_dir: str = ""
    """The run folder of that run; without it there is only load, without faults."""
    seconds: float = 30.0
    workers: int = 4
    """Workers of a run that the drill starts, with the handlers of echo.py."""
    also: tuple[str, ...] = ()
    """Further workers, as in `wsraw run --workers`; they must behave like echo.py."""
    remote: bool = False
    """Workers connect as if from other machines; the drill starts them itself."""
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
    kill_gateway_every: float = 0.0
    upgrade_every: float = 0.0
    upgrade_to: tuple[str, ...] = ()
    """Pythons whose wsraw the upgrades use, in turn; none: the run's own."""
    delivery: str = "at-least-once"
    handler_timeout: float = 2.0
    """The handler_timeout of a run that the drill starts, if there are hangs."""
    log: str = ""
    """A file for the log of a run that the drill starts."""

    @property
    def workers_die(self) -> bool:
        """Whether workers die or are replaced, so that a connection may be without one."""
        return bool(self.kill_every or self.stop_every or self.reload_every)

    def __post_init__(self) -> None:
        """Raises DrillError."""
        if not self.websockets and not self.raw:
            raise DrillError("--websockets and --raw are both 0; the drill needs connections")
        if not self.workers and not self.also:
            raise DrillError("--workers: the drill needs at least one")
        try:
            programs.parse_all(self.also)
        except ValueError as error:
            raise DrillError(f"--{error}") from error
        if self.connect:
            self.address()
        elif self.run_dir:
            raise DrillError("--run-dir needs --connect HOST:PORT of the same run")
        if self.connect and self.hang_every:
            raise DrillError(
                "--hang-every needs a run with the drill's own handlers: leave out --connect"
            )
        if self.connect and self.remote:
            raise DrillError("--remote is for a run that the drill starts: leave out --connect")
        if self.remote and self.hang_every:
            raise DrillError(
                "--hang-every cannot be used with --remote: a remote worker that hangs loses its "
                "session, and is not killed"
            )
        if self.hang_every and self.kill_gateway_every:
            raise DrillError(
                "--hang-every cannot be used with --kill-gateway-every: the message that hangs "
                "would be lost with the gateway"
            )

    def address(self) -> tuple[str, int]:
        """Host and port of `connect`. Raises DrillError."""
        host, port = split_host_port(self.connect) or ("", None)
        if not port:
            raise DrillError(f"--connect {self.connect}: write HOST:PORT, as in 127.0.0.1:8000")
        return host, port
