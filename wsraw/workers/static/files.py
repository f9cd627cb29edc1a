"""I/O. Handlers that serve the files of a folder.

A file is read piece by piece, each piece only when the one before has been written to the client:
so a file of any size takes little memory, here and in the gateway.
"""

from __future__ import annotations

import asyncio
import errno
import mimetypes
import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from wsraw.workers.connection import Connection
from wsraw.workers.request import Request
from wsraw.workers.static import conditions, paths
from wsraw.workers.static.conditions import FileVersion

PIECE: Final = 256 * 1024
"""Bytes of a piece, which is read at once and waits for a client."""

INDEX: Final = "index.html"

_TYPES: Final = mimetypes.MimeTypes(filenames=())
"""Python's own types instead of those of the machine, which differ."""
for _ending, _type in {
    ".avif": "image/avif",
    ".js": "text/javascript",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}.items():
    _TYPES.add_type(_type, _ending)

_IN_UTF_8: Final = ("application/json", "application/manifest+json", "image/svg+xml")
_ENCODED: Final = {"gzip": "application/gzip", "bzip2": "application/x-bzip2"}

_folder = "."
_streams: set[asyncio.Task[None]] = set()
"""Responses whose files are still being read."""


def serve(folder: str) -> None:
    """Set the folder."""
    global _folder
    _folder = folder


async def on_request(request: Request, con: Connection) -> None:
    if request.method not in ("GET", "HEAD"):
        con.respond(405, {"Allow": "GET, HEAD"}, "files are only read: GET or HEAD\n")
        return
    found = await asyncio.to_thread(find, _folder, request.target)
    if isinstance(found, str):
        con.respond(301, {"Location": found})
    elif found is not None:
        _respond(request, con, found)


async def on_stop() -> None:
    """Responses that have begun are completed."""
    await asyncio.gather(*_streams, return_exceptions=True)


class File(NamedTuple):
    """An open file."""

    name: str
    stream: BinaryIO
    version: FileVersion


def find(folder: str, target: str) -> File | str | None:
    """The file for a request's target; a text if the file is at another path; None if there is
    none."""
    parts = paths.parts_of(target, sys.platform == "win32")
    if parts is None:
        return None
    root = os.path.realpath(folder)
    try:
        # Symbolic links are followed if they stay in the folder.
        path = os.path.realpath(os.path.join(root, *parts))
        if not _is_served(root, path):
            return None
        if os.path.isdir(path):
            if parts[-1]:
                before, question, query = target.partition("?")
                return f"{before}/{question}{query}"
            path = os.path.realpath(os.path.join(path, INDEX))
            if not _is_served(root, path):
                return None
        elif not parts[-1]:
            return None
        return _open(path)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", 0) in (errno.EMFILE, errno.ENFILE):
            raise
        return None


def _is_served(root: str, path: str) -> bool:
    """Whether a resolved path is below the folder, with no hidden part below it."""
    inner = Path(path)
    if not inner.is_relative_to(root):
        return False
    return not any(map(paths.is_hidden, inner.relative_to(root).parts))


def _open(path: str) -> File | None:
    # A link that was made meanwhile is not followed, and a pipe does not block.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    stream = open(descriptor, "rb", buffering=0)  # noqa: SIM115
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        stream.close()
        return None
    return File(os.path.basename(path), stream, FileVersion(status.st_size, status.st_mtime_ns))


def type_of(name: str) -> str:
    """The Content-Type for a file, from its name."""
    kind, encoding = _TYPES.guess_type(name, strict=False)
    if encoding is not None:
        return _ENCODED.get(encoding, "application/octet-stream")
    if kind is None:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") or kind in _IN_UTF_8 else kind


def _respond(request: Request, con: Connection, file: File) -> None:
    version = file.version
    headers: dict[str, str | list[str]] = {
        "ETag": version.etag,
        "Last-Modified": version.last_modified,
        # Cached, but revalidated each time: a new version is seen at once.
        "Cache-Control": "no-cache",
        "Accept-Ranges": "bytes",
        # A text that a user has uploaded must not be taken for a script.
        "X-Content-Type-Options": "nosniff",
    }
    status = conditions.status_of(request.headers, version)
    if status != 200:
        file.stream.close()
        con.respond(status, headers)
        return
    wanted = range(version.size)
    headers["Content-Type"] = type_of(file.name)
    asked = conditions.range_of(request.headers, version) if request.method == "GET" else None
    if asked is not None and not asked:
        file.stream.close()
        headers["Content-Range"] = f"bytes */{version.size}"
        con.respond(416, headers)
        return
    if asked is not None:
        status, wanted = 206, asked
        headers["Content-Range"] = f"bytes {asked[0]}-{asked[-1]}/{version.size}"
    headers["Content-Length"] = str(len(wanted))
    if request.method == "HEAD" or not wanted:
        file.stream.close()
        con.respond(status, headers)
        return
    con.respond(status, headers, final=False)
    task = asyncio.create_task(_send(con, file.stream, wanted))
    _streams.add(task)
    task.add_done_callback(_streams.discard)


async def _send(con: Connection, stream: BinaryIO, wanted: range) -> None:
    with stream:
        stream.seek(wanted.start)
        left = len(wanted)
        while left and not con.closed:
            piece = await asyncio.to_thread(stream.read, min(PIECE, left))
            if not piece:
                # The file has become shorter: the client must not take this for all of it.
                con.close(1011, "the file has changed")
                return
            left -= len(piece)
            con.send(piece, final=not left)
            try:
                if left and not await con.drained():
                    return
            except ConnectionError:
                # The gateway is gone, and with it the client.
                return
