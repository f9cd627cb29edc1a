"""I/O. `wsraw keygen`: a new pair of keys for the worker link. ZeroMQ makes them, and knows which
belong together."""

from __future__ import annotations

from pathlib import Path

import zmq

from wsraw.runtime import keys


def public_of(secret: str) -> str:
    """The public half of a secret key."""
    return zmq.curve_public(secret.encode()).decode()


def make(folder: str, name: str) -> tuple[Path, Path]:
    """The files of the pair, secret one first. Raises KeyFileError."""
    if not zmq.has("curve"):
        raise keys.KeyFileError("this libzmq was built without CURVE; install pyzmq's wheel")
    public, secret = zmq.curve_keypair()
    return keys.write_pair(Path(folder), name, public.decode(), secret.decode())
