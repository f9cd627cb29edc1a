from __future__ import annotations

import random
import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.authority import client_context, leaf, server_context
from wsraw.gateway.tls.engine import MOST_NAMES, PIECE, TlsEngine, describe

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


class Pair:
    """A client and a server, with a wire that cuts anywhere."""

    def __init__(
        self,
        client: ssl.SSLContext | None = None,
        server: ssl.SSLContext | None = None,
        name: str = "localhost",
        seed: int = 0,
    ) -> None:
        self.client = TlsEngine(client or client_context(), server_side=False, server_name=name)
        self.server = TlsEngine(server or server_context(), server_side=True)
        self._rng = random.Random(seed)
        self._seed = seed

    def cuts(self, data: bytes) -> list[bytes]:
        parts = []
        while data:
            size = self._rng.choice([1, 7, 100, 20_000]) if self._seed else len(data)
            parts.append(data[:size])
            data = data[size:]
        return parts

    def shake(self) -> None:
        self.client.handshake(b"")
        for _ in range(6):
            for one, other in ((self.client, self.server), (self.server, self.client)):
                for part in self.cuts(one.data_to_send()):
                    if not other.established:
                        other.handshake(part)
                    else:
                        assert other.receive_data(part) == b""

    def send(self, data: bytes, one: TlsEngine, other: TlsEngine) -> bytes:
        return b"".join(other.receive_data(part) for part in self.cuts(one.encrypt(data)))


@pytest.mark.parametrize("version", [V12, V13])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_data_goes_both_ways_however_it_is_cut(version: ssl.TLSVersion, seed: int) -> None:
    pair = Pair(client_context(version=version), seed=seed)
    pair.shake()
    assert pair.client.established
    assert pair.server.established
    for size in (0, 1, PIECE, PIECE + 1, 300_000):
        data = random.Random(size).randbytes(size)
        assert pair.send(data, pair.client, pair.server) == data
        assert pair.send(data, pair.server, pair.client) == data
    assert not pair.server.has_more
    assert pair.server.about("localhost")["version"] == ("TLSv1.3" if version is V13 else "TLSv1.2")


def test_data_received_with_the_handshake_waits() -> None:
    pair = Pair()
    pair.client.handshake(b"")
    pair.server.handshake(pair.client.data_to_send())
    pair.client.handshake(pair.server.data_to_send())
    assert pair.client.established
    pair.server.handshake(pair.client.encrypt(b"early bird"))
    assert pair.server.established
    assert pair.server.has_more
    assert pair.server.receive_data(b"") == b"early bird"
    assert not pair.server.has_more


@pytest.mark.parametrize("version", [V12, V13])
def test_each_side_can_end_while_the_other_goes_on(version: ssl.TLSVersion) -> None:
    pair = Pair(client_context(version=version))
    pair.shake()
    last = pair.client.encrypt(b"last words")
    pair.client.close()
    assert pair.server.receive_data(last + pair.client.data_to_send()) == b"last words"
    assert pair.server.ended
    assert pair.server.receive_data(b"ignored") == b""
    if version is V13:
        assert pair.send(b"still here", pair.server, pair.client) == b"still here"
    pair.server.close()
    pair.client.receive_data(pair.server.data_to_send())
    assert pair.client.ended
    assert not pair.server.error


@pytest.mark.parametrize(
    ("name", "of", "days", "why"),
    [
        ("other.example", "ours", 1, "Hostname mismatch"),
        ("localhost", "theirs", 1, "unable to get local issuer certificate"),
        ("localhost", "ours", -1, "certificate has expired"),
    ],
)
def test_a_server_with_the_wrong_certificate_is_refused_with_an_alert(
    name: str, of: str, days: int, why: str
) -> None:
    pair = Pair(server=server_context(leaf(of=of, days=days)), name=name)
    pair.shake()
    assert not pair.client.established
    assert why in pair.client.error
    assert pair.server.receive_data(b"") == b""
    assert "alert" in pair.server.error


def test_an_old_version_is_refused_with_an_alert() -> None:
    server = server_context()
    server.minimum_version = V13
    pair = Pair(client_context(version=V12), server)
    pair.shake()
    assert "protocol" in pair.server.error
    assert "alert protocol version" in pair.client.error


def test_a_broken_record_is_an_error_and_not_data() -> None:
    pair = Pair()
    pair.shake()
    whole, broken = pair.client.encrypt(b"whole"), bytearray(pair.client.encrypt(b"broken"))
    broken[-1] ^= 1
    assert pair.server.receive_data(whole + bytes(broken)) == b"whole"
    assert pair.server.error
    assert pair.server.data_to_send()
    assert pair.server.receive_data(pair.client.encrypt(b"more")) == b""


def test_an_invalid_server_name_raises() -> None:
    for name in ("", ".x", "a" * 300 + ".b"):
        with pytest.raises(ValueError):
            TlsEngine(client_context(), server_side=False, server_name=name)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_received_without_an_exception(data: bytes, stands: bool) -> None:
    pair = Pair()
    if stands:
        pair.shake()
        assert pair.server.receive_data(data) == b""
    else:
        pair.server.handshake(data)
        assert not pair.server.established
    pair.server.data_to_send()
    pair.server.close()


def test_a_name_cannot_imitate_a_second_one() -> None:
    parsed = {
        "subject": ((("organizationName", "O, Inc+=\\"),), (("commonName", "a,CN=root"),)),
        "issuer": ((("commonName", " #x "),), (("unknownKind", "v"), ("localityName", "#l"))),
        "serialNumber": "01",
        "notAfter": "later",
        "subjectAltName": tuple(("DNS", str(n)) for n in range(MOST_NAMES + 1)),
    }
    told = describe(parsed, b"der")
    assert told["subject"] == "CN=a\\,CN=root,O=O\\, Inc\\+=\\\\"
    assert told["issuer"] == "unknownKind=v+L=\\#l,CN=\\ #x\\ "
    assert told["names"][:2] == ["DNS:0", "DNS:1"]
    assert len(told["names"]) == MOST_NAMES
    assert len(told["sha256"]) == 64


def test_an_empty_certificate_name_is_read() -> None:
    assert describe({}, b"")["names"] == []
