from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from wsraw.commands.keys import make_pair
from wsraw.runtime import keys
from wsraw.runtime.keys import AllowedKeys, Key, KeyFileError

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")

ONE, OTHER = keys.to_z85(bytes(range(32))), keys.to_z85(bytes(32))


@given(st.binary(min_size=32, max_size=32))
def test_z85_is_decoded_as_it_was_encoded(key: bytes) -> None:
    assert keys.from_z85(keys.to_z85(key)) == key


def test_z85_matches_the_example_of_its_specification() -> None:
    # ZeroMQ RFC 32: the bytes 86 4F D2 6F B5 59 F7 5B are "HelloWorld".
    assert keys.to_z85(bytes.fromhex("864FD26FB559F75B")) == "HelloWorld"


@pytest.mark.parametrize("text", ["", "0" * 39, "0" * 41, "~" * 40, "#" * 40, "ä" * 40])
def test_text_that_is_not_a_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="key"):
        keys.from_z85(text)


def test_the_keys_of_a_pair_belong_together(tmp_path: Path) -> None:
    secret, public = make_pair(str(tmp_path / "new"), "alice")
    assert (secret.name, public.name) == ("alice.key", "alice.pub")
    made = keys.read_secret(str(secret))
    assert zmq.curve_public(made.encode()).decode() == keys.read_public(str(public))
    assert AllowedKeys(str(public)).find(keys.from_z85(keys.read_public(str(public)))) == Key(
        "alice"
    )


@posix
def test_the_file_of_a_secret_key_is_private(tmp_path: Path) -> None:
    secret, _ = make_pair(str(tmp_path), "alice")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    secret.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        keys.read_secret(str(secret))


def test_a_key_pair_is_never_overwritten(tmp_path: Path) -> None:
    secret, public = make_pair(str(tmp_path), "alice")
    before = secret.read_bytes()
    with pytest.raises(KeyFileError, match=r"alice\.key.*--name"):
        make_pair(str(tmp_path), "alice")
    assert secret.read_bytes() == before
    secret.unlink()
    with pytest.raises(KeyFileError, match=r"alice\.pub"):
        make_pair(str(tmp_path), "alice")
    assert not secret.exists(), "half a pair is left"
    assert public.exists()


def test_a_secret_key_is_not_accepted_as_a_public_one(tmp_path: Path) -> None:
    """Otherwise a user could publish the secret key by mistake."""
    secret, public = make_pair(str(tmp_path), "alice")
    with pytest.raises(KeyFileError, match=r"\.pub file"):
        keys.read_public(str(secret))
    with pytest.raises(KeyFileError, match=r"\.key file"):
        keys.read_secret(str(public))


def test_public_keys_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "allowed"
    file.write_text(f"# who may come in\n\n{ONE} alice\n{OTHER} bob pools=chat,feed\n")
    allowed = AllowedKeys(str(file))
    assert allowed.find(keys.from_z85(ONE)) == Key("alice")
    assert allowed.find(keys.from_z85(OTHER)) == Key("bob", frozenset({"chat", "feed"}))
    assert allowed.find(b"x" * 32) is None


def test_public_keys_are_read_from_a_folder_as_it_changes(tmp_path: Path) -> None:
    (tmp_path / "alice.pub").write_text(f"{ONE}\n")
    (tmp_path / "notes.txt").write_text("no key\n")
    allowed = AllowedKeys(str(tmp_path))
    assert allowed.find(keys.from_z85(ONE)) == Key("alice")
    assert allowed.find(keys.from_z85(OTHER)) is None
    (tmp_path / "bob.pub").write_text(f"{OTHER} robert\n")
    assert allowed.find(keys.from_z85(OTHER)) == Key("robert")
    (tmp_path / "alice.pub").unlink()
    assert allowed.find(keys.from_z85(ONE)) is None


def test_a_broken_key_file_lets_no_worker_in_until_it_is_repaired(tmp_path: Path) -> None:
    file = tmp_path / "alice.pub"
    file.write_text(f"{ONE} alice\n")
    allowed = AllowedKeys(str(tmp_path))
    file.write_text(f"{ONE} alice pool=chat\n")
    for _ in range(2):
        with pytest.raises(KeyFileError, match="line 1"):
            allowed.find(keys.from_z85(ONE))
    file.write_text(f"{ONE} alice pools=chat\n")
    assert allowed.find(keys.from_z85(ONE)) == Key("alice", frozenset({"chat"}))


@pytest.mark.parametrize(
    "line",
    ["short alice", f"{ONE} alice admin", f"{ONE} alice pools=", f"{ONE} alice pools", "#comment"],
)
def test_a_line_that_is_not_a_key_is_refused(line: str, tmp_path: Path) -> None:
    file = tmp_path / "allowed"
    file.write_text(line + "\n")
    with pytest.raises(KeyFileError, match=r"allowed, line 1"):
        AllowedKeys(str(file))


def test_an_unreadable_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        AllowedKeys(str(tmp_path / "none"))
    large = tmp_path / "large"
    large.write_bytes(b"# \n" * keys.MOST_BYTES)
    with pytest.raises(KeyFileError, match="too large"):
        AllowedKeys(str(large))
    binary = tmp_path / "binary"
    binary.write_bytes(os.urandom(2) + b"\xff\xfe")
    with pytest.raises(KeyFileError, match="not a key file"):
        AllowedKeys(str(binary))
