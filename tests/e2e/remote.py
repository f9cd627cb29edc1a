"""Workers on another machine, and the network between. In a test the worker is a `wsraw worker`
that connects over TCP, and the network can be cut, stalled and restored. The network can also be
a unix socket, as it is passed into a container.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.deadline import DEADLINE, eventually
from tests.e2e.serving import ECHO, Serving, serve
from tests.running import command, environment
from wsraw.commands import keys as keygen

RESET = struct.pack("ii", 1, 0)


class Keys:
    """Key files of a gateway and of the workers that it allows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.allowed = folder / "allowed"
        self.allowed.mkdir()
        keygen.make_pair(str(folder), "gateway")

    def add(self, name: str, options: str = "", *, allow: bool = True) -> None:
        """Make the key pair of a worker; `options` follow the public key in the allowed file."""
        _, public = keygen.make_pair(str(self.folder), name)
        if allow:
            self.allow(name, options)
        assert public.exists()

    def allow(self, name: str, options: str = "") -> None:
        text = (self.folder / f"{name}.pub").read_text().strip()
        (self.allowed / f"{name}.pub").write_text(f"{text} {options}\n")

    def of_gateway(self) -> list[str]:
        return [f"--link-key={self.folder}/gateway.key", f"--worker-keys={self.allowed}"]

    def of_worker(self, name: str) -> list[str]:
        return [f"--key={self.folder}/{name}.key", f"--gateway-key={self.folder}/gateway.pub"]


def endpoint(serving: Serving) -> str:
    """The endpoint for workers on other machines, from the log."""
    return serving.run.line(r"workers on other machines connect to (tcp://\S+)")[1]


class RemoteWorker:
    """A worker that no supervisor watches, and its log."""

    def __init__(self, *options: str, handlers: Path = ECHO) -> None:
        self.process = subprocess.Popen(
            command("worker", str(handlers), *options),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def __enter__(self) -> RemoteWorker:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.end()

    def end(self) -> tuple[int, str]:
        """Wait until the worker has exited; returns its exit code and log."""
        assert self.process.stderr is not None
        if self.process.stderr.closed:
            return self.process.returncode, ""
        _, said = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, said

    def stop(self) -> tuple[int, str]:
        """Stop the worker with SIGTERM; returns its exit code and log."""
        self.process.send_signal(signal.SIGTERM)
        return self.end()


@contextmanager
def gateway(*options: str, handlers: Path = ECHO, workers: int = 1) -> Iterator[Serving]:
    """A run that allows workers from other machines, on loopback. With `workers` 0 it has no
    workers of its own.
    """
    file = handlers if workers else None
    options = ("--worker-listen=tcp://127.0.0.1:0", *options)
    options += () if workers else ("--workers=none",)
    with serve(file, *options, workers=workers) as serving:
        yield serving


def remote_workers_ready(serving: Serving, count: int) -> None:
    """Wait until that many workers from other machines have become ready, since the start of the
    run.
    """
    serving.run.line(r"worker \w+ \(.*at 127\.0\.0\.1\) is ready", count)


class Network:
    """A forwarder for TCP or unix sockets in a thread of its own, with faults on request."""

    def __init__(self, target: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="net-")
        self._target: str | tuple[str, int]
        if target.startswith("ipc://"):
            self._family = socket.AF_UNIX
            self._target = target.removeprefix("ipc://")
            path = os.path.join(self._folder.name, "link.sock")
            self.endpoint = f"ipc://{path}"
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self._listener.listen()
        else:
            host, _, port = target.removeprefix("tcp://").rpartition(":")
            self._family = socket.AF_INET
            self._target = host, int(port)
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._lock = threading.Lock()
        self._over = False
        self.stalled = False
        self.away = False
        self.bytes = 0
        self.made = 0
        """Connections that were made through the network."""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *error: object) -> None:
        self._over = True
        self._thread.join()
        with self._lock:
            for sock in list(self._pairs):
                sock.close()
        self._listener.close()
        self._selector.close()
        self._folder.cleanup()

    def _run(self) -> None:
        while not self._over:
            if self.stalled:
                # A stalled network reads nothing: buffers fill up, and no FIN and no RST arrives.
                threading.Event().wait(0.01)
                continue
            ready = self._selector.select(0.02)
            with self._lock:
                for key, _ in ready:
                    assert isinstance(key.fileobj, socket.socket)
                    if key.fileobj is self._listener:
                        self._accept()
                    else:
                        self._forward(key.fileobj)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        if self.away:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            near.close()
            return
        far = socket.socket(self._family)
        far.connect(self._target)
        self._pairs[near], self._pairs[far] = far, near
        self.made += 1
        for sock in (near, far):
            self._selector.register(sock, selectors.EVENT_READ)

    def _forward(self, sock: socket.socket) -> None:
        other = self._pairs.get(sock)
        if other is None:
            return
        try:
            data = sock.recv(1 << 16)
            if data:
                self.bytes += len(data)
                other.sendall(data)
                return
        except OSError:
            pass
        self._drop(sock, other)

    def _drop(self, *socks: socket.socket) -> None:
        for sock in socks:
            if self._pairs.pop(sock, None) is not None:
                self._selector.unregister(sock)
                # Reset both directions, and drop whatever was on its way.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                sock.close()

    def cut(self) -> None:
        """Reset all connections. New ones are possible at once, unless the network is `away`."""
        with self._lock:
            self._drop(*list(self._pairs))

    def wait_for_traffic(self) -> None:
        """Wait until more bytes pass through."""
        before = self.bytes
        eventually(lambda: self.bytes > before, "traffic on the network")
