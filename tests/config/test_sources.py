from __future__ import annotations

import errno
import os
import re
import tomllib
from os import sep
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.running import ROOT, Running
from wsraw import cli
from wsraw.config import options, programs, sources
from wsraw.config.addresses import parse_listen
from wsraw.config.settings import PoolSettings, RouteSettings, Settings
from wsraw.config.sources import ConfigurationError


def gather(
    tmp_path: Path, text: str = "", environ: dict[str, str] | None = None, **given: Any
) -> sources.Configuration:
    file = tmp_path / "wsraw.toml"
    file.write_text(text, "utf-8")
    return sources.gather(given, environ or {}, str(file))


def refusal(tmp_path: Path, text: str = "", environ: Any = None, **given: Any) -> str:
    """The error message, without the folder."""
    with pytest.raises(ConfigurationError) as caught:
        gather(tmp_path, text, environ, **given)
    assert "\n" not in str(caught.value)
    return without(tmp_path, str(caught.value))


def without(folder: Path, text: str) -> str:
    """Remove the folder, also where it is quoted or in the parameter of a URL, and the line
    number in the file.
    """
    text = re.sub(r"(wsraw\.toml):\d+:", r"\1:", text)
    name = f"{folder}{sep}"
    for shown in (name, repr(name)[1:-1], quote(name, safe="")):
        text = text.replace(shown, "")
    return text


def test_without_any_source_the_defaults_are_in_force() -> None:
    assert sources.gather({}, {})[:2] == (Settings(), {})


# --- which source overrides which ---


def test_the_command_line_overrides_the_environment_which_overrides_the_file(
    tmp_path: Path,
) -> None:
    text = "ping_interval = 1\nping_timeout = 1\nclose_timeout = 1\n"
    environ = {"WSRAW_PING_INTERVAL": "2", "WSRAW_PING_TIMEOUT": "2", "HOME": "/"}
    settings, sources, _ = gather(tmp_path, text, environ, ping_interval="3")
    assert (settings.ping_interval, settings.ping_timeout, settings.close_timeout) == (3, 2, 1)
    assert sources == {
        "ping_interval": "--ping-interval",
        "ping_timeout": "WSRAW_PING_TIMEOUT",
        "close_timeout": str(tmp_path / "wsraw.toml"),
    }


# --- the file ---


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("# only a comment", {}),
        ("\ufeffreload = true\r\n", {"reload": True}),
        ("high_water_mark = 100000", {"high_water_mark": 100_000}),
        ('high_water_mark = "512KiB"', {"high_water_mark": 512 << 10}),
        ("ping_interval = 1", {"ping_interval": 1.0}),
        ("ping_interval = 0.25", {"ping_interval": 0.25}),
        ('ping_interval = "2m"', {"ping_interval": 120.0}),
        ("deflate = false", {"deflate": False}),
        ('dispatch = "sticky"', {"dispatch": "sticky"}),
        ('listen = "h:1"', {"listen": ("h:1",)}),
        ('listen = ["h:1", "h:2"]', {"listen": ("h:1", "h:2")}),
        ("subprotocols = []", {"subprotocols": ()}),
    ],
)
def test_values_in_a_file_become_settings(
    tmp_path: Path, text: str, values: dict[str, Any]
) -> None:
    assert gather(tmp_path, text).settings == Settings(**values)


TABLE = [
    ("high_watermark = 1", "high_watermark: there is no such setting; did you mean high_water_"),
    ("high-water-mark = 1", "high-water-mark: there is no such setting; did you mean high_wate"),
    ("colour = 'red'", "colour: there is no such setting"),
    ("ping_interval = true", "ping_interval: True: write a number of seconds"),
    ("ping_interval = -1", "ping_interval: -1: write a number of seconds"),
    ("ping_interval = inf", "ping_interval: inf: write a number of seconds"),
    ("ping_interval = nan", "ping_interval: nan: write a number of seconds"),
    ("ping_interval = 'soon'", "ping_interval: 'soon': write a number of seconds"),
    ("ping_interval = 1979-05-27", "ping_interval: datetime.date(1979, 5, 27): write a number of"),
    ("high_water_mark = '1K'", "high_water_mark: '1K': write a number of bytes, as in 65536, 64K"),
    ("high_water_mark = 0", "high_water_mark: 0: write a number of bytes"),
    ("high_water_mark = 1.5", "high_water_mark: 1.5: write a number of bytes"),
    ("max_deliveries = 0", "max_deliveries: 0: write a whole number, 1 or more"),
    ("max_connections = 'many'", "max_connections: 'many': write a whole number, 0 or more"),
    (f"max_events = '{'9' * 5000}'", f"max_events: '{'9' * 5000}': write a whole number"),
    ("message_rate = 'x'", "message_rate: 'x': write a number, 0 or more"),
    ("message_rate = 'nan'", "message_rate: 'nan': write a number, 0 or more"),
    ("log_level = 5", "log_level: 5: write debug or info or warning or error"),
    ("link_key = 5", "link_key: 5: write a text in quotes"),
    ('run_dir = "a\\u0000b"', r"run_dir: 'a\x00b': it contains a null character"),
    ('listen = "unix:a\\u0000b"', r"listen: 'unix:a\x00b': it contains a null character"),
    ("origins = 5", "origins: 5: write a text in quotes, or a list of them"),
    ("tls = 'maybe'", "tls: 'maybe': write auto or off or optional or required"),
    ("listen = 'h:1?tls=maybe'", "listen: 'h:1?tls=maybe': tls: 'maybe': write auto or off or opt"),
    ("listen = 'h:1?tls_cert=a%00b'", r"listen: 'h:1?tls_cert=a%00b': tls_cert: 'a\x00b': it con"),
    ("listen = 'h:1?first_byte_timeout=soon'", "listen: 'h:1?first_byte_timeout=soon': 'soon'"),
    ("deflate = 'perhaps'", "deflate: 'perhaps': write true or false"),
    ("dispatch = 'some'", "dispatch: 'some': write any or sticky"),
    ("listen = []", "listen: at least one HOST:PORT is needed"),
    ("listen = [\n  'h:1',\n  '80',\n]", "listen: '80': write HOST:PORT"),
    ("listen = [1]", "listen: [1]: write a text in quotes, or a list of them"),
    ("workers = ['a', 'a:2']", "workers: 'a' is given twice"),
    ("[listen]\nport = 1", "listen: write a text in quotes"),
    ("[[listen]]\nport = 1", "listen: [{'port': 1}]: write a text in quotes"),
    ("[a]\nping_interval = 1\n", "a: there is no such setting"),
    ("ping = {interval = 1}", "ping: there is no such setting"),
    ("[pools]\nname = 'a'", "pools: write [[pools]] above each of its tables"),
    ("[routes.a]\npool = 'a'", "routes: write [[routes]] above each of its tables"),
    ("pools = [1]", "pools: table 1: 1: write a table, or a text"),
    ("pools = ['a=x.py:0']", "pools: a: 'x.py:0': the number of processes"),
    ("[[pools]]", "pools: table 1: name must be given"),
    ("output_limit = '64KiB'", "output_limit (65536) must be at least 327680"),
    ("high_water_mark = '5MiB'", "output_limit (4194304) must be at least"),
    ("a = ]", "this is not TOML: Invalid value (at line 1"),
    ("\n\na b", "this is not TOML: Expected '=' after a key in a key/value pair (at line 3"),
    ("deflate = true\ndeflate = true", "this is not TOML: Cannot overwrite a value"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "message"), TABLE, ids=[wrong[:40] for wrong, _ in TABLE])
def test_wrong_files_are_refused_with_advice(tmp_path: Path, wrong: str, message: str) -> None:
    assert refusal(tmp_path, wrong).startswith(f"wsraw.toml: {message}")


def test_words_and_numbers_may_be_in_quotes(tmp_path: Path) -> None:
    text = "deflate = 'no'\nmax_deliveries = '5'\nmessage_rate = '2.5'\n"
    settings = gather(tmp_path, text).settings
    assert (settings.deflate, settings.max_deliveries, settings.message_rate) == (False, 5, 2.5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a = 'x'\nb = '\xff'\n", "wsraw.toml: line 2 is not UTF-8"),
        (b"\0", "wsraw.toml: this is not TOML"),
        (b"a = " + b"[" * 100_000, "wsraw.toml: this is not TOML"),
        (b"#" * (2 << 20), "wsraw.toml: more than 1048576 bytes"),
    ],
    ids=["latin", "zero", "deep", "long"],
)
def test_files_that_are_not_toml_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "wsraw.toml"
    file.write_bytes(data)
    with pytest.raises(ConfigurationError) as caught:
        sources.gather({}, {}, str(file))
    assert str(caught.value).replace(str(tmp_path) + os.sep, "").startswith(message)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="none: there is no such settings file"):
        sources.gather({}, {}, str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match=r"[Dd]irectory|denied"):
        sources.gather({}, {}, str(tmp_path))


def test_relative_paths_are_relative_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf").mkdir()
    monkeypatch.chdir(tmp_path)
    Path("conf/x.toml").write_text(
        "workers = 'app/handlers.py:4'\nrun_dir = '../run'\n"
        "listen = ['unix:a.sock?plain_http=raw', 'raw://unix:/b', 'h:1', 'ws://unix:c']\n"
    )
    settings = sources.gather({}, {}, "conf/x.toml").settings
    assert settings.workers == (str(tmp_path / "conf/app/handlers.py:4"),)
    assert Path(settings.run_dir).resolve() == tmp_path / "run"
    assert settings.listen == (
        f"unix:{tmp_path}{sep}conf{sep}a.sock?plain_http=raw",
        f"raw://unix:{os.path.abspath('/b')}",
        "h:1",
        f"ws://unix:{tmp_path}{sep}conf{sep}c",
    )
    Path("conf/my app").mkdir()
    Path("conf/my app/h.py").touch()
    Path("conf/w.toml").write_text('workers = ["my app/h.py:2", "node src/x.mjs:3", \'"a b.py"\']')
    settings = sources.gather({}, {}, "conf/w.toml").settings
    assert settings.workers == (
        f"{tmp_path}{sep}conf{sep}my app{sep}h.py:2",
        "node src/x.mjs:3",
        f"{tmp_path}{sep}conf{sep}a b.py",
    )
    Path("conf/tls.toml").write_text(
        "tls_cert = ['a.pem', 'example.org,*.example.org=b.pem', 'x.org=/d.pem']\n"
        "tls_key = ['a.key', '/b.key', 'c.key']\ntls_client_ca = 'ca.pem'\n"
        "listen = ['wss://h:1?tls_cert=e+f.pem&tls_cert=x.org=g.pem&plain_http=raw']\n"
        "tls_client_auth = 'required'\n"
    )
    conf = f"{tmp_path}{sep}conf{sep}"
    settings = sources.gather({}, {}, "conf/tls.toml").settings
    assert settings.tls_key == (f"{conf}a.key", os.path.abspath("/b.key"), f"{conf}c.key")
    assert settings.tls_client_ca == f"{conf}ca.pem"
    assert settings.tls_cert == (
        f"{conf}a.pem",
        f"example.org,*.example.org={conf}b.pem",
        f"x.org={os.path.abspath('/d.pem')}",
    )
    assert parse_listen(settings.listen[0], settings).tls_cert == (
        f"{conf}e f.pem",
        f"x.org={conf}g.pem",
    )
    given = sources.gather({"workers": ("h.py",)}, {"WSRAW_RUN_DIR": "r"}, "")
    assert (given.settings.workers, given.settings.run_dir) == (("h.py",), "r")


# --- TLS files ---


def tls_refusal(tmp_path: Path, text: str, **given: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        sources.check_tls_files(gather(tmp_path, text, **given))
    return without(tmp_path, str(caught.value))


MISSING = os.strerror(errno.ENOENT)


@pytest.mark.parametrize("name", ["here.pem", "../{}/here.pem"])
def test_readable_tls_files_are_accepted(tmp_path: Path, name: str) -> None:
    (tmp_path / "here.pem").touch()
    name = name.format(tmp_path.name)
    text = f"""
    tls_cert = ["{name}", "a.b={name}"]
    tls_key = ["{name}", "{name}"]
    tls_client_ca = "{name}"
    tls_client_auth = "optional"
    listen = ["h:1", "h:2?tls_cert={name}", "ws://h:3"]
    """
    file = tmp_path / "wsraw.toml"
    file.write_text(text, "utf-8")
    sources.check_tls_files(sources.gather({}, {}, str(file)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\ntls_cert = 'no.pem'", f"wsraw.toml: tls_cert: no.pem: {MISSING}"),
        ("tls_cert = ['here.pem', 'a.b=no.pem']", f"wsraw.toml: tls_cert: no.pem: {MISSING}"),
        ("tls_cert = 'here.pem'\ntls_key = 'no'", f"wsraw.toml: tls_key: no: {MISSING}"),
        (
            "tls_cert = 'here.pem'\ntls_client_auth = 'required'\ntls_client_ca = 'no'",
            f"wsraw.toml: tls_client_ca: no: {MISSING}",
        ),
        ("tls_cert = '.'", "wsraw.toml: tls_cert: "),
        (
            "tls_cert = 'here.pem'\nlisten = ['h:1', 'h:2?tls_cert=no']",
            "wsraw.toml: listen: 'h:2?tls_cert=no': tls_cert: no: ",
        ),
    ],
)
def test_missing_tls_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "here.pem").touch()
    assert tls_refusal(tmp_path, text).startswith(message)


def test_a_missing_tls_file_of_an_option_names_the_option(tmp_path: Path) -> None:
    assert tls_refusal(tmp_path, "", tls_cert=("no",)) == f"--tls-cert: no: {MISSING}"


def test_tls_files_that_no_listener_uses_are_not_read(tmp_path: Path) -> None:
    found = sources.gather({"tls_cert": ("no",), "listen": ("ws://h:1",)}, {})
    sources.check_tls_files(found)


# --- tables ---

TWO_POOLS = """
[[pools]]
name = "chat"
workers = [
  "chat.py:4",
]
dispatch = "sticky"

[[pools]]  # of others
name = "far"

# who goes where
[[routes]]
path = "/rooms/{room}"
pool = "chat"

[[routes]]
kind = "raw"
listener = "unix:s"
pool = "far"
"""


def test_tables_in_a_file_become_pools_and_routes(tmp_path: Path) -> None:
    settings, sources, _ = gather(tmp_path, f"listen = 'unix:s'\n{TWO_POOLS}")
    assert settings.pools == (
        PoolSettings(name="chat", workers=(f"{tmp_path}{sep}chat.py:4",), dispatch="sticky"),
        PoolSettings(name="far"),
    )
    assert settings.routes == (
        RouteSettings(pool="chat", path="/rooms/{room}"),
        RouteSettings(pool="far", kind="raw", listener=f"unix:{tmp_path}{sep}s"),
    )
    assert settings.listen == (f"unix:{tmp_path}{sep}s",)
    assert sources["pools"] == str(tmp_path / "wsraw.toml")


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("dispatch", "dispach", "pools: table 1: dispach: there is no such key in [[pools]]; did"),
        ("sticky", "stick", "pools: table 1: dispatch: 'stick': write any or sticky"),
        ('"chat.py:4"', "4", "pools: table 1: workers: [4]: write a text in quotes, or a list"),
        ("chat.py:4", "chat.py:0", "pools: chat: "),
        ('"far"\n\n', '"chat"\n\n', "pools: 'chat' is given twice"),
        ('name = "far"', "", "pools: table 2: name must be given"),
        ('"far"\n\n', '"near"\n\n', "routes: listener unix:"),
        ("{room}", "{room", "routes: '/rooms/{room': a {name} must be a whole segment"),
        ('"raw"', '"rau"', "routes: table 2: kind: 'rau': write any or websocket or raw"),
        ("unix:s", "unix:t", "routes: listener unix:"),
        ('kind = "raw"', 'kind = "raw"\npath = "/x"', "routes: listener unix:"),
    ],
)
def test_a_wrong_value_in_a_table_is_refused_with_its_place(
    tmp_path: Path, right: str, wrong: str, message: str
) -> None:
    assert TWO_POOLS.count(right) == 1
    text = f"listen = 'unix:s'\n{TWO_POOLS.replace(right, wrong)}"
    assert refusal(tmp_path, text).startswith(f"wsraw.toml: {message}")


def test_the_setting_that_is_wrong_is_named_with_its_own_source(tmp_path: Path) -> None:
    told = refusal(tmp_path, TWO_POOLS, routes=("/a=chat",), listen=("unix:s",))
    assert told.startswith("wsraw.toml: pools: no route leads to 'far'")
    given = {"routes": ("/a=chat", "/a=fax"), "listen": ("unix:s",)}
    assert refusal(tmp_path, TWO_POOLS, **given).startswith("--route: /a=fax: there is no pool")


# --- the environment ---


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("WSRAW_LISTEN", "h:1 [::1]:2", ("h:1", "[::1]:2")),
        ("WSRAW_WORKERS", "h.py:2", ("h.py:2",)),
        ("WSRAW_POOLS", "a=x.py:2", (PoolSettings(name="a", workers=("x.py:2",)),)),
        ("WSRAW_ROUTES", "/a/{b}=default", (RouteSettings(pool="default", path="/a/{b}"),)),
        ("WSRAW_DEFLATE", "no", False),
        ("WSRAW_RELOAD", "1", True),
        ("WSRAW_DISPATCH", "sticky", "sticky"),
        ("WSRAW_MAX_DELIVERIES", "7", 7),
        ("WSRAW_MEMORY_LIMIT", "1GiB", 1 << 30),
        ("WSRAW_PING_TIMEOUT", "5m", 300.0),
        ("WSRAW_RUN_DIR", "", ""),
        ("WSRAW_PING_TIMEOUT", "", 20.0),
    ],
)
def test_environment_variables_become_settings(name: str, text: str, value: Any) -> None:
    settings = sources.gather({}, {name: text}).settings
    assert getattr(settings, name.removeprefix("WSRAW_").lower()) == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("WSRAW_PING_TIMEOUT", "x", "WSRAW_PING_TIMEOUT: 'x': write a number of seconds"),
        ("WSRAW_MAX_DELIVERIES", "x", "WSRAW_MAX_DELIVERIES: 'x': write a whole number"),
        ("WSRAW_MAX_DELIVERIES", "0", "WSRAW_MAX_DELIVERIES: '0': write a whole number"),
        ("WSRAW_DEFLATE", "perhaps", "WSRAW_DEFLATE: 'perhaps': write true or false"),
        ("WSRAW_LISTEN", "80", "WSRAW_LISTEN: '80': write HOST:PORT"),
        ("WSRAW_POOLS", "a=x.py b", "WSRAW_POOLS: no route leads to 'a': write one"),
        (
            "WSRAW_ROUTES",
            "/a=x",
            "WSRAW_ROUTES: /a=x: there is no pool 'x'; the only one is default",
        ),
        ("WSRAW_ROUTES", "/a", "WSRAW_ROUTES: '/a': write PATTERN=POOL"),
        ("WSRAW_OUTPUT_LIMIT", "9", "WSRAW_OUTPUT_LIMIT (9) must be at least"),
        (
            "WSRAW_HIGH_WATERMARK",
            "1",
            "WSRAW_HIGH_WATERMARK: there is no such setting; did you mean WSRAW_HIGH_WATER_MARK?",
        ),
    ],
)
def test_a_wrong_environment_variable_is_refused_by_its_name(
    name: str, text: str, message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        sources.gather({}, {name: text})
    assert str(caught.value).startswith(message)


def test_environment_variables_of_others_are_ignored() -> None:
    """Kubernetes sets such variables for a service named wsraw, and wsraw has some of its own."""
    theirs = ["SERVICE_HOST", "SERVICE_PORT", "PORT", "PORT_8000_TCP", "PORT_8000_TCP_ADDR"]
    ours = set()
    for file in [*(ROOT / "wsraw").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        if file != Path(__file__):
            ours |= set(re.findall(r"\bWSRAW_([A-Z_]+)\b", file.read_text("utf-8")))
    ours -= {name.upper() for name in {option.name for option in options.options()}}
    assert {"PATH", "CONTROL_TOKEN", "LINK_FOLDER", "POOL", "CONFIG"} <= ours
    environ = {f"WSRAW_{name}": "tcp://10.0.0.1:8000" for name in (*theirs, *ours)}
    assert sources.gather({}, environ)[:2] == (Settings(), {})


# --- the command line ---


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ping_interval": "x"}, "--ping-interval: 'x': write a number of seconds"),
        ({"listen": ("80",)}, "--listen: '80': write HOST:PORT"),
        ({"pools": ("a=",)}, "--pool: 'a=': write NAME=WORKERS"),
        ({"pools": ("a=x", "b=y"), "routes": ("/=a",)}, "--pool: no route leads to 'b'"),
        ({"routes": ("/=a",)}, "--route: /=a: there is no pool 'a'"),
        ({"output_limit": "9"}, "--output-limit (9) must be at least"),
        ({"high_water_mark": "1GB"}, "--high-water-mark: output_limit (4194304) must be at least"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        sources.gather(given, {})
    assert str(caught.value).startswith(message)


def test_a_wrong_value_is_refused_although_another_one_overrides_it(tmp_path: Path) -> None:
    told = refusal(tmp_path, "ping_interval = 'x'", ping_interval="3")
    assert told.startswith("wsraw.toml: ping_interval: 'x'")


# --- output of the settings ---


def test_shown_settings_are_read_back_as_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.toml").write_text('\nhigh_water_mark = "300KiB"\nrun_dir = \'a "\\ b\'\n')
    monkeypatch.setenv("WSRAW_CLOSE_TIMEOUT", "1.5s")
    monkeypatch.setenv("WSRAW_CONFIG", "a.toml")
    arguments = ["--workers=h.py:2", "--presence=ä\x7f\n", "--listen=unix:s", "--no-deflate"]
    arguments += ["--pool=a=node 'y' \"z\":3", "--pool=b"]
    arguments += ["--route=/a/{b}=a", "--route=raw=b"]
    assert cli.main(["settings", *arguments]) == 0
    shown = capsys.readouterr().out
    lines = {line.split(" = ")[0]: line for line in shown.splitlines()}
    assert lines["high_water_mark"] == 'high_water_mark = "300KiB"  # a.toml'
    assert lines["close_timeout"] == 'close_timeout = "1.5s"  # WSRAW_CLOSE_TIMEOUT'
    assert lines["deflate"] == "deflate = false  # --deflate"
    assert lines["ping_interval"] == 'ping_interval = "20s"  # default'
    assert tomllib.loads(lines["listen"]) == {"listen": [f"unix:{tmp_path}{sep}s"]}
    assert set(tomllib.loads(shown)) == set({option.name for option in options.options()})
    Path("b.toml").write_text(shown, "utf-8")
    read = sources.gather({}, {}, "b.toml").settings
    assert read == Settings(
        high_water_mark=300 << 10,
        run_dir=str(tmp_path / 'a "\\ b'),
        close_timeout=1.5,
        workers=(str(tmp_path / "h.py:2"),),
        presence=("ä\x7f\n",),
        listen=(f"unix:{tmp_path}{sep}s",),
        deflate=False,
        pools=(
            PoolSettings(name="a", workers=("node 'y' \"z\":3",)),
            PoolSettings(name="b"),
        ),
        routes=(RouteSettings(pool="a", path="/a/{b}"), RouteSettings(pool="b", kind="raw")),
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('subprotocols = "chat, superchat"', "subprotocols: 'chat, superchat' is not the name of"),
        ('subprotocols = ["a", ""]', "subprotocols: '' is not the name of"),
        (
            '[[bridges]]\nto = "tcp://h:1"\nsubprotocols = ["a\\nEvil: x"]',
            "bridges: table 1: subprotocols: 'a\\nEvil: x' is not the name of",
        ),
        (
            'pools = "a"\n[[routes]]\npool = "a"\nsubprotocol = "a b"',
            "routes: subprotocol a b=a: subprotocol: 'a b' is not the name of",
        ),
        ("restart_intensity = 99999999999999999999", "write a whole number, from 0 to 1000"),
        ("max_header_size = 99999999999999999999", "max_header_size: 99999999999999999999: write"),
        ("max_connections = 1000000000000000001", "write a whole number"),
        ("gateway_timeout = '1ms'", "gateway_timeout: 0.001 s is too short for any gateway"),
    ],
)
def test_values_that_a_run_cannot_work_with_are_refused(
    tmp_path: Path, text: str, told: str
) -> None:
    assert told in refusal(tmp_path, text)


def test_a_tls_file_is_a_file(tmp_path: Path) -> None:
    """Opening a FIFO would block, and /dev/zero has no end."""
    with pytest.raises(ConfigurationError, match="it is not a regular file"):
        sources.check_tls_files(gather(tmp_path, f"tls_cert = '{os.devnull}'"))


SECRETS = """
connect_proxy = "http://user:s3cret@proxy:3128"
cluster = ["nats://user:s3cret@nats:4222"]
workers = ["python app.py --db postgres://user:s3cret@db/x:2"]
[[bridges]]
to = "ws://user:s3cret@h:1/room@x?token=s3cret"
proxy = "socks5://user:s3c/s3cret@proxy:1080"
set_headers = ["Authorization: Bearer s3cret", "User-Agent:"]
"""


def test_passwords_are_shown_only_where_they_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.toml").write_text(SECRETS)
    assert cli.main(["settings", "--config=a.toml"]) == 0
    shown = capsys.readouterr().out
    assert "s3c" not in shown
    lines = {line.split(" = ")[0]: line for line in shown.splitlines()}
    note = "  # a.toml; use --secrets to show what is hidden"
    assert lines["connect_proxy"] == f'connect_proxy = "http://...@proxy:3128"{note}'
    assert lines["cluster"] == f'cluster = ["nats://...@nats:4222"]{note}'
    assert lines["workers"] == f'workers = ["python app.py --db postgres://...@db/x:2"]{note}'
    assert 'to = "ws://...@h:1/room@x?..."' in lines["bridges"]
    assert 'set_headers = ["Authorization: ...", "User-Agent:"]' in lines["bridges"]
    assert cli.main(["settings", "--config=a.toml", "--secrets"]) == 0
    Path("b.toml").write_text(capsys.readouterr().out, "utf-8")
    before, after = (sources.gather({}, {}, file).settings for file in ("a.toml", "b.toml"))
    assert before == after


@pytest.mark.parametrize(
    "text",
    [
        'cluster = [1, "nats://u:s3cret@h:4222"]',
        'cluster = "nats://u:s3c/s3cret@h:4222"',
        'cluster = "nats://u:s3cret@h:4222/path"',
        'connect_proxy = "http://u:s3cret@h:99999"',
        'connect_proxy = "http://u:s3\\u0000cret@h:1"',
        'bridges = "ws://u:s3cret@h/?x=@"\nbridges = 3',
        'bridges = [5, "ws://u:s3cret@h"]',
        'bridges = [["ws://u:s3cret@h"]]',
        'bridges = "ftp://u:s3cret@h"',
        'bridges = "ws://u:s3cret@127.0.0.1:8000"',
        'pools = "ws://u:s3cret@h"',
        'routes = "ws://u:s3cret@h"',
        'workers = ["a b://u:s3cret@h:0"]',
        'ping_interval = "ws://u:s3cret@h"',
    ],
)
def test_no_error_shows_a_password(tmp_path: Path, text: str) -> None:
    told = refusal(tmp_path, text)
    assert "s3c" not in told
    assert "cret" not in told


@hypothesis_settings(max_examples=300)
@given(st.text(st.sampled_from("ab_=[]{}\"'#\\.1 \n-")))
def test_any_file_is_read_or_refused_in_one_line(tmp_path_factory: Any, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text(text, "utf-8", newline="")
    try:
        sources.gather({}, {}, str(file))
    except ConfigurationError as error:
        assert re.match(rf"{re.escape(str(file))}(:\d+)?: [^\n]+\Z", str(error))


# --- a run of it ---


def test_a_run_reads_its_settings_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "h.py").write_text("def on_message(msg, con):\n    return msg\n")
    (tmp_path / "w.toml").write_text("workers = 'h.py:2'\nlisten = 'unix:s'\n")
    with Running(f"--config={tmp_path / 'w.toml'}") as run:
        run.ready()
        assert run.line(r"listening on \w+://127.0.0.1:\d+ .*\(2 workers, ")
        assert not (tmp_path / "s").exists(), "the command line goes first"


TOML_IN_THE_DOCS = [
    pytest.param(text, id=page.stem)
    for page in sorted((ROOT / "docs").glob("*.md"))
    for text in re.findall(r"^```toml\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)
]


@pytest.mark.parametrize("text", TOML_IN_THE_DOCS)
def test_a_file_in_the_docs_loads(tmp_path: Path, text: str) -> None:
    gather(tmp_path, text)


@pytest.mark.parametrize("name", ["wsraw.toml", "pools.toml"])
def test_the_example_settings_load(name: str) -> None:
    file = ROOT / "examples" / name
    settings = sources.gather({}, {}, str(file)).settings
    for workers in (settings.workers, *(pool.workers for pool in settings.pools)):
        assert all(Path(programs.parse(text).program.file or "").is_file() for text in workers)
    # The settings that are commented out are valid, too.
    text = re.sub(r"^#(\w+ = )", r"\1", file.read_text("utf-8"), flags=re.M)
    for name, value in tomllib.loads(text).items():
        options.read(name, value)


@pytest.mark.parametrize(
    "text",
    [
        "routes = [\n" + "".join(f'  "/{n}=default",\n' for n in range(10_000)) + "]\n",
        "".join(f'[[routes]]\npath = "/{n}/{{x}}"\npool = "default"\n' for n in range(5_000)),
        "".join(
            f'[[pools]]\nname = "p{n}"\n[[routes]]\nhost = "h{n}"\npool = "p{n}"\n'
            for n in range(3_000)
        ),
    ],
    ids=["array", "tables", "pools"],
)
def test_thousands_of_routes_take_time_in_proportion(text: str, tmp_path: Path) -> None:
    file = tmp_path / "wsraw.toml"
    file.write_text(text)
    found = sources.gather({}, {}, str(file))
    assert len(found.settings.routes) >= 3_000


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n# a comment\nping_interval = 'x'", 3),
        ("deflate = true\n\nhigh_watermark = 1", 3),
        ('listen = [\n  "h:1",\n]\n\n"max_events" = "some"', 5),
        ("high_water_mark = 10000000", 1),
        ("workers = 'a.py'\n[[pools]]\nname = 'one'\n\n[[pools]]\nnmae = 'two'\n", 6),
        ("workers = 'a.py'\n[[pools]]\nname = 'one'\n\n[[pools]]\nworkers = 'x.py'\n", 5),
        ("workers = 'a.py'\n[[routes]]\npath = '/a'\npool = 'far'", 2),
        ("tls_key = 'x.pem'", 1),
        ("listen = ['h:99999']", 1),
    ],
)
def test_an_error_names_the_line_of_the_file(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(ConfigurationError) as caught:
        gather(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'wsraw.toml'}:{line}: ")


def test_an_error_about_one_of_several_tables_that_it_does_not_number_names_no_line(
    tmp_path: Path,
) -> None:
    text = "workers = 'a.py'\n" + "[[routes]]\npath = '/a'\npool = 'far'\n" * 2
    with pytest.raises(ConfigurationError) as caught:
        gather(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'wsraw.toml'}: routes: ")
