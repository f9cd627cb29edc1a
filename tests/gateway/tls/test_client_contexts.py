from __future__ import annotations

import glob
import ssl
import tempfile
from pathlib import Path

import pytest

from tests.authority import ca, leaf, pem
from wsraw.gateway.tls.client_contexts import MOST_CACHED, TlsOptions, keep, make_context


def test_contexts_verify_by_default() -> None:
    context = make_context(TlsOptions())
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    context = make_context(TlsOptions(verify=False))
    assert context.verify_mode == ssl.CERT_NONE


def test_a_given_authority_replaces_those_of_the_system() -> None:
    context = make_context(TlsOptions(ca=ca().cert_pem.bytes().decode()))
    assert len(context.get_ca_certs()) == 1


def test_keys_are_removed_from_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    text = pem(leaf("me")).decode()
    make_context(TlsOptions(cert=text))
    with pytest.raises(ValueError, match="cert and key"):
        make_context(TlsOptions(cert="nonsense"))
    assert not glob.glob(f"{tmp_path}/*")


def test_the_contexts_made_last_are_kept() -> None:
    contexts: dict[TlsOptions, ssl.SSLContext] = {}
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    options = [TlsOptions(ca=str(n)) for n in range(MOST_CACHED + 1)]
    for each in options:
        keep(each, made, contexts)
        assert contexts[each] is made
    assert options[0] not in contexts
    assert options[1] in contexts


@pytest.mark.parametrize("letters", ["Müller GmbH", "株式会社", "\0"])
def test_comments_in_a_pem_file_may_be_in_any_script(letters: str) -> None:
    """Python accepts only ASCII: the TypeError once ended its thread."""
    text = f"# Root of {letters}\n{ca().cert_pem.bytes().decode()}"
    assert len(make_context(TlsOptions(ca=text)).get_ca_certs()) == 1
    text = f"# Key of {letters}\n{pem(leaf('me')).decode()}"
    make_context(TlsOptions(cert=text))


@pytest.mark.parametrize("ca", ["-----BEGIN CERTIFICATE-----ü", "-----BEGIN\0", "ü", "# none"])
def test_text_that_is_not_a_certificate_is_refused(ca: str) -> None:
    with pytest.raises(ValueError, match="option ca holds no certificates"):
        make_context(TlsOptions(ca=ca))
