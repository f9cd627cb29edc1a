"""examples/monitoring: all its names are metrics, and a real Prometheus loads it, scrapes and
alerts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.authority import server_file
from tests.deadline import DEADLINE, eventually
from tests.needs import KILL
from tests.ports import free_port
from tests.running import ROOT, Running, wsraw
from wsraw.admin.metrics import METRICS

FOLDER = ROOT / "examples/monitoring"
MUST = os.environ.get("WSRAW_TEST_PROMETHEUS") == "must"
prometheus = pytest.mark.skipif(
    not MUST and not shutil.which("prometheus"), reason="no Prometheus here"
)

SUFFIXES = ("_bucket", "_sum", "_count")


def known() -> set[str]:
    """The metric names that a query may use."""
    names = {metric.shown for metric in METRICS}
    histograms = [metric.name for metric in METRICS if metric.kind == "histogram"]
    return names | {name + suffix for name in histograms for suffix in SUFFIXES}


def panels() -> list[dict[str, Any]]:
    """The panels of the dashboard."""
    board = json.loads((FOLDER / "grafana.json").read_text("utf-8"))
    return list(board["panels"])


def queries_of(panel: dict[str, Any]) -> list[str]:
    """The queries of a panel, with the values that Grafana would insert for its variables."""
    return [
        target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
        for target in panel["targets"]
    ]


def queries() -> list[str]:
    """All queries of the dashboard."""
    return [query for panel in panels() for query in queries_of(panel)]


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_there_are() -> None:
    alerts = re.findall(r"expr: (.*)", (FOLDER / "alerts.yml").read_text("utf-8"))
    assert len(alerts) > 10
    for expression in [*queries(), *alerts]:
        names = re.findall(r"\bwsraw_\w+", expression)
        assert names or "up{" in expression
        assert set(names) <= known(), expression


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    board = json.loads((FOLDER / "grafana.json").read_text("utf-8"))
    places = [
        (at["x"] + x, at["y"] + y)
        for at in (panel["gridPos"] for panel in board["panels"])
        for x in range(at["w"])
        for y in range(at["h"])
    ]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


@prometheus
def test_promtool_finds_nothing_wrong_with_rules_and_configuration() -> None:
    for what, file in (("rules", "alerts.yml"), ("config", "prometheus.yml")):
        found = subprocess.run(
            ["promtool", "check", what, file], cwd=FOLDER, capture_output=True, encoding="utf-8"
        )
        assert found.returncode == 0, found.stderr + found.stdout


def ask(address: str, path: str, **query: str) -> Any:
    """The answer of the Prometheus API, or None if there is none."""
    url = f"http://{address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
            return json.load(answer)["data"]
    except OSError:
        return None


@contextmanager
def scraping(folder: Path, target: str) -> Iterator[str]:
    """A Prometheus with our files and short intervals; yields its address."""
    address = f"127.0.0.1:{free_port()}"
    config = (FOLDER / "prometheus.yml").read_text("utf-8")
    config = config.replace("15s", "1s").replace("127.0.0.1:9100", target)
    (folder / "prometheus.yml").write_text(config, "utf-8")
    alerts = (FOLDER / "alerts.yml").read_text("utf-8")
    (folder / "alerts.yml").write_text(re.sub(r"for: \w+", "for: 1s", alerts), "utf-8")
    arguments = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with open(folder / "prometheus.log", "wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log)
    try:
        eventually(lambda: ask(address, "status/runtimeinfo"), "Prometheus")
        yield address
    finally:
        process.kill()
        process.wait()


def value(address: str, query: str) -> float | None:
    """The first value that a query finds."""
    found = (ask(address, "query", query=query) or {}).get("result")
    return float(found[0]["value"][1]) if found else None


def found(address: str, query: str) -> bool:
    """Whether a query finds numbers."""
    results = (ask(address, "query", query=query) or {}).get("result") or []
    return any(each["value"][1] != "NaN" for each in results)


def firing(address: str) -> set[str]:
    alerts = (ask(address, "alerts") or {}).get("alerts", [])
    return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}


@prometheus
@pytest.mark.long
def test_prometheus_scrapes_a_run_and_alerts_when_a_pool_has_no_worker(tmp_path: Path) -> None:
    handlers = tmp_path / "echo.py"
    handlers.write_text("def on_message(msg, con):\n    return msg\n")
    with Running("--workers", f"{handlers}:2", "--admin", "127.0.0.1:0") as run:
        run.ready()
        target = run.line(r"admin: /metrics, .* at http://([^ ]+)")[1]
        with scraping(tmp_path, target) as address:
            eventually(lambda: value(address, "wsraw_workers_ready") == 2)
            for panel in panels():
                if "Empty " not in panel.get("description", ""):
                    for query in queries_of(panel):
                        eventually(lambda query=query: found(address, query), query)
            assert firing(address) == set()
            # The handlers file cannot be loaded, so no worker replaces the killed ones.
            handlers.write_text("raise SystemExit(1)\n")
            for name in ("worker 1", "worker 2"):
                os.kill(run.pid(name), KILL)
            eventually(lambda: "WsrawPoolWithoutWorker" in firing(address))
            handlers.write_text("def on_message(msg, con):\n    return msg\n")
            eventually(lambda: "WsrawPoolWithoutWorker" not in firing(address))
        with scraping(tmp_path, "127.0.0.1:1") as address:
            eventually(lambda: "WsrawDown" in firing(address))


def talk(port: int, count: int) -> None:
    """Send messages, one at a time, each on a connection of its own."""
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
            client.sendall(b"hello")
            # A handler that fails resets a raw connection.
            with suppress(ConnectionError):
                client.recv(1)


def request(address: tuple[str, int], head: str) -> bytes:
    """The first bytes of the answer to an HTTP request."""
    with socket.create_connection(address, DEADLINE) as client:
        client.sendall(f"{head}\r\nHost: {address[0]}\r\nConnection: close\r\n\r\n".encode())
        return client.recv(12)


@prometheus
@pytest.mark.long
def test_every_panel_has_data_once_its_thing_has_happened(tmp_path: Path) -> None:
    handlers = tmp_path / "echo.py"
    handlers.write_text(
        "def on_message(msg, con):\n    return msg\n"
        "def on_request(request, con):\n    return 'hello'\n"
    )
    http = "127.0.0.1:0?plain_http=handlers"
    tls = f"wss://127.0.0.1:0?tls_cert={server_file(tmp_path, days=30)}"
    arguments = ("--workers", f"{handlers}:2", "--admin", "127.0.0.1:0")
    with Running(*arguments, listen=["127.0.0.1:0", http, tls]) as run:
        run.ready()
        target = run.line(r"admin: /metrics, .* at http://([^ ]+)")[1]
        said = run.line(r"listening on (.*); ready")[1]
        ports = list(dict.fromkeys(re.findall(r"127\.0\.0\.1:(\d+)", said)))
        web = ("127.0.0.1", int(ports[1]))

        def happen() -> None:
            talk(run.port, 20)
            assert request(web, "GET / HTTP/1.1") == b"HTTP/1.1 200"
            assert request(web, f"GET /{'x' * 20_000} HTTP/1.1") == b"HTTP/1.1 431"
            workers = re.findall(r"worker (\d+) started", str(run))
            with suppress(OSError, AssertionError):
                os.kill(run.pid(f"worker {workers[-1]}"), KILL)

        with scraping(tmp_path, target) as address:
            eventually(lambda: value(address, "wsraw_workers_ready") == 2)
            for panel in panels():
                for query in queries_of(panel):

                    def look(query: str = query) -> bool:
                        if found(address, query):
                            return True
                        happen()
                        return False

                    eventually(look, query)


@prometheus
@pytest.mark.long
def test_prometheus_alerts_when_a_release_fails_and_before_a_certificate_ends(
    tmp_path: Path,
) -> None:
    handlers = tmp_path / "echo.py"
    handlers.write_text("def on_message(msg, con):\n    return msg\n")
    tls = f"wss://127.0.0.1:0?tls_cert={server_file(tmp_path, days=3)}"
    arguments = ("--workers", f"{handlers}:2", "--admin", "127.0.0.1:0")
    folder = f"--run-dir={tmp_path / 'run'}"
    with Running(*arguments, folder, listen=["127.0.0.1:0", tls]) as run:
        run.ready()
        target = run.line(r"admin: /metrics, .* at http://([^ ]+)")[1]
        with scraping(tmp_path, target) as address:
            calls = 'wsraw_handler_seconds_count{handler="on_message"}'
            talk(run.port, 200)
            eventually(lambda: value(address, calls) == 200, "the calls of both workers")
            assert value(address, "wsraw_handler_exceptions_total") == 0
            assert "WsrawHandlersRaise" not in firing(address)
            eventually(lambda: "WsrawCertificateExpires" in firing(address))
            # The counters of replaced workers stay.
            handlers.write_text("def on_message(msg, con):\n    raise ValueError(msg)\n")
            assert wsraw("reload", folder).returncode == 0
            talk(run.port, 20)
            eventually(lambda: value(address, calls) == 220, "the calls of all four")
            eventually(lambda: "WsrawHandlersRaise" in firing(address))
