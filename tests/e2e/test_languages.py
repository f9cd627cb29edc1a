"""Workers in other languages: each behaves like examples/common.py, and all features of a run
work with them.
"""

from __future__ import annotations

import os
import queue
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.server import ServerConnection

from tests.deadline import DEADLINE, UNIT, eventually
from tests.e2e import languages
from tests.e2e.command_line import ask, done, until_ready
from tests.e2e.serving import EXAMPLES, TIMEOUT, Serving, posix, receive_exactly, serve
from tests.e2e.upstream import web_upstream
from tests.running import is_alive, wsraw

pytestmark = posix


@pytest.fixture(scope="module", params=["python", *languages.LANGUAGES])
def served(request: pytest.FixtureRequest) -> Iterator[Serving]:
    """Two workers of a language. Python comes first, as the reference for the others."""
    is_python = request.param == "python"
    flight = EXAMPLES / "common.py" if is_python else languages.command(request.param)
    with serve(None, f"--workers={flight}:2") as serving:
        until_ready(serving, 2)
        yield serving


def answer(client: ClientConnection, message: str | bytes) -> str | bytes:
    client.send(message)
    return client.recv(TIMEOUT)


def test_text_and_binary_messages_keep_their_type(served: Serving) -> None:
    everything = bytes(range(256))
    with served.ws() as client:
        for message in ("", "grüße 𝄞", "\0", b"", everything, "x" * 500_000, everything * 2000):
            assert answer(client, message) == message
        client.send(["in ", "three ", "parts"])
        assert client.recv(TIMEOUT) == "in three parts"


def test_raw_data_comes_back(served: Serving) -> None:
    data = bytes(range(256)) * 1000
    with served.tcp() as sock:
        sock.sendall(data)
        assert receive_exactly(sock, len(data)) == data


def test_only_ascii_letters_are_capitalized(served: Serving) -> None:
    with served.ws() as client:
        assert answer(client, "upper straße äz") == "STRAßE äZ"
        assert answer(client, b"upper \xe4z\xff") == b"\xe4Z\xff"
        assert answer(client, " upper x") == " upper x"


def test_a_slow_message_does_not_delay_the_others(served: Serving) -> None:
    with served.ws() as client, served.ws() as other:
        client.send("slow 300")
        assert answer(other, "quick") == "quick"
        assert client.recv(TIMEOUT) == "slow 300"


def test_a_connection_is_opened_and_spoken_through(served: Serving) -> None:
    heard: queue.Queue[str | bytes] = queue.Queue()

    def handle(connection: ServerConnection) -> None:
        heard.put(connection.recv(TIMEOUT))
        # The worker must not answer on a connection that it has opened.
        connection.send("hello")
        try:
            heard.put(connection.recv(0.2))
        except TimeoutError:
            heard.put("silence")

    with web_upstream(handle) as upstream, served.ws() as client:
        told = answer(client, f"open ws://127.0.0.1:{upstream.port}/")
        assert isinstance(told, str)
        assert told.startswith("opened ")
        assert told.removeprefix("opened ").isdigit()
        assert heard.get(timeout=TIMEOUT) == "hi"
        assert heard.get(timeout=TIMEOUT) == "silence"


def test_the_state_of_a_connection_outlives_its_worker(served: Serving) -> None:
    with served.ws() as client, served.ws() as other:
        assert [answer(client, "count") for _ in range(3)] == ["1", "2", "3"]
        assert answer(other, "count") == "1"
        assert done(served, "reload") == "reloaded: 2 workers\n"
        assert [answer(client, "count") for _ in range(2)] == ["4", "5"]
        for worker in served.status()["workers"]:
            os.kill(worker["pid"], signal.SIGKILL)
        assert answer(client, "count") == "6"
        assert answer(other, "count") == "2"
    until_ready(served, 2)


def test_nothing_is_lost_when_workers_are_killed(served: Serving) -> None:
    """Messages are in flight all the time, and the state counts each message once."""
    with served.ws() as client:
        texts = [f"message {n}" for n in range(1000)]
        for text in texts[:500]:
            client.send(text)
        for worker in served.status()["workers"]:
            os.kill(worker["pid"], signal.SIGKILL)
        for text in texts[500:]:
            client.send(text)
        assert [client.recv(TIMEOUT) for _ in texts] == texts
        assert answer(client, "count") == "1001"
    until_ready(served, 2)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="local"),
        pytest.param(["--remote"], id="remote", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("language", languages.LANGUAGES)
def test_the_worker_passes_every_rule(language: str, options: list[str]) -> None:
    worker = shlex.split(languages.command(language))
    told = wsraw("conform", f"--timeout={10 * UNIT}", *options, "--", *worker)
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.long
@pytest.mark.parametrize("language", languages.LANGUAGES)
def test_a_late_answer_to_a_dead_gateway_does_not_ban_its_worker(language: str) -> None:
    """The answer is the first batch on the link to the next gateway, and longer than any hello."""
    options = (f"--workers={languages.command(language)}", "--max-message-size=8000000")
    with serve(None, *options) as serving:
        (worker,) = serving.status()["workers"]
        with serving.ws(compression=None) as client:
            client.send("slow " + "1500".zfill(4 << 20))
            eventually(lambda: serving.status()["workers"][0]["in_flight"])
            os.kill(serving.gateway, signal.SIGKILL)
            serving.run.line("worker 1 is ready", 2)
        with serving.ws() as client:
            assert answer(client, "hello") == "hello"
        assert [who["pid"] for who in serving.status()["workers"]] == [worker["pid"]]
        assert "was rejected" not in str(serving)


@pytest.mark.long
@pytest.mark.parametrize("language", languages.LANGUAGES)
def test_no_worker_outlives_supervisor_and_gateway(language: str) -> None:
    """This holds for idle workers, and for those whose handler returns later and cannot send its
    answer.
    """
    with serve(None, f"--workers={languages.command(language)}:2") as serving:
        until_ready(serving, 2)
        workers = [worker["pid"] for worker in serving.status()["workers"]]
        with serving.ws() as client:
            client.send("slow 1500")
            eventually(lambda: any(who["in_flight"] for who in serving.status()["workers"]))
            os.kill(serving.gateway, signal.SIGKILL)
            serving.run.send(signal.SIGKILL)
            serving.run.wait()
        eventually(lambda: not any(map(is_alive, workers)), "all to be gone")


@pytest.mark.parametrize("language", languages.LANGUAGES)
def test_a_worker_without_an_endpoint_says_what_it_needs(language: str) -> None:
    told = subprocess.run(
        shlex.split(languages.command(language)),
        env={name: value for name, value in os.environ.items() if not name.startswith("WSRAW_")},
        capture_output=True,
        encoding="utf-8",
        timeout=DEADLINE,
        check=False,
    )
    assert told.returncode > 0, "an exit, not a signal"
    assert "endpoint" in (told.stdout + told.stderr).lower()


TIMER = """
import {{ Worker }} from {module!r}
let con
let left = 3
setInterval(() => {{ if (con && left-- > 0) con.send('tick') }}, 20)
await new Worker({{ on_message (message, from) {{ con = from }} }}).run()
"""


def test_a_timer_in_javascript_sends(tmp_path: Path) -> None:
    """A send without an event leaves at once, and a timer does not keep the process from ending."""
    script = tmp_path / "timer.mjs"
    script.write_text(
        TIMER.format(module=str(languages.WORKERS / "javascript/worker.mjs")), "utf-8"
    )
    with serve(None, f"--workers={languages.node(script)}") as serving, serving.ws() as client:
        assert answer(client, "hello") == "tick"
        assert [client.recv(TIMEOUT) for _ in range(2)] == ["tick"] * 2
        (worker,) = serving.status()["workers"]
        assert done(serving, "reload") == "reloaded: 1 worker\n"
        eventually(lambda: not is_alive(worker["pid"]), "the end of the first")
        assert "killed" not in "".join(serving.run.lines)


# --- what the supervisor does with a command; one language stands for all ---


def test_a_worker_that_hangs_is_killed() -> None:
    worker = languages.command("c")
    options = ("--handler-timeout=1", "--max-deliveries=1")
    with serve(None, f"--workers={worker}", *options) as serving, serving.ws() as client:
        client.send("slow 60000")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(TIMEOUT)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
        serving.run.line(r"worker 1 was killed by SIG\w+ \(.*\); starting another")
        serving.run.line("worker 2 is ready")
        assert serving.folder is not None
        # Dead letters would keep the temporary folder, and `serve` checks that the folder is gone.
        (serving.folder / "dead-letters.jsonl").unlink()


@pytest.mark.long
def test_python_and_c_workers_serve_one_pool() -> None:
    worker = languages.command("c")
    flights = (f"--workers={EXAMPLES / 'common.py'}:1", f"--workers={worker}:1")
    with serve(None, *flights) as serving, serving.ws() as client:
        until_ready(serving, 2)
        assert {who["runs"] for who in serving.status()["workers"]} == {"common.py", worker}
        assert serving.run.line(rf"\(2 workers, common\.py and {worker}\); ready")
        assert done(serving, "scale", "worker-c=2") == f"3 workers: 1 common.py, 2 {worker}\n"
        assert done(serving, "scale", "common.py=2") == f"4 workers: 2 common.py, 2 {worker}\n"
        for wrong in ("3", "ruby=2"):
            told = ask(serving, "scale", wrong)
            assert told.returncode == 1
            assert f"say which, as NAME=N, of 'common.py', '{worker}'" in told.stderr
        assert done(serving, "reload") == f"reloaded: 4 workers: 2 common.py, 2 {worker}\n"
        # Workers of both languages share the state: the next worker continues the count.
        counts = []
        for _ in range(3):
            counts.append(answer(client, "count"))
            held = {who["pid"] for who in serving.status()["workers"] if who["connections"]}
            for pid in held:
                os.kill(pid, signal.SIGKILL)
            until_ready(serving, 4)
        assert counts == [str(n) for n in range(1, 4)]


def test_output_of_the_worker_is_logged_and_its_environment_is_small() -> None:
    worker = languages.command("c")
    told = 'env | sed -n "s/^WSRAW_\\([A-Z]*\\)=.*/has \\1/p"'
    script = f'echo out; echo "warning: err" >&2; {told}; exec {worker}'
    with serve(None, f"--workers=sh -c '{script}'") as serving:
        serving.run.line("info worker 1: out$")
        serving.run.line("warning worker 1: err$")
        serving.run.line("worker 1 is ready")
        has = sorted(line.partition(" has ")[2] for line in serving.run.lines if ": has " in line)
        assert has == ["ENDPOINT", "INSTANCE", "POOL", "TOKEN"]


def test_the_worker_ends_when_the_supervisor_is_killed() -> None:
    """`Running` checks, when its block ends, whether a child process is left."""
    with serve(None, f"--workers={languages.command('c')}:2") as serving:
        serving.run.line("worker 2 is ready")
        serving.run.send(signal.SIGKILL)
        serving.run.wait()
        eventually(lambda: not any(map(is_alive, serving.run.pids())), "all to be gone")


def test_a_missing_program_is_reported() -> None:
    told = wsraw("run", "--workers", "nobody-has-this --x:2", "--listen", "127.0.0.1:0")
    assert told.returncode == 2
    assert "nobody-has-this: no such program; is it installed, and in PATH?" in told.stderr
    assert told.stderr.count("\n") == 1


def test_a_program_that_dies_at_its_start_ends_the_run() -> None:
    flights = ("--workers", str(EXAMPLES / "common.py"), "--workers", "sh -c 'echo no; exit 3'")
    told = wsraw("run", *flights, "--listen", "127.0.0.1:0")
    assert told.returncode == 3
    assert "info worker 2: no" in told.stderr
