from __future__ import annotations

import sys
from pathlib import PurePath

import pytest

from wsraw.config import options, programs
from wsraw.config.programs import Program, WorkerSpec

posix = pytest.mark.skipif(sys.platform == "win32", reason="quotes as POSIX has them")


@pytest.mark.parametrize(
    ("text", "file", "count"),
    [
        ("handlers.py", "handlers.py", 1),
        ("handlers.py:4", "handlers.py", 4),
        ("dir/a:b.py", "dir/a:b.py", 1),
        (r"C:\handlers.py", r"C:\handlers.py", 1),
        (r"C:\handlers.py:12", r"C:\handlers.py", 12),
    ],
)
def test_handlers_files_are_read(text: str, file: str, count: int) -> None:
    program, number = programs.parse(text)
    assert (program.file, program.words, number) == (file, (), count)
    assert not program.is_foreign


@posix
@pytest.mark.parametrize(
    ("text", "words", "count"),
    [
        ("node echo.mjs", ("node", "echo.mjs"), 1),
        ("node echo.mjs:3", ("node", "echo.mjs"), 3),
        ("./worker", ("./worker",), 1),
        ("x:²", ("x:²",), 1),
        ("php 'my file.php' -v:2", ("php", "my file.php", "-v"), 2),
        ("python worker.py:2", ("python", "worker.py"), 2),
    ],
)
def test_a_command_is_split_into_words_and_a_count(
    text: str, words: tuple[str, ...], count: int
) -> None:
    program, number = programs.parse(text)
    assert (program.file, program.words, number) == (None, words, count)
    assert program.is_foreign


def test_on_windows_commands_are_quoted_as_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    command = r'"C:\Program Files\node.exe" src\echo.mjs -x="a b"'
    assert programs.split(command) == (r"C:\Program Files\node.exe", r"src\echo.mjs", "-x=a b")


@posix
def test_a_file_name_with_white_space_is_one_if_it_exists_or_is_quoted() -> None:
    """The word is a file name if such a file exists, or if it is quoted."""
    text = "my app/handlers.py:2"
    assert programs.parse(text).program.words == ("my", "app/handlers.py")
    assert programs.parse(text, {"my app/handlers.py"}.__contains__).program.file == text[:-2]
    assert programs.parse("'my app/handlers.py':2").program.file == "my app/handlers.py"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "write FILE"),
        (":4", "write FILE"),
        ("h.py:0", "must be from 1 to 1000"),
        ("node x:1001", "must be from 1 to 1000"),
        ("node x:" + "9" * 5000, "must be from 1 to 1000"),
        pytest.param("node 'x", "no closing quotation", marks=posix),
        pytest.param("''", "write FILE", marks=posix),
        ("a\0b", "null character"),
    ],
)
def test_wrong_entries_are_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=r"^workers: ") as caught:
        programs.parse(text)
    assert why in str(caught.value)


def test_several_worker_entries_are_parsed() -> None:
    chat, node = programs.parse_all(["a/chat.py:2", "node echo.mjs"])
    assert (chat.program.label, chat.number) == ("chat.py", 2)
    assert (node.program.label, node.number) == ("node echo.mjs", 1)
    assert programs.parse_all([]) == (WorkerSpec(programs.PRINTS, 1),)


def test_the_entry_none_starts_no_workers() -> None:
    assert programs.parse_all(["none"]) == ()
    # With a path, a program of that name is meant.
    assert programs.parse_all(["./none"])[0].program.words == ("./none",)


def test_labels_of_entries_with_the_same_file_name_include_the_folder() -> None:
    labels = [entry.program.label for entry in programs.parse_all(["a/x.py", "b/x.py", "y.py"])]
    assert labels == ["a/x.py", "b/x.py", "y.py"]


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (["x.py:2", "x.py"], "'x.py' is given twice; give it once"),
        (["x.py:600", "node y:600"], "more than 1000"),
        (["none", "x.py"], "'none' excludes all others: leave it out"),
        (["none", "none"], "'none' excludes all others"),
    ],
)
def test_worker_entries_that_contradict_each_other_are_refused(texts: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=r"^workers: ") as caught:
        programs.parse_all(texts)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("chat.py", 0),
        ("a/chat.py", 0),
        ("node src/echo.mjs", 1),
        ("src/echo.mjs", 1),
        ("echo.mjs", 1),
        ("other.mjs", 2),
        ("node", None),
        ("", None),
        ("ruby", None),
    ],
)
def test_a_program_is_found_by_a_part_of_its_name_that_no_other_has(
    name: str, found: int | None
) -> None:
    texts = ["a/chat.py", "node src/echo.mjs", "node other.mjs"]
    known: list[Program] = [entry.program for entry in programs.parse_all(texts)]
    assert programs.find(known, name) is (None if found is None else known[found])


@pytest.mark.parametrize("name", ["endpoint", "token", "pool", "instance"])
def test_no_setting_has_the_name_of_a_variable_for_workers(name: str) -> None:
    """A worker that starts a run of its own has these variables in its environment (WSRAW_TOKEN,
    …).
    """
    assert name not in {option.name for option in options.options()}
    assert options.nearest(name, 0.9) is None


PROJECT = {"chat/__init__.py", "chat/rooms/__init__.py", "chat/main.py", "chat/rooms/one.py"}


def is_file(name: str) -> bool:
    return PurePath(name).as_posix() in {*PROJECT, "loose/main.py", "tool"}


@pytest.mark.parametrize(
    ("text", "file", "count"),
    [
        ("chat.main", "chat/main.py", 1),
        ("chat.main:4", "chat/main.py", 4),
        ("chat.rooms.one:2", "chat/rooms/one.py", 2),
        ("chat.rooms", "chat/rooms/__init__.py", 1),
    ],
)
def test_a_module_of_a_package_is_its_file(text: str, file: str, count: int) -> None:
    program, number = programs.parse(text, is_file)
    assert program.file is not None
    assert PurePath(program.file).as_posix() == file
    assert (program.label, program.name, number) == (text.partition(":")[0],) * 2 + (count,)


@pytest.mark.parametrize(
    "text", ["chat.other", "chat", "tool", "python3.11", "chat.main x", "a..b"]
)
def test_what_is_no_module_is_a_command(text: str) -> None:
    assert programs.parse(text, is_file).program.is_foreign


def test_a_folder_that_is_not_a_package_is_refused_with_what_to_do() -> None:
    with pytest.raises(
        ValueError, match=r"^workers: 'loose.main': the folder loose .* __init__.py"
    ):
        programs.parse("loose.main", is_file)


@pytest.mark.parametrize(
    ("file", "folder", "module"),
    [
        ("chat/main.py", ".", "chat.main"),
        ("chat/rooms/one.py", ".", "chat.rooms.one"),
        ("chat/rooms/__init__.py", ".", "chat.rooms"),
        ("chat/my-main.py", "chat", ""),
        ("loose/main.py", "loose", ""),
        ("main.py", ".", ""),
    ],
)
def test_a_file_in_a_package_is_imported_from_the_folder_of_that(
    file: str, folder: str, module: str
) -> None:
    found = programs.place(PurePath(file), is_file)
    assert found == (PurePath(folder), module)
