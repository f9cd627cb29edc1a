"""Parts of the gateway process that need no supervisor; the end-to-end tests have the rest."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deadline import DEADLINE, eventually
from tests.needs import unix_sockets
from tests.runtime.link.ends import take, work
from wsraw.config.settings import Settings
from wsraw.gateway import gateway as g
from wsraw.gateway.sessions.dead_letters import FILE_NAME
from wsraw.link.records import Exited, Listening, Relink, Spawned, encode
from wsraw.link.worker_end import WorkerEnd
from wsraw.runtime import launch
from wsraw.runtime.link.client import LinkClient
from wsraw.runtime.loop import Loop
from wsraw.runtime.sockets import printable, share
from wsraw.supervisor.control.link import Control
from wsraw.supervisor.log import Log


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[g.Gateway]:
    made = g.Gateway(Settings(run_dir=str(tmp_path), listen=("127.0.0.1:0",)), "", "", 7)
    yield made
    made.close()


def test_the_gateway_reports_its_addresses(gateway: g.Gateway) -> None:
    gateway.start()
    [news] = gateway.sessions.to_supervisor
    assert isinstance(news, Listening)
    assert (news.epoch, news.pid) == (7, os.getpid())
    [address] = news.addresses
    host, port = address.rsplit(":", 1)
    socket.create_connection((host, int(port)), 5).close()


def test_an_address_in_use_ends_the_gateway_with_its_own_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        listen = f"127.0.0.1:{sock.getsockname()[1]}"
        settings = Settings(run_dir=str(tmp_path), listen=(listen,))
        assert g.main(settings, "", "", 1) == g.EXIT_CANNOT_START
    assert capsys.readouterr().err.startswith("error: ")


def handed_over(sock: socket.socket) -> str:
    """Duplicate the descriptors, as for another process."""
    if sys.platform == "win32":
        return share(sock, os.getpid())
    return str(os.dup(sock.fileno()))


def test_a_new_gateway_is_where_the_last_one_was(tmp_path: Path) -> None:
    """The supervisor owns the sockets, also that of a link on TCP: workers find the new gateway
    at the same address, and no other process can take it meanwhile.
    """
    settings = Settings(run_dir="", listen=("127.0.0.1:0",))
    news: list[Any] = []
    with (
        socket.create_server(("127.0.0.1", 0)) as clients,
        socket.create_server(("127.0.0.1", 0)) as link,
    ):
        for epoch in (1, 2):
            given = [handed_over(sock) for sock in (clients, link)]
            gateway = g.Gateway(settings, "", "", epoch, given=given)
            gateway.start()
            news += gateway.sessions.to_supervisor
            gateway.close()
        port = link.getsockname()[1]
        assert [each.endpoint for each in news] == [f"tcp://127.0.0.1:{port}"] * 2
        assert {printable(clients.getsockname())} == {a for each in news for a in each.addresses}


def test_dead_letters_are_added_to_a_private_file(gateway: g.Gateway, tmp_path: Path) -> None:
    for n in (1, 2):
        gateway.sessions.dead_letters.append({"con": n})
        gateway.loop.turn(False)
        assert gateway.sessions.dead_letters == []
    file = tmp_path / FILE_NAME
    letters = [json.loads(line) for line in file.read_text().splitlines()]
    assert [letter["con"] for letter in letters] == [1, 2]
    assert all(letter["time"] > 1e9 for letter in letters)
    if sys.platform != "win32":
        assert file.stat().st_mode & 0o777 == 0o600


def test_a_missing_run_folder_does_not_end_the_gateway(
    gateway: g.Gateway, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE_NAME).mkdir()
    gateway.sessions.dead_letters.append({"con": 1})
    gateway._write_dead_letters()
    assert "cannot write" in caplog.text


def test_a_gateway_without_a_supervisor_kills_its_workers(gateway: g.Gateway) -> None:
    one, two = (subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) for _ in range(2))
    try:
        gateway._apply(Spawned(1, "a", one.pid), 0.0)
        gateway._apply(Spawned(2, "b", two.pid), 0.0)
        gateway._apply(Exited(2, "exited"), 0.0)
        gateway.handover.spawned.kill_all()
        assert one.wait(DEADLINE)
        assert two.poll() is None, "its number may be somebody else's by now"
        gateway.handover.spawned.kill_all()
    finally:
        for each in (one, two):
            each.kill()
            each.communicate()


@pytest.mark.parametrize("has_signals", [True, False])
def test_the_gateway_stops_when_its_supervisor_is_gone(
    gateway: g.Gateway, monkeypatch: pytest.MonkeyPatch, has_signals: bool
) -> None:
    if sys.platform == "win32" and has_signals:
        pytest.skip("a pipe cannot be selected on")
    monkeypatch.setattr(launch, "HAS_SIGNALS", has_signals)
    ours, theirs = os.pipe()
    g._watch_stdin(gateway, launch.Parent(ours))
    gateway.loop.turn(False)
    assert not gateway.stopping.phases
    os.close(theirs)
    eventually(lambda: gateway.loop.turn(False) or gateway.is_orphaned, "the end to be seen")
    os.close(ours)


def test_the_gateway_stops_at_the_word_of_its_supervisor(
    gateway: g.Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "HAS_SIGNALS", False)
    ours, theirs = os.pipe()
    g._watch_stdin(gateway, launch.Parent(ours))
    os.write(theirs, b"leave\n")
    eventually(lambda: gateway.loop.turn(False) or gateway.stopping.phases, "the stop")
    assert not gateway.is_orphaned
    os.close(theirs)
    eventually(lambda: gateway.loop.turn(False) or gateway.is_orphaned, "the end to be seen")
    os.close(ours)


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit of file sizes")
def test_a_dead_letter_that_does_not_fit_on_the_disk_leaves_the_others_whole(
    gateway: g.Gateway, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On a full disk half a letter was once written, and the next letter after it."""
    import resource

    def write(con: int, data: str = "") -> None:
        gateway.sessions.dead_letters.append({"con": con, "event": "message", "data": data})
        gateway.loop.turn(False)

    file = tmp_path / FILE_NAME
    write(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 100, hard))
    try:
        with caplog.at_level("ERROR", "wsraw.gateway"):
            write(2, "x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    write(3)
    letters = [json.loads(line) for line in file.read_text().splitlines()]
    assert [letter["con"] for letter in letters] == [1, 3]
    assert "cannot write" in caplog.text
    assert "message of connection 2 is lost" in caplog.text


@unix_sockets
def test_the_worker_link_is_rebound_where_the_supervisor_says(
    gateway: g.Gateway, tmp_path: Path
) -> None:
    gateway.start()
    said = gateway.sessions.to_supervisor
    (tmp_path / "link.sock").unlink()
    gateway._apply(Relink(str(tmp_path)), 0.0)
    assert (tmp_path / "link.sock").is_socket()
    gateway._apply(Relink(str(tmp_path / "none")), 0.0)
    (tmp_path / "other").mkdir()
    gateway._apply(Relink(str(tmp_path / "other")), 0.0)
    endpoints = [news.endpoint for news in said if isinstance(news, Listening)]
    home = f"ipc://{tmp_path}/link.sock"
    assert endpoints == [home, home, home, f"ipc://{tmp_path}/other/link.sock"]


@unix_sockets
def test_what_keeps_the_worker_link_from_being_rebound_is_logged_once(
    gateway: g.Gateway, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A dangling symbolic link is in the way, and the supervisor asks each second."""
    caplog.set_level("INFO")
    file = tmp_path / "link.sock"
    file.unlink()
    file.symlink_to(tmp_path / "nowhere")
    for _ in range(3):
        gateway._apply(Relink(str(tmp_path)), 0.0)
    assert caplog.text.count("new workers cannot connect") == 1
    file.unlink()
    for _ in range(3):
        gateway._apply(Relink(str(tmp_path)), 0.0)
    assert file.is_socket()
    assert caplog.text.count("new workers can connect again") == 1


def test_no_hello_is_judged_while_the_supervisor_has_more_to_say(tmp_path: Path) -> None:
    """The token may be behind megabytes of records, after the gateway was stopped for a while."""
    log, loop = Log(io.StringIO(), "info"), Loop()
    folder = tmp_path / "control"
    folder.mkdir(0o700)
    control = Control(loop, folder, log)
    token = control.expect()
    settings = Settings(run_dir=str(tmp_path), listen=("127.0.0.1:0",))
    gateway = g.Gateway(settings, control.endpoint, token, 7)
    gateway.start()

    def turn() -> bool:
        loop.turn(False)
        return gateway.loop.turn(False)

    eventually(lambda: turn() and control.receive())
    control.tell(Spawned(1, "one", 0))
    client = LinkClient(gateway._links.endpoint)
    eventually(lambda: turn() and work(client) and client.is_connected)
    # The records are few and large: the hello has to come before its time is over, even where calls
    # are slow.
    for n in range(30):
        control.tell(Exited(n + 10, "x" * 50_000))
    control.tell(Spawned(2, "two", 0))
    link = WorkerEnd(pool="default", token="two", instance="i", language="test")
    link.receive(encode([0, ["who"]]))
    hello = link.data_to_send()
    assert hello is not None
    assert client.send(hello)

    def listen() -> int:
        turn()
        for batch in take(client):
            link.receive(batch)
        assert not client.is_lost, client.why
        return link.session

    eventually(listen)
    client.close()
    gateway.close()
    control.close()
    loop.close()
    log.close()
