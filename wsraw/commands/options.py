"""Settings as options of commands: config/options.py describes them, click reads them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container
from functools import cache, partial
from typing import Any, Final

import click

from wsraw.commands.failures import WrongUse
from wsraw.config import options as options_module
from wsraw.config import sources
from wsraw.config.options import Option

OF_WORKERS: Final = ("concurrency", "on_exception", "log_level", "log_format")
"""The settings that apply to a worker that is started by hand."""

_FILE: Final = re.compile(r"\.(?:py|toml)(?::\d+)?$")
"""The end of an argument that is a handlers file or a settings file."""

_METAVARS: Final = {
    "listen": "ADDRESS",
    "workers": "FILE|COMMAND[:N]",
    "pools": "NAME[=WORKERS]",
    "routes": "PATTERN=POOL",
    "bridges": "[PATH=]TARGET",
    "connect_proxy": "URL",
    "subprotocols": "NAME",
    "history": "GROUPS=MESSAGES[,TIME]",
    "presence": "GROUPS",
    "tls_cert": "[NAMES=]FILE",
    "tls_key": "FILE",
    "tls_client_ca": "FILE",
    "origins": "ORIGIN",
    "hosts": "HOST",
    "trusted_proxies": "NETWORK",
    "run_dir": "FOLDER",
    "static": "FOLDER",
    "admin": "HOST:PORT",
    "admin_token": "FILE",
    "publish_token": "FILE",
    "worker_listen": "ENDPOINT",
    "link_key": "FILE",
    "worker_keys": "PATH",
    "cluster": "URL",
    "cluster_name": "NAME",
    "node": "NAME",
    "cluster_credentials": "FILE",
    "cluster_ca": "FILE",
}
_METAVARS_OF_KINDS: Final = {"count": "N", "number": "N", "size": "SIZE", "time": "TIME"}


class GroupedCommand(click.Command):
    """A command whose help shows the settings under the same headings as the docs. If it takes no
    arguments and gets a file as one, it says which option is missing."""

    allow_extra_args = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Raises click.UsageError."""
        super().parse_args(ctx, args)
        for word in ctx.args:
            self._refuse(ctx, word)
        return []

    def _refuse(self, ctx: click.Context, word: str) -> None:
        has_arguments = any(isinstance(each, click.Argument) for each in self.params)
        if has_arguments or not (_FILE.search(word) or os.path.isfile(word)):
            ctx.fail(f"Got unexpected extra argument ({word})")
        option = "--config" if word.endswith(".toml") else "--workers"
        ctx.fail(f"{word}: {option} is missing; write {ctx.command_path} {option} {word}")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, a heading for each section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        known = {_click_option(each): each.section for each in options_module.options()}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and not isinstance(param, click.Argument):
                sections.setdefault(known.get(param, "Options"), []).append(record)
        for heading in ("Options", *options_module.SECTIONS.values()):
            if heading in sections:
                with formatter.section(heading):
                    formatter.write_dl(sections[heading])


CONFIG: Final = click.Option(
    ["--config"],
    metavar="FILE",
    envvar="WSRAW_CONFIG",
    help="Settings file (TOML). Environment variables (WSRAW_NAME) override it; command-line "
    "options override both.",
)


def setting_options(names: Container[str] = ()) -> list[click.Parameter]:
    """An option for each setting, or for those with these names."""
    return [
        _click_option(each) for each in options_module.options() if not names or each.name in names
    ]


class _Option(click.Option):
    """An option whose help text is built only when it is shown."""

    def __init__(self, names: list[str], *, told: Callable[[], str], **values: Any) -> None:
        super().__init__(names, **values)
        self._told = told

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The names and the help text."""
        self.help = self._told()
        return super().get_help_record(ctx)


def _meaning_and_default(option: Option) -> str:
    if option.default in ((), ""):
        return option.meaning
    return f"{option.meaning}  [default: {options_module.as_text(option, option.default)}]"


@cache
def _click_option(option: Option) -> click.Parameter:
    """The option for click, which reads a text or a switch, and no more: sources.py checks values
    wherever they come from. An option that was not given is None or empty."""
    is_switch = option.kind == "switch"
    metavar = _METAVARS.get(option.name) or _METAVARS_OF_KINDS.get(option.kind)
    if option.choices:
        metavar = f"[{'|'.join(option.choices)}]"
    return _Option(
        [f"--{option.flag}/--no-{option.flag}" if is_switch else f"--{option.flag}", option.name],
        type=bool if is_switch else str,
        default=None,
        multiple=option.kind in ("texts", "tables"),
        metavar=None if is_switch else metavar,
        told=partial(_meaning_and_default, option),
    )


def gather(values: dict[str, Any], config: str | None = None) -> sources.Configuration:
    """The settings in force. `values` are the options of the command line. Raises WrongUse."""
    given = {name: value for name, value in values.items() if value not in (None, ())}
    try:
        return sources.gather(given, os.environ if config is not None else {}, config or "")
    except sources.ConfigurationError as error:
        raise WrongUse(str(error)) from error


_OF_BRIDGE: Final = (
    *("to", "tokens", "path", "framing", "type", "verify", "server_name", "proxy"),
    *("pass_headers", "pass_host", "set_headers", "send_forwarded", "send_proxy"),
)
"""The keys of a table of `bridges` that are options of `wsraw bridge`."""

_NOT_OF_BRIDGE: Final = (
    *("workers", "pools", "routes", "bridges", "dispatch", "concurrency", "subprotocols"),
    *("on_exception", "delivery", "max_deliveries", "handler_timeout", "worker_wait_timeout"),
    *("max_events", "max_memory", "reload", "messages", "verdict", "verdict_timeout"),
    *("drain_timeout", "start_timeout", "restart_intensity"),
    *("worker_listen", "link_key", "worker_keys", "worker_heartbeat"),
    *("history", "presence", "publish_token"),
    *("cluster", "cluster_name", "node", "cluster_credentials", "cluster_ca"),
)
"""Settings that matter only where there are workers, or groups, which only workers fill."""


def bridge_options() -> list[click.Parameter]:
    """The options of `wsraw bridge`: those of one bridge, then those of a run."""
    metavars = {
        "to": "TARGET",
        "tokens": "FILE",
        "path": "PATTERN",
        "server_name": "NAME",
        "proxy": "URL",
        "pass_headers": "NAME",
        "set_headers": "'NAME: VALUE'",
    }
    own: list[click.Parameter] = []
    for key in options_module.keys_of("bridges"):
        if key.name in _OF_BRIDGE:
            is_switch = key.kind == "switch"
            own.append(
                _Option(
                    [f"--{key.flag}/--no-{key.flag}" if is_switch else f"--{key.flag}", key.name],
                    type=bool if is_switch else str,
                    default=None,
                    multiple=key.kind == "texts",
                    metavar=f"[{'|'.join(key.choices)}]" if key.choices else metavars.get(key.name),
                    told=partial(getattr, key, "meaning"),
                )
            )
    rest = [each for each in options_module.options() if each.name not in _NOT_OF_BRIDGE]
    return [*own, *(_click_option(each) for each in rest)]


def gather_bridge(values: dict[str, Any]) -> sources.Configuration:
    """The settings of `wsraw bridge`. Raises WrongUse."""
    table = {name: values[name] for name in _OF_BRIDGE if values[name] not in (None, ())}
    values = {name: value for name, value in values.items() if name not in _OF_BRIDGE}
    if not (table.get("to") or table.get("tokens")):
        raise WrongUse("--to is missing: the target, as in tcp://127.0.0.1:5900; or --tokens FILE")
    try:
        return gather(values | {"bridges": (table,)})
    except WrongUse as error:
        raise WrongUse(_BRIDGE_ERROR.sub(_flag, str(error))) from error


_BRIDGE_ERROR: Final = re.compile(r"--bridge: table 1: (?:(\w+): )?")
"""The beginning of an error about the only bridge: the settings number their bridges."""


def _flag(found: re.Match[str]) -> str:
    return f"--{found[1].replace('_', '-')}: " if found[1] else ""
