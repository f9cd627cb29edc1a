from __future__ import annotations

from wsraw.gateway.tls.x509 import MOST_NAMES, describe


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
