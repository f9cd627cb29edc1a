"""Workers on other machines: which ones are allowed, and for which pools."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.deadline import eventually
from tests.e2e.command_line import ask, done
from tests.e2e.remote import Keys, RemoteWorker, endpoint, gateway, remote_workers_ready
from tests.e2e.serving import ECHO, TIMEOUT, linux
from tests.needs import HAS_SIGNALS
from tests.running import wsraw

pytestmark = linux

SLOW = """
import time

def on_message(msg, con):
    if msg["data"] == "sleep":
        time.sleep(3)
    return __file__
"""


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    made = Keys(tmp_path)
    made.add("alice")
    return made


def test_local_and_remote_workers_serve_one_pool(keys: Keys, tmp_path: Path) -> None:
    here, there = tmp_path / "here.py", tmp_path / "there.py"
    for file in (here, there):
        file.write_text(SLOW)
    with gateway(*keys.of_gateway(), handlers=here) as serving:
        at = endpoint(serving)
        with RemoteWorker(f"--connect={at}", *keys.of_worker("alice"), handlers=there) as alice:
            remote_workers_ready(serving, 1)
            with serving.ws() as busy, serving.ws() as other:
                busy.send("who?")
                first = busy.recv(TIMEOUT)
                busy.send("sleep")
                answers = set()
                while len(answers) < 1 or answers == {first}:
                    other.send("who?")
                    answers.add(other.recv(TIMEOUT))
                assert {first, *answers} == {str(here), str(there)}
                assert busy.recv(TIMEOUT) in (str(here), str(there))
            [shown] = serving.status()["by_hand"]
            assert (shown["key"], shown["address"]) == ("alice", "127.0.0.1")
            assert "alice at 127.0.0.1" in wsraw("status", f"--run-dir={serving.folder}").stdout
            assert not HAS_SIGNALS or alice.stop()[0] == 0
        serving.run.line(r"worker \w+ \(alice at 127.0.0.1\) (has left|is gone)")
        with serving.ws() as client:
            client.send("who?")
            assert client.recv(TIMEOUT) == str(here)


def test_a_gateway_without_local_workers_waits_for_remote_ones(keys: Keys) -> None:
    with gateway(*keys.of_gateway(), workers=0) as serving:
        serving.run.line(r"listening on .* \(no workers of its own\); ready")
        assert serving.status()["workers"] == []
        with serving.ws() as early:
            # No worker is there yet, so the message waits.
            early.send("early")
            with RemoteWorker(f"--connect={endpoint(serving)}", *keys.of_worker("alice")):
                assert early.recv(TIMEOUT) == "early"
                assert done(serving, "reload") == "reloaded: 0 workers\n"
                told = ask(serving, "scale", "2")
                assert told.returncode == 1
                assert "this run has no workers of its own" in told.stderr
                if HAS_SIGNALS:
                    serving.run.send(signal.SIGTTIN)
                    serving.run.line("SIGTTIN: this run has no workers of its own")
                early.send("late")
                assert early.recv(TIMEOUT) == "late"


def test_a_module_named_zmq_beside_the_handlers_does_not_hide_that_of_the_link(
    keys: Keys, tmp_path: Path
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "zmq.py").touch()
    file = folder / "handlers.py"
    file.write_text(ECHO.read_text())
    with gateway(*keys.of_gateway(), workers=0) as serving:
        options = [f"--connect={endpoint(serving)}", *keys.of_worker("alice")]
        with RemoteWorker(*options, handlers=file), serving.ws() as client:
            client.send("x")
            assert client.recv(TIMEOUT) == "x"


def test_a_remote_worker_leaves_when_the_run_stops(keys: Keys) -> None:
    with gateway(*keys.of_gateway()) as serving:
        alice = RemoteWorker(f"--connect={endpoint(serving)}", *keys.of_worker("alice"))
        remote_workers_ready(serving, 1)
    with alice:
        assert alice.end()[0] == 0


def test_a_worker_with_an_unknown_key_waits_until_its_key_is_added(keys: Keys) -> None:
    keys.add("eve", allow=False)
    with gateway(*keys.of_gateway()) as serving:
        at = endpoint(serving)
        with RemoteWorker(f"--connect={at}", *keys.of_worker("eve")) as eve:
            serving.run.line("a worker at 127.0.0.1 was rejected: its key is not in worker_keys")
            assert not serving.status()["by_hand"]
            keys.allow("eve")
            remote_workers_ready(serving, 1)
            assert eve.process.poll() is None


def test_a_worker_does_not_believe_a_gateway_with_another_key(keys: Keys) -> None:
    """The counterpart of the gateway's check of keys, on the worker's side."""
    keys.add("mallory")
    with gateway(*keys.of_gateway()) as serving:
        wrong = [f"--key={keys.folder}/alice.key", f"--gateway-key={keys.folder}/mallory.pub"]
        with RemoteWorker(f"--connect={endpoint(serving)}", *wrong) as alice:
            assert alice.process.stderr is not None
            assert "waiting for a gateway" in alice.process.stderr.readline()
            assert not serving.status()["by_hand"]
            assert not HAS_SIGNALS or alice.stop()[0] == 0


def test_without_a_key_no_worker_is_let_in_by_a_gateway_with_keys(keys: Keys) -> None:
    with gateway(*keys.of_gateway()) as serving:
        assert serving.folder is not None
        token = (serving.folder / "token").read_text().strip()
        with RemoteWorker(f"--connect={endpoint(serving)}", f"--token={token}") as alice:
            assert alice.process.stderr is not None
            assert "waiting for a gateway" in alice.process.stderr.readline()
            assert not serving.status()["by_hand"]


def test_a_key_is_good_only_for_its_pools(keys: Keys) -> None:
    keys.add("bob", "pools=chat,feed")
    with gateway(*keys.of_gateway()) as serving:
        at = f"--connect={endpoint(serving)}"
        with RemoteWorker(at, *keys.of_worker("bob")) as bob:
            code, said = bob.end()
        assert code == 4
        assert "its key is not for the pool default" in said
        serving.run.line(r"\(bob at 127.0.0.1\) was rejected: its key is not for the pool default")
        with RemoteWorker(at, "--pool=feed", *keys.of_worker("bob")):
            remote_workers_ready(serving, 1)
            [shown] = serving.status()["by_hand"]
            assert (shown["key"], shown["pool"]) == ("bob", "feed")


def test_on_loopback_the_token_is_enough_and_required() -> None:
    with gateway() as serving:
        assert serving.folder is not None
        at = f"--connect={endpoint(serving)}"
        with RemoteWorker(at, "--token=guessed") as wrong:
            code, said = wrong.end()
        assert code == 4
        assert "its token is wrong" in said
        token = (serving.folder / "token").read_text().strip()
        with RemoteWorker(at, f"--token={token}"):
            remote_workers_ready(serving, 1)
            assert eventually(lambda: serving.status()["by_hand"])[0]["address"] == "127.0.0.1"


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]"])
def test_a_worker_listener_open_to_the_network_needs_keys(address: str, tmp_path: Path) -> None:
    told = wsraw("run", f"--worker-listen=tcp://{address}:7788")
    assert told.returncode == 2
    assert "is open to the network: make keys with `wsraw keygen`" in told.stderr
    assert told.stderr.count("\n") == 1


def test_a_worker_listener_whose_port_is_taken_ends_the_run() -> None:
    with gateway() as serving:
        told = wsraw("run", "--listen=127.0.0.1:0", f"--worker-listen={endpoint(serving)}")
    assert told.returncode == 3
    assert "worker_listen: tcp://127.0.0.1" in told.stderr
    assert "Address already in use" in told.stderr


@pytest.mark.parametrize("how", ["mode", "missing", "garbage"])
def test_wrong_key_files_are_reported_before_anything_starts(how: str, keys: Keys) -> None:
    secret = keys.folder / "gateway.key"
    if how == "mode":
        secret.chmod(0o644)
    elif how == "missing":
        secret.unlink()
    else:
        (keys.allowed / "bad.pub").write_text("nonsense\n")
    told = wsraw("run", "--worker-listen=tcp://127.0.0.1:0", *keys.of_gateway())
    assert told.returncode == 2
    says = {"mode": "chmod 600", "missing": "No such file", "garbage": "line 1 is not a key"}
    assert says[how] in told.stderr
    assert told.stderr.count("\n") == 1
