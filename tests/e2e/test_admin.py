"""The admin process of a real run: metrics and health checks, and that clients do not depend on
it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect

from tests.deadline import DEADLINE, eventually
from tests.needs import KILL, KILLED, signals
from tests.running import Running, is_alive, wsraw

ECHO = "def on_message(msg, con):\n    return msg\n"


def echo(folder: Path) -> str:
    file = folder / "echo.py"
    file.write_text(ECHO)
    return str(file)


def address_of(run: Running) -> str:
    return run.line(r"admin: /metrics, .* at (http://[^ ]+)")[1]


def get(run: Running, path: str, **headers: str) -> tuple[int, str]:
    """Send a GET request to the admin address of a run."""
    return answer_to(urllib.request.Request(address_of(run) + path, headers=headers))


def answer_to(request: urllib.request.Request) -> tuple[int, str]:
    """The status and the body of the response."""
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(run: Running, name: str) -> dict[str, float]:
    """The values of a metric, by the values of its labels in the order of the labels' names."""
    status, text = get(run, "/metrics")
    assert status == 200
    return {
        ",".join(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def test_the_metrics_count_what_clients_do(tmp_path: Path) -> None:
    arguments = ["--workers", f"{echo(tmp_path)}:2", "--admin", "127.0.0.1:0"]
    with Running(*arguments, listen=["127.0.0.1:0"]) as run:
        run.ready()
        with connect(f"ws://127.0.0.1:{run.port}", compression=None) as client:
            for number in range(10):
                client.send(f"{number}")
                assert client.recv() == f"{number}"
            place = "websocket,127.0.0.1:0,default"
            eventually(lambda: samples(run, "wsraw_connections")[place] == 1)
            sent = samples(run, "wsraw_messages_total")
            assert (sent[f"in,{place}"], sent[f"out,{place}"]) == (10, 10)
            carried = samples(run, "wsraw_traffic_bytes_total")
            assert carried[f"in,{place}"] > 10 * 7
            assert carried[f"out,{place}"] > 10 * 3
        eventually(lambda: samples(run, "wsraw_connections")[place] == 0)
        closed = samples(run, "wsraw_connections_closed_total")
        assert closed == {f"peer,{place}": 1}
        assert samples(run, "wsraw_connections_accepted_total") == {"127.0.0.1:0": 1}
        handled = samples(run, "wsraw_events_handled_total")["default"]
        os.kill(run.pid("worker 1"), KILL)
        run.line("worker 3 is ready")
        assert samples(run, "wsraw_events_handled_total")["default"] == handled == 12
        eventually(lambda: sum(samples(run, "wsraw_restarts_total").values()) == 1)
        memory = samples(run, "wsraw_worker_resident_memory_bytes")
        assert {"default,2", "default,3"} <= memory.keys()


def test_a_run_is_ready_while_each_pool_has_a_worker_and_alive_while_it_answers(
    tmp_path: Path,
) -> None:
    arguments = [
        "--workers",
        echo(tmp_path),
        "--pool=late",
        "--route=/late=late",
        "--admin",
        "127.0.0.1:0",
    ]
    with Running(*arguments) as run:
        run.ready()
        assert get(run, "/healthz") == (200, "ok\n")
        assert get(run, "/readyz") == (503, "the pool late has no ready worker\n")


def test_the_death_of_the_admin_process_changes_nothing_for_clients(tmp_path: Path) -> None:
    with Running("--workers", echo(tmp_path), "--admin", "127.0.0.1:0") as run:
        run.ready()
        with connect(f"ws://127.0.0.1:{run.port}") as client:
            for count in (1, 2):
                os.kill(run.pids("admin")[-1], KILL)
                run.line(f"admin {KILLED}.*; starting another", count)
                run.line("admin started", count + 1)
                client.send("still here")
                assert client.recv() == "still here"
            eventually(lambda: get(run, "/healthz") == (200, "ok\n"))
        pids = run.pids("admin")
    assert not any(map(is_alive, pids)), "none outlives the run, not even one that is killed"


@signals
def test_an_admin_process_that_hangs_is_replaced(tmp_path: Path) -> None:
    """A service manager may restart the whole run if a health check gets no answer."""
    arguments = ["--workers", echo(tmp_path), "--admin", "0.0.0.0:0", "--gateway-timeout=2s"]
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    with Running(*arguments, "--admin-token", str(secret)) as run:
        run.ready()
        url = f"http://127.0.0.1:{address_of(run).rpartition(':')[2]}/healthz"
        eventually(lambda: answer_to(urllib.request.Request(url)) == (200, "ok\n"))
        with connect(f"ws://127.0.0.1:{run.port}") as client:
            # The second health check proves that the first was answered, which may take longer.
            run.line("HEAD / HTTP", 2)
            os.kill(run.pid("admin"), signal.SIGSTOP)
            run.line("ending admin: it has not answered for 2 s")
            run.line("admin: Fatal Python error: Aborted")
            run.line("admin started", 2)
            assert answer_to(urllib.request.Request(url)) == (200, "ok\n")
            client.send("still here")
            assert client.recv() == "still here"


def test_an_admin_address_in_use_is_an_error_at_the_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "{}:{}".format(*taken.getsockname())
        ended = wsraw(
            "run", "--workers", echo(tmp_path), "--listen=127.0.0.1:0", "--admin", address
        )
    assert ended.returncode == 3
    assert f"cannot listen on {address}: the address is in use" in ended.stderr


def test_other_machines_need_a_token(tmp_path: Path) -> None:
    ended = wsraw("run", "--workers", echo(tmp_path), "--admin", "0.0.0.0:0")
    assert ended.returncode == 2
    assert "give admin_token, a file with a secret" in ended.stderr
    missing = str(tmp_path / "token")
    arguments = ["--workers", echo(tmp_path), "--admin", "0.0.0.0:0", "--admin-token", missing]
    ended = wsraw("run", *arguments)
    assert ended.returncode == 2
    assert f"admin_token: {missing}" in ended.stderr
    Path(missing).write_text("s3cret\n")
    with Running(
        "--workers", echo(tmp_path), "--admin=127.0.0.1:0", "--admin-token", missing
    ) as run:
        run.ready()
        assert get(run, "/metrics")[0] == 401
        assert get(run, "/metrics", Authorization="Bearer s3cret")[0] == 200
        assert get(run, "/readyz")[0] == 200


@signals
def test_a_stopping_run_is_alive_and_not_ready(tmp_path: Path) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text("import time\ndef on_message(msg, con):\n    time.sleep(600)\n")
    arguments = ["--workers", str(slow), "--admin", "127.0.0.1:0", "--stop-timeout", "600"]
    with Running(*arguments) as run:
        run.ready()
        with connect(f"ws://127.0.0.1:{run.port}") as client:
            client.send("now it is busy")
            eventually(lambda: samples(run, "wsraw_events_in_flight")["default"] == 1)
            run.send(signal.SIGTERM)
            run.line("SIGTERM: stopping")
            eventually(lambda: get(run, "/readyz")[1].startswith("the run is stopping"))
            assert get(run, "/readyz")[0] == 503
            assert get(run, "/healthz") == (200, "ok\n")


HALL = """
def on_connect(inf, con):
    con.user = con.request.query["name"]
    con.join("hall")
    con.send(str(con.id))
"""


def test_any_program_can_publish(tmp_path: Path) -> None:
    handlers, token = tmp_path / "hall.py", tmp_path / "token"
    handlers.write_text(HALL)
    token.write_text("sesame\n")
    arguments = ["--workers", str(handlers), "--admin", "127.0.0.1:0"]
    arguments += ["--publish-token", str(token)]

    def post(run: Running, **fields: object) -> tuple[int, str]:
        body = json.dumps(fields).encode()
        headers = {"Authorization": "Bearer sesame", "Content-Type": "application/json"}
        url = f"{address_of(run)}/publish"
        return answer_to(urllib.request.Request(url, body, headers, method="POST"))

    with Running(*arguments, listen=["127.0.0.1:0"]) as run:
        run.ready()
        url = f"ws://127.0.0.1:{run.port}/?name="
        with connect(f"{url}ann") as ann, connect(f"{url}bob") as bob:
            ids = [int(client.recv(DEADLINE)) for client in (ann, bob)]
            assert post(run, group="hall", data="to all") == (200, '{"sent": 2}\n')
            assert post(run, group="hall", base64="/wA=", exclude=[ids[0]])[1] == '{"sent": 1}\n'
            assert post(run, user="ann", data="to ann")[1] == '{"sent": 1}\n'
            assert post(run, user="nobody", data="x")[1] == '{"sent": 0}\n'
            assert post(run, group="hall", data={"n": 1})[1] == '{"sent": 2}\n'
            assert [ann.recv(DEADLINE) for _ in range(2)] == ["to all", "to ann"]
            assert ann.recv(DEADLINE) == '{"n":1}'
            assert [bob.recv(DEADLINE) for _ in range(2)] == ["to all", b"\xff\0"]
