"""Sans-I/O. The PROXY protocol, versions 1 and 2: the client's address, before its first byte.

See HAProxy's proxy-protocol.txt. The header comes first, before TLS, and says what a proxy knows
about the client behind it. A client that could send such a header itself could choose its address,
so it is read from trusted proxies alone.

The bytes behind the header (`rest`) are the first bytes of the client.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final, Literal

from wsraw.config.addresses import Address, parse_address

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
"""The start of version 2, which no text protocol would send."""

MAX_LINE: Final = 107
"""Bytes of a line of version 1, its end included (section 2.1)."""

MAX_SIZE: Final = 4 * 1024
"""Bytes of a header of version 2 at most. The format allows 65,535, but addresses and TLVs take a
few hundred, and HAProxy writes and reads no more than one buffer."""

_BEGIN: Final = b"PROXY "
_LINE: Final = re.compile(
    rb"PROXY (?:UNKNOWN(?: [^\r\n]*)?"
    rb"|TCP([46]) ([0-9a-fA-F:.]+) ([0-9a-fA-F:.]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4}))\r\n"
)

_HEAD: Final = 16
_SIZES: Final = {0: 0, 1: 12, 2: 36, 3: 216}
"""Bytes of the addresses of each family: none, IPv4, IPv6, unix."""

_SSL: Final = 0x20
_CLIENT_SSL: Final = 0x01


class ProxyReader:
    """Reads one header, however its bytes are split. No input makes it raise."""

    __slots__ = (
        "_buffer",
        "_optional",
        "_trusted",
        "address",
        "error",
        "found",
        "peer",
        "rest",
        "state",
        "tls",
    )

    def __init__(self, optional: bool = False, trusted: bool = True) -> None:
        """`optional`: the peer may send no header. A peer that is not `trusted` must not send
        one."""
        self._buffer = bytearray()
        self._optional = optional
        self._trusted = trusted
        self.state: Literal["reading", "done", "wrong"] = "reading"
        self.rest = b""
        """The bytes behind the header; all bytes if there was none, and the header is
        `optional`."""
        self.error = ""
        self.found = False
        """A header has begun: its signature is complete."""
        self.address: Address | None = None
        """The client's address; None if the proxy itself is the client, or does not know the
        address."""
        self.peer = ""
        """The client's address with its port, as text; empty if it is not known."""
        self.tls = False
        """The client has connected to the proxy with TLS."""

    @property
    def begun(self) -> bool:
        return bool(self._buffer)

    def receive_data(self, data: bytes) -> None:
        """Add bytes; `state` has the result."""
        buffer = self._buffer
        buffer += data
        if SIGNATURE.startswith(buffer[: len(SIGNATURE)]):
            self.found = len(buffer) >= len(SIGNATURE)
            if self._may_read() and len(buffer) >= _HEAD:
                self._read_2(buffer)
        elif _BEGIN.startswith(buffer[: len(_BEGIN)]):
            self.found = len(buffer) >= len(_BEGIN)
            if self._may_read():
                self._read_1(buffer)
        elif self._optional:
            self._done(0)
        else:
            self._fail("it does not begin with a PROXY header")

    def _may_read(self) -> bool:
        """Refuse a header of an untrusted peer as soon as it has begun."""
        if self.found and not self._trusted:
            self._fail("it sent a PROXY header and is not a trusted proxy")
            return False
        return True

    def receive_eof(self) -> None:
        if self._optional and not self.found:
            self._done(0)
        else:
            self._fail("the PROXY header is not complete")

    def _done(self, size: int) -> None:
        self.state = "done"
        self.rest = bytes(self._buffer[size:])
        self._buffer.clear()

    def _fail(self, why: str) -> None:
        self.state = "wrong"
        self.error = why
        self._buffer.clear()

    # --- version 1 ---

    def _read_1(self, buffer: bytearray) -> None:
        end = buffer.find(b"\n", 0, MAX_LINE) + 1
        if not end:
            if len(buffer) >= MAX_LINE:
                self._fail(f"the PROXY line does not end within {MAX_LINE} bytes")
            return
        found = _LINE.fullmatch(buffer, 0, end)
        if found is None:
            self._fail("the PROXY line is malformed")
            return
        if found[1]:
            source, target = (parse_address(found[n].decode()) for n in (2, 3))
            colon = found[1] == b"6"
            texts = found[2], found[3]
            if source is None or target is None or any((b":" in t) is not colon for t in texts):
                self._fail("the addresses of the PROXY line are not of its family")
                return
            if max(int(found[4]), int(found[5])) > 65535:
                self._fail("a port of the PROXY line is above 65535")
                return
            self._set(source, int(found[4]))
        self._done(end)

    def _set(self, address: Address, port: int) -> None:
        self.address = address
        self.peer = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"

    # --- version 2 ---

    def _read_2(self, buffer: bytearray) -> None:
        version, command = buffer[12] >> 4, buffer[12] & 15
        family, transport = buffer[13] >> 4, buffer[13] & 15
        size = _HEAD + int.from_bytes(buffer[14:16], "big")
        if version != 2 or command > 1:
            self._fail("the PROXY header has an unknown version or command")
        elif family not in _SIZES or transport > 2:
            self._fail("the PROXY header has an unknown family")
        elif size > MAX_SIZE:
            self._fail(f"the PROXY header has more than {MAX_SIZE} bytes")
        elif len(buffer) >= size:
            self._read_addresses(bytes(buffer[:size]), command, family)

    def _read_addresses(self, header: bytes, command: int, family: int) -> None:
        start = _HEAD + _SIZES[family]
        if len(header) < start:
            self._fail("the PROXY header is too short for its addresses")
            return
        if family and not self._read_tlvs(header, start):
            return
        if command == 1 and family in (1, 2):
            width = 4 if family == 1 else 16
            address = parse_address(str(ip_address(header[_HEAD : _HEAD + width])))
            assert address is not None
            self._set(address, int.from_bytes(header[_HEAD + 2 * width :][:2], "big"))
        else:
            # LOCAL: a health check of the proxy. UNSPEC, unix: a client without an address.
            self.tls = False if command == 0 else self.tls
        self._done(len(header))

    def _read_tlvs(self, header: bytes, start: int) -> bool:
        """Find out whether the client uses TLS; False if the TLVs are malformed."""
        at = start
        while at < len(header):
            value = at + 3
            end = value + int.from_bytes(header[at + 1 : value], "big")
            if value > len(header) or end > len(header):
                self._fail("the PROXY header ends within a TLV")
                return False
            if header[at] == _SSL and end > value:
                self.tls = bool(header[value] & _CLIENT_SSL)
            at = end
        return True
