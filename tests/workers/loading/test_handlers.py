"""Handlers files that can be loaded, and files that cannot."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from wsraw.workers.loading import handlers
from wsraw.workers.loading.handlers import IntervalTimer, LoadError, every, load, start_timers

Load = Callable[..., handlers.Handlers]


@pytest.fixture
def load_text(tmp_path: Path, clean_modules: None) -> Load:
    def load_text(text: str, name: str = "some_handlers.py") -> handlers.Handlers:
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return load(str(file))

    return load_text


NAMES = list(handlers.SIGNATURES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("word", ["def", "async def"])
def test_any_single_handler_is_enough(load_text: Load, name: str, word: str) -> None:
    loaded = load_text(f"{word} {name}({', '.join(handlers.SIGNATURES[name])}): pass\n")
    found = [other for other in NAMES if getattr(loaded, other) is not None]
    assert found == [name]
    assert loaded.is_async is (word == "async def")
    assert len(loaded.awaited) == loaded.is_async


def test_an_empty_file_is_refused(load_text: Load) -> None:
    with pytest.raises(LoadError, match="empty"):
        load_text(" \n")


def test_a_file_without_handlers_loads(load_text: Load) -> None:
    loaded = load_text("# None.")
    assert all(getattr(loaded, name) is None for name in NAMES)
    assert not loaded.is_async


@pytest.mark.parametrize(
    "text",
    [
        "def on_message(*args): pass",
        "def on_message(msg, con, more=1): pass",
        "def on_message(a, b, /): pass",
        "on_message = lambda msg, con: None",
        "from functools import partial\ndef f(x, msg, con): pass\non_message = partial(f, 1)",
        "class C:\n    def __call__(self, msg, con): pass\non_message = C()",
        "on_message = print",
    ],
)
def test_functions_that_can_be_called_with_the_arguments_are_accepted(
    load_text: Load, text: str
) -> None:
    assert load_text(text).on_message is not None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def on_message(msg): pass", "on_message(msg) cannot be called as on_message(msg, con)"),
        ("def on_close(con, code): pass", "cannot be called as on_close(con)"),
        ("def on_start(con): pass", "cannot be called as on_start()"),
        ("def on_message(msg, con, *, x): pass", "cannot be called as"),
        ("on_message = 3", "on_message of "),
        ("def on_message(msg, con): yield", "contains a yield"),
        ("async def on_message(msg, con): yield", "contains a yield"),
        ("def on_message(msg, con)\n  pass", "SyntaxError"),
        ("def __getattr__(name): raise KeyError(name)", "KeyError"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("x = 1\n1 / 0", "line 2"),
        ("raise SystemExit(2)", "SystemExit: 2"),
        ("from wsraw import every\n@every(1)\ndef f(x): pass", "cannot be called as every(1)()"),
        ("from wsraw import every\n@every(0)\ndef f(): pass", "ValueError"),
        ("from wsraw import nothing_of_that_name", "cannot import name"),
        ("from wsraw import publish\npublish('a', 'b')", "while its handlers run"),
    ],
)
def test_a_file_that_does_not_load_is_reported(
    load_text: Load, text: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsraw.workers import api

    monkeypatch.setattr(api, "_installed", None)
    with pytest.raises(LoadError) as caught:
        load_text(text)
    assert says in str(caught.value)
    assert "importlib" not in str(caught.value)
    assert "in load" not in str(caught.value)


def test_the_line_of_a_wrong_function_is_named(load_text: Load) -> None:
    with pytest.raises(LoadError, match=r"some_handlers.py, line 3\)"):
        load_text("\n\ndef on_message(msg): pass\n")


@pytest.mark.parametrize("name", ["nothing.py", "."])
def test_a_missing_file_is_reported(tmp_path: Path, name: str) -> None:
    with pytest.raises(LoadError, match="there is no handlers file"):
        load(str(tmp_path / name))


def test_the_folder_of_the_file_comes_first_on_the_path(load_text: Load, tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text("VALUE = 5\n")
    loaded = load_text("from beside_it import VALUE\ndef on_start(): return VALUE\n")
    assert loaded.on_start is not None and loaded.on_start() == 5


@pytest.mark.parametrize(
    ("file", "module"),
    [
        ("my_handlers.py", "my_handlers"),
        ("json.py", "wsraw_handlers_json"),
        ("my-handlers.py", "my-handlers"),
        ("chat.v2.py", "wsraw_handlers_chat_v2"),
        ("extensionless", "extensionless"),
    ],
)
def test_the_module_has_the_name_of_its_file(load_text: Load, file: str, module: str) -> None:
    """pickle and dataclasses find the module by its name, which must not hide another module."""
    before = sys.modules.get(Path(file).stem)
    text = (
        "from __future__ import annotations\n"
        "import dataclasses\n"
        "@dataclasses.dataclass\nclass C:\n    x: dataclasses.KW_ONLY\n"
        "def on_start(): return __name__\n"
    )
    loaded = load_text(text, file)
    assert loaded.on_start is not None and loaded.on_start() == module
    assert module in sys.modules
    if before is not None:
        assert sys.modules[Path(file).stem] is before


def test_a_file_with_the_name_of_a_module_of_python_does_not_hide_it(load_text: Load) -> None:
    text = "import tabnanny\ndef on_start(): return tabnanny.check\n"
    loaded = load_text(text, "tabnanny.py")
    assert loaded.on_start is not None and loaded.on_start()


def test_every_registers_timers(load_text: Load) -> None:
    loaded = load_text(
        "from wsraw import every\n"
        "@every(2)\ndef f(): return 'f'\n"
        "def on_start():\n    every(0.5)(f)\n"
    )
    assert not loaded.is_async
    assert loaded.on_start is not None
    loaded.on_start()
    assert [(timer.seconds, timer.function()) for timer in start_timers(0.0)] == [
        (2, "f"),
        (0.5, "f"),
    ]
    with pytest.raises(RuntimeError, match="on_start"):
        every(1)(lambda: None)


def test_missed_times_of_a_timer_are_skipped() -> None:
    timer = IntervalTimer(1.0, lambda: None)
    timer.start(100.0)
    assert timer.when == 101.0
    timer.advance(101.25)
    assert timer.when == 102.0, "no drift"
    timer.advance(107.5)
    assert timer.when == 107.5, "once, not five times"
    timer.advance(107.5)
    assert timer.when == 108.5


def test_an_async_timer_needs_a_loop(load_text: Load) -> None:
    loaded = load_text("from wsraw import every\n@every(2)\nasync def f(): pass\n")
    assert loaded.is_async
    assert start_timers(0.0)[0].is_async


@pytest.mark.parametrize("word", ["def", "async def"])
def test_a_callable_object_is_accepted_as_a_handler(load_text: Load, word: str) -> None:
    """The object may be a dataclass, which has no hash."""
    loaded = load_text(
        f"class Chat:\n    __hash__ = None\n    {word} __call__(self, msg, con): pass\n"
        "on_message = Chat()\n"
    )
    assert loaded.is_async is (word == "async def")
    assert loaded.awaited == ({"on_message"} if loaded.is_async else set())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "def on_mesage(msg, con): pass",
            "wsraw does not call on_mesage; did you mean on_message?",
        ),
        (
            "def onMessage(msg, con): pass",
            "wsraw does not call onMessage; did you mean on_message?",
        ),
        ("def on_disconnect(con): pass", "did you mean on_close? (TEXT, line 1)"),
        ("def on_disconnect(con): pass\non_close = on_disconnect", ""),
        ("def on_messages(all): pass\ndef on_message(msg, con): pass", ""),
        ("def on_login(con): pass\ndef online(): pass\non_open = 1", ""),
    ],
)
def test_a_misspelled_handler_is_reported(load_text: Load, text: str, says: str) -> None:
    loaded = load_text(text)
    found = handlers.slips(loaded)
    assert len(found) == bool(says)
    assert not says or says in found[0].replace(str(getattr(loaded.module, "__file__", "")), "TEXT")


def test_without_a_file_every_event_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    from wsraw.workers.connection import Connection
    from wsraw.workers.runtime import Runtime

    loaded = load(None)
    con = Connection(None, 7)  # type: ignore[arg-type]
    con.close_code, con.close_cause = 1000, "peer"
    assert Runtime is not None
    for function, args in (
        (loaded.on_connect, ({"Protocol": "raw"}, con)),
        (loaded.on_message, ({"data": b"x"}, con)),
        (loaded.on_error, ("oh", con)),
        (loaded.on_close, (con,)),
    ):
        assert function is not None
        assert function(*args) is None, "it answers nothing"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("> ")[1].split()[0] for line in lines] == [
        "on_connect", "on_message", "on_error", "on_close",
    ]  # fmt: skip


@pytest.mark.parametrize("word", ["def", "async def"])
def test_a_decorator_hides_no_async_def(load_text: Load, word: str) -> None:
    """Most decorators are plain functions, whatever they wrap."""
    loaded = load_text(
        "import functools\n"
        "def logged(function):\n"
        "    @functools.wraps(function)\n"
        "    def call(*args): return function(*args)\n"
        "    return call\n"
        "@logged\n"
        f"{word} on_message(msg, con): pass\n",
    )
    assert loaded.is_async is (word == "async def")


@pytest.fixture
def package(tmp_path: Path, clean_modules: None) -> Path:
    """A project with a package; returns the folder of the package."""
    folder = tmp_path / "somechat"
    for name, text in {
        "somechat/__init__.py": "",
        "somechat/names.py": "NAME = 'ann'\n",
        "somechat/logging.py": "raise RuntimeError('this is not the logging of Python')\n",
        "someshared/__init__.py": "",
        "someshared/things.py": "THING = 'thing'\n",
        "somechat/main.py": """
            from dataclasses import dataclass
            from logging import getLogger
            import someshared.things
            import names
            from . import names as ours
            from somechat.names import NAME

            @dataclass
            class Seen:
                name: str

            def on_message(msg, con):
                return (__name__, ours.NAME, NAME, names.NAME, someshared.things.THING)
        """,
    }.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(textwrap.dedent(text), "utf-8")
    return folder


def test_a_file_in_a_package_has_relative_imports_and_those_of_its_project(package: Path) -> None:
    loaded = load(str(package / "main.py"))
    assert loaded.on_message is not None
    assert loaded.on_message({}, None) == ("somechat.main", "ann", "ann", "ann", "thing")
    assert sys.modules["somechat.main"] is sys.modules["somechat"].main is loaded.module


def test_a_package_may_be_the_handlers_file(package: Path) -> None:
    (package / "__init__.py").write_text(
        "from .names import NAME\ndef on_message(msg, con): return __name__, NAME\n"
    )
    loaded = load(str(package / "__init__.py"))
    assert loaded.on_message is not None
    assert loaded.on_message({}, None) == ("somechat", "ann")


def test_a_file_that_its_package_imports_runs_once(package: Path) -> None:
    (package / "__init__.py").write_text("from . import main\nruns = main.runs\n")
    (package / "main.py").write_text("runs = []\nruns.append(1)\ndef on_message(msg, con): pass\n")
    loaded = load(str(package / "main.py"))
    assert loaded.module.runs == sys.modules["somechat"].runs == [1]  # type: ignore[attr-defined]
    assert loaded.on_message is not None


def test_an_error_of_the_package_is_shown_from_its_file_on(package: Path) -> None:
    (package / "__init__.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(LoadError) as raised:
        load(str(package / "main.py"))
    lines = str(raised.value).splitlines()
    assert str(package / "__init__.py") in lines[1]
    assert "nothing_of_that_name" in lines[-1]


def test_a_relative_import_without_a_package_says_what_to_do(load_text: Load) -> None:
    with pytest.raises(LoadError, match=r"is not a package: .* put an empty file __init__.py"):
        load_text("from . import other\n")
