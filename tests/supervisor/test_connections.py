from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.harness import Harness
from wsraw.gateway.inspection import facts
from wsraw.supervisor.connections import details, table, trace_line, visible

ROW: dict[str, Any] = {
    "id": 68719476737,
    "kind": "websocket",
    "state": "open",
    "opened": False,
    "peer": "192.0.2.7:50000",
    "path": "/rooms/1?...",
    "listener": "127.0.0.1:8000",
    "pool": "default",
    "output": 0,
    "worker": "2",
    "age": 90.0,
    "last_in": 1.5,
    "last_out": None,
    "received": 2048,
    "sent": 100,
    "in_flight": 1,
    "parked": 3,
    "events": 1024,
    "paused": [],
    "slow": False,
}

WHOLE: dict[str, Any] = ROW | {
    "scheme": "wss",
    "proxy": "10.0.0.1:40000",
    "tls": {"version": "TLSv1.3", "client": "CN=me"},
    "params": {"room": "1"},
    "unfinished": 10,
    "undecided": True,
    "ending": {"code": 1001, "reason": "bye", "cause": "handler"},
    "limited": False,
    "subprotocol": "chat",
    "deflate": {"context_takeover": False, "contexts": 0},
    "pinged": True,
    "parked_bytes": 768,
    "held_back": 2,
    "oldest": 0.25,
    "dropped": 2048,
    "output": 3 * 1024,
    "stalled": 12.0,
    "paused": ["more than high_water_mark is held for it"],
    "paused_for": 3.0,
    "heard": True,
    "name": "feed",
    "state_bytes": 20,
    "groups": ["a", "b"],
    "groups_total": 5,
    "coupled": [68719476738],
    "coupled_total": 1,
    "memory": 4096,
    "shared": 2048,
    "tcp": {"received": 2048, "round_trip": 0.0003, "repeated": 2, "unsent": 0},
}


def test_a_table_has_a_row_for_each_connection() -> None:
    heading, row = table([ROW], 1).splitlines()
    assert heading.split("  ")[0] == "id"
    assert row.split() == [
        "68719476737", "websocket", "open", "192.0.2.7:50000", "/rooms/1?...", "2", "1.5", "min",
        "1.5", "s", "-", "2.0", "KiB", "100", "bytes", "0", "1+3",
    ]  # fmt: skip


def test_a_table_says_how_many_are_not_shown() -> None:
    assert table([ROW, ROW], 10_000).splitlines()[-1] == "… 9,998 more (--limit 0 shows all)"
    assert len(table([ROW, ROW], 2).splitlines()) == 3
    assert table([], 0) == "no connections"


def test_pools_and_notes_are_shown_where_there_are_any() -> None:
    assert "pool" not in table([ROW], 1)
    assert "notes" not in table([ROW], 1)
    text = table([ROW, ROW | {"pool": "chat"}], 2)
    assert [line.split()[5] for line in text.splitlines()[1:]] == ["default", "chat"]
    text = table([ROW | {"slow": True, "paused": ["x"]}], 1)
    assert text.splitlines()[0].endswith("notes")
    assert text.endswith("slow, paused")


def test_users_are_shown_where_there_are_any() -> None:
    assert "user" not in table([ROW], 1).splitlines()[0]
    heading, first, second = table([ROW, ROW | {"user": "ann"}], 2).splitlines()
    # "path or target" counts as three words.
    assert heading.split().index("user") == 7
    assert (first.split()[5], second.split()[5]) == ("-", "ann")
    assert "user        ann" in details(WHOLE | {"user": "ann"})


def test_no_client_can_write_control_characters_into_a_table() -> None:
    text = table([ROW | {"path": "/\x1b[2J\n", "peer": "unix:\x07"}], 1)
    assert "\x1b" not in text
    assert len(text.splitlines()) == 2


def test_all_that_is_known_of_a_connection_is_shown() -> None:
    lines = details(WHOLE).splitlines()
    assert lines[0] == "connection 68719476737: websocket, open, accepted"
    shown = {line[2:14].strip(): line[14:] for line in lines[1:]}
    assert shown == {
        "peer": "192.0.2.7:50000, through 10.0.0.1:40000, at 127.0.0.1:8000",
        "path": "/rooms/1?... (room = 1)",
        "name": "feed",
        "pool": "default",
        "worker": "2",
        "age": "1.5 min",
        "data": "last in 1.5 s ago, out never",
        "input": "2.0 KiB received by the kernel, 10 bytes are not a message yet",
        "output": "100 bytes sent, 3.0 KiB waiting, nothing taken for 12.0 s, 2.0 KiB dropped, "
        "2 commands behind an unfinished message",
        "events": "1 in flight (the oldest for 250 ms), 3 parked, 1.0 KiB",
        "reading": "paused for 3.0 s: more than high_water_mark is held for it",
        "groups": "a, b and 3 more",
        "coupled": "68719476738",
        "state": "20 bytes",
        "subprotocol": "chat",
        "deflate": "without context takeover",
        "scheme": "wss",
        "tls": "TLSv1.3, CN=me",
        "tcp": "round trip 0.3 ms, segments repeated 2, 0 bytes not sent by the kernel",
        "ping": "waiting for a pong",
        "verdict": "on_connect has not decided yet",
        "end": "handler, code 1001 bye",
        "memory": "4.0 KiB; 2.0 KiB of published messages, kept once for all",
    }


def test_an_opened_connection_has_a_target() -> None:
    facts = {"opened": True, "target": "ws://example.org", "peer": "", "path": "", "params": {}}
    text = details(WHOLE | facts)
    assert text.startswith("connection 68719476737: websocket, open, opened by a handler\n")
    assert "  target      ws://example.org\n" in text
    assert "\n  path" not in text


def test_what_a_gateway_tells_of_any_connection_can_be_shown() -> None:
    harness = Harness()
    harness.worker()
    flow = harness.registry.flow
    for con in (harness.raw(b""), harness.raw(), harness.websocket()):
        told = facts.whole(con, flow) | {"tcp": {}}
        assert details(told).startswith(f"connection {con.id}: ")
        assert str(con.id) in table([facts.summary(con, flow)], 1)


# --- trace ---

LINE: dict[str, Any] = {
    "time": 0.0,
    "con": 68719476737,
    "about": "<",
    "what": "on_message",
    "size": 5,
    "data": b"hello",
    "text": "text",
}


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "< on_message text, 5 bytes: hello"),
        ({"size": 1, "data": b"x"}, "< on_message text, 1 byte: x"),
        ({"size": 5000}, "< on_message text, 5,000 bytes: hello…"),
        ({"size": 5000, "data": b""}, "< on_message text, 5,000 bytes"),
        ({"size": 0, "data": b"", "about": "=", "what": "end", "text": ""}, "= end"),
        ({"size": 0, "data": b"", "text": "a\nb\x1b"}, "< on_message a\\nb\\x1b"),
    ],
)
def test_a_line_of_a_trace_shows_what_there_is(changes: dict[str, Any], shown: str) -> None:
    assert trace_line(LINE | changes, "12:00:00", with_id=False) == f"12:00:00 {shown}"


def test_a_line_may_say_of_which_connection_it_is() -> None:
    assert trace_line(LINE, "t", with_id=True).startswith("t 68719476737 < on_message")
    assert trace_line(LINE | {"con": 0}, "t", with_id=True).startswith("t - < on_message")


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"plain", "plain"),
        ("grüße".encode(), "grüße"),
        (b"a\r\nb\tc", r"a\r\nb\tc"),
        (b"\x1b[2J\x00\x07", r"\x1b[2J\x00\x07"),
        (b"a\\n", r"a\\n"),
        (b"\xff\xc3", r"\xff\xc3"),
        ("\u202e\u2028".encode(), r"\u202e\u2028"),
    ],
)
def test_a_payload_is_shown_on_one_line(data: bytes, shown: str) -> None:
    assert visible(data) == shown


def test_no_two_payloads_look_the_same() -> None:
    """A client's backslash must not look like one of ours."""
    shown = [visible(bytes([each])) for each in range(256)] + [visible(b"\\n"), visible(b"\\x00")]
    assert len(set(shown)) == len(shown)
    assert all(text.isprintable() for text in shown)
