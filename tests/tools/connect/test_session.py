"""`wsraw connect` with real gateways, in scripts, with each kind of URL."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.authority import ca_file, server_file
from tests.deadline import DEADLINE
from tests.e2e.serving import ECHO, Serving, serve
from tests.needs import signals, unix_sockets
from tests.running import command, environment
from tests.tools.connect.driving import connect, handlers_file

HANDLERS = """
import asyncio

async def on_message(msg, con):
    data = msg["data"]
    if data == "headers":
        return repr(sorted((k.lower(), v) for k, v in con.inf.items()))
    if data == "slow":
        await asyncio.sleep(0.3)
        return "late"
    if data == "close":
        return con.close(4001, "enough")
    if data == "fail":
        return con.close(1011, "broken")
    if data == "twice":
        con.send("one")
    return msg
"""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    file = handlers_file(tmp_path_factory.mktemp("handlers"), HANDLERS)
    with serve(file, "--subprotocols=chat") as serving:
        yield serving


def events(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- each kind of URL ---


def test_each_line_of_a_pipe_is_a_message_of_a_websocket(serving: Serving) -> None:
    done = connect(serving.url(), stdin=b"one\n\n/ping\ntwo \xc3\xa9")
    assert (done.stderr, done.returncode) == (b"", 0)
    assert done.stdout == b"one\n\n/ping\ntwo \xc3\xa9\n"


def test_bytes_of_a_pipe_go_through_tcp_as_they_are() -> None:
    data = bytes(range(256)) * 4000
    with serve(ECHO) as serving:
        host, port = serving.addresses[0]
        done = connect(f"tcp://{host}:{port}", stdin=data)
    assert done.stdout == data
    assert (done.stderr, done.returncode) == (b"", 0)


@pytest.mark.long
def test_websocket_and_stream_go_over_tls(tmp_path: Path) -> None:
    authority = ca_file(tmp_path)
    with serve(ECHO, f"--tls-cert={server_file(tmp_path)}") as serving:
        port = serving.addresses[0][1]
        for url in (f"wss://localhost:{port}", f"tls://127.0.0.1:{port}"):
            for trust in (["--ca", authority], ["--insecure"]):
                done = connect(url, *trust, "--exec=hello", "--count=1")
                assert (done.stdout, done.returncode) == (b"hello\n", 0), done.stderr


@unix_sockets
def test_websocket_and_stream_go_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with serve(ECHO, listen=[f"unix:{path}"]):
        for url in (f"unix:{path}", f"ws+unix:{path}:/chat", f"ws+unix://{path}"):
            done = connect(url, "--exec=hello", "--count=1")
            assert (done.stdout, done.returncode) == (b"hello\n", 0), done.stderr


def test_another_host_is_the_name_in_tls_and_in_the_handshake(tmp_path: Path) -> None:
    cert = server_file(tmp_path, "example.org")
    with serve(ECHO, f"--tls-cert={cert}") as serving:
        url = f"wss://127.0.0.1:{serving.addresses[0][1]}"
        trust = ("--ca", ca_file(tmp_path), "--exec=hello", "--count=1")
        assert connect(url, *trust).returncode == 1
        assert connect(url, *trust, "--host=example.org").stdout == b"hello\n"


# --- sending ---


def test_headers_origin_and_subprotocol_reach_the_handler(serving: Serving) -> None:
    done = connect(
        serving.url(),
        "-x",
        "headers",
        "--count=1",
        "-H",
        "X-Key: seven: 7",
        "-o",
        serving.url().replace("ws://", "http://").rstrip("/"),
        "-s",
        "other",
        "-s",
        "chat",
    )
    text = done.stdout.decode()
    assert "('x-key', 'seven: 7')" in text
    assert f"('origin', '{serving.url().replace('ws://', 'http://').rstrip('/')}')" in text
    assert "chat" in text


def test_what_is_executed_may_be_commands(serving: Serving) -> None:
    done = connect(
        "--json",
        serving.url(),
        "-x",
        "//x",
        "-x",
        "/ping",
        "-x",
        "/binary 00ff",
        "-x",
        "/close 4000 bye",
    )
    assert done.returncode == 0
    opened, *between, closed = events(done)
    assert opened["event"] == "open"
    assert {each["event"] for each in between} == {"message", "pong"}
    messages = [each for each in between if each["event"] == "message"]
    assert [(each["kind"], each.get("text"), each.get("hex")) for each in messages] == [
        ("text", "/x", None),
        ("binary", None, "00ff"),
    ]
    assert (closed["by"], closed["code"], closed["reason"]) == ("us", 4000, "bye")


def test_binary_data_goes_through_pipes_unchanged(serving: Serving) -> None:
    data = bytes(range(256)) * 1000
    done = connect(serving.url(), "--binary", stdin=data)
    assert (done.stdout, done.returncode) == (data, 0)


def test_a_line_for_a_stream_ends_with_cr_lf_if_asked(serving: Serving) -> None:
    host, port = serving.addresses[0]
    done = connect(f"tcp://{host}:{port}", "--crlf", "-x", "a", "-x", "b", "--count=2")
    assert done.stdout == b"a\r\nb\r\n"


def test_what_cannot_be_executed_is_refused_before_connecting() -> None:
    done = connect("ws://127.0.0.1:1", "-x", "ok", "-x", "/nothing")
    assert done.returncode == 2
    assert b"--exec: /nothing is not a command" in done.stderr


def test_a_line_that_is_not_utf_8_is_refused(serving: Serving) -> None:
    done = connect(serving.url(), stdin=b"one\n\xff\ntwo\n")
    assert done.returncode == 2
    assert b"--binary" in done.stderr


# --- the end of a session ---


def test_answers_are_awaited_for_as_long_as_asked(serving: Serving) -> None:
    assert connect(serving.url(), "-x", "slow", "-w", "0.01").stdout == b""
    assert (
        connect(serving.url(), "-x", "slow", "-w", f"{DEADLINE}", "--count=1").stdout == b"late\n"
    )


def test_without_a_limit_the_server_ends_the_session(serving: Serving) -> None:
    done = connect(serving.url(), "-x", "slow", "-x", "close", "--wait=0")
    assert done.stdout == b"late\n"
    assert done.returncode == 3
    said = ["wsraw: closed by the peer: 4001 (a code of the application): enough"]
    assert done.stderr.decode().splitlines() == said


def test_fewer_messages_than_asked_for_are_exit_code_4(serving: Serving) -> None:
    done = connect(serving.url(), "-x", "a", "--count=2", "--wait=0.3")
    assert (done.stdout, done.returncode) == (b"a\n", 4)
    assert done.stderr.decode().splitlines() == ["wsraw: 1 of 2 messages have arrived"]


def test_no_more_messages_than_asked_for_are_shown(serving: Serving) -> None:
    done = connect(serving.url(), "-x", "twice", "-x", "twice", "--count=3")
    assert (done.stdout, done.returncode) == (b"one\ntwice\none\n", 0)


def test_a_close_code_that_is_an_error_is_exit_code_3(serving: Serving) -> None:
    done = connect("--json", serving.url(), "-x", "fail", "--wait=0")
    assert done.returncode == 3
    closed = events(done)[-1]
    assert (closed["event"], closed["by"], closed["code"]) == ("close", "peer", 1011)
    assert closed["message"] == "closed by the peer: 1011 (internal error): broken"


@signals
def test_a_lost_connection_is_exit_code_3() -> None:
    import signal

    with (
        serve(ECHO) as serving,
        subprocess.Popen(
            command("connect", serving.url(), "--json", "-x", "a", "--wait=0"),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as client,
    ):
        try:
            assert client.stdout is not None
            for event in ("open", "message"):
                assert json.loads(client.stdout.readline())["event"] == event
            import os

            os.kill(serving.gateway, signal.SIGKILL)
            out, _ = client.communicate(timeout=DEADLINE)
            assert client.returncode == 3
            assert "lost without a close frame" in json.loads(out)["message"]
        finally:
            client.kill()


def test_a_reader_that_has_enough_ends_it_without_a_word(serving: Serving) -> None:
    with subprocess.Popen(
        command("connect", serving.url(), "-x", "twice", "-x", "slow", "-x", "twice", "--wait=0"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as client:
        assert client.stdout is not None
        assert client.stderr is not None
        try:
            assert client.stdout.readline() == b"one\n"
            client.stdout.close()
            assert client.wait(DEADLINE) == 0
            assert client.stderr.read() == b""
        finally:
            client.kill()


# --- JSON ---


def test_each_event_has_its_time(serving: Serving) -> None:
    done = connect("--json", serving.url(path="/x?token=secret"), "-x", "a", "--count=1")
    found = events(done)
    assert [each["event"] for each in found] == ["open", "message", "close"]
    times = [datetime.fromisoformat(each["time"]) for each in found]
    assert times == sorted(times)
    assert all(time.utcoffset() is not None for time in times)
    assert [each["seconds"] for each in found] == sorted(each["seconds"] for each in found)
    assert b"secret" not in done.stdout + done.stderr


def test_a_failure_is_an_event_too() -> None:
    done = connect("--json", "ws://127.0.0.1:1")
    assert done.returncode == 1
    (event,) = events(done)
    assert event["event"] == "error"
    assert event["message"] in done.stderr.decode()


def test_bytes_of_a_stream_are_text_where_they_can_be() -> None:
    with serve(ECHO) as serving:
        host, port = serving.addresses[0]
        for data, field in ((b"a\n", {"text": "a\n"}), (b"\xff", {"hex": "ff"})):
            done = connect("--json", f"tcp://{host}:{port}", stdin=data)
            message = events(done)[1]
            assert {name: message.get(name) for name in field} == field


# --- pings ---


@pytest.mark.long
def test_a_peer_that_answers_no_ping_is_left() -> None:
    from tests.tools.connect.driving import server

    with server(open_and_be_silent) as port:
        done = connect(f"ws://127.0.0.1:{port}", "--ping=0.2", "--wait=0")
    assert done.returncode == 3
    assert b"1011 (internal error): keepalive ping timeout" in done.stderr


def open_and_be_silent(client: Any) -> None:
    import base64
    import hashlib
    import re

    request = b""
    while not request.endswith(b"\r\n\r\n"):
        data = client.recv(1 << 16)
        if not data:
            return  # This connection only wakes `accept` at the end.
        request += data
    key = re.search(rb"Sec-WebSocket-Key: (\S+)", request)
    assert key is not None
    accept = hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    client.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(accept) + b"\r\n\r\n"
    )
    while client.recv(1 << 16):
        pass
