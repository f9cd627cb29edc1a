"""Update the parts of these pages that are generated from the code: `python docs/generate.py`.

A *region* between two comments is a table or a list. A *number* is followed by a comment with its
name, as in `30 s<!-- handler-timeout -->`. tests/test_docs.py fails when one of them is out of
date.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from wsraw import cli
from wsraw.admin import metrics, publishing
from wsraw.admin import run as admin_run
from wsraw.admin import server as admin_server
from wsraw.admin.page import stream as admin_stream
from wsraw.cluster import core
from wsraw.config import options, patterns
from wsraw.config.options import Option
from wsraw.gateway import counters, gateway, system
from wsraw.gateway.admission import per_address, sniffer
from wsraw.gateway.cluster import absent, cluster
from wsraw.gateway.delivery import outgoing, read_policy, worker
from wsraw.gateway.delivery.groups import groups
from wsraw.gateway.frozen.groups import history
from wsraw.gateway.remote import transport
from wsraw.gateway.sessions import commands, links, sessions
from wsraw.gateway.sockets import endpoint, listener
from wsraw.link import batches, gateway_end, records, window, zmtp
from wsraw.runtime import sockets
from wsraw.runtime.link import client, connection, server
from wsraw.runtime.log import line
from wsraw.supervisor import log
from wsraw.supervisor.control import link as control
from wsraw.supervisor.control import session_end
from wsraw.supervisor.decisions import restarts
from wsraw.supervisor.processes import process
from wsraw.tools.conform.verdicts import RULES
from wsraw.workers.reporting import ration
from wsraw.workers.shells import dealer, remote_dealer, shell

DOCS: Final = Path(__file__).resolve().parent

PAGES: Final = {
    "Handlers and workers": "[handlers](handlers.md), [pools and routes](pools.md)",
    "Listeners": "[Choose addresses to listen on](deploy.md#choose-addresses-to-listen-on)",
    "TLS": "[Serve clients over TLS](tls.md)",
    "Who may connect": "[Decide who may connect](security.md)",
    "Limits for clients": "[Limit what clients can use](limits.md)",
    "Connections": "[Disconnect silent clients](limits.md#disconnect-silent-clients)",
    "Compression": "[Tune compression](limits.md#tune-compression)",
    "Processes": "[Deploy and operate a run](deploy.md), [Read the log](log.md), "
    "[Understand restarts](troubleshooting.md#understand-restarts)",
    "Metrics and health checks": "[Watch a run](metrics.md)",
    "Workers on other machines": "[Run workers outside the run](remote-workers.md)",
    "Several gateways": "[Serve more clients](growing.md)",
}
"""The page that explains the settings under a heading."""

METAVARS: Final = {
    parameter.name: parameter.metavar
    for parameter in cli.commands()["run"].params
    if parameter.metavar
}
"""The placeholder that `wsraw run --help` shows after an option."""


def settings() -> str:
    """Every setting: how to set it, its type, its default and its meaning."""
    parts, section = [], ""
    for option in options.options():
        if option.section != section:
            section = option.section
            parts.append(f"## {section}\n\nSee {PAGES[section]}.")
        parts.append(_setting(option))
    return "\n\n".join(parts)


def _setting(option: Option) -> str:
    flag = f"--{option.flag}"
    if option.kind == "switch":
        flag = f"{flag}`, `--no-{option.flag}"
    elif option.name in METAVARS and not option.choices:
        flag = f"{flag} {METAVARS[option.name]}"
    facts = [
        f"`{flag}`",
        f"`WSRAW_{option.name.upper()}`",
        _takes(option),
        f"default `{options.toml(option, option.default)}`",
    ]
    return f"### `{option.name}`\n\n{' · '.join(facts)}\n\n{option.meaning}"


def _takes(option: Option) -> str:
    bounds = f"{option.minimum} or more"
    if option.maximum is not None:
        bounds = f"{option.minimum} to {option.maximum}"
    least = f", {bounds}" if option.minimum > 1 else ""
    choices = [f"`{choice}`" for choice in option.choices]
    return {
        "text": "a path" if option.is_path else "text",
        "texts": "a list",
        "tables": "a list of tables",
        "choice": " or ".join(", ".join(choices).rsplit(", ", 1)),
        "switch": "`true` or `false`",
        "count": f"a whole number, {bounds}",
        "number": f"a number, {bounds}",
        "size": f"a size{least}",
        "time": "a time",
    }[option.kind]


def keys(name: str) -> str:
    """The keys of a setting that is a list of tables."""
    rows = ["| key | takes | meaning |", "|---|---|---|"]
    for option in options.keys_of(name):
        needed = " Required." if option.default is msgspec.NODEFAULT else ""
        rows.append(f"| `{option.name}` | {_takes(option)} | {option.meaning}{needed} |")
    return "\n".join(rows)


TYPES: Final[dict[Any, str]] = {
    int: "integer",
    float: "number",
    bool: "boolean",
    str: "str",
    str | None: "str, or nil",
    bytes: "bin",
    dict[str, str]: "map, str to str",
    dict[str, str] | None: "map, str to str, or nil",
    dict[str, int]: "map, str to integer",
    dict[str, Any]: "map, str to anything",
    list[int]: "array of integers",
    list[str]: "array of str",
    Any: "anything",
}
"""The page's names for the types of fields."""


def types() -> str:
    """The types of the fields on the worker link; most fields have one type in all records."""
    found: dict[str, dict[Any, list[str]]] = {}
    for struct in get_args(records.Event | records.Notice | records.Command):
        for field in msgspec.structs.fields(struct):
            tag = f"`{struct.__struct_config__.tag}`"
            found.setdefault(field.name, {}).setdefault(field.type, []).append(tag)
    lines = []
    for kind, word in TYPES.items():
        names = [
            f"`{name}`" + (f" of {', '.join(kinds[kind])}" if len(kinds) > 1 else "")
            for name, kinds in found.items()
            if kind in kinds
        ]
        lines.append(f"| {word} | {', '.join(names)} |")
    return "\n".join(("| type | fields |", "|---|---|", *lines))


def _field(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return f"`{field.name}`"
    default = field.default
    if default is msgspec.NODEFAULT:
        assert field.default_factory is not msgspec.NODEFAULT
        default = field.default_factory()
    value = "nil" if default is None else msgspec.json.encode(default).decode()
    return f"`{field.name}`? = `{value}`"


def record_tables() -> str:
    """All records that one process sends to another, by direction."""
    parts = [f"### Types\n\n{types()}\n"]
    for title, union in (
        ("Gateway → worker: events", records.Event),
        ("Gateway → worker: notices", records.Notice),
        ("Worker → gateway", records.Command),
        ("Supervisor → gateway", records.FromSupervisor),
        ("Gateway → supervisor", records.FromGateway),
        ("Node ↔ node of a cluster, over NATS", records.Envelope),
        ("Command line ↔ supervisor", records.Do | records.Done),
    ):
        parts.append(f"### {title}\n\n| record | fields | meaning |\n|---|---|---|")
        for struct in get_args(union) or (union,):
            fields = ", ".join(map(_field, msgspec.structs.fields(struct)))
            tag = struct.__struct_config__.tag
            meaning = " ".join((struct.__doc__ or "").split())
            parts.append(f"| `{tag}` | {fields or '–'} | {meaning} |")
        parts.append("")
    return "\n".join(parts)


def rules() -> str:
    """The rules that `wsraw conform` checks, as a table."""
    lines = ["| rule | see | meaning | of |", "|---|---|---|---|"]
    for rule in RULES:
        see = f"rule {rule.section}" if rule.section.isdigit() else rule.section
        kind = "the common behaviour" if rule.common else "any worker"
        lines.append(f"| `{rule.name}` | {see} | {rule.meaning} | {kind} |")
    return "\n".join(lines)


def packages() -> str:
    """Every package below wsraw/, with the first line of its docstring."""
    rows = ["| package | what it is for |", "|---|---|"]
    for path in sorted((DOCS.parent / "wsraw").rglob("__init__.py"))[1:]:
        name = path.parent.relative_to(DOCS.parent / "wsraw").as_posix()
        doc = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        meaning = doc.splitlines()[0].removeprefix("Sans-I/O. ").removeprefix("I/O. ")
        rows.append(f"| `{name}/` | {meaning} |")
    return "\n".join(rows)


def metric_table() -> str:
    """Every metric, under the name that queries use."""
    rows = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for metric in metrics.METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
        rows.append(f"| `{metric.shown}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(rows)


def stats_bounds() -> str:
    """The bounds of the buckets in the record `stats`."""
    *texts, last = [f"{bound:g}" for bound in records.HANDLER_BOUNDS]
    return f"{', '.join(texts)} and {last} seconds."


def compiled() -> int:
    """The number of modules in a compiled build."""
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text("utf-8"))
    hooks = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]
    return len(hooks["mypyc"]["include"])


REGIONS: Final[dict[str, tuple[str, Callable[[], str]]]] = {
    "packages": ("architecture.md", packages),
    "settings": ("configuration.md", settings),
    "pools": ("pools.md", lambda: keys("pools")),
    "routes": ("pools.md", lambda: keys("routes")),
    "bridges": ("bridges.md", lambda: keys("bridges")),
    "records": ("worker-protocol.md", record_tables),
    "stats-bounds": ("worker-protocol.md", stats_bounds),
    "rules": ("conform.md", rules),
    "metrics": ("metrics.md", metric_table),
}


def size(count: int) -> str:
    """A number of bytes, with its unit."""
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


NUMBERS: Final = {
    "admin-streams": f"{admin_stream.MOST_STREAMS}",
    "admin-connections": f"{admin_server.MOST_CONNECTIONS}",
    "admin-fresh": f"{admin_run.FRESH_FOR * 1000:g} ms",
    "admin-longest": f"{admin_server.LONGEST_REQUEST:g} s",
    "accept-pause": f"{listener.ACCEPT_PAUSE:g} s",
    "batch-bytes": size(batches.LARGEST_BATCH),
    "batch-bytes-remote": size(batches.LARGEST_REMOTE_BATCH),
    "batch-records": f"{records.MOST_RECORDS:,}",
    "batch-wrong": f"{records.MOST_WRONG}",
    "bye-linger": f"{dealer.BYE_LINGER * 1000:g} ms",
    "cancel-grace": f"{sessions.CANCEL_GRACE:g} s",
    "come-back": f"{sessions.COME_BACK:g} s",
    "cluster-answer": f"{cluster.ANSWER_WITHIN:g} s",
    "cluster-members": f"{cluster.MOST_MEMBERS:,}",
    "cluster-silent": f"{cluster.SILENT_FOR:g} s",
    "cluster-untaken": size(core.MOST_UNTAKEN),
    "cluster-waiting": size(core.MOST_WAITING),
    "compiled-modules": f"{compiled()}",
    "control-unread": size(control.UNREAD_LIMIT),
    "early-limit": size(read_policy.EARLY_LIMIT),
    "event-bytes": size(batches.EVENT_LIMIT),
    "exit-rejected": f"{shell.EXIT_REJECTED}",
    "first-backoff": f"{restarts.FIRST_BACKOFF:g} s",
    "first-window": f"{window.FIRST_WINDOW}",
    "heartbeat": f"{remote_dealer.HEARTBEAT // 1000} s",
    "heartbeat-expiry": f"{remote_dealer.HEARTBEAT_EXPIRY // 1000} s",
    "held-open": f"{links.HELD_OPEN_FOR * 1000:g} ms",
    "hello-bytes": size(sessions.LONGEST_HELLO),
    "id-range": f"{worker.ID_RANGE}",
    "keepalive-idle": f"{sockets.KEEPALIVE_IDLE} s",
    "kept-free": size(system.KEPT_FREE),
    "large-read": size(endpoint.LARGE_READ),
    "largest-window": f"{window.LARGEST_WINDOW:,}",
    "least-read": size(endpoint.LEAST_READ),
    "leave-within": f"{shell.LEAVE_WITHIN:g} s",
    "link-accept-pause": f"{server.ACCEPT_PAUSE:g} s",
    "link-choked": size(links.CHOKED_ABOVE),
    "link-client-unsent": size(client.UNSENT_LIMIT),
    "link-complain": f"{server.COMPLAIN_EVERY:g} s",
    "link-greeting": f"{server.MOST_GREETING}",
    "link-spare": size(zmtp.SPARE_LIMIT),
    "link-stranger-bytes": size(server.STRANGER_LIMIT),
    "link-strangers": f"{server.MOST_STRANGERS:,}",
    "link-timeout": f"{server.HELLO_TIMEOUT:g} s",
    "log-burst": f"{log.BURST:g} s",
    "exit-hangs": f"{shell.EXIT_HANGS}",
    "log-extra": size(line.EXTRA_BYTES),
    "log-exception": size(line.EXCEPTION_BYTES),
    "log-kept": size(log.BYTES_KEPT),
    "log-message": size(line.MESSAGE_BYTES),
    "longest-backoff": f"{restarts.LONGEST_BACKOFF:g} s",
    "longest-line": size(sniffer.MAX_LINE),
    "longest-log-line": size(process.LONGEST_LINE),
    "longest-socket-path": f"{connection.LONGEST_SOCKET_PATH}",
    "most-headers": f"{sniffer.MAX_HEADERS}",
    "most-owed": f"{gateway_end.MOST_OWED:,}",
    "most-segments": f"{patterns.MOST_SEGMENTS}",
    "orphan-stop": f"{gateway.ORPHAN_STOP:g} s",
    "page": f"{commands.PAGE}",
    "group-limit": f"{records.GROUP_LIMIT}",
    "broadcast-time": f"{outgoing.BROADCAST_TIME * 1000:g} ms",
    "publish-at-once": f"{publishing.MOST_AT_ONCE}",
    "publish-body": f"{publishing.MOST_BODY >> 20} MiB",
    "history-moved": size(history.MOST_MOVED),
    "history-groups": f"{history.MOST_STREAMS:,}",
    "most-absent": f"{absent.MOST_ABSENT:,}",
    "most-parked": f"{groups.MOST_PARKED}",
    "most-groups": f"{groups.MOST_GROUPS}",
    "session-end": f"{session_end.URGENT:g} s",
    "protocol-version": f"{records.PROTOCOL_VERSION}",
    "read-size": size(endpoint.READ_SIZE),
    "receive-queue": f"{transport.RECEIVE_QUEUE}",
    "refusal-timeout": f"{per_address.REFUSAL_TIMEOUT:g} s",
    "refused-at-once": f"{per_address.MOST_REFUSED}",
    "restart-period": f"{restarts.PERIOD:g} s",
    "stats-every": f"{records.STATS_EVERY}",
    "stuck-after": f"{window.STUCK_AFTER * 1000:g} ms",
    "tell-every": f"{counters.TELL_EVERY:g} s",
    "tracebacks-period": f"{ration.PERIOD:g} s",
    "tracebacks-shown": f"{ration.SHOWN}",
    "unsent-limit": size(sessions.UNSENT_LIMIT),
    "window-bytes": size(window.WINDOW_BYTES),
    "work-ahead": f"{window.WORK_AHEAD * 1000:g} ms",
}
"""Constants of the code that the pages mention."""

MARKED: Final = re.compile(r"[\d.,]*\d(?: ?(?:ms|s|KiB|MiB))?(?=<!-- ([\w-]+) -->)")
"""A number that is followed by the comment with its name."""


def fresh(page: str, text: str) -> str:
    """The text of a page with up-to-date regions and numbers.

    Raises KeyError for a number that has no name here.
    """
    for name, (of, make) in REGIONS.items():
        if of == page:
            begin, end = (
                f"<!-- {name}: generated by docs/generate.py -->",
                f"<!-- end of {name} -->",
            )
            before, _, rest = text.partition(begin)
            after = rest.partition(end)[2]
            assert after, f"{page}: mark the region {name}"
            text = f"{before}{begin}\n\n{make().strip()}\n\n{end}{after}"
    return MARKED.sub(lambda at: NUMBERS[at[1]], text)


if __name__ == "__main__":
    for path in sorted(DOCS.glob("*.md")):
        path.write_text(fresh(path.name, path.read_text("utf-8")), "utf-8")
