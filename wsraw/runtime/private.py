"""I/O. Files and folders for this user alone.

On Windows the mode of a file has no effect, and before Python 3.12.4 neither has that of a folder.
There an access list, set at creation, admits the owner, administrators and the system.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    FOR_OWNER = "D:P(A;OICI;FA;;;OW)(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)"
    """Nothing is inherited from the folder above; what is made in a folder inherits this."""

    GENERIC_WRITE = 0x40000000
    CREATE_NEW = 1
    SDDL_REVISION = 1
    INVALID = ctypes.c_void_p(-1).value

    class _Attributes(ctypes.Structure):
        _fields_ = (
            ("nLength", wintypes.DWORD),
            ("lpSecurityDescriptor", wintypes.LPVOID),
            ("bInheritHandle", wintypes.BOOL),
        )

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _advapi32 = ctypes.WinDLL("advapi32", use_last_error=True)
    _kernel32.CreateFileW.restype = wintypes.HANDLE
    _kernel32.CloseHandle.argtypes = (wintypes.HANDLE,)
    _kernel32.LocalFree.argtypes = (wintypes.LPVOID,)

    def _make(path: str, is_folder: bool) -> None:
        """Raises OSError."""
        descriptor = wintypes.LPVOID()
        if not _advapi32.ConvertStringSecurityDescriptorToSecurityDescriptorW(
            wintypes.LPCWSTR(FOR_OWNER), SDDL_REVISION, ctypes.byref(descriptor), None
        ):
            raise ctypes.WinError(ctypes.get_last_error())
        attributes = ctypes.byref(_Attributes(ctypes.sizeof(_Attributes), descriptor, False))
        name = wintypes.LPCWSTR(path)
        try:
            if is_folder:
                made = _kernel32.CreateDirectoryW(name, attributes)
            else:
                handle = _kernel32.CreateFileW(
                    name, GENERIC_WRITE, 0, attributes, CREATE_NEW, 0, None
                )
                made = handle != INVALID
            code = ctypes.get_last_error()
        finally:
            _kernel32.LocalFree(descriptor)
        if not made:
            error = ctypes.WinError(code)
            error.filename = path
            raise error
        if not is_folder:
            _kernel32.CloseHandle(handle)


def open_file(path: str | Path, flags: int) -> int:
    """os.open for a file that, if it is created, is for this user alone. Raises OSError."""
    if sys.platform == "win32" and flags & os.O_CREAT:
        try:
            _make(os.fspath(path), is_folder=False)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
        flags &= ~(os.O_CREAT | os.O_EXCL)
    return os.open(path, flags, 0o600)


def make_folder(path: Path) -> None:
    """Make a folder for this user alone, and its parents, unless it exists. Raises OSError."""
    if sys.platform == "win32":
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _make(os.fspath(path), is_folder=True)
        except FileExistsError:
            if not path.is_dir():
                raise
    else:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
