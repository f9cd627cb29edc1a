"""How a gateway proves its identity to NATS, and NATS to the gateway."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.authority import ca, leaf
from tests.deadline import eventually
from tests.e2e.cluster import nats_server
from tests.e2e.cluster.nats_server import NatsServer
from tests.e2e.cluster.test_cluster import client, cluster_of, wait_for
from tests.e2e.serving import serve


@pytest.fixture(autouse=True)
def _needs_nats() -> None:
    nats_server.need()


def test_over_tls_the_server_must_be_the_right_one(room: Path, tmp_path: Path) -> None:
    cert, key, ours, others = (tmp_path / name for name in ("cert", "key", "ours", "others"))
    made = leaf("127.0.0.1")
    cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    key.write_bytes(made.private_key_pem.bytes())
    ours.write_bytes(ca().cert_pem.bytes())
    others.write_bytes(ca("others").cert_pem.bytes())
    with NatsServer(tmp_path, "--tls", f"--tlscert={cert}", f"--tlskey={key}") as nats:
        url = f"--cluster=tls://127.0.0.1:{nats.port}"
        with serve(room, url, f"--cluster-ca={ours}", "--node=one") as one:
            wait_for(one, "connected", 0)
            with serve(room, url, f"--cluster-ca={others}", "--node=two") as two, client(two):
                two.run.line(r"agent: NATS: .*certificate verify failed")
                eventually(lambda: cluster_of(two)["why"], "why there is no connection")
                wait_for(two, "away", 0)


def test_a_wrong_password_is_told_and_not_logged(room: Path, tmp_path: Path) -> None:
    with NatsServer(tmp_path, "--user=ann", "--pass=secret") as nats:
        at = f"127.0.0.1:{nats.port}"
        with serve(room, f"--cluster=nats://ann:secret@{at}") as one:
            wait_for(one, "connected", 0)
            assert cluster_of(one)["server"] == at
            assert "secret" not in str(one.run)
        with serve(room, f"--cluster=nats://ann:5ecret@{at}") as two, client(two):
            two.run.line(r"agent: NATS: .*[Aa]uthorization [Vv]iolation")
            wait_for(two, "away", 0)
            assert "5ecret" not in str(two.run)


# --- credentials ---


def test_credentials_open_an_account(room: Path, tmp_path: Path) -> None:
    nkeys = pytest.importorskip("nkeys")
    operator, account, user = (
        nkeys.from_seed(nkeys.encode_seed(hashlib.sha256(name).digest(), prefix))
        for name, prefix in (
            (b"o", nkeys.PREFIX_BYTE_OPERATOR),
            (b"a", nkeys.PREFIX_BYTE_ACCOUNT),
            (b"u", nkeys.PREFIX_BYTE_USER),
        )
    )
    limits = {"subs": -1, "data": -1, "payload": -1}
    of_account = {"imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
    tokens = {
        "operator": token(operator, operator, {"type": "operator"}),
        "account": token(operator, account, {"type": "account", "limits": limits | of_account}),
        "user": token(account, user, {"type": "user", **limits}),
    }
    (tmp_path / "operator.jwt").write_text(tokens["operator"])
    config = tmp_path / "nats.conf"
    public = account.public_key.decode()
    config.write_text(
        f"operator: {tmp_path}/operator.jwt\nresolver: MEMORY\n"
        f"resolver_preload: {{ {public}: {tokens['account']} }}\n"
    )
    creds = tmp_path / "user.creds"
    creds.write_text(
        f"-----BEGIN NATS USER JWT-----\n{tokens['user']}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    with NatsServer(tmp_path, "-c", str(config)) as nats:
        with serve(room, f"--cluster={nats.url}", f"--cluster-credentials={creds}") as one:
            wait_for(one, "connected", 0)
        with serve(room, f"--cluster={nats.url}") as two:
            two.run.line(r"agent: NATS: ")
            wait_for(two, "away", 0)


def token(issuer: Any, subject: Any, claims: dict[str, Any]) -> str:
    """A JWT as `nsc` writes it."""
    whole = {
        "iat": int(time.time()),
        "iss": issuer.public_key.decode(),
        "sub": subject.public_key.decode(),
        "name": "test",
        "jti": "X",
        "nats": {"version": 2, **claims},
    }
    head = {"typ": "JWT", "alg": "ed25519-nkey"}
    text = b".".join(encoded(json.dumps(each).encode()) for each in (head, whole))
    return (text + b"." + encoded(issuer.sign(text))).decode()


def encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
