"""Ways in which Windows ends a process without a signal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deadline import eventually
from tests.running import Running

if sys.platform != "win32":
    pytest.skip("other systems have signals for this", allow_module_level=True)

import ctypes
from ctypes import wintypes

from wsraw.supervisor.control import session_end

user32 = ctypes.WinDLL("user32", use_last_error=True)
kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
ntdll = ctypes.WinDLL("ntdll")
Found = ctypes.WINFUNCTYPE(wintypes.BOOL, wintypes.HWND, wintypes.LPARAM)

HANDLERS = """
def on_message(msg, con):
    return msg
"""


class ThreadEntry(ctypes.Structure):
    _fields_ = (
        *((name, wintypes.DWORD) for name in ("size", "usage", "thread", "process")),
        *((name, wintypes.LONG) for name in ("priority", "delta")),
        ("flags", wintypes.DWORD),
    )


def windows(pid: int) -> list[int]:
    """The windows of the process, found as NSSM and taskkill do."""
    found = []

    def note(window: int, _: int) -> bool:
        owner = wintypes.DWORD()
        user32.GetWindowThreadProcessId(wintypes.HWND(window), ctypes.byref(owner))
        if owner.value == pid:
            found.append(window)
        return True

    user32.EnumWindows(Found(note), 0)
    return found


def close_windows(pid: int) -> bool:
    """Close the windows as NSSM does."""
    found = windows(pid)
    for window in found:
        user32.PostMessageW(wintypes.HWND(window), session_end.WM_CLOSE, 0, 0)
    return bool(found)


def end_session(pid: int) -> bool:
    """End the session as the system does, which waits for an answer."""
    for window in windows(pid):
        handle = wintypes.HWND(window)
        assert user32.SendMessageW(handle, session_end.WM_QUERYENDSESSION, 0, 0)
        user32.PostMessageW(handle, session_end.WM_ENDSESSION, 1, 0)
        return True
    return False


def quit_threads(pid: int) -> bool:
    """Post WM_QUIT to the threads, as NSSM does."""
    snapshot = kernel32.CreateToolhelp32Snapshot(4, 0)
    entry = ThreadEntry(size=ctypes.sizeof(ThreadEntry))
    told = False
    more = kernel32.Thread32First(snapshot, ctypes.byref(entry))
    while more:
        if entry.process == pid:
            told |= bool(user32.PostThreadMessageW(entry.thread, session_end.WM_QUIT, 0, 0))
        more = kernel32.Thread32Next(snapshot, ctypes.byref(entry))
    kernel32.CloseHandle(snapshot)
    return told


def close_console(pid: int) -> bool:
    """Call the handler in a new thread of the process, as closing a console does."""
    kernel32.GetModuleHandleW.restype = ctypes.c_void_p
    kernel32.GetProcAddress.restype = ctypes.c_void_p
    kernel32.OpenProcess.restype = kernel32.CreateRemoteThread.restype = ctypes.c_void_p
    base = ctypes.c_void_p(kernel32.GetModuleHandleW("kernelbase"))
    routine = ctypes.c_void_p(kernel32.GetProcAddress(base, b"CtrlRoutine"))
    assert routine
    process = ctypes.c_void_p(kernel32.OpenProcess(0x1FFFFF, False, pid))
    event = ctypes.c_void_p(session_end.CTRL_CLOSE_EVENT)
    thread = kernel32.CreateRemoteThread(process, None, 0, routine, event, 0, None)
    kernel32.CloseHandle(process)
    return bool(thread)


@pytest.mark.parametrize(
    ("tell", "why"),
    [
        (quit_threads, "asked to quit"),
        (close_console, "the console was closed"),
        (close_windows, "asked to close"),
        (end_session, "the session ends"),
    ],
)
def test_a_run_stops_in_good_order(tmp_path: Path, tell: Callable[[int], bool], why: str) -> None:
    file = tmp_path / "handlers.py"
    file.write_text(HANDLERS)
    with Running(f"--workers={file}:1") as run:
        run.ready()
        if tell in (close_windows, end_session) and not windows(run.process.pid):
            pytest.skip("no windows under wine")
        eventually(lambda: tell(run.process.pid), "it to be told")
        assert run.wait() == 0
        run.line(f"info wsraw: {why}: stopping")
        run.line("worker 1 has left")
