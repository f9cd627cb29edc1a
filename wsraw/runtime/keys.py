"""I/O. Key files of the worker link, which authenticate the gateway and workers on other machines.

A pair is two files: `NAME.key` contains the secret key, and only its owner may read it; `NAME.pub`
contains one line, `KEY NAME`. A gateway accepts the keys in a file of such lines, or in a folder of
`*.pub` files. `pools=chat,feed` after the name limits a key to these pools.

Keys are those of CURVE (curvezmq.org): 32 bytes, written as 40 characters of Z85 (ZeroMQ RFC 32).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final, NamedTuple

from wsraw.runtime.private import open_file

_Z85: Final = (
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
)
_DIGITS: Final = {character: digit for digit, character in enumerate(_Z85)}

LENGTH: Final = 40
"""Characters of a key in Z85."""

MOST_BYTES: Final = 1024 * 1024
"""Bytes of a key file."""


class KeyFileError(Exception):
    """A key file cannot be used; the text says what to do."""


class Key(NamedTuple):
    """An accepted key. `pools`: those that it may join; None: any."""

    name: str
    pools: frozenset[str] | None = None


def from_z85(text: str) -> bytes:
    """The 32 bytes of a key. Raises ValueError."""
    if len(text) != LENGTH:
        raise ValueError(f"a key has {LENGTH} characters")
    key = b""
    for start in range(0, LENGTH, 5):
        value = 0
        for character in text[start : start + 5]:
            if character not in _DIGITS:
                raise ValueError(f"{character!r} is not a character of keys")
            value = value * 85 + _DIGITS[character]
        if value >> 32:
            raise ValueError("five characters of the key exceed 32 bits")
        key += value.to_bytes(4, "big")
    return key


def to_z85(key: bytes) -> str:
    """A key as text."""
    text = ""
    for start in range(0, len(key), 4):
        value = int.from_bytes(key[start : start + 4], "big")
        group = ""
        for _ in range(5):
            value, digit = divmod(value, 85)
            group = _Z85[digit] + group
        text += group
    return text


# --- one key ---


def read_secret(path: str) -> str:
    """The secret key in a `*.key` file. Raises KeyFileError."""
    lines = _lines(Path(path))
    # Checked first: for a public key, which all users may read, chmod would be the wrong advice.
    if len(lines) != 1 or len(lines[0][1]) != 1:
        raise KeyFileError(
            f"{path} must be one line with a secret key: the .key file that `wsraw keygen` made"
        )
    if sys.platform != "win32" and os.stat(path).st_mode & 0o077:
        raise KeyFileError(f"{path} can be read by other users; chmod 600 {path}")
    return lines[0][1][0]


def read_public(path: str) -> str:
    """The public key in a `*.pub` file. Raises KeyFileError."""
    lines = _lines(Path(path))
    if len(lines) != 1 or len(lines[0][1]) < 2:
        raise KeyFileError(
            f"{path} must be one line, KEY NAME: the .pub file that `wsraw keygen` made"
        )
    return lines[0][1][0]


def write_pair(folder: Path, name: str, public: str, secret: str) -> tuple[Path, Path]:
    """Write `NAME.key` (mode 0600) and `NAME.pub`, which must not exist. Raises KeyFileError."""
    made = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        for suffix, text in (("key", secret), ("pub", f"{public} {name}")):
            path = folder / f"{name}.{suffix}"
            is_secret = suffix == "key"
            descriptor = open_file(path, flags) if is_secret else os.open(path, flags, 0o644)
            made.append(path)
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                stream.write(text + "\n")
    except OSError as error:
        for path in made:
            # Half a pair is useless, and would prevent the next try.
            path.unlink(missing_ok=True)
        hint = "; choose another --name" if isinstance(error, FileExistsError) else ""
        raise KeyFileError(f"{error.filename or folder}: {error.strerror}{hint}") from error
    return made[0], made[1]


# --- the keys that a gateway accepts ---


class AllowedKeys:
    """The keys in a file or a folder. Changes take effect at the next `find`."""

    def __init__(self, path: str) -> None:
        """Raises KeyFileError."""
        self._path = Path(path)
        self._seen = self._signature()
        self._keys = self._load()

    def find(self, public: bytes) -> Key | None:
        """The entry of this public key (32 bytes), or None.

        Raises KeyFileError if the files have changed and cannot be read: no key is accepted then,
        until they can be read.
        """
        signature = self._signature()
        if signature != self._seen:
            self._keys = {}
            self._seen = ()
            self._keys = self._load()
            self._seen = signature
        return self._keys.get(public)

    def _files(self) -> list[Path]:
        return sorted(self._path.glob("*.pub")) if self._path.is_dir() else [self._path]

    def _signature(self) -> tuple[tuple[str, int, int, int], ...]:
        try:
            stats = [(str(file), file.stat()) for file in self._files()]
        except OSError as error:
            raise KeyFileError(f"{self._path}: {error.strerror}") from error
        return tuple((name, s.st_mtime_ns, s.st_size, s.st_ino) for name, s in stats)

    def _load(self) -> dict[bytes, Key]:
        keys = {}
        for file in self._files():
            for number, words in _lines(file):
                name = words[1] if len(words) > 1 else file.stem
                keys[from_z85(words[0])] = Key(name, _pools(file, number, words[2:]))
        return keys


def _pools(file: Path, number: int, options: list[str]) -> frozenset[str] | None:
    pools: frozenset[str] | None = None
    for option in options:
        word, equals, value = option.partition("=")
        names = frozenset(filter(None, value.split(",")))
        if word != "pools" or not equals or not names:
            # A mistyped restriction must not be ignored.
            raise KeyFileError(
                f"{file}, line {number}: {option!r}: only pools=NAME,NAME may follow the name"
            )
        pools = names
    return pools


def _lines(file: Path) -> list[tuple[int, list[str]]]:
    """Number and words of each line except comments; the first word is a key. Raises
    KeyFileError."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise KeyFileError(f"{file} is too large for a key file")
        text = file.read_text("utf-8")
    except UnicodeError as error:
        raise KeyFileError(f"{file} is not a key file: {error}") from error
    except OSError as error:
        raise KeyFileError(f"{file}: {error.strerror}") from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        # A key may begin with #, so only a separate # begins a comment.
        if not words or words[0] == "#":
            continue
        try:
            from_z85(words[0])
        except ValueError as error:
            raise KeyFileError(f"{file}, line {number} is not a key: {error}") from error
        found.append((number, words))
    return found
