"""I/O. Windows: the ends of a run that are not signals.

Its console is closed, the user logs off, the machine shuts down; `taskkill` and NSSM close the
windows of a process, or post WM_QUIT to its threads. To be told, the process has a window that is
never shown. The system ends the process some seconds later, so the stop has a deadline.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

URGENT: Final = 4.0
"""Seconds for a stop. Windows waits five seconds, which must also be enough for the log and the run
folder."""

if sys.platform == "win32":
    import ctypes
    import threading
    from ctypes import wintypes

    CTRL_CLOSE_EVENT = 2
    CTRL_LOGOFF_EVENT = 5
    CTRL_SHUTDOWN_EVENT = 6
    WM_CLOSE = 0x10
    WM_QUERYENDSESSION = 0x11
    WM_QUIT = 0x12
    WM_ENDSESSION = 0x16
    ASKED_FIRST = 0x3FF
    """The place among the processes of a session: gateway and workers are ended later."""

    _Window = ctypes.WINFUNCTYPE(
        ctypes.c_ssize_t, wintypes.HWND, wintypes.UINT, wintypes.WPARAM, wintypes.LPARAM
    )
    _Console = ctypes.WINFUNCTYPE(wintypes.BOOL, wintypes.DWORD)

    class _WindowClass(ctypes.Structure):
        _fields_ = (
            ("style", wintypes.UINT),
            ("lpfnWndProc", _Window),
            ("cbClsExtra", ctypes.c_int),
            ("cbWndExtra", ctypes.c_int),
            ("hInstance", wintypes.HINSTANCE),
            ("hIcon", wintypes.HICON),
            ("hCursor", wintypes.HANDLE),
            ("hbrBackground", wintypes.HBRUSH),
            ("lpszMenuName", wintypes.LPCWSTR),
            ("lpszClassName", wintypes.LPCWSTR),
        )

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _kernel32.SetConsoleCtrlHandler.argtypes = (_Console, wintypes.BOOL)

    Stop = Callable[[str, float | None], object]

    _stop: Stop | None = None

    def watch(stop: Stop) -> None:
        """Call `stop(why, seconds)`, in other threads, when the run has to end: within this many
        seconds, or None for the usual time. Only the `stop` of the last call is used, until the
        process ends."""
        global _stop
        if _stop is None:
            threading.Thread(target=_serve, name="wsraw-session", daemon=True).start()
        _stop = stop

    def _end(why: str, seconds: float | None = None) -> None:
        if _stop is not None:
            _stop(why, seconds)

    def _handle_console(event: int) -> bool:
        names = {
            CTRL_CLOSE_EVENT: "the console was closed",
            CTRL_LOGOFF_EVENT: "the user logs off",
            CTRL_SHUTDOWN_EVENT: "the machine shuts down",
        }
        if event not in names:
            return False
        _end(names[event], URGENT)
        return _wait_for_end()

    def _handle_message(window: int, message: int, word: int, more: int) -> int:
        if message == WM_CLOSE:
            _end("asked to close")
            return 0
        if message == WM_QUERYENDSESSION:
            return 1
        if message == WM_ENDSESSION:
            if word:
                _end("the session ends", URGENT)
                _wait_for_end()
            return 0
        return int(_user32.DefWindowProcW(window, message, word, more))

    def _wait_for_end() -> bool:
        """Wait: the system ends this process as soon as the call returns, so it never does; the
        process ends by itself."""
        threading.Event().wait()
        return True

    def _serve() -> None:
        """The thread of the window."""
        _kernel32.SetConsoleCtrlHandler(_on_console, True)
        _kernel32.SetProcessShutdownParameters(ASKED_FIRST, 0)
        # For a first window, wine starts a desktop, which would hold our output open after our end.
        if not hasattr(ctypes.WinDLL("ntdll"), "wine_get_version"):
            window = _WindowClass(lpfnWndProc=_on_message, lpszClassName="wsraw")
            _user32.RegisterClassW(ctypes.byref(window))
            _user32.CreateWindowExW(0, "wsraw", "wsraw", 0, 0, 0, 0, 0, None, None, None, None)
        # Without a window, WM_QUIT still comes.
        message = wintypes.MSG()
        while (more := _user32.GetMessageW(ctypes.byref(message), None, 0, 0)) >= 0:
            if more:
                _user32.DispatchMessageW(ctypes.byref(message))
            else:
                _end("asked to quit")

    # Kept alive, because the system calls them.
    _on_console = _Console(_handle_console)
    _on_message = _Window(_handle_message)

    _user32 = ctypes.WinDLL("user32", use_last_error=True)
    _user32.DefWindowProcW.argtypes = (
        wintypes.HWND,
        wintypes.UINT,
        wintypes.WPARAM,
        wintypes.LPARAM,
    )
    _user32.DefWindowProcW.restype = ctypes.c_ssize_t
    _user32.CreateWindowExW.argtypes = (
        wintypes.DWORD,
        wintypes.LPCWSTR,
        wintypes.LPCWSTR,
        wintypes.DWORD,
        *[ctypes.c_int] * 4,
        wintypes.HWND,
        wintypes.HMENU,
        wintypes.HINSTANCE,
        wintypes.LPVOID,
    )
    _user32.CreateWindowExW.restype = wintypes.HWND
