"""`wsraw upgrade`: the gateway is replaced, and no client notices."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import ssl
import sys
import threading
import time
import venv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.authority import client_context, server_file
from tests.deadline import eventually
from tests.e2e.command_line import ask, done, while_serving
from tests.e2e.load import Load, RawClient, WebClient, echo
from tests.e2e.serving import ECHO, TIMEOUT, Serving, receive_exactly, serve
from tests.exchange import exchange
from tests.needs import KILL, signals, unix_sockets
from tests.running import ROOT, Running, is_alive, wsraw
from wsraw.gateway.tls.engine import TlsEngine
from wsraw.supervisor.decisions.restarts import STABLE_AFTER

pytestmark = [signals, unix_sockets]

Write = Callable[[str], Path]

KILLS = int(os.environ.get("WSRAW_SOAK", "6"))
"""How often a gateway is killed in the middle of an upgrade; `make soak` sets more."""


def upgrade(serving: Serving) -> str:
    return done(serving, "upgrade")


def says(client: socket.socket, data: bytes) -> None:
    """Check that the echo server answers."""
    client.sendall(data)
    assert receive_exactly(client, len(data)) == data


def test_connections_workers_and_figures_move() -> None:
    with serve(ECHO, workers=2) as serving, ExitStack() as stack:
        raws = [stack.enter_context(serving.tcp()) for _ in range(10)]
        webs = [stack.enter_context(serving.ws()) for _ in range(10)]
        for raw in raws:
            says(raw, b"before")
        for web in webs:
            web.send("before")
            assert web.recv(TIMEOUT) == "before"
        before, old = serving.status(), serving.gateway
        said = upgrade(serving)
        assert "upgraded: 20 connections and 2 workers moved, pause " in said
        assert f"is process {serving.gateway} now" in said
        eventually(lambda: not is_alive(old), "the old gateway to leave")
        after = serving.status()
        assert after["gateway"]["pid"] == serving.gateway != old
        for name in ("epoch", "connections", "accepted", "totals", "limits"):
            assert after["gateway"][name] == before["gateway"][name]
        assert [each["acked"] for each in after["workers"]] == [
            each["acked"] for each in before["workers"]
        ]
        assert after["gateway"]["restarts"] == 0
        for raw in raws:
            says(raw, b"after")
        for web in webs:
            web.send("after")
            assert web.recv(TIMEOUT) == "after"
        with serving.tcp() as new:
            says(new, b"new")
        done(serving, "reload")
        for raw in raws:
            says(raw, b"reloaded")


def test_under_load_nothing_is_lost_doubled_or_out_of_order() -> None:
    async def play(serving: Serving) -> None:
        clients = [
            kind(size, 0.001, echo) for kind in (RawClient, WebClient) for size in (20, 3000) * 5
        ]
        async with Load(clients) as load:
            await load.start(serving)
            for _ in range(4):
                await load.more(200)
                await while_serving(serving, "upgrade")
            await load.finish()

    with serve(ECHO, workers=2) as serving:
        asyncio.run(play(serving))
        assert serving.status()["gateway"]["restarts"] == 0


def test_a_signal_starts_an_upgrade() -> None:
    with serve(ECHO) as serving, serving.tcp() as client:
        says(client, b"before")
        serving.run.send(signal.SIGUSR2)
        serving.run.line("upgraded: 1 connection and 1 worker moved")
        says(client, b"after")


# --- failures ---


def test_wrong_settings_change_nothing(tmp_path: Path) -> None:
    file = tmp_path / "wsraw.toml"
    file.write_text("max_message_size = 1000\n")
    with serve(ECHO, f"--config={file}") as serving, serving.tcp() as client:
        says(client, b"before")
        old = serving.gateway
        file.write_text("max_message_size = 'large'\n")
        refused = ask(serving, "upgrade")
        assert refused.returncode == 1
        assert "refused: the settings are wrong: " in refused.stderr
        assert f"{file}:1: max_message_size" in refused.stderr
        assert serving.gateway == old
        says(client, b"after")


def test_a_gateway_that_does_not_start_changes_nothing(tmp_path: Path) -> None:
    """The certificate's file exists, but is not a certificate."""
    cert = Path(server_file(tmp_path))
    options = ("--tls=optional", f"--tls-cert={cert}")
    with serve(ECHO, *options) as serving, serving.tcp() as client:
        says(client, b"before")
        old = serving.gateway
        cert.write_text("no certificate")
        refused = ask(serving, "upgrade")
        assert refused.returncode == 1
        assert "exited with code 3: it cannot listen; the old one goes on" in refused.stderr
        assert "cert" in refused.stderr
        assert serving.status()["gateway"]["pid"] == old
        says(client, b"after")
        cert.write_bytes(Path(server_file(tmp_path)).read_bytes())


@contextmanager
def begun(serving: Serving) -> Iterator[int]:
    """Start an upgrade; yields the pid of the new gateway while the command goes on."""
    count = len(serving.run.pids("gateway"))
    command = threading.Thread(target=ask, args=(serving, "upgrade"), daemon=True)
    command.start()
    serving.run.line("debug wsraw: gateway started", count + 1)
    yield serving.run.pids("gateway")[-1]
    command.join(TIMEOUT)
    assert not command.is_alive()


@pytest.mark.long
def test_a_new_gateway_that_is_stopped_does_not_hold_up_the_old_one() -> None:
    """The new gateway is stopped before it is ready, or in the middle of the handover."""
    options = ("--upgrade-timeout=0.5", "--start-timeout=20")
    with serve(ECHO, *options) as serving, serving.tcp() as client:
        says(client, b"before")
        old = serving.gateway
        with begun(serving) as new:
            os.kill(new, signal.SIGSTOP)
            says(client, b"meanwhile")
        assert serving.status()["gateway"]["pid"] == old
        assert not is_alive(new)
        says(client, b"after")
        assert "upgraded" in upgrade(serving)
        says(client, b"later")


def test_a_stop_refuses_a_new_gateway_that_is_not_ready_and_is_no_error() -> None:
    with serve(ECHO) as serving, serving.tcp() as client, ThreadPoolExecutor(1) as pool:
        says(client, b"before")
        command = pool.submit(ask, serving, "upgrade")
        serving.run.line("debug wsraw: gateway started", 2)
        os.kill(serving.run.pids("gateway")[-1], signal.SIGSTOP)
        serving.run.send(signal.SIGTERM)
        assert serving.run.wait() == 0
        told = command.result(TIMEOUT)
        assert not [line for line in serving.run.lines if " error " in line]
    assert told.returncode == 1
    assert "upgrade: refused: the run is stopping" in told.stderr


def survivors(clients: list[socket.socket]) -> int:
    count = 0
    for client in clients:
        try:
            says(client, b"still here?")
        except (OSError, AssertionError):
            continue
        count += 1
    return count


@pytest.mark.long
@pytest.mark.parametrize("victim", ["old", "new"])
def test_a_kill_at_any_instant_leaves_all_connections_or_is_the_death_of_a_gateway(
    victim: str,
) -> None:
    """All connections survive, unless the killed gateway had all of them."""
    luck = random.Random(f"{victim} {os.environ.get('PYTEST_XDIST_WORKER')}")
    took = 0.0
    with serve(ECHO, workers=2) as serving:
        for _ in range(KILLS):
            with ExitStack() as stack:
                clients = [stack.enter_context(serving.tcp()) for _ in range(20)]
                for client in clients:
                    says(client, b"before")
                if not took:
                    began = time.monotonic()
                    upgrade(serving)
                    took = time.monotonic() - began
                old = serving.gateway
                deaths, said = len(serving.run.pids("gateway")), len(serving.run.lines)
                with begun(serving) as new:
                    time.sleep(luck.random() * took)
                    try:
                        os.kill(old if victim == "old" else new, KILL)
                    except ProcessLookupError:
                        pass
                left = survivors(clients)
                assert left in (0, len(clients)), f"{left} of {len(clients)}\n{serving}"
                news = "\n".join(serving.run.lines[said:])
                if "the old one goes on" in news:
                    assert left == len(clients), str(serving)
                if "both are gone" in news:
                    assert left == 0, str(serving)
            eventually(lambda: _serves(serving), "the run to serve")
            if len(serving.run.pids("gateway")) > deaths + 1:
                # More deaths of a gateway that is not stable yet would be a crash loop.
                eventually(
                    lambda: (serving.status()["gateway"]["age"] or 0) > 1.5 * STABLE_AFTER,
                    "the gateway to be proved",
                )


def _serves(serving: Serving) -> bool:
    with serving.tcp() as client:
        try:
            says(client, b"hello")
        except (OSError, AssertionError):
            return False
    return True


# --- TLS ---


def secure(serving: Serving) -> ssl.SSLSocket:
    return client_context().wrap_socket(serving.tcp(), server_hostname="localhost")


def pumps(serving: Serving) -> list[dict[str, object]]:
    found: list[dict[str, object]] = serving.status()["gateway"]["pumps"]
    return found


def test_tls_connections_stay_with_the_old_gateway_which_encrypts_for_them(tmp_path: Path) -> None:
    cert = server_file(tmp_path)
    options = ("--tls=optional", f"--tls-cert={cert}")
    with serve(ECHO, *options, workers=2) as serving, ExitStack() as stack:
        clients = [stack.enter_context(secure(serving)) for _ in range(5)]
        plain = stack.enter_context(serving.tcp())
        for client in clients:
            says(client, b"before")
        says(plain, b"before")
        first = serving.gateway
        said = upgrade(serving)
        assert f"process {first} keeps encrypting for 5 TLS connections, for 1.0 h at most" in said
        assert [(each["pid"], each["connections"]) for each in pumps(serving)] == [(first, 5)]
        assert f"TLS of 5 connections: process {first}" in done(serving, "status")
        data = random.Random(1).randbytes(2_000_000)
        for client in clients:
            assert exchange(client, data) == data
        # New connections belong to the new gateway, which becomes the second pump.
        clients.append(stack.enter_context(secure(serving)))
        says(clients[-1], b"before")
        second = serving.gateway
        upgrade(serving)
        assert {(each["pid"], each["connections"]) for each in pumps(serving)} == {
            (first, 5),
            (second, 1),
        }
        for client in (*clients, plain):
            says(client, b"after")
        # The connections of a pump end with it.
        os.kill(first, KILL)
        for client in clients[:5]:
            with pytest.raises((OSError, AssertionError)):
                says(client, b"lost")
        for client in (*clients[5:], plain):
            says(client, b"still here")
        clients[5].close()
        eventually(lambda: not is_alive(second), "the second pump to leave")
        assert pumps(serving) == []


@pytest.mark.long
def test_tls_handshakes_that_are_under_way_are_waited_for(tmp_path: Path) -> None:
    """Other clients are accepted meanwhile, and a client that has not sent anything moves."""
    cert = server_file(tmp_path)
    # On a busy machine the upgrade and the handshake take longer than their default timeouts.
    options = ("--tls=required", f"--tls-cert={cert}", "--upgrade-timeout=2m")
    with serve(ECHO, *options, "--handshake-timeout=2m") as serving, ExitStack() as stack:
        silent = stack.enter_context(serving.tcp())
        engine = TlsEngine(client_context(), server_side=False, server_name="localhost")
        slow = stack.enter_context(serving.tcp())
        engine.handshake(b"")
        hello = engine.data_to_send()
        slow.sendall(hello[:50])
        with secure(serving) as client:
            says(client, b"before")
        with begun(serving):
            serving.run.line("debug wsraw: gateway started", 2)
            # The new gateway becomes ready within this time, and the old one waits.
            until = time.monotonic() + 2
            while time.monotonic() < until:
                with secure(serving) as client:
                    says(client, b"meanwhile")
            assert not any("upgraded: " in line for line in serving.run.lines)
            slow.sendall(hello[50:])
            while not engine.established:
                engine.handshake(slow.recv(65536))
                slow.sendall(engine.data_to_send())
        serving.run.line("upgraded: ")
        slow.sendall(engine.encrypt(b"hello"))
        answer = b""
        while not answer:
            answer = engine.receive_data(slow.recv(65536))
        assert answer == b"hello"
        late = stack.enter_context(
            client_context().wrap_socket(silent, server_hostname="localhost")
        )
        says(late, b"hello")


def test_after_upgrade_linger_tls_connections_are_closed(tmp_path: Path) -> None:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    cert = server_file(tmp_path)
    options = ("--tls=required", f"--tls-cert={cert}", "--upgrade-linger=0", "--upgrade-spread=1s")
    with serve(ECHO, *options) as serving:
        _host, port = serving.addresses[0]
        with connect(
            f"wss://localhost:{port}", sock=serving.tcp(), ssl=client_context(), proxy=None
        ) as client:
            client.send("before")
            assert client.recv(TIMEOUT) == "before"
            old = serving.gateway
            upgrade(serving)
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(TIMEOUT)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
            eventually(lambda: not is_alive(old), "the old gateway to leave")


# --- settings ---


def test_new_settings_take_effect_without_a_disconnect(tmp_path: Path) -> None:
    file = tmp_path / "wsraw.toml"
    file.write_text("max_message_size = 1000\n")
    with serve(ECHO, f"--config={file}") as serving, serving.ws() as client:
        client.send("x" * 900)
        assert client.recv(TIMEOUT) == "x" * 900
        file.write_text('max_message_size = 100000\nstop_timeout = 20\nrun_dir = "elsewhere"\n')
        upgrade(serving)
        line = serving.run.line("settings have changed: .*")[0]
        assert "max_message_size: by the upgrade of the gateway" in line
        assert "stop_timeout: at once" in line
        assert "run_dir: at the next start of the run" in line
        with serving.ws() as new:
            new.send("x" * 90_000)
            assert new.recv(TIMEOUT) == "x" * 90_000
        client.send("after")
        assert client.recv(TIMEOUT) == "after"


HISTORY = """
from wsraw import publish

async def on_message(msg, con):
    what, _, since = msg["data"].partition(" ")
    if what == "join":
        joined = await con.join("room", since=since)
        con.send(f"{joined.position} {joined.recovered}")
    else:
        publish("room", what)
"""


def test_a_client_recovers_from_the_gateway_before(tmp_path: Path) -> None:
    handlers = tmp_path / "handlers.py"
    handlers.write_text(HISTORY)
    with serve(handlers, "--history=room=100,5m") as serving, serving.ws() as other:
        with serving.ws() as client:
            client.send("join ")
            position, _ = str(client.recv(TIMEOUT)).split()
        for text in ("one", "two"):
            other.send(text)
        other.send("join ")
        assert [other.recv(TIMEOUT) for _ in range(2)] == ["one", "two"]
        other.recv(TIMEOUT)
        upgrade(serving)
        other.send("three")
        assert other.recv(TIMEOUT) == "three"
        with serving.ws() as client:
            client.send(f"join {position}")
            assert [client.recv(TIMEOUT) for _ in range(3)] == ["one", "two", "three"]
            epoch = position.partition(":")[0]
            assert client.recv(TIMEOUT) == f"{epoch}:3 True"


def another_python(folder: Path) -> Path:
    """A virtual environment of its own, in which the same wsraw is installed."""
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    here = [str(ROOT), *(place for place in sys.path if "site-packages" in place)]
    (packages / "wsraw.pth").write_text("\n".join(here) + "\n")
    return folder / "bin" / "python"


@pytest.mark.long
def test_a_run_is_upgraded_to_another_virtual_environment(tmp_path: Path) -> None:
    python = another_python(tmp_path / "venv")
    with serve(ECHO) as serving, serving.tcp() as client:
        says(client, b"before")
        assert "upgraded" in done(serving, "upgrade", f"--python={python}")
        says(client, b"after")
        runs = Path(f"/proc/{serving.gateway}/cmdline").read_text().split("\0")
        assert runs[0] == str(python)
        done(serving, "reload")
        says(client, b"reloaded")
        runs = Path(f"/proc/{serving.worker(2)}/cmdline").read_text().split("\0")
        assert runs[0] == str(python)
        missing = ask(serving, "upgrade", f"--python={tmp_path / 'python'}")
        assert missing.returncode == 1
        assert "No such file or directory; give the python of a virtual" in missing.stderr
        says(client, b"still here")


def test_a_reload_upgrades_if_changed_settings_need_it(tmp_path: Path) -> None:
    file = tmp_path / "wsraw.toml"
    file.write_text("max_message_size = 1000\n")
    with serve(ECHO, f"--config={file}", workers=2) as serving, serving.tcp() as client:
        says(client, b"before")
        old = serving.gateway
        file.write_text("max_message_size = 2000\n")
        said = done(serving, "reload")
        assert "max_message_size: by the upgrade of the gateway" in said
        assert "reloaded: 2 workers" in said
        assert serving.gateway != old
        says(client, b"after")
        # A setting that only the supervisor uses needs no new gateway.
        old = serving.gateway
        file.write_text("max_message_size = 2000\nstop_timeout = 20\n")
        assert "stop_timeout: at once" in done(serving, "reload")
        assert serving.gateway == old
        file.write_text("max_message_size =\n")
        refused = ask(serving, "reload")
        assert refused.returncode == 1
        assert "the settings are wrong, and nothing is reloaded" in refused.stderr
        says(client, b"still here")


@pytest.mark.long
def test_status_says_that_an_upgrade_is_under_way() -> None:
    with serve(ECHO, "--start-timeout=20", "--upgrade-timeout=1") as serving:
        with begun(serving) as new:
            os.kill(new, signal.SIGSTOP)
            assert json.loads(done(serving, "status", "--json"))["upgrading"]
            again = ask(serving, "upgrade")
            assert "refused: an upgrade is under way" in again.stderr
        assert not json.loads(done(serving, "status", "--json"))["upgrading"]


def test_a_platform_that_cannot_pass_sockets_refuses_in_words(tmp_path: Path) -> None:
    """Settings that need no new gateway still change."""
    file = tmp_path / "wsraw.toml"
    file.write_text("stop_timeout = 10\n")
    folder = tmp_path / "run"
    options = (f"--workers={ECHO}", f"--config={file}", f"--run-dir={folder}")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT / "tests" / "portable")
    try:
        run = Running(*options)
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    with run:
        run.line("worker 1 is ready")
        refused = wsraw("upgrade", "--run-dir", str(folder))
        assert refused.returncode == 1
        assert "refused: this platform cannot pass the sockets of clients" in refused.stderr
        file.write_text("stop_timeout = 20\nmax_message_size = 100\n")
        told = wsraw("reload", "--run-dir", str(folder))
        assert "stop_timeout: at once" in told.stdout
        assert "max_message_size: at the next start of the run" in told.stdout
        assert "reloaded: 1 worker" in told.stdout
