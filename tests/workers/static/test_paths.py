from __future__ import annotations

import pytest

from wsraw.workers.static.paths import parts_of


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("/", [""]),
        ("/?a=/../b", [""]),
        ("/a.html", ["a.html"]),
        ("/a/b/", ["a", "b", ""]),
        ("/a%20b/%C3%A9.txt?x", ["a b", "é.txt"]),
        ("/%2Ewell-known/acme-challenge/x", [".well-known", "acme-challenge", "x"]),
        ("/a..b/c.", ["a..b", "c."]),
        ("/...", None),
        ("/~user", ["~user"]),
        ("/a:b", ["a:b"]),
        ("/%3Cscript%3E", ["<script>"]),
    ],
)
def test_a_target_names_a_file_below_the_folder(target: str, parts: list[str] | None) -> None:
    assert parts_of(target, is_windows=False) == parts


OUT = [
    "",
    "a",
    "*",
    "http://x/a",
    "//a",
    "/a//b",
    "/a//",
    "/.",
    "/..",
    "/../a",
    "/a/../b",
    "/a/..",
    "/a/./b",
    "/%2e%2e/a",
    "/%2e./a",
    "/.%2E/a",
    "/..%2fa",
    "/%2e%2e%2fa",
    "/a%2fb",
    "/a%2F..%2F..%2Fb",
    "/..\\a",
    "/..%5ca",
    "/a%5c..%5cb",
    "/%5c%5chost%5cshare",
    "/a%00.html",
    "/%00",
    "/a%0ab",
    "/%7f",
    "/.env",
    "/.git/config",
    "/a/.htpasswd",
    "/%2eenv",
    "/.well-known2/x",
    "/a%",
    "/a%2",
    "/a%zz",
    "/%c0%ae%c0%ae/a",
    "/%ff",
    "/\u00e9",
]


@pytest.mark.parametrize("target", OUT)
@pytest.mark.parametrize("is_windows", [False, True])
def test_what_could_lead_out_names_no_file(target: str, is_windows: bool) -> None:
    if target == "/\u00e9":
        # In requests, bytes that are not UTF-8 are read as Latin-1.
        target = "/%e9"
    assert parts_of(target, is_windows) is None


@pytest.mark.parametrize(
    "target",
    [
        "/C:/a",
        "/c:",
        "/a:stream",
        "/a::$DATA",
        "/con",
        "/CON.txt",
        "/nul",
        "/a/Aux.html",
        "/COM1",
        "/lpt9.x",
        "/com%C2%B9",
        "/a.",
        "/a.html%20",
        "/a%20./b",
        "/a*",
        "/a%3Fb",
        "/a%22",
        "/%7C",
    ],
)
def test_what_is_special_on_windows_names_no_file_there(target: str) -> None:
    assert parts_of(target, is_windows=True) is None
    assert parts_of(target, is_windows=False) is not None


def test_names_that_only_look_so_are_files_on_windows() -> None:
    for name in ("console.log", "company.html", "lpt.txt", "auxiliary", "com10"):
        assert parts_of(f"/{name}", is_windows=True) == [name]
