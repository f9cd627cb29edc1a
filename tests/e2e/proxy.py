"""A small HTTP CONNECT and SOCKS 5 proxy: `python proxy.py http|socks5 [USER:PASSWORD]` prints
its port.
"""

from __future__ import annotations

import base64
import socket
import sys
import threading


def pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise OSError("closed")
        data += more
    return data


def connect(host: str, port: int) -> socket.socket:
    # The only host name that tests send to a proxy.
    return socket.create_connection(("127.0.0.1" if host == "target.test" else host, port), 10)


def http(client: socket.socket, login: str) -> socket.socket | None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += exactly(client, 1)
    line, *fields = head.decode().split("\r\n")
    wanted = f"Proxy-Authorization: Basic {base64.b64encode(login.encode()).decode()}"
    if login and wanted not in fields:
        client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
        return None
    host, _, port = line.split()[1].rpartition(":")
    try:
        target = connect(host.strip("[]"), int(port))
    except OSError:
        client.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
        return None
    client.sendall(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
    return target


def socks5(client: socket.socket, login: str) -> socket.socket | None:
    methods = exactly(client, exactly(client, 2)[1])
    wanted = 2 if login else 0
    if wanted not in methods:
        client.sendall(b"\5\xff")
        return None
    client.sendall(bytes((5, wanted)))
    if login:
        user = exactly(client, exactly(client, 2)[1])
        password = exactly(client, exactly(client, 1)[0])
        is_good = f"{user.decode()}:{password.decode()}" == login
        client.sendall(b"\1\0" if is_good else b"\1\1")
        if not is_good:
            return None
    kind = exactly(client, 4)[3]
    if kind == 3:
        host = exactly(client, exactly(client, 1)[0]).decode()
    else:
        family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
        host = socket.inet_ntop(family, exactly(client, size))
    port = int.from_bytes(exactly(client, 2), "big")
    try:
        target = connect(host, port)
    except OSError:
        client.sendall(b"\5\5\0\1\0\0\0\0\0\0")
        return None
    client.sendall(b"\5\0\0\3\4name\0\1")
    return target


def serve(client: socket.socket, kind: str, login: str) -> None:
    try:
        target = {"http": http, "socks5": socks5}[kind](client, login)
        if target is not None:
            back = threading.Thread(target=pump, args=(target, client), daemon=True)
            back.start()
            pump(client, target)
            back.join()
            target.close()
    except OSError:
        pass
    client.close()


def main() -> None:
    kind, login = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            client, _ = server.accept()
            threading.Thread(target=serve, args=(client, kind, login), daemon=True).start()


if __name__ == "__main__":
    main()
