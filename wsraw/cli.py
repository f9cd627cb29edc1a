"""I/O. The command line: click, and nothing else. Each command imports the one folder it needs.

Wrong use gives one line that says what to do, and exit code 2 (or 3, where a child process found
that it cannot even begin).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from wsraw.config import options as options_module
from wsraw.config import pools, programs, sources, tls_files
from wsraw.config.checks import from_options
from wsraw.config.options import Option
from wsraw.config.settings import Settings
from wsraw.link import records
from wsraw.runtime.printable import printable_lines

F = TypeVar("F", bound=Callable[..., Any])

TIME = click.FloatRange(min=0)
POSITIVE = click.FloatRange(min=0, min_open=True)
COUNT = click.IntRange(min=1, max=1000)
METAVARS = {
    "worker_listen": "ENDPOINT",
    "link_key": "FILE",
    "worker_keys": "PATH",
    "listen": "ADDRESS",
    "workers": "FILE|COMMAND[:N]",
    "pools": "NAME[=WORKERS]",
    "routes": "PATTERN=POOL",
    "run_dir": "FOLDER",
}
OF_WORKERS = ("concurrency", "on_exception", "log_level")
OF_KINDS = {"size": "SIZE", "time": "TIME"}
FAILED = 1
WRONG_USE = 2
DOES_NOT_LOAD = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """The `wsraw` command; returns its exit code."""
    try:
        code = cli.main(args=arguments, prog_name="wsraw", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return WRONG_USE
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        where = f" ({context.command_path} --help)" if context else ""
        _show(f"wsraw: {error.format_message()}{where}", err=True)
        return error.exit_code
    except click.Abort:
        return 130
    return int(code or 0)


def _show(text: str, err: bool = False) -> None:
    """Print what a run has told: parts of it are a client's, a worker's or a handler's."""
    click.echo(printable_lines(text), err=err)


class WrongUse(click.ClickException):
    """Ends a command with one line."""

    exit_code = WRONG_USE


class Failed(click.ClickException):
    """Wanted and not done: one line, too."""

    exit_code = FAILED


class CannotWork(click.ClickException):
    """Nor would it later."""

    exit_code = DOES_NOT_LOAD


def _version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    """Show the version and leave."""
    if wanted:
        from importlib import metadata

        from wsraw.runtime.compiled import is_compiled

        try:
            version = metadata.version("wsraw")
        except metadata.PackageNotFoundError:
            version = "of a source tree that is not installed"
        click.echo(f"wsraw {version}" + (" (compiled)" if is_compiled() else ""))
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version)
def cli() -> None:
    """WebSocket and raw TCP clients on one port, their handlers in worker processes."""


def setting_options(command: F) -> F:
    """One option for each setting; settings.py says the rest."""
    for option in reversed(options_module.options()):
        command = _option(option)(command)
    return click.option(
        "--config",
        metavar="FILE",
        envvar="WSRAW_CONFIG",
        help="Settings in TOML. The environment (WSRAW_ and a setting's name in capitals) goes "
        "before it, the command line before both.",
    )(command)


def of_workers(command: F) -> F:
    """Options for the settings that a worker of its own has."""
    for option in reversed(options_module.options()):
        if option.name in OF_WORKERS:
            command = _option(option)(command)
    return command


def _option(option: Option) -> Callable[[F], F]:
    flag = f"--{option.flag}"
    if option.kind == "switch":
        flag = f"--{option.flag}/--no-{option.flag}"
    kind: Any = {
        "text": str,
        "texts": str,
        "tables": str,
        "switch": bool,
        "choice": click.Choice(option.choices),
        "count": click.IntRange(min=option.minimum, max=option.maximum),
        "number": click.FloatRange(min=option.minimum, max=option.maximum),
        # With or without a unit; settings.py reads them wherever they stand.
        "size": str,
        "time": str,
    }[option.kind]
    default = option.default
    if option.kind in OF_KINDS:
        default = options_module.toml(option, default).strip('"')
    return click.option(
        flag,
        option.name,
        type=kind,
        multiple=option.kind in ("texts", "tables"),
        default=default,
        show_default=option.default not in ((), ""),
        metavar=METAVARS.get(option.name, OF_KINDS.get(option.kind)),
        help=option.meaning,
    )


@cli.command()
@setting_options
@click.pass_context
def run(context: click.Context, /, **_: Any) -> int:
    """Serve clients until SIGINT (Ctrl-C) or SIGTERM; once more ends it at once."""
    found = _gather(context)
    settings = found.settings
    for name, entries in pools.entries(settings, os.path.isfile).items():
        for entry in entries:
            is_default = name == records.DEFAULT_POOL
            _check_program(entry.program, "--workers " if is_default else f"--pool {name}=")
    _check_keys(settings)
    try:
        tls_files.check(found)
    except sources.ConfigurationError as error:
        raise WrongUse(str(error)) from error
    from wsraw.supervisor import supervisor

    try:
        return supervisor.run(settings)
    except supervisor.CannotListen as error:
        raise CannotWork(str(error)) from error
    except supervisor.CannotStartNow as error:
        raise Failed(str(error)) from error
    except supervisor.CannotStart as error:
        raise WrongUse(str(error)) from error


@cli.command("settings")
@setting_options
@click.pass_context
def show_settings(context: click.Context, /, **_: Any) -> int:
    """Show every setting that a `wsraw run` with these options would have, and where it was said.

    What is shown is TOML, and can be a file for --config.
    """
    click.echo(sources.show(_gather(context), os.getcwd()))
    return 0


def _gather(context: click.Context) -> sources.Configuration:
    """All settings; of the command line only what was really said there."""
    given = {
        name: value
        for name, value in context.params.items()
        if name != "config" and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    try:
        return sources.gather(given, os.environ, context.params["config"] or "")
    except sources.ConfigurationError as error:
        raise WrongUse(str(error)) from error


# --- commands to a run ---


def run_dir_option(command: F) -> F:
    """Which run is meant."""
    return click.option(
        "--run-dir",
        metavar="FOLDER",
        envvar="WSRAW_RUN_DIR",
        default="",
        help="The run folder of the run that is meant. Default: WSRAW_RUN_DIR, else the only one "
        "of yours.",
    )(command)


def timeout_option(seconds: float) -> Callable[[F], F]:
    """How long to wait for the answer."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0),
        default=seconds,
        show_default=True,
        help="The longest wait for the answer, in seconds; 0 waits as long as it takes.",
    )


def _ask(run_dir: str, what: str, args: Sequence[str], timeout: float) -> Any:
    """Ask the run; returns what `done` says."""
    from wsraw.supervisor.control import client

    try:
        folder = client.find(run_dir)
        done = client.ask(folder, what, args, timeout)
        if what in ("stop", "drain") and done.ok:
            client.wait_until_gone(folder, timeout)
    except client.NoRunError as error:
        raise WrongUse(str(error)) from error
    except TimeoutError as error:
        raise Failed(f"{what}: {error}") from error
    return done


def _do(run_dir: str, what: str, args: Sequence[str], timeout: float) -> int:
    done = _ask(run_dir, what, args, timeout)
    _show(done.text if done.ok else f"wsraw: {what}: {done.text}", err=not done.ok)
    return 0 if done.ok else FAILED


@cli.command()
@run_dir_option
@timeout_option(10.0)
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object.")
def status(run_dir: str, timeout: float, as_json: bool) -> int:
    """Show how a run is: its gateway, its workers, its connections."""
    from wsraw.supervisor import status as shown

    done = _ask(run_dir, "status", (), timeout)
    if not done.ok:
        raise Failed(f"status: {done.text}")
    _show(json.dumps(done.data) if as_json else shown.table(done.data))
    return 0


@cli.command()
@click.option(
    "--pool", metavar="NAME", default="", help="Only the workers of that pool. Default: all."
)
@run_dir_option
@timeout_option(120.0)
def reload(pool: str, run_dir: str, timeout: float) -> int:
    """Replace all workers, one after the other, by new ones that load the handlers file anew."""
    return _do(run_dir, "reload", (pool,) if pool else (), timeout)


@cli.command()
@click.argument("workers", metavar="N|NAME=N")
@run_dir_option
@timeout_option(120.0)
def scale(workers: str, run_dir: str, timeout: float) -> int:
    """Run N workers from here on; those that are too many finish and leave.

    NAME is the pool, or which of several --workers is meant, as in chat.py=4, or both, as in
    chat/chat.py=4.
    """
    return _do(run_dir, "scale", (workers,), timeout)


@cli.command()
@run_dir_option
@timeout_option(0.0)
def stop(run_dir: str, timeout: float) -> int:
    """Stop a run in good order, within its stop_timeout."""
    return _do(run_dir, "stop", (), timeout)


@cli.command()
@run_dir_option
@timeout_option(0.0)
def drain(run_dir: str, timeout: float) -> int:
    """Stop a run without a deadline: handlers take the time they need."""
    return _do(run_dir, "drain", (), timeout)


@cli.command("dead-letters")
@click.argument("number", type=click.IntRange(min=1), required=False)
@run_dir_option
def dead_letters(number: int | None, run_dir: str) -> int:
    """List the events that killed workers; with a NUMBER show that one whole."""
    from wsraw.supervisor.run_folder import dead_letters

    try:
        file = dead_letters.find(run_dir)
        found = dead_letters.read(file)
    except dead_letters.NoLettersError as error:
        raise WrongUse(str(error)) from error
    except OSError as error:
        raise WrongUse(f"{file}: {error.strerror}") from error
    if number is None:
        for n, letter in enumerate(found, 1):
            _show(dead_letters.line(n, letter))
        if not found:
            click.echo(f"no dead letters in {file.parent}")
    elif number > len(found):
        raise WrongUse(f"{file} holds {len(found)} dead letters")
    else:
        _show(dead_letters.whole(found[number - 1]))
    return 0


@cli.command()
@click.argument("program", metavar="FILE|COMMAND")
@click.option(
    "--connect",
    "endpoint",
    metavar="ENDPOINT",
    envvar="WSRAW_ENDPOINT",
    help="Where the gateway's link is, as `wsraw run` shows it: ipc://DIR/link.sock or "
    "tcp://HOST:PORT. Default: link.sock in --run-dir.",
)
@click.option(
    "--run-dir",
    metavar="FOLDER",
    envvar="WSRAW_RUN_DIR",
    default="",
    help="The run folder of a run on this machine, instead of --connect.",
)
@click.option(
    "--token",
    envvar="WSRAW_TOKEN",
    help="What lets a worker in. Default: WSRAW_TOKEN, else DIR/token beside an ipc:// endpoint.",
)
@click.option(
    "--pool",
    envvar="WSRAW_POOL",
    default="default",
    show_default=True,
    help="The pool this worker joins.",
)
@click.option(
    "--key",
    metavar="FILE",
    default="",
    help="The secret key of this worker, for a gateway on another machine (`wsraw keygen`).",
)
@click.option(
    "--gateway-key",
    metavar="FILE",
    default="",
    help="The public key of that gateway: its .pub file.",
)
@of_workers
def worker(
    program: str,
    endpoint: str | None,
    run_dir: str,
    token: str | None,
    pool: str,
    key: str,
    gateway_key: str,
    **values: Any,
) -> int:
    """Run one worker by hand, here or on another machine: with the handlers of FILE, or with the
    COMMAND of one in another language."""
    if not endpoint and run_dir and sys.platform != "win32":
        endpoint = f"ipc://{os.path.join(os.path.abspath(run_dir), 'link.sock')}"
    if not endpoint:
        raise WrongUse("where is the gateway? Give --connect, or --run-dir (not on Windows)")
    meant = _one_program(program)
    if not endpoint.startswith(("ipc://", "tcp://")):
        raise WrongUse(f"--connect {endpoint}: write ipc://DIR/link.sock or tcp://HOST:PORT")
    if bool(key) != bool(gateway_key):
        raise WrongUse("--key and --gateway-key belong together: give both, or neither")
    if key and not endpoint.startswith("tcp://"):
        raise WrongUse("--key: keys are for tcp:// endpoints; on this machine the token is enough")
    keys = _link_keys(key, gateway_key) if key else None
    from wsraw.runtime import launch

    code = launch.as_process_1()
    if code is not None:
        return code
    token = token or (_token_beside(endpoint) if keys is None else "")
    for name in ("WSRAW_ENDPOINT", "WSRAW_TOKEN", "WSRAW_POOL", "WSRAW_RUN_DIR"):
        # Read above; a program that a handler starts must not take them for its own.
        os.environ.pop(name, None)
    if meant.file is None:
        return _become(meant.words, endpoint, token, pool, keys)
    from wsraw.runtime import launch
    from wsraw.workers import process as runtime
    from wsraw.workers.shells import link_socket

    link_keys = link_socket.LinkKeys(*keys) if keys is not None else None
    launch.unblock_signals()
    return runtime.main(meant.file, endpoint, token, pool, _settings(values), link_keys)


def _one_program(text: str) -> programs.Program:
    try:
        program, number = programs.parse(text, os.path.isfile)
    except ValueError as error:
        raise WrongUse(str(error).removeprefix("workers: ")) from error
    if number != 1 or text.endswith(":1"):
        raise WrongUse(f"{text}: this is for one worker; leave out the number, and start several")
    _check_program(program, "")
    return program


def _become(
    words: Sequence[str], endpoint: str, token: str, pool: str, keys: tuple[str, str] | None
) -> int:
    """Give a worker in another language what docs/worker-protocol.md says, and become it."""
    import secrets

    from wsraw.runtime import keygen, launch

    os.environ |= {
        "WSRAW_ENDPOINT": endpoint,
        "WSRAW_TOKEN": token,
        "WSRAW_POOL": pool,
        "WSRAW_INSTANCE": secrets.token_hex(8),
    }
    if keys is not None:
        secret, gateway = keys
        os.environ |= {
            "WSRAW_CURVE_SERVERKEY": gateway,
            "WSRAW_CURVE_PUBLICKEY": keygen.public_of(secret),
            "WSRAW_CURVE_SECRETKEY": secret,
        }
    return launch.become(words)


@cli.command()
@click.argument("folder", default=".", metavar="[FOLDER]")
@click.option(
    "--name",
    default="worker",
    show_default=True,
    help="What the log calls its owner; the files are NAME.key and NAME.pub.",
)
def keygen(folder: str, name: str) -> int:
    """Make a pair of keys in FOLDER, for the gateway or for a worker on another machine.

    NAME.key is secret and stays where it is used. NAME.pub is for the other side: a gateway lets
    in those in --worker-keys, a worker trusts the one in --gateway-key.
    """
    from wsraw.runtime import keygen as maker
    from wsraw.runtime.keys import KeyFileError

    if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
        raise WrongUse(f"--name {name!r}: letters, digits, - and _")
    try:
        secret, public = maker.make(folder, name)
    except KeyFileError as error:
        raise WrongUse(str(error)) from error
    click.echo(f"{secret}: secret; {public}: for the other side")
    return 0


@cli.command()
@click.option(
    "--connect",
    metavar="HOST:PORT",
    default="",
    help="Drill the run that listens there. Default: one of our own, on a free port.",
)
@click.option(
    "--run-dir",
    metavar="FOLDER",
    default="",
    help="The run folder of that run; without it there is load, and no trouble.",
)
@click.option("--seconds", type=POSITIVE, default=30, show_default=True, help="How long.")
@click.option(
    "--workers",
    metavar="N|COMMAND[:N]",
    multiple=True,
    default=("4",),
    show_default=True,
    help="Workers of a run of our own: N of the drill's own handlers, or others that do the same, "
    "as `wsraw run --workers` takes them. May be repeated.",
)
@click.option(
    "--websockets",
    type=click.IntRange(min=0),
    default=200,
    show_default=True,
    help="WebSocket connections.",
)
@click.option(
    "--raw", type=click.IntRange(min=0), default=50, show_default=True, help="Raw connections."
)
@click.option(
    "--rate",
    type=POSITIVE,
    default=5000,
    show_default=True,
    help="Messages a second on all connections together, whatever the run does.",
)
@click.option(
    "--size",
    type=click.IntRange(min=16),
    default=64,
    show_default=True,
    help="Bytes of a message.",
)
@click.option(
    "--kill-every", type=TIME, default=0.5, show_default=True, help="Seconds between two kill -9."
)
@click.option(
    "--hang-every",
    type=TIME,
    default=0,
    show_default=True,
    help="Seconds between two messages that hang their worker.",
)
@click.option(
    "--stop-every", type=TIME, default=10, show_default=True, help="Seconds between two SIGSTOP."
)
@click.option(
    "--stop-for", type=TIME, default=2, show_default=True, help="Seconds until its SIGCONT."
)
@click.option(
    "--reload-every", type=TIME, default=5, show_default=True, help="Seconds between two reloads."
)
@click.option(
    "--scale-every",
    type=TIME,
    default=0,
    show_default=True,
    help="Seconds between two changes of scale: one worker fewer, then as many as before.",
)
@click.option(
    "--kill-gateway-every",
    type=TIME,
    default=0,
    show_default=True,
    help="Seconds between two kill -9 of the gateway, once it has proved itself.",
)
@click.option(
    "--kill-supervisor-every",
    type=TIME,
    default=0,
    show_default=True,
    help="Seconds between two kill -9 of the supervisor; the drill starts its run again.",
)
@click.option(
    "--delivery",
    type=click.Choice(["at-least-once", "at-most-once"]),
    default="at-least-once",
    show_default=True,
    help="What the run promises; at-most-once may disconnect clients of a worker that died.",
)
@click.option("--log", metavar="FILE", default="", help="Write the log of our own run there.")
@click.option("--json", "as_json", is_flag=True, help="The figures as JSON.")
def drill(as_json: bool, workers: tuple[str, ...], **values: Any) -> int:
    """Serve verified clients while workers are killed, stopped and replaced, and show that nothing
    is lost, doubled, out of order or disconnected. Times of 0 mean never. Exit code 1: it was."""
    from wsraw.tools.drill import drill as drills
    from wsraw.tools.drill.plan import Plan, PlanError

    numbers = [text for text in workers if text.isascii() and text.isdigit()]
    counts = [COUNT(text) for text in numbers]
    also = tuple(text for text in workers if text not in numbers)
    try:
        plan = Plan(workers=sum(counts), also=also, **values)
        for entry in programs.parse_all(also, os.path.isfile) if also else ():
            _check_program(entry.program)
        return drills.main(plan, as_json)
    except (PlanError, drills.CannotDrill) as error:
        raise WrongUse(str(error)) from error


@cli.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option(
    "--generic", is_flag=True, help="Any worker: leave out what needs the common behaviour."
)
@click.option(
    "--rules", metavar="NAME[,NAME…]", default="", help="Only these. Default: all of them."
)
@click.option(
    "--timeout",
    type=POSITIVE,
    default=5.0,
    show_default=True,
    help="The longest wait for an answer of the worker, in seconds.",
)
@click.option("--log", metavar="FILE", default="", help="Write what the worker prints there.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def conform(
    command: tuple[str, ...], generic: bool, rules: str, timeout: float, log: str, as_json: bool
) -> int:
    """Start the worker COMMAND, play the gateway for it, and check rule by rule that it speaks the
    worker protocol. Exit code 1: a rule is broken.

    It finds WSRAW_ENDPOINT, WSRAW_TOKEN, WSRAW_POOL and WSRAW_INSTANCE in its environment.
    """
    from wsraw.tools.conform import run as runner

    names = [name.strip() for name in rules.split(",") if name.strip()]
    try:
        return runner.main(
            command, names, generic=generic, patience=timeout, as_json=as_json, log=log
        )
    except runner.CannotConform as error:
        raise WrongUse(str(error)) from error


def _settings(values: dict[str, Any]) -> Settings:
    try:
        return from_options(values)
    except ValueError as error:
        name, colon, rest = str(error).partition(": ")
        option = "--" + name.replace("_", "-") if colon and name in values else name
        raise WrongUse(f"{option}{colon}{rest}") from error


def _link_keys(key: str, gateway_key: str) -> tuple[str, str]:
    from wsraw.runtime import keys

    try:
        return keys.read_secret(key), keys.read_public(gateway_key)
    except keys.KeyFileError as error:
        raise WrongUse(str(error)) from error


def _check_keys(settings: Settings) -> None:
    """Here, as a line of the gateway's log is not where one looks for wrong use."""
    if not settings.link_key:
        return
    from wsraw.runtime import keys

    try:
        keys.read_secret(settings.link_key)
        keys.AllowedKeys(settings.worker_keys)
    except keys.KeyFileError as error:
        raise WrongUse(str(error)) from error


def _check_program(program: programs.Program, where: str = "--workers ") -> None:
    """Here, where one line says it; in the run it would be a crash loop."""
    if program.file is not None or os.path.isdir(program.name):
        _check_file(program.file or program.name)
    elif program.is_foreign and shutil.which(program.words[0]) is None:
        first = program.words[0]
        hint = "is it installed, and in PATH?"
        if os.path.isfile(first):
            hint = "it is there, but may not be executed (chmod +x); or name what runs it before it"
        elif ":" in first and "/" not in first:
            hint = "a handlers file is given by its name, as in handlers.py:4"
        elif program.name.endswith(".py"):
            hint = f"nor is there a handlers file {program.name!r}"
        raise WrongUse(f"{where}{program.name!r}: {first}: no such program; {hint}")


def _check_file(file: str) -> None:
    try:
        os.stat(file)
    except PermissionError:
        raise WrongUse(f"{file}: its folder may not be entered; check its permissions") from None
    except (OSError, ValueError):
        raise WrongUse(f"{file}: there is no such handlers file") from None
    if not os.path.isfile(file):
        raise WrongUse(f"{file} is not a file; name the Python file that holds the handlers")
    if not os.access(file, os.R_OK):
        raise WrongUse(f"{file} cannot be read; check its permissions")


def _token_beside(endpoint: str) -> str:
    if not endpoint.startswith("ipc://"):
        raise WrongUse("no token: give --token or WSRAW_TOKEN (it stands in RUN_DIR/token)")
    path = os.path.join(os.path.dirname(endpoint.removeprefix("ipc://")), "token")
    try:
        with open(path, encoding="ascii") as stream:
            return stream.read().strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it holds no token"
        raise WrongUse(
            f"no token: {path}: {reason}; is `wsraw run` up there, and yours?"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
