from __future__ import annotations

from pathlib import Path

import pytest

from tests.authority import ca_file, leaf, pem, server_file, write
from wsraw.config.addresses import Listen
from wsraw.gateway.tls import server_contexts
from wsraw.gateway.tls.server_contexts import ServerContexts


def listen(*certs: str, **more: object) -> Listen:
    return Listen(name="here", tls="required", tls_cert=certs, **more)  # type: ignore[arg-type]


def test_a_requested_name_selects_its_certificate(tmp_path: Path) -> None:
    files = [server_file(tmp_path, name) for name in ("default", "one", "star")]
    found = ServerContexts(
        listen(files[0], f"Example.org={files[1]}", f"*.example.org,other={files[2]}")
    )
    default, one, star = (found.context_for(name) for name in ("", "example.org", "a.example.org"))
    assert len({id(context) for context in (default, one, star)}) == 3
    assert found.context_for("other") is star
    for name in ("a.b.example.org", "org", "xexample.org", ".", "*"):
        assert found.context_for(name) is default


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("tls_cert", None, "No such file"),
        ("tls_cert", b"", "PEM form"),
        ("tls_cert", b"-----BEGIN PRIVATE KEY-----", "PEM form"),
        (
            "tls_cert",
            leaf("a").cert_chain_pems[0].bytes(),
            "contains no key; set tls_key",
        ),
        ("tls_key", None, "No such file"),
        ("tls_key", b"x", "PEM form"),
        ("tls_key", leaf("b").private_key_pem.bytes(), "does not belong"),
        ("tls_client_ca", None, "No such file"),
        ("tls_client_ca", b"x", "no certificates"),
    ],
)
def test_a_wrong_certificate_is_refused_with_its_setting(
    tmp_path: Path, name: str, data: bytes | None, said: str
) -> None:
    file = str(tmp_path / "wrong.pem")
    if data is not None:
        write(tmp_path, "wrong.pem", data)
    good = write(tmp_path, "good.pem", pem(leaf("a")))
    given = {
        "tls_cert": listen(file),
        "tls_key": listen(good, tls_key=(file,)),
        "tls_client_ca": listen(good, tls_client_ca=file, tls_client_auth="required"),
    }[name]
    with pytest.raises(ValueError, match=said) as caught:
        ServerContexts(given)
    assert str(caught.value).startswith(("tls_cert: ", f"{name}: "))
    assert "\n" not in str(caught.value)


def test_client_certificates_are_requested_as_the_listener_says(tmp_path: Path) -> None:
    file = server_file(tmp_path)
    for auth, mode in (("optional", 1), ("required", 2)):
        given = listen(file, tls_client_ca=ca_file(tmp_path), tls_client_auth=auth)
        assert ServerContexts(given).context_for("").verify_mode == mode
    assert ServerContexts(listen(file)).context_for("").verify_mode == 0


def test_a_file_that_vanishes_while_it_is_read_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may vanish at the moment when it is renewed."""
    file = write(tmp_path, "gone.pem", pem(leaf("a")))
    read = server_contexts._read

    def read_last(path: str, setting: str) -> bytes:
        data = read(path, setting)
        Path(path).unlink()
        return data

    monkeypatch.setattr(server_contexts, "_read", read_last)
    with pytest.raises(ValueError, match=r"tls_cert: .*gone.pem: No such file"):
        ServerContexts(listen(file))
