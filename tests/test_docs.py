"""The docs against the code: tables, links, names, options, numbers, and the code in them, run.

`python tests/test_docs.py` writes the generated tables anew.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from deadline import UNIT, eventually
from running import ROOT, Running, command, environment

from wsraw import cli, link, listeners, paths, tuning
from wsraw import messages as m
from wsraw import options as options_of_settings
from wsraw import settings as s
from wsraw.checks import from_options
from wsraw.conform import play
from wsraw.gateway import (
    admission,
    connection,
    gateway,
    limits,
    links,
    listener,
    refusals,
    route,
    router,
    sniff,
    websocket,
    wire,
)
from wsraw.supervisor import folder, policy, pool, process, requests, restarts, supervisor
from wsraw.supervisor import log as supervisor_log
from wsraw.supervisor.life import ChildState
from wsraw.workers import dealer, handlers, ration, shell, worker

README = ROOT / "README.md"
PROTOCOL = ROOT / "docs/worker-protocol.md"
OPERATIONS = ROOT / "docs/operations.md"
HANDLERS = ROOT / "docs/handlers.md"
DRILL = ROOT / "docs/drill.md"
CONFORM = ROOT / "docs/conform.md"
WALK = ROOT / "docs/walk.md"
EXAMPLES = ROOT / "examples/README.md"
PAGES = [README, ROOT / "CHANGELOG.md", EXAMPLES, *sorted((ROOT / "docs").glob("*.md"))]

GENERATED = {
    "records": (PROTOCOL, m.tables),
    "rules": (CONFORM, play.table),
    "settings": (OPERATIONS, options_of_settings.table),
    "pools": (OPERATIONS, lambda: options_of_settings.keys("pools")),
    "routes": (OPERATIONS, lambda: options_of_settings.keys("routes")),
}


def by_name(path: Path) -> str:
    return path.name


def blocks(path: Path, language: str) -> list[str]:
    """The fenced code of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text("utf-8"), re.M | re.S)


def shell_lines(path: Path) -> list[str]:
    return [line for block in blocks(path, "sh") for line in block.splitlines()]


# --- generated tables ---


def region(text: str, name: str) -> re.Match[str]:
    found = re.search(
        rf"(?<=\n)(<!-- {name}: .*? -->\n)(.*?)(<!-- end of {name} -->\n)", text, re.S
    )
    assert found, f"no marks for {name}"
    return found


@pytest.mark.parametrize("name", GENERATED)
def test_generated_tables_are_up_to_date(name: str) -> None:
    path, table = GENERATED[name]
    written = region(path.read_text("utf-8"), name)[2]
    assert written.strip() == table().strip(), "stale; run: python tests/test_docs.py"


def refresh() -> None:
    for name, (path, table) in GENERATED.items():
        text = path.read_text("utf-8")
        found = region(text, name)
        fresh = f"{found[1]}\n{table().strip()}\n\n{found[3]}"
        path.write_text(text[: found.start()] + fresh + text[found.end() :], "utf-8")


# --- links ---


def anchors(path: Path) -> set[str]:
    """What can stand behind `#`: headings as GitHub spells them, and ids set by hand."""
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.M | re.S)
    found = set(re.findall(r'<a id="([^"]+)">', text))
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        kept = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(kept.replace(" ", "-"))
    return found


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_links_resolve(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        assert place.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in anchors(place), f"{path.name}: {target}"


def test_the_readme_leads_to_every_page() -> None:
    text = README.read_text("utf-8")
    for path in PAGES[1:]:
        assert f"({path.relative_to(ROOT).as_posix()})" in text


# --- names ---


@pytest.mark.parametrize("option", options_of_settings.options(), ids=lambda option: option.name)
def test_every_setting_is_mentioned(option: options_of_settings.Option) -> None:
    assert f"`{option.name}`" in OPERATIONS.read_text("utf-8")


@pytest.mark.parametrize(
    "struct", [*m.Event.__args__, *m.Notice.__args__, *m.Command.__args__], ids=lambda c: c.__name__
)
def test_every_record_of_the_link_is_mentioned(struct: type[m.Record]) -> None:
    tag = struct.__struct_config__.tag
    assert f"| `{tag}` |" in PROTOCOL.read_text("utf-8")


def test_the_examples_are_those_that_are_there() -> None:
    shown = re.findall(r"^\| \[[^]]+\]\((\w+\.py)\)", EXAMPLES.read_text("utf-8"), re.M)
    assert sorted(shown) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def defined(path: Path) -> set[str]:
    """Classes, functions and methods of a module."""
    names = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{sub.name}" for sub in node.body if isinstance(sub, ast.FunctionDef)
            }
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
    return names


def test_the_walk_passes_what_is_there() -> None:
    text = WALK.read_text("utf-8")
    steps = re.findall(r"`([\w/]+\.py)` `([\w.]+)`", text)
    assert len(steps) > 20
    for file, name in steps:
        assert name in defined(ROOT / "wsraw" / file), f"{file} {name}"
    for file in re.findall(r"`([\w/]+\.py)`", text):
        assert (ROOT / "wsraw" / file).is_file(), file


def first_column(text: str) -> set[str]:
    return set(re.findall(r"^\| `([a-z-]+)` \|", text, re.M))


def causes() -> set[str]:
    section = HANDLERS.read_text("utf-8").partition("### on_close(con)")[2]
    return first_column(section.partition("### ")[0])


def test_what_may_stand_behind_an_address_is_told() -> None:
    text = OPERATIONS.read_text("utf-8")
    row = re.search(r"^\| `127\.0\.0\.1:8000\?plain_http=health` \|(.*)$", text, re.M)
    assert row is not None
    told = row[1].partition("for this listener alone")[2]
    assert set(re.findall(r"`(\w+)`", told)) == set(listeners.OF_LISTENER)


def test_what_is_off_by_default_is_told() -> None:
    section = OPERATIONS.read_text("utf-8").partition("### Limits")[2].partition("###")[0]
    off = set(re.findall(r"^\| `(\w+)`[^|]*\| off \|", section, re.M)) - {"proxy_protocol"}
    # Those above it have a bound of their own there.
    assert off == {name for name in limits.DONE if getattr(S, name, None) == 0} - NOT_OFF


NOT_OFF = {"max_connections", "max_frame_size", "memory_limit"}
"""Limits for which 0 means a number that is found at the start."""


def test_every_limit_is_in_the_table() -> None:
    section = OPERATIONS.read_text("utf-8").partition("### Limits")[2].partition("\n###")[0]
    shown = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| (.*?) \|", section, re.M))))
    assert {name.partition(" ")[0] for name in limits.DONE} <= shown
    # Whatever can be reached has a text.
    reached = set()
    for file in (ROOT / "wsraw/gateway").glob("*.py"):
        text = file.read_text("utf-8")
        before = r"(?:\.limit = |limits\.hit\(|expel\(route, |self\.count\()"
        found = re.findall(before + r'"(\w+)"', text)
        reached |= set(found)
    assert len(reached) >= 10
    assert reached <= set(limits.DONE)


@pytest.mark.parametrize("cause", sorted(causes()))
def test_causes_are_those_of_the_code(cause: str) -> None:
    files = (ROOT / "wsraw/gateway").glob("*.py")
    assert any(f'"{cause}"' in file.read_text("utf-8") for file in files)


def test_states_of_workers_are_those_of_the_code() -> None:
    text = OPERATIONS.read_text("utf-8")
    found = re.search(r"For each worker: its state \(([^)]+)\)", text)
    assert found
    # A worker that FAILED ends the run; the last two are made in status.py and report.py.
    known = {state.value for state in ChildState} - {"failed"} | {"draining", "hung"}
    assert set(re.findall(r"`(\w+)`", found[1])) == known


def test_causes_are_those_of_the_handlers_page() -> None:
    known = causes()
    section = OPERATIONS.read_text("utf-8").partition("## Why a connection ended")[2]
    shown = first_column(section)
    assert shown
    assert shown <= known


# --- commands ---


def options(command: str) -> set[str]:
    parameters = cli.cli.commands[command].params
    return {name for each in parameters for name in (*each.opts, *each.secondary_opts)}


def flags(words: list[str]) -> set[str]:
    """Those of wsraw: what stands behind `--` is another program's."""
    ours = words[: words.index("--")] if "--" in words else words
    return {word for word in ours if word.startswith("--")}


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_options_exist(path: Path) -> None:
    known = {"--version"} | {name for command in cli.cli.commands for name in options(command)}
    # Docker, pip and compileall have options of their own.
    text = re.sub(r"(docker|pip|compileall) [^`\n]*", "", path.read_text("utf-8"))
    for option in re.findall(r"(?<![-\w])--[a-z][a-z-]+", text):
        assert option in known, f"{path.name}: {option}"


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_commands_exist(path: Path) -> None:
    text = path.read_text("utf-8")
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M):
        assert target in targets, f"{path.name}: make {target}"
    for module in re.findall(r"python3? -m ([\w.]+)", text):
        if module != "venv":
            found = importlib.util.find_spec(module)
            assert found is not None, f"{path.name}: -m {module}"
            if found.submodule_search_locations:
                assert importlib.util.find_spec(f"{module}.__main__"), f"{path.name}: -m {module}"
    for line in shell_lines(path):
        words = shlex.split(line, comments=True)
        if words and Path(words[0]).name == "wsraw" and words[1] != "--version":
            command = words[1]
            assert flags(words) <= options(command), line


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_commands_in_the_text_exist(path: Path) -> None:
    for shown in re.findall(r"`wsraw\s([^`]+)`", path.read_text("utf-8")):
        command, *words = shlex.split(shown)
        assert command in cli.cli.commands, shown
        assert flags(words) <= options(command), shown


@pytest.mark.parametrize("command", cli.cli.commands)
def test_every_command_is_shown(command: str) -> None:
    text = OPERATIONS.read_text("utf-8")
    assert re.search(rf"^wsraw {command}\b|`wsraw {command}\b", text, re.M)


def test_the_options_of_conform() -> None:
    section = CONFORM.read_text("utf-8").partition("## Options")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(--[a-z-]+)` \|", section, re.M)) | {"command"} == options(
        "conform"
    )


def test_the_options_of_the_drill() -> None:
    """The table has each of them, with its default."""
    section = DRILL.read_text("utf-8").partition("## Options")[2].partition("\n## ")[0]
    shown: dict[str, str] = {}
    for names, values in re.findall(r"^\| (`--[^|]+`) \| ([^|]*)\|", section, re.M):
        flags = re.findall(r"`(--[a-z-]+)`", names)
        defaults = values.strip().split(", ") if values.strip() else [""] * len(flags)
        shown |= dict(zip(flags, defaults, strict=True))
    drill = cli.cli.commands["drill"]
    defaults = {each.opts[0]: each.default or "0" for each in drill.params}
    # One that may be repeated has a tuple.
    known = {name: " ".join(v) if isinstance(v, tuple) else str(v) for name, v in defaults.items()}
    known |= dict.fromkeys(("--connect", "--run-dir", "--log", "--json"), "")
    assert shown == known


def test_settings_in_commands_are_accepted() -> None:
    """Every `--listen` that the docs show, with the files replaced by one that exists."""
    section = OPERATIONS.read_text("utf-8").partition("### Where to listen")[2]
    shown = re.findall(r"^\| (`[^|]+`) \|", section.partition("\n## ")[0], re.M)
    addresses = [
        address
        for cell in shown
        for address in re.findall(r"`([^`]+)`", cell)
        if ":" in address and not address.startswith("on ")
    ]
    assert len(addresses) >= 8
    for address in addresses:
        from_options({"listen": (address,), "tls_cert": ("cert.pem",)})


# --- numbers ---

MIB = s.MIB
S = s.Settings()


@pytest.mark.parametrize(
    ("path", "phrase"),
    [
        (OPERATIONS, f"| `high_water_mark`, {s.Settings().high_water_mark // s.KIB} KiB |"),
        (OPERATIONS, f"at `low_water_mark`, {s.Settings().low_water_mark // s.KIB} KiB"),
        (OPERATIONS, f"| `output_limit`, {s.Settings().output_limit // MIB} MiB of output |"),
        (OPERATIONS, f"| `max_message_size`, {s.Settings().max_message_size // MIB} MiB |"),
        (OPERATIONS, f"and then one every {'ten' if limits.TELL_EVERY == 10 else '?'} seconds"),
        (OPERATIONS, f"; {refusals.AT_ONCE} such clients are waited for at a time"),
        (OPERATIONS, f"at a time, {admission.PATIENCE:g} s at most"),
        (OPERATIONS, f"keepalive: after {tuning.KEEPALIVE_IDLE} s of silence"),
        (OPERATIONS, f"or with more than {paths.MOST_SEGMENTS} segments, fits no pattern"),
        (OPERATIONS, f"| `silence_timeout`, before the first byte | {S.silence_timeout:g} s |"),
        (OPERATIONS, f"end of the head | {S.handshake_timeout:g} s |"),
        (OPERATIONS, f"the first line included | {S.max_header_size // s.KIB} KiB |"),
        (OPERATIONS, f"| `max_header_count` | {S.max_header_count} |"),
        (OPERATIONS, f"| a first line of a request above {sniff.MAX_LINE // s.KIB} KiB"),
        (OPERATIONS, f"| `max_connections_per_address` | {S.max_connections_per_address} |"),
        (OPERATIONS, f"any progress of its output | {S.write_timeout:g} s |"),
        (OPERATIONS, f"`rate_burst` seconds' worth ({S.rate_burst:g} s)"),
        (OPERATIONS, f"| `output_limit` | {S.output_limit // MIB} MiB |"),
        (OPERATIONS, f"| `worker_wait_timeout` | {S.worker_wait_timeout:g} s |"),
        (OPERATIONS, f"| `pause_timeout`, {s.Settings().pause_timeout:g} s |"),
        (OPERATIONS, f"above `stop_timeout` ({s.Settings().stop_timeout:g} s)"),
        (OPERATIONS, f"A line longer than {process.LONGEST_LINE // s.KIB} KiB is cut"),
        (OPERATIONS, f"is started again after {restarts.FIRST_BACKOFF} s"),
        (OPERATIONS, f"up to {restarts.LONGEST_BACKOFF:g} s"),
        (OPERATIONS, "within a second of that" if restarts.STABLE_AFTER == 1 else "?"),
        (OPERATIONS, "and after another second SIGKILL" if policy.ABORT_GRACE == 1 else "?"),
        (OPERATIONS, f"dies within {pool.SETTLE} s of that"),
        (OPERATIONS, "answer within a second" if requests.REPORT_TIMEOUT == 1 else "?"),
        (OPERATIONS, "below once a second" if supervisor.LOOK_AT_FILES == 1 else "?"),
        (OPERATIONS, "every five seconds" if supervisor.LOOK_AT_MEMORY == 5 else "?"),
        (OPERATIONS, f"| {policy.DOES_NOT_LOAD} | the handlers file does not load"),
        (OPERATIONS, "half a second at a time" if listener.ACCEPT_PAUSE == 0.5 else "?"),
        (OPERATIONS, "five seconds" if gateway.ORPHAN_STOP == 5 else "?"),
        (OPERATIONS, "is ended with them" if worker.ORPHAN_GRACE == gateway.ORPHAN_STOP else "?"),
        (OPERATIONS, f"each worker shows {ration.SHOWN} within\n{ration.PERIOD:g} seconds"),
        (OPERATIONS, f"{supervisor_log.BYTES_KEPT >> 20} MiB of lines are"),
        (OPERATIONS, "with 1000 and 1001" if connection.GOOD_ENDS == (1000, 1001) else "?"),
        (OPERATIONS, f"take `handler_timeout` ({s.Settings().handler_timeout:g} s)"),
        (HANDLERS, f"for `close_timeout` ({s.Settings().close_timeout:g} s)"),
        (HANDLERS, f"take `handler_timeout` ({s.Settings().handler_timeout:g} s)"),
        (HANDLERS, f"than `handler_timeout` ({s.Settings().handler_timeout:g} s; 0:"),
        (HANDLERS, f"`max_deliveries` ({s.Settings().max_deliveries}) workers have died"),
        (PROTOCOL, f"has `handler_timeout` ({s.Settings().handler_timeout:g} s;"),
        (PROTOCOL, f"seen `max_deliveries` ({s.Settings().max_deliveries}) deaths"),
        (PROTOCOL, "SIGABRT, after another second SIGKILL" if policy.ABORT_GRACE == 1 else "?"),
        (PROTOCOL, "looked at once a second" if gateway.TICK == 1 else "?"),
        (OPERATIONS, f"may have {folder.LONGEST_SOCKET_PATH} bytes"),
        (PROTOCOL, f"This is version {m.PROTOCOL_VERSION}."),
        (PROTOCOL, f"`epoch << {m.ID_EPOCH_SHIFT} | n`"),
        (PROTOCOL, f"| `MAXMSGSIZE` = {link.LARGEST_BATCH // MIB} MiB |"),
        (
            PROTOCOL,
            f"`MAXMSGSIZE` = {link.LARGEST_BATCH // MIB} MiB, `RCVHWM` = {wire.RECEIVE_QUEUE}",
        ),
        (
            PROTOCOL,
            f"`MAXMSGSIZE` = {link.LARGEST_REMOTE_BATCH // MIB} MiB, "
            f"`RCVHWM` = {wire.REMOTE_RECEIVE_QUEUE} batches",
        ),
        (
            PROTOCOL,
            f"more than {m.MOST_RECORDS:,} records, more than {m.MOST_WRONG} that are wrong",
        ),
        (PROTOCOL, f"A range has {route.ID_RANGE}:"),
        (PROTOCOL, f"end, with exit code {shell.EXIT_SHUT_OUT}"),
        (PROTOCOL, "five seconds at most" if shell.LEAVE_WITHIN == 5 else "?"),
        (PROTOCOL, f"a `hello` above {router.LONGEST_HELLO // MIB} MiB"),
        (PROTOCOL, f"come back within {router.COME_BACK:g} seconds"),
        (OPERATIONS, f"comes back within {router.COME_BACK:g} seconds"),
        (PROTOCOL, f"told of {link.MOST_OWED:,} refusals"),
        (PROTOCOL, f"while {links.UNSENT_LIMIT // MIB} MiB wait"),
        (PROTOCOL, f"`HEARTBEAT_IVL` = {dealer.HEARTBEAT // 1000} s"),
        (PROTOCOL, f"`HEARTBEAT_TIMEOUT` = {dealer.HEARTBEAT_EXPIRY // 1000} s"),
        (PROTOCOL, f"`LINGER` = {dealer.BYE_LINGER} ms"),
        (PROTOCOL, f"as you\ndo in {link.WORK_AHEAD * 1000:g} ms"),
        (PROTOCOL, f"and {link.WINDOW_BYTES // MIB} MiB; one"),
        (PROTOCOL, f"It begins with {link.FIRST_WINDOW}"),
        (PROTOCOL, f"older than {link.STUCK_AFTER * 1000:g} ms"),
        (PROTOCOL, f"cut at {link.LARGEST_WINDOW:,}"),
        (PROTOCOL, f"or {links.DEATH_CERTAIN_AFTER * 1000:g} ms have passed"),
    ],
)
def test_numbers_are_those_of_the_code(path: Path, phrase: str) -> None:
    text = " ".join(path.read_text("utf-8").split())
    assert " ".join(phrase.split()) in text


def test_close_codes() -> None:
    shown = "1000, 1001, 1002, 1003, 1007 to 1014, or 3000 to 4999"
    assert f"**`close`**: {shown}." in PROTOCOL.read_text("utf-8")
    for code in range(5100):
        may = 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
        assert (websocket.close_refusal(code) is None) is may, code


# --- code, run ---


@pytest.fixture(scope="module")
def echo() -> Iterator[Running]:
    with Running(f"--workers={ROOT / 'examples/echo.py'}") as run:
        yield run.ready()


def test_the_raw_client_of_the_readme(echo: Running) -> None:
    (line,) = [line for line in shell_lines(README) if " -c " in line]
    _, option, code = shlex.split(line)
    assert option == "-c"
    assert "8000" in code
    done = subprocess.run(
        [sys.executable, option, code.replace("8000", str(echo.port))],
        capture_output=True,
        timeout=30 * UNIT,
        check=True,
    )
    assert done.stdout.splitlines() == [b"hello"]


def test_the_websocket_client_of_the_readme(echo: Running) -> None:
    (line,) = [line for line in shell_lines(README) if "ws://" in line]
    _, *arguments, url = shlex.split(line)
    with subprocess.Popen(
        [sys.executable, *arguments, url.replace("8000", str(echo.port))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        said: list[bytes] = []
        reader = threading.Thread(
            target=lambda out: said.extend(iter(lambda: out.read1(4096), b"")),
            args=(client.stdout,),
        )
        reader.start()
        try:
            client.stdin.write(b"hello\n")
            client.stdin.flush()
            eventually(lambda: b"< hello" in b"".join(said), "the echo")
        finally:
            client.stdin.close()
            try:
                client.wait(30 * UNIT)
            finally:
                client.kill()
                reader.join()


def test_the_handlers_of_the_readme(tmp_path: Path) -> None:
    (source,) = blocks(README, "python")
    file = tmp_path / "handlers.py"
    file.write_text(source, "utf-8")
    with Running(f"--workers={file}:2") as run:
        run.ready()
        address = "127.0.0.1", run.port
        with (
            socket.create_connection(address, 30 * UNIT) as one,
            socket.create_connection(address, 30 * UNIT) as other,
        ):
            for number in (1, 2):
                one.sendall(b"hello")
                text = receive(one, rf"message {number} of \d+: b'hello'")
            other.sendall(b"there")
            theirs = receive(other, r"message 1 of \d+: b'there'")
            assert receive(one, r"message 1 of \d+: b'there'") == theirs
            assert text.split()[3] != theirs.split()[3], "two connections, two ids"


def receive(sock: socket.socket, pattern: str) -> str:
    """Read what fits the pattern, and nothing else."""
    data = ""
    while not re.fullmatch(pattern, data):
        piece = sock.recv(4096)
        assert piece, f"the end, after {data!r}"
        data += piece.decode()
        assert len(data) < 200, data
    return data


def test_the_handlers_of_the_readme_load(tmp_path: Path) -> None:
    (source,) = blocks(README, "python")
    file = tmp_path / "of_the_readme.py"
    file.write_text(source, "utf-8")
    path = list(sys.path)
    try:
        loaded = handlers.load(str(file))
    finally:
        sys.path[:] = path
        sys.modules.pop(file.stem, None)
    assert loaded.on_connect is not None
    assert loaded.on_message is not None
    assert loaded.on_close is None
    assert not loaded.is_async


class Served:
    """A gateway as a process of its own. We are its supervisor, and start no worker."""

    def __init__(self, run_dir: Path) -> None:
        settings = s.Settings(listen=("127.0.0.1:0",), run_dir=str(run_dir))
        self._context = zmq.Context()
        self._control = self._context.socket(zmq.ROUTER)
        self._control.setsockopt(zmq.LINGER, 0)
        self._control.setsockopt(zmq.RCVTIMEO, int(30_000 * UNIT))
        self._control.bind("tcp://127.0.0.1:*")
        self.process = subprocess.Popen(
            command("gateway"),
            env=environment()
            | {
                "WSRAW_PARENT": str(os.getpid()),
                "WSRAW_CONTROL": self._control.getsockopt_string(zmq.LAST_ENDPOINT),
                "WSRAW_CONTROL_TOKEN": "control",
                "WSRAW_EPOCH": "1",
            },
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(s.to_json(settings).encode() + b"\n")
        self.process.stdin.flush()

    def __enter__(self) -> Served:
        decoder = m.Decoder(str, m.FromGateway)
        self._identity, batch = self._control.recv_multipart()
        (listening,) = decoder.decode(batch)[1]
        self.port = int(listening.addresses[0].rpartition(":")[2])
        self.endpoint = listening.endpoint
        self._tell(m.Spawned(0, "secret", 0))
        return self

    def _tell(self, record: m.Record) -> None:
        self._control.send_multipart([self._identity, m.encode(["control", record])])

    def stop(self) -> int:
        self._tell(m.Stop(10 * UNIT))
        return self.process.wait(30 * UNIT)

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()
        self._control.close()
        self._context.term()


def small_worker(served: Served, token: str) -> subprocess.Popen[bytes]:
    (source,) = blocks(PROTOCOL, "python")
    return subprocess.Popen(
        [sys.executable, "-c", source],
        env=environment()
        | {
            "WSRAW_ENDPOINT": served.endpoint,
            "WSRAW_TOKEN": token,
            "WSRAW_POOL": "default",
            "WSRAW_INSTANCE": "the small one",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_the_small_worker_of_the_protocol(tmp_path: Path) -> None:
    with Served(tmp_path) as served, small_worker(served, "secret") as worker:
        try:
            with socket.create_connection(("127.0.0.1", served.port), 30 * UNIT) as sock:
                # More than any window: without acks it would end early.
                for number in range(100):
                    sock.sendall(b"hello %d" % number)
                    assert sock.recv(100) == b"HELLO %d" % number
                assert served.stop() == 0
                assert sock.recv(100) == b""
            said, _ = worker.communicate(timeout=30 * UNIT)
            assert (worker.returncode, said) == (0, b""), "drain, then bye"
        finally:
            worker.kill()


def test_the_small_worker_is_told_that_its_token_is_wrong(tmp_path: Path) -> None:
    with Served(tmp_path) as served, small_worker(served, "guess") as worker:
        try:
            said, _ = worker.communicate(timeout=30 * UNIT)
            assert b"its token is wrong" in said
            assert worker.returncode == shell.EXIT_SHUT_OUT
        finally:
            worker.kill()


def test_the_bytes_of_the_protocol() -> None:
    (text,) = blocks(PROTOCOL, "text")
    written = [bytes.fromhex(part.splitlines()[1]) for part in text.strip().split("\n\n")]
    con = 1 << m.ID_EPOCH_SHIFT | 1
    assert f" {con}," in text
    who, message, answer = written
    assert who == link.who()
    number, *records = m.worker_decoder().decode(message)
    assert (number, records[0]) == (7, [m.OnMessage(3, con, b"hi", "text")])
    assert m.encode([7, m.OnMessage(3, con, b"hi", "text")]) == message
    assert m.encode([7, m.Send(con, b"HI", "text"), m.Ack(3, 3)]) == answer


if __name__ == "__main__":
    refresh()
