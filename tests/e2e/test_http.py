"""HTTP requests in real runs: on_request, and the files of `static`."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import authority
from tests.deadline import COMMAND_DEADLINE, DEADLINE, eventually
from tests.e2e.command_line import done
from tests.e2e.serving import Serving, linux
from tests.needs import KILL
from tests.running import Running, is_alive

MIB = 1024 * 1024
NONE: Mapping[str, str] = {}

HANDLERS = """
import time

def on_request(request, con):
    if request.path == "/slow":
        time.sleep(0.02)
    if request.path == "/raise":
        raise ValueError("no")
    if request.path == "/sleep":
        time.sleep(1000)
    if request.path == "/die":
        import os
        os._exit(9)
    if request.path == "/pieces":
        con.respond(200, {"Content-Type": "text/plain"}, final=False)
        for n in range(10):
            con.send(f"{n}\\n", final=False)
        con.send("end\\n")
        return
    if request.path.startswith("/file"):
        return
    return {
        "method": request.method,
        "path": request.path,
        "query": dict(request.query),
        "body": request.body.decode(),
        "kind": con.kind,
    }

def on_message(msg, con):
    return msg

def on_connect(inf, con):
    print("on_connect", con.kind)

def on_close(con):
    print("on_close", con.kind)
"""


@pytest.fixture(scope="module")
def handlers(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("http") / "handlers.py"
    file.write_text(HANDLERS)
    return str(file)


@pytest.fixture(scope="module")
def run(handlers: str) -> Iterator[Running]:
    options = ("--plain-http=handlers", "--handler-timeout=3s", "--max-deliveries=1")
    with Running(f"--workers={handlers}:2", *options) as run:
        yield run.ready()


def ask(
    run: Running, method: str, target: str, body: object = None, headers: Mapping[str, str] = NONE
) -> tuple[int, bytes]:
    con = http.client.HTTPConnection("127.0.0.1", run.port, timeout=DEADLINE)
    try:
        con.request(method, target, body, dict(headers))  # type: ignore[arg-type]
        response = con.getresponse()
        return response.status, response.read()
    finally:
        con.close()


# --- on_request ---


def test_a_client_library_keeps_one_connection_for_many_requests(run: Running) -> None:
    con = http.client.HTTPConnection("127.0.0.1", run.port, timeout=DEADLINE)
    con.connect()
    assert con.sock is not None
    port = con.sock.getsockname()[1]
    for n in range(50):
        con.request("POST", f"/a?n={n}", f"body {n}")
        response = con.getresponse()
        assert response.status == 200
        wanted = f'"query": {{"n": "{n}"}}, "body": "body {n}", "kind": "http"'
        assert wanted in response.read().decode()
    assert con.sock.getsockname()[1] == port
    con.request("GET", "/pieces")
    assert con.getresponse().read() == b"".join(b"%d\n" % n for n in range(10)) + b"end\n"
    con.request("HEAD", "/x")
    response = con.getresponse()
    assert (response.status, response.read()) == (200, b"")
    assert int(response.headers["Content-Length"]) > 10
    con.request("PUT", "/chunks", iter([b"one ", b"two"]), encode_chunked=True)
    assert b'"body": "one two"' in con.getresponse().read()
    con.close()


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_requests_of_curl_are_answered(run: Running) -> None:
    url = f"http://127.0.0.1:{run.port}"
    done = subprocess.run(
        ["curl", "-sS", "-i", "--http1.0", f"{url}/one", "-d", "@-", "-H", "Expect: 100-continue"],
        input="from curl" * 1000,
        capture_output=True,
        encoding="utf-8",
        timeout=COMMAND_DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    assert "200 OK" in done.stdout
    done = subprocess.run(
        ["curl", "-sS", f"{url}/one", f"{url}/two", f"{url}/three", "-d", "@-"],
        input="x" * 50_000,
        capture_output=True,
        encoding="utf-8",
        timeout=COMMAND_DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    assert [done.stdout.count(name) for name in ("/one", "/two", "/three")] == [1, 1, 1]


def test_a_handler_that_raises_is_500_with_its_traceback_in_the_log(run: Running) -> None:
    assert ask(run, "GET", "/raise?secret=1") == (500, b"the server has failed\n")
    run.line("on_request of connection .* raised")
    run.line("ValueError: no")
    assert not [line for line in run.lines if "secret" in line]


def test_a_handler_that_hangs_is_500_when_its_worker_is_killed(run: Running) -> None:
    assert ask(run, "GET", "/sleep")[0] == 500


def test_a_handler_that_ends_its_process_is_500(run: Running) -> None:
    assert ask(run, "GET", "/die")[0] == 500


def test_a_request_that_no_handler_answers_is_404(run: Running) -> None:
    assert ask(run, "GET", "/file.txt") == (404, b"nothing is served here\n")


def test_requests_are_no_other_events(run: Running) -> None:
    ask(run, "GET", "/")
    assert not [line for line in run.lines if re.search("on_(connect|close) http", line)]


def test_websockets_and_raw_clients_are_served_beside_requests(run: Running) -> None:
    with socket.create_connection(("127.0.0.1", run.port), DEADLINE) as raw:
        raw.sendall(b"raw data\n")
        assert raw.recv(100) == b"raw data\n"


def test_without_on_request_the_log_warns_and_requests_get_404_at_once(tmp_path: Path) -> None:
    file = tmp_path / "echo.py"
    file.write_text("def on_message(msg, con):\n    return msg\n")
    with Running(f"--workers={file}", "--plain-http=handlers") as run:
        run.ready()
        run.line(r"warning worker 1: \S+echo.py has no on_request: each HTTP request gets 404")
        with socket.create_connection(("127.0.0.1", run.port), DEADLINE) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 404 ")


def test_on_request_that_would_never_be_called_ends_the_start(handlers: str) -> None:
    with Running(f"--workers={handlers}") as run:
        assert run.wait() == 3
        assert "on_request would never be called" in str(run)
        assert "--plain-http handlers" in str(run)


def test_each_request_is_answered_once_or_its_connection_closed_when_workers_die(
    handlers: str,
) -> None:
    """Workers are killed in the middle of requests, under load; no client gets the answer to
    another request.
    """
    options = ("--plain-http=handlers", "--max-deliveries=100")
    with Running(f"--workers={handlers}:3", *options) as run:
        port = run.ready().port
        stop = threading.Event()
        wrong: list[str] = []
        counts = {"answered": 0, "closed": 0, "failed": 0}
        lock = threading.Lock()

        def client(number: int) -> None:
            con = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
            n = 0
            while not stop.is_set():
                n += 1
                mark = f"client {number} request {n}"
                try:
                    con.request("POST", "/slow", mark)
                    response = con.getresponse()
                    text = response.read().decode()
                except (http.client.HTTPException, OSError):
                    with lock:
                        counts["closed"] += 1
                    con.close()
                    continue
                with lock:
                    if response.status == 200 and f'"body": "{mark}"' in text:
                        counts["answered"] += 1
                    elif response.status in (500, 503):
                        counts["failed"] += 1
                        con.close()
                    else:
                        wrong.append(f"{mark}: {response.status} {text}")
            con.close()

        threads = [threading.Thread(target=client, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        killed: set[int] = set()
        try:
            for _ in range(8):
                before = counts["answered"]
                eventually(lambda b=before: counts["answered"] > b + 20, f"answers\n{run}")  # type: ignore[misc]
                pids = [pid for pid in run.pids("worker [0-9]+") if is_alive(pid)]
                killed.add(pids[0])
                os.kill(pids[0], KILL)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not wrong
        assert len(killed) == 8
        # No request is lost: another worker has answered.
        assert (counts["closed"], counts["failed"]) == (0, 0)


def test_requests_over_tls_are_https(handlers: str, tmp_path: Path) -> None:
    cert = authority.server_file(tmp_path)
    options = ("--plain-http=handlers", f"--tls-cert={cert}")
    with Running(f"--workers={handlers}", *options) as run:
        context = authority.client_context()
        con = http.client.HTTPSConnection(
            "localhost", run.ready().port, timeout=DEADLINE, context=context
        )
        for n in range(20):
            con.request("POST", f"/{n}", "x" * 100_000)
            response = con.getresponse()
            assert response.status == 200
            assert response.read().endswith(b'x", "kind": "http"}')
        con.close()


# --- static ---


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "public"
    (folder / "docs").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".well-known").mkdir()
    (folder / "empty").mkdir()
    (folder / "index.html").write_text("<h1>start</h1>")
    (folder / "docs" / "index.html").write_text("<h1>docs</h1>")
    (folder / "a b.css").write_text("body {}")
    (folder / "app.mjs").write_text("export {}")
    (folder / "data").write_bytes(b"\0\1")
    (folder / ".env").write_text("SECRET")
    (folder / ".git" / "config").write_text("SECRET")
    (folder / ".well-known" / "acme").write_text("token")
    (folder.parent / "secret.txt").write_text("SECRET")
    with (folder / "large").open("wb") as stream:
        stream.write(b"begin")
        stream.truncate(256 * MIB)
        stream.seek(256 * MIB - 3)
        stream.write(b"end")
    if os.name == "posix":
        (folder / "out.txt").symlink_to(folder.parent / "secret.txt")
        (folder / "up").symlink_to(folder.parent)
        (folder / "hidden.txt").symlink_to(".env")
        (folder / "in.css").symlink_to("a b.css")
        os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture(scope="module")
def site(public: Path, handlers: str) -> Iterator[Running]:
    with Running(f"--workers={handlers}", f"--static={public}", "--plain-http=handlers") as run:
        run.line("ready .*pool static")
        yield run.ready()


def get(
    run: Running, target: str, headers: Mapping[str, str] = NONE, method: str = "GET"
) -> tuple[int, dict[str, str], bytes]:
    con = http.client.HTTPConnection("127.0.0.1", run.port, timeout=DEADLINE)
    try:
        con.putrequest(method, target, skip_accept_encoding=True)
        for name, value in headers.items():
            con.putheader(name, value)
        con.endheaders()
        response = con.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        con.close()


def test_files_are_served_with_their_type(public: Path) -> None:
    with Running(f"--static={public}") as run:
        run.line("ready .*pool static")
        for target, kind, body in (
            ("/", "text/html; charset=utf-8", b"<h1>start</h1>"),
            ("/index.html?x", "text/html; charset=utf-8", b"<h1>start</h1>"),
            ("/docs/", "text/html; charset=utf-8", b"<h1>docs</h1>"),
            ("/a%20b.css", "text/css; charset=utf-8", b"body {}"),
            ("/app.mjs", "text/javascript; charset=utf-8", b"export {}"),
            ("/data", "application/octet-stream", b"\0\1"),
            ("/.well-known/acme", "application/octet-stream", b"token"),
        ):
            status, headers, found = get(run, target)
            assert (status, headers["Content-Type"], found) == (200, kind, body)
            assert headers["X-Content-Type-Options"] == "nosniff"
            status, headers, found = get(run, target, method="HEAD")
            assert (status, found) == (200, b"")
            assert headers["Content-Length"] == str(len(body))
        status, headers, _ = get(run, "/docs?a=b")
        assert (status, headers["Location"]) == (301, "/docs/?a=b")
        assert get(run, "/empty/")[0] == 404
        status, headers, _ = get(run, "/", method="DELETE")
        assert (status, headers["Allow"]) == (405, "GET, HEAD")


OUT = [
    "/../secret.txt",
    "/docs/../../secret.txt",
    "/%2e%2e/secret.txt",
    "/..%2fsecret.txt",
    "/..%5csecret.txt",
    "/docs/%2e%2e%2f%2e%2e%2fsecret.txt",
    "/.env",
    "/%2eenv",
    "/.git/config",
    "/out.txt",
    "/up/secret.txt",
    "/hidden.txt",
    "/pipe",
    "/data/",
    "/index.html/",
    "/%00",
    "/none",
    "/etc/passwd",
    "//etc/passwd",
]


@pytest.mark.parametrize("target", OUT)
def test_no_path_leads_out_of_the_folder(site: Running, target: str) -> None:
    status, _, body = get(site, target)
    assert b"SECRET" not in body
    if status == 200:
        # The request went to the handlers, which come before files.
        assert b'"method": "GET"' in body


@pytest.mark.parametrize("target", OUT)
def test_no_path_leads_out_where_only_files_are_served(only_files: Running, target: str) -> None:
    status, _, body = get(only_files, target)
    assert (status, body) == (404, b"nothing is served here\n")


@pytest.fixture(scope="module")
def only_files(public: Path) -> Iterator[Running]:
    with Running(f"--static={public}") as run:
        run.line("ready .*pool static")
        yield run.ready()


def test_a_link_within_the_folder_is_followed(only_files: Running) -> None:
    if os.name == "posix":
        assert get(only_files, "/in.css")[2] == b"body {}"


def test_a_client_that_has_the_file_does_not_get_it_again(only_files: Running) -> None:
    _, headers, _ = get(only_files, "/")
    for condition in (
        {"If-None-Match": headers["ETag"]},
        {"If-Modified-Since": headers["Last-Modified"]},
    ):
        status, again, body = get(only_files, "/", condition)
        assert (status, body, again["ETag"]) == (304, b"", headers["ETag"])
    assert get(only_files, "/", {"If-None-Match": '"x"'})[0] == 200
    assert get(only_files, "/", {"If-Match": '"x"'})[0] == 412


def test_a_range_is_answered_with_its_bytes(only_files: Running) -> None:
    status, headers, body = get(only_files, "/", {"Range": "bytes=1-2"})
    assert (status, body, headers["Content-Range"]) == (206, b"h1", "bytes 1-2/14")
    status, headers, body = get(only_files, "/", {"Range": "bytes=100-"})
    assert (status, body, headers["Content-Range"]) == (416, b"", "bytes */14")
    status, _, body = get(only_files, "/large", {"Range": "bytes=-3"})
    assert (status, body) == (206, b"end")


def memory(pid: int) -> int:
    """The resident memory of a process, in bytes."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@linux
def test_a_large_file_is_in_memory_nowhere(only_files: Running) -> None:
    pids = [pid for pid in only_files.pids() if is_alive(pid)]
    get(only_files, "/large", {"Range": "bytes=0-1000000"})
    before = {pid: memory(pid) for pid in pids}
    most = dict(before)
    con = http.client.HTTPConnection("127.0.0.1", only_files.port, timeout=DEADLINE)
    con.request("GET", "/large")
    response = con.getresponse()
    assert response.headers["Content-Length"] == str(256 * MIB)
    size, first, last = 0, b"", b""
    while piece := response.read(MIB):
        size += len(piece)
        first, last = first or piece[:5], piece[-3:]
        if size % (32 * MIB) == 0:
            most = {pid: max(most[pid], memory(pid)) for pid in pids}
    con.close()
    assert (size, first, last) == (256 * MIB, b"begin", b"end")
    assert all(most[pid] - before[pid] < 16 * MIB for pid in pids), (before, most)


@linux
def test_a_slow_reader_makes_the_file_wait(only_files: Running) -> None:
    """The file is not read ahead, and other clients are served meanwhile."""
    pids = [pid for pid in only_files.pids() if is_alive(pid)]
    before = {pid: memory(pid) for pid in pids}
    with socket.create_connection(("127.0.0.1", only_files.port), DEADLINE) as slow:
        slow.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        data = slow.recv(1000)
        for _ in range(10):
            assert get(only_files, "/")[0] == 200
            time.sleep(0.02)
        assert all(memory(pid) - before[pid] < 16 * MIB for pid in pids)
        size = len(data) - data.index(b"\r\n\r\n") - 4
        while piece := slow.recv(1 << 20):
            size += len(piece)
        assert size == 256 * MIB


def test_a_reload_lets_a_file_be_sent_to_its_end(public: Path) -> None:
    with Running(f"--static={public}") as run, ThreadPoolExecutor() as beside:
        run.line("ready .*pool static")
        with socket.create_connection(("127.0.0.1", run.ready().port), DEADLINE) as slow:
            slow.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            data = slow.recv(1000)
            reload = beside.submit(done, Serving(run), "reload")
            run.line("worker [0-9]+ is ready", 4)
            size = len(data) - data.index(b"\r\n\r\n") - 4
            while piece := slow.recv(1 << 20):
                size += len(piece)
            assert size == 256 * MIB
            assert get(run, "/")[0] == 200
        run.line("worker [0-9]+ has left", 2)
        assert reload.result() == "default: reloaded: 1 worker; static: reloaded: 1 worker\n"


def test_a_client_that_leaves_ends_the_reading_of_its_file(only_files: Running) -> None:
    pids = [pid for pid in only_files.pids() if is_alive(pid)]
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", only_files.port), DEADLINE) as con:
            con.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            con.recv(1000)
    if sys.platform.startswith("linux"):

        def nothing_open() -> bool:
            try:
                links = [
                    os.readlink(f"/proc/{pid}/fd/{fd}")
                    for pid in pids
                    for fd in os.listdir(f"/proc/{pid}/fd")
                ]
            except FileNotFoundError:
                # A descriptor was closed meanwhile.
                return False
            return not any(link.endswith("/large") for link in links)

        eventually(nothing_open, "the file to be closed")
    assert get(only_files, "/")[0] == 200


def test_handlers_come_before_files(site: Running, public: Path) -> None:
    (public / "file.txt").write_text("a file")
    assert get(site, "/file.txt")[2] == b"a file"
    assert b'"path": "/index.html"' in get(site, "/index.html")[2]
    assert get(site, "/file-none")[0] == 404


def test_a_folder_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    with Running(f"--static={tmp_path / 'none'}") as run:
        assert run.wait() == 2
        assert "there is no such folder" in str(run)
