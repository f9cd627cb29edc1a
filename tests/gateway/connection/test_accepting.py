from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.admission.test_policy import PROXY_1, UPGRADE, Door
from wsraw.gateway.admission.per_address import OVER_LIMIT, REFUSAL_TIMEOUT, AddressLimits
from wsraw.gateway.connection.connection import CLOSED, Connection


def second(data: bytes, **listen: Any) -> Connection:
    """The second client of an address behind the same proxy, where only one is allowed."""
    door = Door(trusted_proxies=("10.0.0.0/8",))
    door.policy.address_limits = AddressLimits(0, 1)
    listen.setdefault("proxy_protocol", "required")
    first = door.come(PROXY_1 + b"hello", address="10.0.0.1", **listen)
    assert first.kind == "raw"
    con = door.come(PROXY_1 + data, address="10.0.0.1", **listen)
    assert con.ending.limit == "max_connections_per_address"
    assert con.address_key is None
    return con


@pytest.mark.parametrize("mode", ["optional", "required"])
@pytest.mark.parametrize("cut", [1, 3, 4, 1000])
def test_an_http_client_is_answered_with_503(mode: str, cut: int) -> None:
    con = second(b"", proxy_protocol=mode)
    request = UPGRADE % b""
    for at in range(0, len(request), cut):
        assert con.receive_data(request[at : at + cut], 0.0) == []
    assert (con.state, con.output.reset) == (CLOSED, False)
    assert bytes(con.output.data_to_send()) == OVER_LIMIT
    assert OVER_LIMIT.startswith(b"HTTP/1.1 429 ")
    assert b"\r\nRetry-After: 5\r\n" in OVER_LIMIT


@pytest.mark.parametrize("data", [b"hello", b"GEX", b"\x16\3\1", b"G\0"])
def test_other_clients_are_reset(data: bytes) -> None:
    con = second(data)
    assert (con.state, con.output.reset, con.output.size) == (CLOSED, True, 0)


def test_a_client_that_sends_nothing_is_not_waited_for_long() -> None:
    for end in ("handle_timeout", "receive_eof"):
        con = second(b"GE")
        assert con.keepalive.deadline == REFUSAL_TIMEOUT
        assert con.state is not CLOSED
        assert getattr(con, end)(REFUSAL_TIMEOUT) == []
        assert (con.state, con.output.reset) == (CLOSED, True)
    con = second(b"")
    assert con.close(1001, "", "shutdown", 0.0) == []
    assert (con.state, con.output.reset) == (CLOSED, True)


@pytest.mark.parametrize("listen", [{"protocol": "raw"}, {"tls": "required"}, {"tls": "optional"}])
def test_a_client_behind_a_proxy_header_of_a_raw_listener_is_reset_at_once(
    listen: dict[str, Any],
) -> None:
    door = Door(trusted_proxies=("10.0.0.0/8",))
    door.policy.address_limits = AddressLimits(0, 1)
    for n in range(2):
        con = door.come(address="10.0.0.1", proxy_protocol="required", **listen)
        con.phase.receive_header(con, PROXY_1, 0.0)
        assert (con.state is CLOSED, con.output.reset) == (bool(n), bool(n))
