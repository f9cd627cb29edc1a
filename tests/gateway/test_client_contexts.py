from __future__ import annotations

import glob
import ssl
import tempfile
from pathlib import Path

import pytest
from authority import ca, leaf, pem

from wsraw.gateway.client_contexts import (
    MOST_CACHED,
    ClientContexts,
    TlsOptions,
    make,
    read_options,
)


def test_contexts_verify_by_default() -> None:
    context, why = make(TlsOptions())
    assert context is not None
    assert (context.verify_mode, context.check_hostname, why) == (ssl.CERT_REQUIRED, True, "")
    context, _ = make(TlsOptions(verify=False))
    assert context is not None
    assert context.verify_mode == ssl.CERT_NONE


def test_an_own_authority_counts_instead_of_the_systems() -> None:
    context, _ = make(TlsOptions(ca=ca().cert_pem.bytes().decode()))
    assert context is not None
    assert len(context.get_ca_certs()) == 1


def test_keys_do_not_stay_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    text = pem(leaf("me")).decode()
    assert make(TlsOptions(cert=text))[0] is not None
    assert make(TlsOptions(cert="nonsense"))[0] is None
    assert not glob.glob(f"{tmp_path}/*")


def test_those_used_last_are_kept() -> None:
    contexts = ClientContexts()
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    options = [TlsOptions(ca=str(n)) for n in range(MOST_CACHED + 1)]
    for each in options:
        contexts.keep(each, made)
        assert contexts.find(options[0]) is made
    assert contexts.find(options[1]) is None
    assert contexts.find(options[2]) is made


@pytest.mark.parametrize("wrong", [{"verify": 1}, {"ca": b"x"}, {"cert": 1}, {"key": "x"}])
def test_wrong_options_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"option {next(iter(wrong))}"):
        read_options(wrong, True)
    assert read_options({}, True) == TlsOptions(speaks_http=True)
