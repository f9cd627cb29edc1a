"""Files and folders that other users cannot read."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from wsraw.runtime import private

FLAGS = os.O_WRONLY | os.O_CREAT


def may_others_read(path: Path) -> bool:
    if sys.platform != "win32":
        return bool(path.stat().st_mode & 0o077)
    import ctypes
    from ctypes import wintypes

    advapi32 = ctypes.WinDLL("advapi32")
    size = wintypes.DWORD()
    advapi32.GetFileSecurityW(str(path), 4, None, 0, ctypes.byref(size))
    descriptor = ctypes.create_string_buffer(size.value)
    assert advapi32.GetFileSecurityW(str(path), 4, descriptor, size, ctypes.byref(size))
    text = wintypes.LPWSTR()
    assert advapi32.ConvertSecurityDescriptorToStringSecurityDescriptorW(
        descriptor, 1, 4, ctypes.byref(text), None
    )
    assert text.value is not None
    # The groups of everyone, of users, and of authenticated users.
    return any(f";;;{who})" in text.value for who in ("WD", "BU", "AU"))


def test_a_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    descriptor = private.open_file(file, FLAGS | os.O_EXCL)
    assert os.write(descriptor, b"secret") == 6
    os.close(descriptor)
    assert file.read_bytes() == b"secret"
    assert not may_others_read(file)
    with pytest.raises(FileExistsError):
        private.open_file(file, FLAGS | os.O_EXCL)


def test_a_file_that_is_there_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for word in (b"one", b"two"):
        descriptor = private.open_file(file, FLAGS | os.O_APPEND)
        os.write(descriptor, word)
        os.close(descriptor)
    assert file.read_bytes() == b"onetwo"


def test_an_error_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        private.open_file(tmp_path / "none" / "file", FLAGS)
    assert Path(caught.value.filename) == tmp_path / "none" / "file"


def test_a_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "folder"
    private.make_folder(folder)
    assert not may_others_read(folder)
    private.make_folder(folder)
    (folder / "file").write_text("x")
    with pytest.raises(FileExistsError):
        private.make_folder(folder / "file")
