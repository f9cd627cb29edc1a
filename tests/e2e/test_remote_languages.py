"""Workers in other languages on other machines: the keys are those of CURVE, which libzmq
implements.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.deadline import DEADLINE, eventually
from tests.e2e import languages
from tests.e2e.remote import Keys, Network, endpoint, gateway, remote_workers_ready
from tests.e2e.serving import TIMEOUT, linux
from tests.needs import HAS_SIGNALS
from tests.running import ROOT, command, environment
from wsraw.commands import keys as keygen

pytestmark = linux


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    made = Keys(tmp_path)
    made.add("alice")
    return made


@contextmanager
def foreign(words: list[str], **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A worker that no supervisor watches; it leaves at the end of the block."""
    process = subprocess.Popen(
        words, env=environment() | variables, stdin=subprocess.DEVNULL, text=True
    )
    try:
        yield process
        process.terminate()
        assert process.wait(DEADLINE) == 0 or not HAS_SIGNALS
    finally:
        process.kill()
        process.wait()


@pytest.mark.long
@pytest.mark.parametrize("language", languages.LANGUAGES)
def test_a_remote_worker_connects_with_its_key_and_reconnects_after_a_cut(
    language: str, keys: Keys
) -> None:
    worker = languages.command(language)
    with ExitStack() as stack:
        serving = stack.enter_context(gateway(*keys.of_gateway(), workers=0))
        network = stack.enter_context(Network(endpoint(serving)))
        at = f"--connect={network.endpoint}"
        words = command("worker", worker, at, *keys.of_worker("alice"))
        client = stack.enter_context(serving.ws())
        stack.enter_context(foreign(words))
        client.send("count")
        assert client.recv(TIMEOUT) == "1"
        [shown] = serving.status()["by_hand"]
        assert (shown["key"], shown["address"]) == ("alice", "127.0.0.1")
        texts = [f"upper {n}" for n in range(200)]
        for text in texts[:100]:
            client.send(text)
        network.cut()
        for text in texts[100:]:
            client.send(text)
        assert [client.recv(TIMEOUT) for _ in texts] == [str(n) for n in range(200)]
        # No message was handled twice or never: the state counts them.
        client.send("count")
        assert client.recv(TIMEOUT) == "202"
        remote_workers_ready(serving, 2)


@pytest.mark.long
@pytest.mark.parametrize("language", languages.LANGUAGES)
def test_a_worker_does_not_believe_a_gateway_with_another_key(language: str, keys: Keys) -> None:
    """The counterpart: the keys are really checked."""
    worker = languages.command(language)
    keys.add("mallory")
    with (
        gateway(*keys.of_gateway(), workers=0) as serving,
        Network(endpoint(serving)) as network,
    ):
        wrong = [f"--key={keys.folder}/alice.key", f"--gateway-key={keys.folder}/mallory.pub"]
        at = f"--connect={network.endpoint}"
        with foreign(command("worker", worker, at, *wrong)):
            # The worker connects, fails the handshake, and connects again.
            eventually(lambda: network.made > 1, "a second connection")
            assert not serving.status()["by_hand"]


def snippet() -> str:
    """The code in docs/remote-workers.md for machines without wsraw."""
    text = (ROOT / "docs" / "remote-workers.md").read_text()
    [found] = re.findall(r"```sh\n(cd /etc/wsraw\nread .*?)```", text, re.DOTALL)
    return str(found)


def test_a_remote_worker_needs_no_wsraw_on_its_machine(keys: Keys) -> None:
    worker = languages.command("c")
    with gateway(*keys.of_gateway(), workers=0) as serving:
        script = snippet()
        for said, here in (
            ("/etc/wsraw", shlex.quote(str(keys.folder))),
            ("tcp://gateway.example:7788", endpoint(serving)),
            ("node /srv/chat.mjs", worker),
        ):
            assert said in script
            script = script.replace(said, here)
        with foreign(["sh", "-ec", script]) as process, serving.ws() as client:
            client.send("count")
            assert client.recv(TIMEOUT) == "1"
            [shown] = serving.status()["by_hand"]
            assert shown["key"] == "alice"
            # The instance contains the time: in a container the next process has the same pid.
            assert re.fullmatch(rf"alice-{process.pid}-\d+", shown["instance"])


def test_the_public_half_of_a_key_is_computed(keys: Keys) -> None:
    secret = (keys.folder / "alice.key").read_text().strip()
    assert keygen.public_of(secret) == (keys.folder / "alice.pub").read_text().split()[0]
