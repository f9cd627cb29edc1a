from __future__ import annotations

from typing import Any

import pytest

from wsraw.config import options as o
from wsraw.config.settings import HistorySettings, Settings


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("ping_interval", "2m", 120.0),
        ("ping_interval", 3, 3.0),
        ("memory_limit", "1GiB", 1 << 30),
        ("memory_limit", 5, 5),
        ("listen", "h:1", ("h:1",)),
        ("listen", ["h:1", "h:2"], ("h:1", "h:2")),
        ("deflate", False, False),
        ("deflate", "no", False),
        ("max_events", "5", 5),
        ("message_rate", "0.5", 0.5),
    ],
)
def test_option_values_are_parsed(name: str, value: Any, read: Any) -> None:
    assert o.read(name, value) == read


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("deflate", 1, "deflate: 1: write true or false"),
        ("dispatch", "x", "dispatch: 'x': write any or sticky"),
        ("ping_intervall", 1, "ping_intervall: there is no such setting; did you mean ping_int"),
        ("colour", 1, "colour: there is no such setting"),
        ("max_memory", "1 Mio", "max_memory: '1 Mio': write a number of bytes, as in 65536, 64KiB"),
        ("ping_interval", "1M", "ping_interval: '1M': write a number of seconds, as in"),
        ("ping_interval", float("inf"), "ping_interval: inf: write a number of seconds"),
        ("message_rate", float("inf"), "message_rate: inf: write a number, 0 or more"),
    ],
)
def test_wrong_values_are_refused_in_one_line(name: str, value: Any, line: str) -> None:
    with pytest.raises(ValueError) as caught:
        o.read(name, value)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_every_setting_is_an_option_with_a_meaning() -> None:
    options = o.options()
    assert [option.name for option in options] == list(Settings.__struct_fields__)
    for option in options:
        assert option.default == getattr(Settings(), option.name)
        assert option.meaning.endswith(".")


def test_options_know_their_kind_and_bounds() -> None:
    options = {option.name: option for option in o.options()}
    assert options["listen"].kind == "texts"
    assert options["run_dir"].kind == "text"
    assert options["deflate"].kind == "switch"
    assert options["max_message_size"].kind == "size"
    assert options["max_message_size"].minimum == 1
    assert options["memory_limit"].minimum == 0
    assert options["ping_interval"].kind == "time"
    assert options["max_deliveries"].kind == "count"
    assert options["max_deliveries"].minimum == 1
    assert [option.name for option in o.options() if option.is_path] == [
        "workers", "static", "tls_cert", "tls_key", "tls_client_ca", "run_dir", "admin_token",
        "publish_token", "link_key",
        "worker_keys", "cluster_credentials", "cluster_ca",
    ]  # fmt: skip
    assert options["dispatch"].choices == ("any", "sticky")


def test_an_unknown_option_raises_key_error() -> None:
    with pytest.raises(KeyError):
        o.option("colour")


def test_sections_begin_with_settings_that_exist() -> None:
    assert [o.option(name).section for name in o.SECTIONS] == list(o.SECTIONS.values())
    assert all(option.section for option in o.options())


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("room.*=50,5m", HistorySettings(groups="room.*", messages=50, time=300.0)),
        ("room=1", HistorySettings(groups="room", messages=1)),
        ("a=b=7,0", HistorySettings(groups="a=b", messages=7, time=0.0)),
    ],
)
def test_a_history_has_a_short_form(text: str, meant: HistorySettings) -> None:
    assert o.read("history", text) == (meant,)
    table = {"groups": meant.groups, "messages": meant.messages, "time": meant.time}
    assert o.read("history", [table]) == (meant,)


@pytest.mark.parametrize("text", ["room", "=5", "room=", "room=x", "room=0", "room=1001", "r=5,x"])
def test_a_short_form_of_a_history_that_is_wrong_says_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"^history: "):
        o.read("history", text)
