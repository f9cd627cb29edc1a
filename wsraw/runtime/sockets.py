"""I/O. Listening sockets, and the options of clients' sockets.

The supervisor opens listening sockets and shares them with each gateway, so that no client is
refused while a gateway is replaced, and the ports stay the same.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import sys
from typing import Final

from wsraw.config.addresses import Listen

if sys.platform == "linux":
    import fcntl
    import termios

_SO_NWRITE: Final = 0x1024
"""A socket option of macOS that Python does not name."""

BACKLOG: Final = 4096
"""Connections that may wait to be accepted; the kernel has a limit of its own (somaxconn)."""

KEEPALIVE_IDLE: Final = 60
"""Seconds of silence after which TCP sends a keepalive probe."""

INHERITED: Final = sys.platform == "linux"
"""Whether accepted sockets inherit all options of the listening socket except non-blocking mode:
that saves five system calls for each client."""


def bind(listen: Listen) -> socket.socket:
    """A non-blocking socket that listens. Raises OSError with a text that says what to do."""
    try:
        if listen.fd:
            raise _AdvisedError(errno.EBADF, "no service manager has passed this socket")
        sock = _bind_unix(listen) if listen.path else _bind_tcp(listen)
    except OSError as error:
        raise OSError(error.errno, _advice(listen, error)) from error
    sock.setblocking(False)
    return sock


def share(sock: socket.socket, pid: int) -> str:
    """The data with which the child with that pid can `adopt` the socket, whose descriptor it has
    inherited. Windows duplicates a socket for one process, which must be running. Raises
    OSError."""
    if sys.platform == "win32":
        return sock.share(pid).hex()
    return str(sock.fileno())


def adopt(shared: str) -> socket.socket:
    """A socket that the parent process has bound. Raises OSError if it is not a socket."""
    if sys.platform == "win32":
        sock = socket.fromshare(bytes.fromhex(shared))
    else:
        os.set_inheritable(int(shared), False)
        sock = socket.socket(fileno=int(shared))
    sock.setblocking(False)
    return sock


def close(sock: socket.socket, listen: Listen) -> None:
    """Close a socket that `bind` returned. The file of a unix socket is removed, unless another
    program has replaced it."""
    if is_intact(sock, listen):
        try:
            os.unlink(listen.path)
        except OSError:
            pass
    sock.close()


def is_intact(sock: socket.socket, listen: Listen) -> bool:
    """Whether the file of a unix socket that `bind` returned is still its own."""
    return is_file_of(sock, listen.path)


def is_file_of(sock: socket.socket, path: str) -> bool:
    """Whether a path is a name of the file of a unix socket that `bind` returned."""
    return isinstance(sock, _UnixSocket) and sock.file == _identity(path) is not None


def of_file(sock: socket.socket, path: str) -> socket.socket:
    """A unix socket that another process has bound to this path, as if `bind` had returned it. The
    given socket must not be used any more."""
    own = _UnixSocket(sock.family, sock.type, 0, sock.detach())
    own.setblocking(False)
    own.file = _identity(path)
    return own


class _UnixSocket(socket.socket):
    """A unix socket that remembers the identity of its file."""

    file: tuple[int, int] | None = None


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class _AdvisedError(OSError):
    """An error whose text says what to do."""


def _bind_unix(listen: Listen) -> socket.socket:
    path = listen.path
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise OSError(errno.EAFNOSUPPORT, "this platform has no unix sockets")
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # A socket file without a listener is left from a run that was killed. (Connecting to a file
        # of another kind gives the same error.)
        if _is_socket(path) and probe.connect_ex(path) == errno.ECONNREFUSED:
            os.unlink(path)
    sock = _UnixSocket(family, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        sock.file = _identity(path)
        # Before clients can connect.
        _let_in(listen)
        sock.listen(BACKLOG)
    except OSError:
        close(sock, listen)
        raise
    return sock


def _let_in(listen: Listen) -> None:
    """Set group and permissions of a unix socket's file: who may write to it may connect."""
    if listen.group and sys.platform != "win32":
        import grp

        try:
            by_number = listen.group.isascii() and listen.group.isdigit()
            group = int(listen.group) if by_number else grp.getgrnam(listen.group).gr_gid
        except (KeyError, ValueError):
            why = f"there is no group {listen.group!r} on this machine; see `getent group`"
            raise _AdvisedError(errno.EINVAL, why) from None
        try:
            os.chown(listen.path, -1, group)
        except (OSError, OverflowError) as error:
            why = (
                f"its group cannot be {listen.group!r}: {getattr(error, 'strerror', error)}; run "
                "as a member of that group, or use mode=666 and a folder that only the proxy can "
                "enter"
            )
            raise _AdvisedError(getattr(error, "errno", errno.EINVAL), why) from error
    if listen.mode is not None:
        os.chmod(listen.path, listen.mode)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def _bind_tcp(listen: Listen) -> socket.socket:
    try:
        found = socket.getaddrinfo(
            listen.host or None, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except UnicodeError as error:
        # A label is empty or longer than 63 bytes.
        raise socket.gaierror(socket.EAI_NONAME, f"not a host name: {error}") from error
    family, _, _, _, address = found[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            # On Windows, SO_REUSEADDR lets two programs share the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            # Connections of an earlier run in TIME_WAIT must not prevent binding.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listen.reuse_port and sys.platform.startswith("linux"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Before clients connect: connections inherit the options that are set by then.
        tune(sock)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _advice(listen: Listen, error: OSError) -> str:
    what = f"cannot listen on {listen.name}"
    if isinstance(error, _AdvisedError):
        return f"{what}: {error.strerror}"
    if isinstance(error, socket.gaierror):
        return f"{what}: {error.strerror}; write an address or a host name of this machine"
    if (
        error.errno == errno.EADDRINUSE
        and os.path.lexists(listen.path)
        and not _is_socket(listen.path)
    ):
        return f"{what}: the path exists and is not a socket; remove it, or choose another path"
    if error.errno == errno.EADDRINUSE:
        if listen.reuse_port:
            return (
                f"{what}: the address is in use by a program that does not share it; stop it, or "
                "give the other run reuse_port, too"
            )
        return f"{what}: the address is in use; stop the other program or choose another port"
    if error.errno in (errno.EACCES, errno.EPERM):
        if sys.platform == "win32":
            # On Windows every user may use every port.
            return (
                f"{what}: not permitted; another program may have the port for itself, or Windows "
                "has reserved it (netsh interface ipv4 show excludedportrange tcp); choose another "
                "port"
            )
        hint = "a folder that you can write to" if listen.path else "a port above 1023"
        return f"{what}: not permitted; choose {hint}"
    if listen.path and error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"{what}: there is no folder {os.path.dirname(listen.path)}; create it first"
    if listen.path and error.errno is None:
        # Python checks the length itself, and gives no number.
        return f"{what}: {error}; choose a shorter path"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{what}: this machine has no such address; 0.0.0.0 and [::] mean all its addresses"
    return f"{what}: {error.strerror or error}"


def strerror(code: int) -> str:
    """The meaning of a socket error. os.strerror knows no code of Winsock."""
    known: dict[int, str] = getattr(socket, "errorTab", {})
    return known[code].removesuffix(".") if code in known else os.strerror(code)


def printable(address: object) -> str:
    """A socket address as text."""
    if isinstance(address, tuple):
        host = address[0]
        if ":" in host:
            # A socket that a service manager passes may take IPv4 too.
            is_ipv4 = host.startswith("::ffff:") and "." in host
            host = host.removeprefix("::ffff:") if is_ipv4 else f"[{host}]"
        return f"{host}:{address[1]}"
    if not isinstance(address, str) or not address:
        return "unix"
    # The peer has chosen the path: control characters must not reach the log, and bytes that are
    # not UTF-8 cannot be sent to workers.
    return "unix:" + "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in address
    )


def undelivered(sock: socket.socket) -> int | None:
    """How many bytes the kernel has taken that the peer's kernel has not acknowledged yet; None if
    this system does not tell."""
    try:
        if sys.platform == "linux":
            size = fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4))
            return int(struct.unpack("i", size)[0])
        if sys.platform == "darwin":
            return sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
    except OSError:
        # The socket is closed, or of a kind without this count.
        pass
    return None


def tune(sock: socket.socket, *, inherited: bool = False) -> None:
    """Set the options of a client's socket, unless it has inherited them. Raises OSError if the
    peer is already gone.

    TCP keepalive is for raw connections; WebSockets have pings.
    """
    sock.setblocking(False)
    if inherited or sock.family == getattr(socket, "AF_UNIX", None):
        return
    # Output is written once a turn, in one piece: Nagle's algorithm would only delay it.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6)
