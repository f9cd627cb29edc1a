"""Compare the docs with the code: tables, links, names, options and numbers. Also run the code in
them.

`python docs/generate.py` writes what the pages take from the code.
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
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from docs import generate
from tests.deadline import DEADLINE, UNIT
from tests.running import ROOT, Running, command, environment
from wsraw import cli
from wsraw.commands.failures import Failed
from wsraw.config import addresses, options, settings
from wsraw.config.checks import from_options
from wsraw.gateway import counters
from wsraw.gateway.websocket import websocket
from wsraw.link import gateway_end
from wsraw.link.records import (
    HANDLERS,
    ID_EPOCH_SHIFT,
    Ack,
    Command,
    Decoder,
    Event,
    FromGateway,
    Notice,
    OnMessage,
    Record,
    Send,
    Spawned,
    Stop,
    encode,
    worker_decoder,
)
from wsraw.supervisor.decisions.child import ChildState
from wsraw.tools.connect import session
from wsraw.workers.loading import handlers
from wsraw.workers.shells import shell

README = ROOT / "README.md"
PROTOCOL = ROOT / "docs/worker-protocol.md"
CONFIGURATION = ROOT / "docs/configuration.md"
ARCHITECTURE = ROOT / "docs/architecture.md"
DEPLOY = ROOT / "docs/deploy.md"
LIMITS = ROOT / "docs/limits.md"
TROUBLESHOOTING = ROOT / "docs/troubleshooting.md"
DRILL = ROOT / "docs/drill.md"
CONFORM = ROOT / "docs/conform.md"
EXAMPLES = ROOT / "examples/README.md"
PAGES = [
    README,
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    EXAMPLES,
    *sorted((ROOT / "docs").glob("*.md")),
]


def by_name(path: Path) -> str:
    return path.name


def blocks(path: Path, language: str) -> list[str]:
    """The fenced code blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text("utf-8"), re.M | re.S)


def shell_lines(path: Path) -> list[str]:
    return [line for block in blocks(path, "sh") for line in block.splitlines()]


# --- what is generated ---


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=by_name)
def test_a_page_is_up_to_date(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text == generate.fresh(path.name, text), "stale; run: python docs/generate.py"


def test_every_number_is_used() -> None:
    used = set()
    for path in (ROOT / "docs").glob("*.md"):
        used |= set(generate.MARKED.findall(path.read_text("utf-8")))
    assert used == set(generate.NUMBERS)


# --- links ---


def anchors(path: Path) -> set[str]:
    """The anchors of a page: headings as GitHub spells them, and ids that are set by hand."""
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


def test_the_readme_links_every_page() -> None:
    text = README.read_text("utf-8")
    for path in PAGES[1:]:
        assert f"({path.relative_to(ROOT).as_posix()})" in text


# --- names ---


def test_a_setting_in_backticks_exists() -> None:
    """This checks words that end like the name of a setting."""
    # nginx has settings, too.
    known = {option.name for option in options.options()} | {"proxy_read_timeout", "proxy_timeout"}
    for path in PAGES:
        for name in re.findall(
            r"`([a-z_]+_(?:timeout|limit|rate|mark|level|interval))`", path.read_text("utf-8")
        ):
            assert name in known, f"{path.name}: {name}"


DEFAULT = r"`(?:--)?([\w-]+)` \((\d+(?:\.\d+)?(?: (?:s|KiB|MiB))?)[);]"


def test_every_setting_has_a_reason_to_change_it() -> None:
    table = CONFIGURATION.read_text("utf-8").split("| change it when |")[1].split("\n\n")[0]
    named = re.findall(r"^\| \[`(\w+)`\]\(#(\w+)\) \| \S", table, re.M)
    assert named == [(option.name, option.name) for option in options.options()]


def test_defaults_in_the_text_are_those_of_the_settings() -> None:
    """This checks values in brackets after the name: `handler_timeout` (30 s)."""
    found = 0
    for path in PAGES:
        for name, told in re.findall(DEFAULT, path.read_text("utf-8")):
            name = name.replace("-", "_")
            if name in S.__struct_fields__:
                found += 1
                assert told == shown(name), f"{path.name}: {name}"
    assert found > 20


def shown(name: str) -> str:
    """The default of a setting as the docs write it: 30 s, 64 KiB, 3."""
    value = getattr(S, name)
    kind = options.option(name).kind
    if kind == "size":
        return generate.size(value)
    return f"{value:g} s" if kind == "time" else str(value)


@pytest.mark.parametrize(
    "struct", [*Event.__args__, *Notice.__args__, *Command.__args__], ids=lambda c: c.__name__
)
def test_every_record_of_the_link_is_mentioned(struct: type[Record]) -> None:
    tag = struct.__struct_config__.tag
    assert f"| `{tag}` |" in PROTOCOL.read_text("utf-8")


def test_every_field_of_the_link_has_a_type() -> None:
    text = PROTOCOL.read_text("utf-8").partition("\n### Types\n")[2].partition("\n### ")[0]
    for struct in (*Event.__args__, *Notice.__args__, *Command.__args__):
        for field in struct.__struct_fields__:
            assert f"`{field}`" in text, field


def test_the_docs_list_the_examples_that_exist() -> None:
    shown = re.findall(r"^\| \[[^]]+\]\((\w+\.py)\)", EXAMPLES.read_text("utf-8"), re.M)
    assert sorted(shown) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def defined(path: Path) -> set[str]:
    """The classes, functions and methods of a module."""
    names = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{sub.name}" for sub in node.body if isinstance(sub, ast.FunctionDef)
            }
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
    return names


def test_the_places_in_the_architecture_exist() -> None:
    text = ARCHITECTURE.read_text("utf-8")
    places = re.findall(r"`([\w/]+\.py)` `([\w.]+)`", text)
    assert len(places) > 20
    for file, name in places:
        assert name in defined(ROOT / "wsraw" / file), f"{file} {name}"


@pytest.mark.parametrize("path", [ARCHITECTURE, ROOT / "CONTRIBUTING.md"], ids=by_name)
def test_files_in_the_pages_for_developers_exist(path: Path) -> None:
    for file in re.findall(r"`([\w/]+(?:\.py|/))`", path.read_text("utf-8")):
        assert (ROOT / file).exists() or (ROOT / "wsraw" / file).exists(), file


def first_column(text: str) -> set[str]:
    return set(re.findall(r"^\| `([a-z-]+)` \|", text, re.M))


def causes() -> set[str]:
    text = TROUBLESHOOTING.read_text("utf-8")
    return first_column(text.partition("## Why was my connection closed?")[2].partition("\n## ")[0])


def test_the_options_of_a_listener_are_documented() -> None:
    text = DEPLOY.read_text("utf-8")
    row = re.search(r"^\| `127\.0\.0\.1:8000\?plain_http=health` \|(.*)$", text, re.M)
    assert row is not None
    assert set(re.findall(r"`(\w+)`", row[1])) == set(addresses.OF_LISTENER)


def limit_rows() -> dict[str, str]:
    """The limits of the table by name, and the text about their defaults."""
    section = LIMITS.read_text("utf-8").partition("## Look up a limit")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| \[?`(\w+)`[^|]*\| ([^|]*) \|", section, re.M))


def test_the_limits_have_the_defaults_of_the_settings() -> None:
    for name, told in limit_rows().items():
        default = getattr(S, name)
        if isinstance(default, int | float) and default and not isinstance(default, bool):
            assert told == shown(name), name
    off = {name for name, told in limit_rows().items() if told == "off"} - {"proxy_protocol"}
    assert off == {name for name in counters.DONE if getattr(S, name, None) == 0} - NOT_OFF


NOT_OFF = {"max_connections", "memory_limit"}
"""Limits for which 0 does not mean off, but a number that is computed at the start."""


def test_every_limit_is_in_the_table() -> None:
    assert {name.partition(" ")[0] for name in counters.DONE} <= set(limit_rows())
    # Every limit that can be reached has a text.
    reached = set()
    for file in (ROOT / "wsraw/gateway").rglob("*.py"):
        text = file.read_text("utf-8")
        before = r"(?:\blimit=|counters\.hit\(|end_for_limit\(entry, |\.count\()"
        found = re.findall(before + r'"(\w+)"', text)
        reached |= set(found)
    assert len(reached) >= 8
    assert reached <= set(counters.DONE)


@pytest.mark.parametrize("cause", sorted(causes()))
def test_causes_are_those_of_the_code(cause: str) -> None:
    files = (ROOT / "wsraw/gateway").rglob("*.py")
    assert any(f'"{cause}"' in file.read_text("utf-8") for file in files)


def test_states_of_workers_are_those_of_the_code() -> None:
    text = DEPLOY.read_text("utf-8")
    found = re.search(r"For each worker\*\*: its state \(([^)]+)\)", text)
    assert found
    # The last two are made in status.py and report.py.
    known = {state.value for state in ChildState} | {"draining", "hung"}
    assert set(re.findall(r"`(\w+)`", found[1])) == known


# --- commands ---


def options_of(command: str) -> set[str]:
    parameters = cli.commands()[command].params
    return {name for each in parameters for name in (*each.opts, *each.secondary_opts)}


def flags(words: list[str]) -> set[str]:
    """The options of wsraw; after `--` come those of another program."""
    ours = words[: words.index("--")] if "--" in words else words
    return {word for word in ours if word.startswith("--")}


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_every_option_in_the_docs_exists(path: Path) -> None:
    known = {"--version"} | {name for command in cli.commands() for name in options_of(command)}
    # Docker, pip, compileall and systemctl have options of their own.
    text = re.sub(r"(docker|pip|compileall|systemctl) [^`\n]*", "", path.read_text("utf-8"))
    for option in re.findall(r"(?<![-\w])--[a-z][a-z-]+", text):
        assert option in known, f"{path.name}: {option}"


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_every_command_in_the_docs_exists(path: Path) -> None:
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
            assert flags(words) <= options_of(command), line


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_every_command_within_a_sentence_exists(path: Path) -> None:
    for shown in re.findall(r"`wsraw\s([a-z][^`]+)`", path.read_text("utf-8")):
        command, *words = shlex.split(shown)
        assert command in cli.commands(), shown
        assert flags(words) <= options_of(command), shown


@pytest.mark.parametrize("command", cli.commands())
def test_every_command_is_documented(command: str) -> None:
    text = "".join(path.read_text("utf-8") for path in PAGES)
    assert re.search(rf"^wsraw {command}\b|`wsraw {command}\b", text, re.M)


def test_the_options_of_conform_are_documented() -> None:
    section = CONFORM.read_text("utf-8").partition("## Options")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(--[a-z-]+)` \|", section, re.M)) | {"command"} == options_of(
        "conform"
    )


def test_the_options_of_the_drill_are_documented() -> None:
    """The table has each option with its default."""
    section = DRILL.read_text("utf-8").partition("## Options")[2].partition("\n## ")[0]
    shown: dict[str, str] = {}
    for names, values in re.findall(r"^\| (`--[^|]+`) \| ([^|]*)\|", section, re.M):
        flags = re.findall(r"`(--[a-z-]+)`", names)
        defaults = values.strip().split(", ") if values.strip() else [""] * len(flags)
        shown |= dict(zip(flags, defaults, strict=True))
    drill = cli.commands()["drill"]
    defaults = {each.opts[0]: each.default or "0" for each in drill.params}
    # The default of an option that may be repeated is a tuple.
    known = {name: " ".join(v) if isinstance(v, tuple) else str(v) for name, v in defaults.items()}
    known |= dict.fromkeys(
        ("--connect", "--run-dir", "--remote", "--log", "--json", "--upgrade-to"), ""
    )
    assert shown == known


def test_settings_in_commands_are_accepted() -> None:
    """This checks every `--listen` in the docs, with its files replaced by one that exists."""
    section = DEPLOY.read_text("utf-8").partition("## Choose addresses to listen on")[2]
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

S = settings.Settings()


def test_the_close_codes_in_the_docs_are_those_of_the_code() -> None:
    told = re.search(r"^\*\*`close`\*\*: ([\d, to]+)", PROTOCOL.read_text("utf-8"), re.M)
    assert told is not None
    may = set()
    for part in told[1].replace("or ", "").split(", "):
        first, _, last = part.partition(" to ")
        may |= set(range(int(first), int(last or first) + 1))
    assert may == {code for code in range(5100) if websocket.close_refusal(code) is None}


def test_the_handlers_of_stats_are_those_of_the_code() -> None:
    told = re.search(r"`handler` is one of (.+?)\. ", " ".join(PROTOCOL.read_text("utf-8").split()))
    assert told is not None
    assert re.findall(r"`(\w+)`", told[1]) == list(HANDLERS)


# --- code, run ---


@pytest.fixture(scope="module")
def echo() -> Iterator[Running]:
    with Running(f"--workers={ROOT / 'examples/echo.py'}") as run:
        yield run.ready()


@pytest.mark.parametrize("scheme", ["ws", "tcp"])
def test_the_clients_of_the_readme_get_their_echo(echo: Running, scheme: str) -> None:
    (line,) = [line for line in shell_lines(README) if f"{scheme}://" in line]
    _, *arguments, url = shlex.split(line)
    done = subprocess.run(
        command(*arguments, url.replace("8000", str(echo.port))),
        env=environment(),
        input=b"hello\n",
        capture_output=True,
        timeout=DEADLINE,
        check=True,
    )
    assert (done.stdout, done.stderr) == (b"hello\n", b"")


def test_the_exit_codes_of_connect_are_documented() -> None:
    text = (ROOT / "docs/connect.md").read_text("utf-8")
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.M)}
    known = {session.OK, session.WRONG_INPUT, session.LOST, session.TOO_FEW, session.INTERRUPTED}
    assert codes == known | {Failed.exit_code}


def test_the_handlers_of_the_readme_serve_clients(tmp_path: Path) -> None:
    (source,) = blocks(README, "python")
    file = tmp_path / "handlers.py"
    file.write_text(source, "utf-8")
    with Running(f"--workers={file}:2") as run:
        run.ready()
        address = "127.0.0.1", run.port
        with (
            socket.create_connection(address, DEADLINE) as one,
            socket.create_connection(address, DEADLINE) as other,
        ):
            for number in (1, 2):
                one.sendall(b"hello")
                text = receive(one, rf"message {number} of \d+: b'hello'")
            other.sendall(b"there")
            theirs = receive(other, r"message 1 of \d+: b'there'")
            assert receive(one, r"message 1 of \d+: b'there'") == theirs
            assert text.split()[3] != theirs.split()[3], "two connections, two ids"


def receive(sock: socket.socket, pattern: str) -> str:
    """Read the bytes that the pattern matches, and no more."""
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
    """A gateway as a process of its own. The test is its supervisor, and starts no worker."""

    def __init__(self, run_dir: Path) -> None:
        chosen = settings.Settings(listen=("127.0.0.1:0",), run_dir=str(run_dir))
        self._context = zmq.Context()
        self._control = self._context.socket(zmq.ROUTER)
        self._control.setsockopt(zmq.LINGER, 0)
        self._control.setsockopt(zmq.RCVTIMEO, int(1000 * DEADLINE))
        self._control.bind("tcp://127.0.0.1:*")
        self.process = subprocess.Popen(
            command("gateway"),
            env=environment()
            | {
                "WSRAW_PARENT": str(os.getpid()),
                "WSRAW_PATH": os.pathsep.join([str(ROOT), *sys.path]),
                "WSRAW_CONTROL": self._control.getsockopt_string(zmq.LAST_ENDPOINT),
                "WSRAW_CONTROL_TOKEN": "control",
                "WSRAW_EPOCH": "1",
            },
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdin is not None
        # The gateway opens its sockets itself.
        self.process.stdin.write(settings.to_json(chosen).encode() + b"\n\n")
        self.process.stdin.flush()

    def __enter__(self) -> Served:
        decoder = Decoder(str, FromGateway)
        self._identity, batch = self._control.recv_multipart()
        (listening,) = decoder.decode(batch)[1]
        self.port = int(listening.addresses[0].rpartition(":")[2])
        self.endpoint = listening.endpoint
        self._tell(Spawned(0, "secret", 0))
        return self

    def _tell(self, record: Record) -> None:
        self._control.send_multipart([self._identity, encode(["control", record])])

    def stop(self) -> int:
        self._tell(Stop(10 * UNIT))
        return self.process.wait(DEADLINE)

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


def test_the_small_worker_of_the_protocol_page_serves_clients(tmp_path: Path) -> None:
    with Served(tmp_path) as served, small_worker(served, "secret") as worker:
        try:
            with socket.create_connection(("127.0.0.1", served.port), DEADLINE) as sock:
                # This is more than any window, so that the loop would end early without acks.
                for number in range(100):
                    sock.sendall(b"hello %d" % number)
                    assert sock.recv(100) == b"HELLO %d" % number
                assert served.stop() == 0
                assert sock.recv(100) == b""
            said, _ = worker.communicate(timeout=DEADLINE)
            assert (worker.returncode, said) == (0, b""), "drain, then bye"
        finally:
            worker.kill()


def test_the_small_worker_is_told_that_its_token_is_wrong(tmp_path: Path) -> None:
    with Served(tmp_path) as served, small_worker(served, "guess") as worker:
        try:
            said, _ = worker.communicate(timeout=DEADLINE)
            assert b"its token is wrong" in said
            assert worker.returncode == shell.EXIT_REJECTED
        finally:
            worker.kill()


def test_the_bytes_on_the_protocol_page_are_right() -> None:
    (text,) = blocks(PROTOCOL, "text")
    written = [bytes.fromhex(part.splitlines()[1]) for part in text.strip().split("\n\n")]
    con = 1 << ID_EPOCH_SHIFT | 1
    assert f" {con}," in text
    who, message, answer = written
    assert who == gateway_end.who()
    number, *records = worker_decoder().decode(message)
    assert (number, records[0]) == (7, [OnMessage(3, con, b"hi", "text")])
    assert encode([7, OnMessage(3, con, b"hi", "text")]) == message
    assert encode([7, Send(con, b"HI", "text"), Ack(3, 3)]) == answer
