"""Commands to a run that is up: status, top, reload, upgrade, scale, stop, drain, dead-letters."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from wsraw.commands.failures import Failed, WrongUse, show
from wsraw.config.units import parse_time

F = TypeVar("F", bound=Callable[..., Any])

run_dir_option = click.option(
    "--run-dir",
    metavar="FOLDER",
    envvar="WSRAW_RUN_DIR",
    default="",
    help="The run folder of the run. Default: WSRAW_RUN_DIR, or your only run.",
)


def timeout_option(seconds: float) -> Callable[[F], F]:
    """Add --timeout with that default."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0),
        metavar="SECONDS",
        default=seconds,
        show_default=True,
        help="How long to wait for the answer; 0: no limit.",
    )


def _ask(run_dir: str, what: str, args: Sequence[str], timeout: float, options: Any = None) -> Any:
    """Send the run a request; return its answer, a `Done`."""
    from wsraw.supervisor.control import client

    try:
        folder = client.find(run_dir)
        done = client.ask(folder, what, args, timeout, options)
        if what in ("stop", "drain") and done.ok:
            client.wait_until_gone(folder, timeout)
    except client.NoRunError as error:
        raise WrongUse(str(error)) from error
    except (TimeoutError, client.RequestRefusedError) as error:
        raise Failed(f"{what}: {error}") from error
    if not done.ok:
        raise Failed(f"{what}: {done.text}")
    return done


@click.command()
@run_dir_option
@timeout_option(10.0)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def status(run_dir: str, timeout: float, as_json: bool) -> int:
    """Show the state of a run: gateway, workers, connections.

    Exit code 0: healthy. 1: degraded, and the output says why: a pool without ready workers, a
    crash loop, a gateway that does not answer, a run that is stopping. 2: there is no run.
    """
    from wsraw.supervisor.status import table

    done = _ask(run_dir, "status", (), timeout)
    show(json.dumps(done.data) if as_json else table(done.data))
    if done.data.get("admin") and sys.stdout.isatty() and not as_json:
        # Not into a pipe: the link contains a secret.
        show(f"admin page: {_admin_link(done.data)}")
    return 1 if done.data["problems"] else 0


def _admin_link(data: dict[str, Any]) -> str:
    """The URL of the admin page, with its token if the run has made it itself."""
    from wsraw.supervisor.run_folder.folder import ADMIN_TOKEN

    try:
        with open(os.path.join(data["run_dir"], ADMIN_TOKEN), encoding="ascii") as file:
            return f"{data['admin']}/#token={file.readline().strip()}"
    except (OSError, ValueError):
        return f"{data['admin']}/"


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    default=2.0,
    show_default=True,
    help="Time between two views.",
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    metavar="N",
    help="End after N views. Default: when you press q or Ctrl-C.",
)
@click.option("--json", "as_json", is_flag=True, help="Print each view as one line of JSON.")
@run_dir_option
def top(interval: float, count: int | None, as_json: bool, run_dir: str) -> int:
    """Show a run live: rates, pools, workers, memory, limits.

    Rates are averages since the last view. If the output is not a terminal, each view is printed
    below the last one, and the command ends with the run.

    Exit code 1: the run has ended, and the output is not a terminal. 2: there is no run.
    """
    from wsraw.supervisor.control import client
    from wsraw.tools.top import session

    try:
        return session.main(session.Plan(run_dir, interval, count or 0, as_json))
    except client.NoRunError as error:
        raise WrongUse(str(error)) from error


@click.command()
@click.option(
    "--pool",
    metavar="NAME",
    default="",
    help="Replace only the workers of this pool. Default: all pools.",
)
@click.option(
    "--canary",
    metavar="PERCENT",
    is_flag=False,
    flag_value="",
    help="First try the new handlers with this share of the connections, as in --canary 20%. If "
    "they do worse than the old ones, the old workers serve all connections again. Without a "
    "number: the setting canary_percent.",
)
@click.option(
    "--for",
    "seconds",
    metavar="TIME",
    default="",
    help="How long to try the new handlers, as in --for 10m. Default: the setting canary_time.",
)
@click.option(
    "--shield/--no-shield",
    default=None,
    help="If a new handler raises an exception during the trial, give its event to an old "
    "worker instead of closing the connection. That event is then handled twice. Default: the "
    "setting canary_shield.",
)
@run_dir_option
@timeout_option(120.0)
def reload(
    pool: str, canary: str | None, seconds: str, shield: bool | None, run_dir: str, timeout: float
) -> None:
    """Replace all workers with new ones, one by one.

    The new workers load the handlers file again. If it does not load, the old workers stay. Changed
    settings and certificates take effect, too; if a setting needs a new gateway, the new gateway
    takes over all connections first, as with `wsraw upgrade`.

    With --canary, the command waits until the trial has ended. If --for is given too, it waits at
    most for the time of --for plus --timeout.
    """
    pools = (pool,) if pool else ()
    if canary is None:
        if seconds:
            raise WrongUse("--for is the time of a canary: give --canary too")
        if shield is not None:
            raise WrongUse("--shield is for the time of a canary: give --canary too")
        show(_ask(run_dir, "reload", pools, timeout).text)
        return
    options: dict[str, Any] = {"percent": _percent(canary)} if canary else {}
    if shield is not None:
        options["shield"] = shield
    if seconds:
        try:
            options["seconds"] = parse_time(seconds)
        except ValueError as error:
            raise WrongUse(f"--for: {error}") from error
        timeout = timeout and timeout + options["seconds"]
    else:
        # The run knows how long the trial takes.
        timeout = 0.0
    show(_ask(run_dir, "canary", pools, timeout, options).text)


def _percent(text: str) -> float:
    try:
        return float(text.removesuffix("%"))
    except ValueError:
        raise WrongUse(f"--canary {text}: write a number of percent, as in 10%") from None


@click.command()
@click.option(
    "--pool",
    metavar="NAME",
    default="",
    help="Roll back only the workers of this pool. Default: all pools that were reloaded.",
)
@run_dir_option
@timeout_option(120.0)
def rollback(pool: str, run_dir: str, timeout: float) -> None:
    """Go back to the handlers as they were before the last reload.

    The workers are replaced one by one, as with `wsraw reload`. The new ones load the Python files
    as they were before, whatever is on disk now. The next `wsraw reload` loads from disk again.
    """
    show(_ask(run_dir, "rollback", (pool,) if pool else (), timeout).text)


@click.command()
@click.option(
    "--python",
    metavar="FILE",
    default="",
    help="Run the wsraw of this Python, such as venv/bin/python. Default: the one that runs now.",
)
@run_dir_option
@timeout_option(120.0)
def upgrade(python: str, run_dir: str, timeout: float) -> None:
    """Replace supervisor and gateway; clients stay connected.

    The new processes run the code that is installed now, with the settings as they are now. The new
    gateway takes over all connections, after a short pause. If it cannot, the old gateway
    continues, and the exit code is 1.
    """
    # The current folder of the run may be another one.
    args = (os.path.abspath(python),) if python else ()
    show(_ask(run_dir, "upgrade", args, timeout).text)


@click.command()
@click.argument("workers", metavar="N|NAME=N")
@run_dir_option
@timeout_option(120.0)
def scale(workers: str, run_dir: str, timeout: float) -> None:
    """Change the number of workers.

    Workers that are no longer needed finish their events before they end.

    NAME is a pool (chat=4), one of several --workers (chat.py=4), or both (chat/chat.py=4).
    """
    show(_ask(run_dir, "scale", (workers,), timeout).text)


@click.command()
@run_dir_option
@timeout_option(0.0)
def stop(run_dir: str, timeout: float) -> None:
    """Stop a run gracefully, within its stop_timeout."""
    show(_ask(run_dir, "stop", (), timeout).text)


@click.command()
@run_dir_option
@timeout_option(0.0)
def drain(run_dir: str, timeout: float) -> None:
    """Stop a run gracefully, without a time limit."""
    show(_ask(run_dir, "drain", (), timeout).text)


@click.command("dead-letters")
@click.argument("number", type=click.IntRange(min=1), required=False)
@run_dir_option
def dead_letters(number: int | None, run_dir: str) -> None:
    """List the events that killed workers.

    With NUMBER, the number of an event in that list, show the event in full.
    """
    from wsraw.supervisor.run_folder import dead_letters as letters

    try:
        file = letters.find(run_dir)
        found = letters.read(file)
    except letters.NoDeadLettersError as error:
        raise WrongUse(str(error)) from error
    except OSError as error:
        raise WrongUse(f"{file}: {error.strerror}") from error
    if number is None:
        for n, letter in enumerate(found, 1):
            show(letters.line(n, letter))
        if not found:
            click.echo(f"no dead letters in {file.parent}")
    elif number > len(found):
        raise WrongUse(f"{file} contains {len(found)} dead letters")
    else:
        show(letters.whole(found[number - 1]))
