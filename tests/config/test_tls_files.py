from __future__ import annotations

from pathlib import Path

import pytest

from wsraw.config import sources, tls_files
from wsraw.config.sources import ConfigurationError


def refusal(tmp_path: Path, text: str, **given: object) -> str:
    file = tmp_path / "wsraw.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(ConfigurationError) as caught:
        tls_files.check(sources.gather(given, {}, str(file)))
    return str(caught.value).replace(f"{tmp_path}/", "")


MISSING = "No such file or directory"


@pytest.mark.parametrize("name", ["here.pem", "../{}/here.pem"])
def test_tls_files_that_exist_are_accepted(tmp_path: Path, name: str) -> None:
    (tmp_path / "here.pem").touch()
    name = name.format(tmp_path.name)
    text = f"""
    tls_cert = ["{name}", "a.b={name}"]
    tls_key = ["{name}", "{name}"]
    tls_client_ca = "{name}"
    tls_client_auth = "optional"
    listen = ["h:1", "h:2?tls_cert={name}", "ws://h:3"]
    """
    file = tmp_path / "wsraw.toml"
    file.write_text(text, "utf-8")
    tls_files.check(sources.gather({}, {}, str(file)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\ntls_cert = 'no.pem'", f"wsraw.toml:2: tls_cert: no.pem: {MISSING}"),
        ("tls_cert = ['here.pem', 'a.b=no.pem']", f"wsraw.toml:1: tls_cert: no.pem: {MISSING}"),
        ("tls_cert = 'here.pem'\ntls_key = 'no'", f"wsraw.toml:2: tls_key: no: {MISSING}"),
        (
            "tls_cert = 'here.pem'\ntls_client_auth = 'required'\ntls_client_ca = 'no'",
            f"wsraw.toml:3: tls_client_ca: no: {MISSING}",
        ),
        ("tls_cert = '.'", "wsraw.toml:1: tls_cert: "),
        (
            "tls_cert = 'here.pem'\nlisten = ['h:1', 'h:2?tls_cert=no']",
            "wsraw.toml:2: listen: 'h:2?tls_cert=no': tls_cert: no: ",
        ),
    ],
)
def test_a_missing_tls_file_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "here.pem").touch()
    assert refusal(tmp_path, text).startswith(said)


def test_a_missing_tls_file_of_the_command_line_is_refused_by_its_option(tmp_path: Path) -> None:
    assert refusal(tmp_path, "", tls_cert=("no",)) == f"--tls-cert: no: {MISSING}"


def test_without_a_tls_listener_certificates_are_not_looked_for(tmp_path: Path) -> None:
    found = sources.gather({"tls_cert": ("no",), "listen": ("ws://h:1",)}, {})
    tls_files.check(found)
