"""`wsraw init` and `wsraw check`: begin a service, and check its settings and handlers."""

from __future__ import annotations

import getpass
import json
import os
import signal
import subprocess
import sys
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import click

from wsraw.commands.checks import check_all, try_targets, unused_file
from wsraw.commands.failures import Failed, WrongUse, show
from wsraw.commands.options import CONFIG, GroupedCommand, gather, setting_options
from wsraw.config.addresses import Listen, parse_admin, parse_listen
from wsraw.config.programs import Program
from wsraw.config.settings import Settings
from wsraw.config.units import show_time
from wsraw.runtime.printable import without_secrets

TEMPLATES: Final = Path(__file__).parent / "templates"

FILES: Final = {
    "wsraw.toml": "wsraw.toml",
    "handlers.py": "handlers.py.txt",
    "test_handlers.py": "test_handlers.py.txt",
    "wsraw.service": "wsraw.service",
}
"""What `init` writes, and the template of each."""


# --- init ---


@click.command()
@click.argument("folder", default=".", metavar="[FOLDER]")
@click.option(
    "--user",
    metavar="NAME",
    default="",
    help="User of the service in the systemd unit. Default: you; if you are root, a temporary user "
    "of systemd (DynamicUser).",
)
def init(folder: str, user: str) -> None:
    """Create the files of a new service.

    Write wsraw.toml, handlers.py, a test of the handlers and a systemd unit to FOLDER (default: the
    current one). Existing files are not overwritten.
    """
    place = Path(folder).absolute()
    there = [name for name in FILES if os.path.lexists(place / name)]
    if there:
        raise WrongUse(
            f"{place} already has {' and '.join(there)}; nothing was written. Move that "
            "away, or name another folder"
        )
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, template in FILES.items():
            text = (TEMPLATES / template).read_text("utf-8")
            if name == "wsraw.service":
                text = _unit(text, place, user)
            with open(place / name, "x", encoding="utf-8") as stream:
                stream.write(text)
    except OSError as error:
        raise Failed(f"{error.filename or place}: {error.strerror or error}") from error
    config = Path(folder) / "wsraw.toml"
    lines = [f"{place}: {', '.join(FILES)}", "", "Next:"]
    lines += [f"  wsraw check --config {config}", f"  wsraw run --config {config}"]
    show("\n".join([*lines, f"  python -m pytest {folder}"]))


def _unit(text: str, place: Path, user: str) -> str:
    own = Path(sys.executable).with_name("wsraw")
    words = [str(own)] if own.is_file() else [sys.executable, "-m", "wsraw"]
    return text.format(
        command=" ".join(map(_quoted, words)),
        config=_quoted(str(place / "wsraw.toml")),
        # WorkingDirectory takes the rest of the line as it is, without quotes.
        folder=str(place).replace("%", "%%"),
        user=_user_lines(user),
    )


def _user_lines(user: str) -> str:
    if user or sys.platform == "win32":
        return f"User={user or 'NAME'}"
    user = getpass.getuser()
    return DYNAMIC_USER if user == "root" else f"{OWN_USER}\nUser={user}"


OWN_USER: Final = "# A user that owns nothing but this service is better: User=NAME."

DYNAMIC_USER: Final = """\
# A temporary user of systemd, who can read what everybody can. To read more, such as the key of a
# certificate, the service needs a user of its own: `useradd -r NAME`, and User=NAME in this line.
DynamicUser=yes"""


def _quoted(word: str) -> str:
    """A word of a command in a systemd unit (systemd.service(5), "Command lines")."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if " " in word or word != word.strip("'") else word


# --- check ---


@click.command(cls=GroupedCommand, params=[CONFIG, *setting_options()])
def check(config: str | None, **values: Any) -> None:
    """Check settings, handlers, ports and certificates.

    The options are those of `wsraw run`. No clients are served. Each handlers file is loaded as a
    worker loads it, in a process of its own and within start_timeout; on_start is not called. Each
    port is opened for a moment; a port that your own run is using is not a problem. wsraw connects
    to the target of each bridge.

    Exit code 0: a run could start. 1: it could not, or a function looks like a misspelt handler. 2:
    the settings are wrong.
    """
    found = gather(values, config or "")
    in_pools = check_all(found)
    names = ", ".join(found.sources) or "all at their defaults"
    show(f"settings: {names}")
    report = _Report()
    unused = unused_file(config)
    if unused:
        report.warning(unused)
    programs = {entry.program: None for entries in in_pools.values() for entry in entries}
    for program in programs:
        _check_program(program, found.settings, report)
    _check_listeners(found.settings, report)
    _check_bridges(found.settings, report)
    if report.problems:
        count = report.problems
        raise Failed(f"{count} problem{'s' if count > 1 else ''} found")
    show("no problems found")


class _Report:
    """Prints what the checks find, and counts the problems."""

    def __init__(self) -> None:
        self.problems = 0

    def problem(self, text: str) -> None:
        self.problems += 1
        show(f"problem: {text}")

    @staticmethod
    def warning(text: str) -> None:
        show(f"warning: {text}")


def _check_program(program: Program, settings: Settings, report: _Report) -> None:
    if program.is_foreign:
        show(f"{program.label}: the program was found; it is not started")
        return
    if program.module:
        show(f"static: the files of {settings.static}")
        return
    if program.file is None:
        show(program.label)
        return
    try:
        code, found, output = _child(settings, settings.start_timeout, "check", program.file)
    except subprocess.TimeoutExpired:
        limit = show_time(settings.start_timeout)
        report.problem(f"{program.file} did not load within start_timeout ({limit})")
        return
    if found is None:
        report.problem(f"{program.file}: the process that loaded it ended with code {code}")
        show(output.rstrip())
        return
    if found["error"]:
        report.problem(f"{program.file} does not load:\n{found['error']}")
        return
    for slip in found["slips"]:
        report.problem(slip)
    timers = [f"{found['timers']} timers"] if found["timers"] else []
    kind = "async" if found["is_async"] else "plain"
    show(f"{program.file}: {', '.join([*found['handlers'], *timers]) or 'nothing'} ({kind})")
    if not found["handlers"] and not timers:
        report.problem(f"{program.file} has no handlers: define on_message, for example")


def _check_listeners(settings: Settings, report: _Report) -> None:
    taken = _Taken(settings.run_dir)
    listens = [parse_listen(text, settings) for text in settings.listen]
    for listen in listens:
        if listen.fd:
            show(f"{listen.name}: a service manager passes it to the run")
        else:
            _check_address(listen, listen.name, taken, report)
    if settings.admin:
        _check_address(parse_admin(settings.admin), f"admin {settings.admin}", taken, report)
    if not any(listen.tls != "off" for listen in listens):
        return
    code, found, output = _child(settings, settings.start_timeout, "check-tls")
    if found is None:
        report.problem(f"the certificates could not be checked (code {code}): {output.rstrip()}")
        return
    for text in found["problems"]:
        report.problem(text)
    for text in found["warnings"]:
        report.warning(text)
    if not (found["problems"] or found["warnings"]):
        show("certificates: valid")


def _check_address(listen: Listen, name: str, taken: _Taken, report: _Report) -> None:
    """Listen on an address for a moment."""
    from wsraw.runtime import sockets

    try:
        sockets.close(sockets.bind(listen), listen)
    except OSError as error:
        if _place(listen) in taken.places:
            show(f"{name}: in use by your run")
        else:
            report.problem(f"{name}: {error.strerror or error}")
    else:
        show(f"{name}: free")


def _check_bridges(settings: Settings, report: _Report) -> None:
    for bridge in settings.bridges:
        for target, why in try_targets(bridge, settings.connect_proxy):
            where = f"bridge {bridge.name}: {without_secrets(target)}"
            if why:
                report.problem(f"{where}: {why}")
            else:
                show(f"{where}: takes connections")


def _place(listen: Listen) -> str:
    return f"unix:{listen.path}" if listen.path else f"{listen.host}:{listen.port}"


class _Taken:
    """The addresses on which this user's runs listen, as far as the runs answer. They are asked
    when this is first needed."""

    def __init__(self, run_dir: str) -> None:
        self._run_dir = run_dir

    @cached_property
    def places(self) -> set[str]:
        from wsraw.supervisor.control import client
        from wsraw.supervisor.run_folder import folder

        found: set[str] = set()
        own = [Path(self._run_dir)] if self._run_dir else []
        for path in [*own, *folder.fresh_folders()]:
            try:
                data = client.ask(path, "status", (), 5.0).data
            except (client.NoRunError, client.RequestRefusedError, TimeoutError):
                continue
            urls = [*data["listen"], data.get("admin") or ""]
            found.update(url.rpartition("://")[2] for url in urls)
        return found


def _child(
    settings: Settings, timeout: float, *arguments: str
) -> tuple[int, dict[str, Any] | None, str]:
    """Run a process of wsraw until it ends; return its exit code, its report, and its other output.
    Raises TimeoutExpired."""
    from wsraw.config.settings import to_json
    from wsraw.supervisor.processes.process import (
        environment_of_child,
        own_command,
        own_variables,
    )

    variables = {**own_variables(), "WSRAW_PARENT": str(os.getpid())}
    with tempfile.TemporaryFile() as report, tempfile.TemporaryFile() as output:
        # Files instead of pipes: a program that the handlers start may outlive the process and keep
        # a pipe open.
        process = subprocess.Popen(
            own_command(*arguments),
            env=environment_of_child(variables),
            stdin=subprocess.PIPE,
            stdout=report,
            stderr=output,
            start_new_session=True,
        )
        try:
            process.communicate(to_json(settings).encode() + b"\n", timeout or None)
        except BaseException:
            _kill(process)
            raise
        report.seek(0)
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
        try:
            return process.returncode, json.loads(report.read()), text
        except ValueError:
            return process.returncode, None, text


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, with all that it has started."""
    if hasattr(signal, "SIGKILL"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
