from __future__ import annotations

import json
import ssl
import time
from pathlib import Path

import pytest

from tests import authority
from wsraw.config.checks import from_options
from wsraw.gateway.tls import check


def found(
    folder: Path, capsys: pytest.CaptureFixture[str], days: int
) -> tuple[int, dict[str, list[str]]]:
    file = folder / "cert.pem"
    file.write_bytes(authority.pem(authority.leaf(days=days)))
    code = check.main(from_options({"listen": ("127.0.0.1:0", f"wss://h:1?tls_cert={file}")}))
    return code, json.loads(capsys.readouterr().out)


def test_a_certificate_that_is_valid_for_long_is_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert found(tmp_path, capsys, 20) == (0, {"problems": [], "warnings": []})


def test_a_certificate_that_will_expire_soon_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = found(tmp_path, capsys, 3)
    assert code == 0
    assert told["problems"] == []
    (warning,) = told["warnings"]
    assert warning.endswith("cert.pem: the certificate expires in 3 days")


def test_a_certificate_that_has_expired_is_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = found(tmp_path, capsys, -1)
    assert code == 1
    assert told["problems"][0].endswith("cert.pem: certificate has expired")


def test_a_file_that_is_not_a_certificate_is_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cert.pem").write_text("nonsense")
    settings = from_options({"listen": (f"wss://h:1?tls_cert={tmp_path / 'cert.pem'}",)})
    assert check.main(settings) == 1
    assert "not a certificate and its key" in json.loads(capsys.readouterr().out)["problems"][0]


def test_the_end_is_that_of_the_certificate_and_not_of_its_authority(tmp_path: Path) -> None:
    file = tmp_path / "chain.pem"
    file.write_bytes(authority.pem(authority.leaf(days=5)) + authority.ca().cert_pem.bytes())
    assert abs(check.end_of(str(file), "") - time.time() - 5 * check.DAY) < check.DAY / 24
    file.write_bytes(authority.pem(authority.leaf(days=-1)) + authority.ca().cert_pem.bytes())
    with pytest.raises(ssl.SSLCertVerificationError):
        check.end_of(str(file), "")
