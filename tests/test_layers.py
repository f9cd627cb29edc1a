"""Enforce the arrows of the package: which modules may import which, and what "Sans-I/O." means."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "wsraw"

IO_MODULES = {
    "os",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "zmq",
}

MAY_USE = {"gateway.tls.engine": {"ssl"}}
"""Modules that are marked Sans-I/O although they import these: OpenSSL works on memory there."""

ALLOWED = {
    "config": {"link"},
    "runtime": {"config", "link"},
    "link": set(),
    "version": set(),
    "gateway": {"config", "link", "runtime", "version"},
    "supervisor": {"config", "link", "runtime", "version", ""},
    "workers": {"config", "link", "runtime"},
    "admin": {"config", "link", "runtime", "supervisor"},
    "cluster": {"config", "link", "runtime", "workers"},
    "": {"workers"},
    # These run in one process.
    "testing": {"config", "gateway", "link", "runtime", "supervisor", "workers"},
    "tools": {"config", "link", "runtime", "supervisor", ""},
    "commands": {"config", "link", "runtime", "supervisor", "tools", "workers"},
    "cli": {"commands", "runtime", "version"},
    "child": {"admin", "cluster", "config", "gateway", "runtime", "workers"},
    "__main__": {"cli", "child"},
}
"""Package → packages that it may import; "" is the package's own __init__."""

GATEWAY = (
    {"counters", "http", "system", "tls", "totals"},
    {"admission", "websocket"},
    {"connection"},
    {"delivery"},
    {"splices"},
    {"cluster", "sessions", "sockets"},
    {"inspection", "remote", "status", "stop"},
    {"frozen", "handover"},
    {"gateway"},
)
"""The layers of the gateway, lowest first: each imports only from the layers below it, not from
its own.
"""

COMMANDS = (
    "clients",
    "control",
    "failures",
    "keys",
    "options",
    "run",
    "scaffold",
    "tools",
    "worker",
)

MODULES_OF_A_FOLDER = 10
FLOORS_OF_A_PACKAGE = 6
FLOORS = 13
"""The longest chain of imports in the gateway."""

LINES_OF_A_FUNCTION = 79
ATTRIBUTES_OF_A_CLASS = 20
INLINE_ATTRIBUTES = 29
"""Python (3.11 to 3.13) stores this many attributes of an object in place, and more than that
in a dict, where each look-up costs some 100 instructions more.
"""
LARGE_CLASSES = {
    "config.settings.Settings": "each setting is one",
    "gateway.delivery.worker.WorkerOf": "parts would cost look-ups for each event",
    "gateway.delivery.entry.Entry": "parts would cost look-ups, and memory of each connection",
    **dict.fromkeys(
        [f"gateway.frozen.records.{name}State" for name in ("Entry", "WebSocket", "Worker")],
        "what they are the state of has as many",
    ),
    "gateway.delivery.worker.PoolOf": "parts would cost look-ups in each turn",
    "gateway.websocket.websocket.WebSocket": "parts would cost look-ups for each message",
    "supervisor.decisions.child.Child": "plain facts about one process",
    **dict.fromkeys(
        [f"supervisor.replacing.records.{name}Record" for name in ("Child", "Run")],
        "what they are the state of has as many",
    ),
    "tools.drill.plan.Plan": "each option is one",
    "supervisor.supervisor.Supervisor": "it owns all parts of a run",
    "workers.runtime.Runtime": "parts would cost look-ups for each message",
    "workers.shells.asyncio_shell.AsyncioShell": "parts would cost look-ups for each turn",
}
"""Classes with more attributes, and the reasons."""

SAME_NAMES = {
    "Connection": "the gateway's own, and what handlers get",
    "Worker": "for asyncio, and for threads",
}
"""Names that classes of two modules share, and the reasons."""

DOORS = {
    "nats": {"cluster.bus"},
    "prometheus_client": {"admin.metrics"},
    "click": {"cli"} | {f"commands.{name}" for name in COMMANDS},
    "ssl": {
        "cluster.bus",
        *(f"gateway.tls.{name}" for name in ("check", "client_contexts", "engine")),
        "gateway.tls.server_contexts",
        *(f"tools.connect.{name}" for name in ("dialing", "problems")),
    },
    "websockets": {
        "gateway.websocket.frames",
        "testing.server",
        *(f"tools.connect.{name}" for name in ("channels", "dialing", "problems", "session")),
        "tools.drill.load.clients",
    },
    "h11": {"gateway.connection.requests.exchange"},
    "msgspec": {
        "config.addresses",
        "gateway.frozen.records",
        "link.records",
        "config.options",
        "config.settings",
        "runtime.log.formats",
        "runtime.log.line",
        "supervisor.replacing.records",
    },
}
"""Third-party package → the only modules that may import it. zmq has one module for each
process: see below.
"""


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


class _Trees(Mapping[str, ast.Module]):
    """Module → its syntax tree, parsed when needed: each pytest process collects these tests,
    and parsing everything takes seconds. For the same reason a single test checks all modules.
    """

    def __init__(self) -> None:
        self._paths = {module_name(path): path for path in PACKAGE.rglob("*.py")}
        self._trees: dict[str, ast.Module] = {}

    def __getitem__(self, name: str) -> ast.Module:
        if name not in self._trees:
            self._trees[name] = ast.parse(self._paths[name].read_text("utf-8"))
        return self._trees[name]

    def __contains__(self, name: object) -> bool:
        return name in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


TREES = _Trees()


@cache
def imports(tree: ast.AST, *, for_types: bool = True) -> frozenset[str]:
    """The dotted names of all imports in the tree, also inside functions; optionally without
    imports for type checkers only.
    """
    found: set[str] = set()
    unseen = set()
    for node in ast.walk(tree):
        if (
            not for_types
            and isinstance(node, ast.If)
            and isinstance(node.test, ast.Name)
            and node.test.id == "TYPE_CHECKING"
        ):
            unseen.update(id(each) for each in ast.walk(node))
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                is_module = name.removeprefix("wsraw.") in TREES
                found.add(name if is_module else node.module)
    return frozenset(found)


def own_imports(name: str, *, for_types: bool = True) -> set[str]:
    """The modules of wsraw that a module imports, without the `wsraw.`; "" is the package."""
    return {
        found.removeprefix("wsraw").removeprefix(".")
        for found in imports(TREES[name], for_types=for_types)
        if found == "wsraw" or found.startswith("wsraw.")
    }


def part(name: str) -> str:
    return name.split(".")[0]


def sans_io(tree: ast.Module) -> bool:
    return (ast.get_docstring(tree) or "").startswith("Sans-I/O.")


def test_sans_io_modules_do_no_io() -> None:
    for name in filter(lambda name: sans_io(TREES[name]), TREES):
        tops = {found.split(".")[0] for found in imports(TREES[name])}
        assert not tops & IO_MODULES - MAY_USE.get(name, set()), name
        for found in own_imports(name, for_types=False):
            assert sans_io(TREES[found]), f"{name} is Sans-I/O, {found} is not"


@pytest.mark.parametrize(
    "name",
    [
        "link.records",
        "link.gateway_end",
        "link.worker_end",
        *(f"cluster.{name}" for name in ("core", "nodes", "streams", "subjects")),
        "gateway.cluster.cluster",
        "config.settings",
        "config.options",
        "config.units",
        *(f"tools.conform.{name}" for name in ("played_gateway", "verdicts")),
        *(f"supervisor.decisions.{name}" for name in ("policy", "child", "pool", "restarts")),
    ],
)
def test_sans_io_modules_carry_their_mark(name: str) -> None:
    assert sans_io(TREES[name])


def test_imports_only_go_down() -> None:
    used: dict[str, set[str]] = {package: set() for package in ALLOWED}
    for name in TREES:
        others = {part(found) for found in own_imports(name)} - {part(name)}
        assert others <= ALLOWED[part(name)], name
        used[part(name)] |= others
    assert used == ALLOWED, "an arrow that nothing uses"


def layer(name: str) -> int:
    package = name.split(".")[1]
    return next(number for number, layer in enumerate(GATEWAY) if package in layer)


def test_imports_within_the_gateway_only_go_down() -> None:
    for name in filter(lambda name: name.startswith("gateway."), TREES):
        for found in own_imports(name):
            if not found.startswith("gateway.") or found.split(".")[1] == name.split(".")[1]:
                continue
            assert layer(found) < layer(name), f"{name} imports {found}"


def test_only_the_sockets_of_the_link_know_its_protocol() -> None:
    """Other modules do not know the contents of its messages, either."""
    for name in filter(lambda name: part(name) == "runtime", TREES):
        found = {found for found in own_imports(name) if part(found) == "link"}
        known = {"link.batches", "link.zmtp"} if name.startswith("runtime.link.") else set()
        assert found <= known, name


def test_a_third_party_package_is_imported_only_by_its_modules() -> None:
    for name, tree in TREES.items():
        tops = {found.split(".")[0] for found in imports(tree)}
        for package, doors in DOORS.items():
            assert package not in tops or name in doors, name


def test_few_modules_of_each_process_import_zmq() -> None:
    users = [name for name, tree in TREES.items() if "zmq" in imports(tree)]
    # The command line is a process of its own, too.
    doors = [
        "commands.keys",
        "gateway.remote.transport",
        "tools.conform.router",
        "workers.shells.remote_dealer",
    ]
    assert sorted(users) == doors


def test_the_link_can_be_imported_alone() -> None:
    """Developers of other workers may use it alone."""
    loaded = subprocess.run(
        [sys.executable, "-c", "import wsraw.link.worker_end, sys; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        encoding="utf-8",
    ).stdout.split()
    assert "wsraw.link.worker_end" in loaded
    ours = {name for name in loaded if name.partition(".")[0] == "wsraw"}
    assert {name for name in ours if name.count(".") > 1} == {
        "wsraw.link.batches",
        "wsraw.link.records",
        "wsraw.link.states",
        "wsraw.link.window",
        "wsraw.link.worker_end",
    }
    assert {name for name in ours if name.count(".") < 2} == {"wsraw", "wsraw.link"}
    assert not {"zmq", "click", "websockets", "asyncio"} & set(loaded)


def test_there_are_no_import_cycles() -> None:
    graph = {name: own_imports(name) - {name} for name in TREES}
    # Importing a module of a package also imports the package's __init__.
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise AssertionError(" → ".join(reversed(error.args[1]))) from None


def floors(names: set[str]) -> tuple[str, ...]:
    """The longest chain of imports among these modules, from below."""
    graph = {name: own_imports(name) & names - {name} for name in names}
    chains: dict[str, tuple[str, ...]] = {}
    for name in TopologicalSorter(graph).static_order():
        below = max((chains[found] for found in graph[name]), key=len, default=())
        chains[name] = (*below, name)
    return max(chains.values(), key=len)


def modules_of(package: str) -> set[str]:
    """The modules of a package's own folder, without its __init__."""
    folder = PACKAGE.joinpath(*package.split("."))
    return {module_name(path) for path in folder.glob("*.py") if path.name != "__init__.py"}


PACKAGES = sorted(module_name(path) for path in PACKAGE.rglob("*/__init__.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_folder_has_at_most_ten_modules(package: str) -> None:
    assert len(modules_of(package)) <= MODULES_OF_A_FOLDER


@pytest.mark.parametrize("package", [each for each in PACKAGES if each.startswith("gateway")])
def test_a_package_of_the_gateway_is_at_most_six_floors_high(package: str) -> None:
    chain = floors(modules_of(package) or {package})
    assert len(chain) <= FLOORS_OF_A_PACKAGE, " → ".join(chain)


def test_the_gateway_is_at_most_so_many_floors_high() -> None:
    chain = floors({name for name in TREES if name.startswith("gateway.")})
    assert len(chain) <= FLOORS, " → ".join(chain)


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def attributes(cls: ast.ClassDef) -> set[str]:
    """The attributes that a class annotates or names as slots, and those that its methods store
    in self.
    """
    found: set[str] = set()
    for node in cls.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__":
            found.update(ast.literal_eval(node.value))
    for node in ast.walk(cls):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value) == "self"
        ):
            found.add(node.attr)
    return found


def classes(name: str) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in ast.walk(TREES[name]) if isinstance(node, ast.ClassDef)}


def attributes_with_bases(name: str, cls: ast.ClassDef) -> set[str]:
    """The attributes of a class and of its base classes in wsraw: a class that is spread over
    several counts as one.
    """
    found = attributes(cls)
    for base in cls.bases:
        words = ast.unparse(base).partition("[")[0].split(".")
        for module in (name, *own_imports(name)):
            inherited = classes(module).get(words[-1])
            if inherited is not None and inherited is not cls:
                found |= attributes_with_bases(module, inherited)
                break
    return found


def test_inherited_attributes_count() -> None:
    name = "workers.shells.plain_shell"
    cls = classes(name)["PlainShell"]
    assert "dealer" not in attributes(cls)
    assert "dealer" in attributes_with_bases(name, cls)


def test_a_function_has_at_most_so_many_lines() -> None:
    for name, tree in TREES.items():
        for function in functions(tree):
            assert function.end_lineno is not None
            lines = function.end_lineno - function.lineno + 1
            assert lines <= LINES_OF_A_FUNCTION, f"{name}.{function.name}: {lines}"


def test_only_some_classes_have_many_attributes() -> None:
    large = {
        f"{name}.{cls.name}"
        for name in TREES
        for cls in classes(name).values()
        if len(attributes_with_bases(name, cls)) > ATTRIBUTES_OF_A_CLASS
    }
    assert large == set(LARGE_CLASSES)


def test_a_name_means_one_class() -> None:
    # Tools are programs of their own, and frozen/ names records after the classes whose state they
    # hold.
    modules = [name for name in TREES if not name.startswith(("tools", "gateway.frozen"))]
    found = Counter(
        node.name for name in modules for node in TREES[name].body if isinstance(node, ast.ClassDef)
    )
    assert {name for name, count in found.items() if count > 1} == set(SAME_NAMES)


def test_objects_on_the_path_of_a_message_keep_their_attributes_in_place() -> None:
    for path in (name for name in LARGE_CLASSES if name.startswith(("gateway", "link", "workers"))):
        name, _, cls = path.rpartition(".")
        [node] = [
            node
            for node in ast.walk(TREES[name])
            if isinstance(node, ast.ClassDef) and node.name == cls
        ]
        has_slots = any("__slots__" in ast.unparse(each) for each in node.body)
        is_record = name == "gateway.frozen.records"
        assert has_slots or is_record or len(attributes(node)) <= INLINE_ATTRIBUTES, path


def test_these_tests_find_imports() -> None:
    """The counterpart: forbidden imports are found where they are allowed."""
    assert {"os", "sys", "wsraw.runtime.loop"} <= imports(TREES["supervisor.supervisor"])
    assert "zmq" in imports(TREES["gateway.remote.transport"])
    assert "click" in imports(TREES["commands.options"])
    assert {
        "supervisor.decisions.policy",
        "supervisor.processes.children",
        "runtime.loop",
    } <= own_imports("supervisor.supervisor")


NO_MIRROR = {
    "admin.http": "admin/test_server.py",
    "admin.page.stream": "admin/page/test_actions.py",
    "admin.process": "e2e/test_admin.py",
    "admin.routes": "admin/test_server.py",
    "admin.run": "e2e/test_admin.py",
    "supervisor.helpers.admin": "e2e/test_admin.py",
    "supervisor.helpers.helpers": "e2e/test_reload.py",
    **dict.fromkeys(
        [f"cluster.{name}" for name in ("agent", "bus", "process")] + ["supervisor.helpers.agent"],
        "e2e/cluster/test_cluster.py",
    ),
    "gateway.connection.phases": "gateway/connection/test_connection.py",
    "gateway.delivery.entry": "gateway/delivery/test_accounts.py",
    "gateway.frozen.delivery": "gateway/frozen/test_gateway.py",
    "gateway.frozen.phases": "gateway/frozen/test_connection.py",
    "gateway.frozen.sessions": "gateway/frozen/test_gateway.py",
    "gateway.frozen.websocket": "gateway/frozen/test_connection.py",
    **dict.fromkeys(
        [f"gateway.handover.{name}" for name in ("handover", "pumps")], "e2e/test_upgrade.py"
    ),
    "gateway.handover.taking": "gateway/handover/test_giving.py",
    "gateway.inspection.steps": "gateway/inspection/test_requests.py",
    "gateway.sockets.descriptors": "runtime/test_descriptors.py",
    "gateway.websocket.heads": "gateway/connection/test_output.py",
    "link.batches": "link/test_gateway_end.py",
    "runtime.selector": "runtime/test_loop.py",
    "supervisor.control.canaries": "e2e/test_canary.py",
    **dict.fromkeys(
        [f"supervisor.control.{name}" for name in ("requests", "run")], "e2e/test_control.py"
    ),
    "supervisor.leaving": "e2e/test_replacing.py",
    "supervisor.control.signals": "supervisor/test_supervisor.py",
    "supervisor.decisions.actions": "supervisor/decisions/test_policy.py",
    "supervisor.processes.open_files": "supervisor/test_supervisor.py",
    "supervisor.processes.windows": "supervisor/processes/test_process.py",
    **dict.fromkeys(
        [f"testing.{name}" for name in ("gateway", "memory", "peers", "pipe", "worker")],
        "testing/test_app.py",
    ),
    **dict.fromkeys(
        [f"tools.conform.checks.{name}_checks" for name in ("echo", "protocol")]
        + [f"tools.conform.{name}" for name in ("continuous_rules", "rules")],
        "tools/conform/test_verdicts.py",
    ),
    "commands.run": "test_cli.py",
    **dict.fromkeys(
        [f"tools.connect.{name}" for name in ("channels", "dialing")],
        "tools/connect/test_session.py",
    ),
    "tools.display_width": "tools/connect/test_screen.py",
    "tools.conform.rendering": "tools/conform/test_played_gateway.py",
    "tools.conform.session": "tools/conform/test_run.py",
    "tools.drill.load.schedule": "tools/drill/load/test_load.py",
    **dict.fromkeys(
        [f"tools.drill.target.{name}" for name in ("child", "echo")],
        "tools/drill/test_drill.py",
    ),
    "version": "test_cli.py",
    "workers.embedded_threads": "e2e/test_embedded.py",
    "workers.loading.print_events": "workers/loading/test_handlers.py",
    "workers.reporting.worker_log": "workers/reporting/test_output.py",
    "workers.static.files": "e2e/test_http.py",
    **dict.fromkeys(
        ["workers.shells.local_dealer", "workers.shells.remote_dealer"],
        "workers/shells/test_dealer.py",
    ),
}
"""Module → the file that tests it, if no test file has its name."""


def test_every_module_has_its_tests_in_the_same_place() -> None:
    tests = ROOT / "tests"
    found = set()
    for path in PACKAGE.rglob("*.py"):
        folder = tests / path.relative_to(PACKAGE).parent
        names = (f"test_{path.stem}.py", f"test_{path.stem}_*.py")
        if not (path.stem.startswith("__") or any(any(folder.glob(name)) for name in names)):
            found.add(module_name(path))
    assert found == set(NO_MIRROR)
    assert not [where for where in NO_MIRROR.values() if not (tests / where).is_file()]
