"""Which clients are accepted, from the bytes of a handshake to the answer."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.corpus import UPGRADE, frame, tell
from wsraw.config.addresses import UNIX, Listen, parse_address
from wsraw.config.settings import PoolSettings, RouteSettings, Settings
from wsraw.gateway.admission.per_address import AddressLimits, address_key
from wsraw.gateway.admission.policy import AdmissionPolicy
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.connection.connection import CLOSED, OPEN, Connection
from wsraw.gateway.counters import TELL_EVERY, Counters
from wsraw.link.records import OnMessage

PROXY_1 = b"PROXY TCP4 203.0.113.9 198.51.100.2 4711 443\r\n"


class Door:
    """A policy, and the clients that ask for admission."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.limits = Counters()
        self.policy = AdmissionPolicy(self.settings, self.limits)
        self.policy.address_limits = AddressLimits(0, 100)

    def come(
        self, data: bytes = b"", now: float = 0.0, address: str = "192.0.2.1", **listen: Any
    ) -> Connection:
        about = {"peer": f"{address}:1", "listener": "test"}
        ip = parse_address(address) or UNIX
        listener = Listen(name="test", **listen)
        con = accepted(7, listen=listener, settings=self.settings, about=about, now=now,
                                  policy=self.policy, address=ip)  # fmt: skip
        assert tell(con.first_events(now)) in ([], ["connect raw"])
        if data:
            con.receive_data(data, now)
        return con

    def ask(self, *headers: str, now: float = 0.0, address: str = "192.0.2.1") -> Connection:
        return self.come(UPGRADE % "".join(f"{h}\r\n" for h in headers).encode(), now, address)


def status(con: Connection) -> int:
    return int(bytes(con.output.data_to_send())[9:12])


# --- Origin and Host ---


def test_a_page_of_another_site_is_refused_by_default() -> None:
    door = Door()
    con = door.ask("Origin: https://evil.example")
    assert (status(con), con.state, con.ending.cause) == (403, CLOSED, "protocol-error")
    assert b"setting origins" in bytes(con.output.data_to_send())
    assert door.limits.counts == {"origins": 1}
    for origin in ("Origin: https://server.example.com", "X: y"):
        assert status(door.ask(origin)) == 101
    assert door.limits.counts == {"origins": 1}


def test_an_origin_in_two_headers_is_refused() -> None:
    door = Door(origins=("https://a.example",))
    assert status(door.ask("Origin: https://a.example")) == 101
    assert status(door.ask("Origin: https://a.example", "Origin: https://a.example")) == 400
    assert status(door.ask("origin: https://b.example", "ORIGIN: https://a.example")) == 400


def test_a_request_for_another_host_is_answered_with_421() -> None:
    door = Door(hosts=("example.org",), origins=("any",))
    con = door.ask()
    assert (status(con), con.state) == (421, CLOSED)
    assert b"setting hosts" in bytes(con.output.data_to_send())
    assert door.limits.counts == {"hosts": 1}
    assert status(Door(hosts=("*.example.com",)).ask()) == 101


# --- plain requests that a page makes a browser send ---

HERE = "127.0.0.1:8000"


def written(method: str, **fields: str) -> bytes:
    """A request as a browser sends it for a page, with our host."""
    known = {"Host": HERE, "User-Agent": "Mozilla/5.0", "Accept": "*/*"}
    known |= {name.replace("_", "-"): value for name, value in fields.items()}
    lines = [f"{method} / HTTP/1.1", *(f"{name}: {value}" for name, value in known.items())]
    return "\r\n".join([*lines, "", "say this\n" if method == "POST" else ""]).encode()


EVIL = "https://evil.example"
FOREIGN = {
    "fetch, no-cors": written("POST", Origin=EVIL, Sec_Fetch_Site="cross-site"),
    "fetch to an address that is not trustworthy": written("POST", Origin=EVIL),
    "a form, no-referrer": written("POST", Origin="null", Content_Type="text/plain"),
    "a preflight": written("OPTIONS", Origin=EVIL, Access_Control_Request_Method="PUT"),
    "a method of its own": written("PUT", Origin=EVIL),
    "an image": written("GET", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors"),
    "a link": written("GET", sec_fetch_site="Cross-Site", Sec_Fetch_Mode="navigate"),
    "an image, with CORS": written("GET", Origin=EVIL, Sec_Fetch_Site="cross-site"),
    "two origins": written("POST", Origin=f"http://{HERE}\r\nORIGIN:{EVIL}"),
    "lone line feeds": written("POST", Origin=EVIL).replace(b"\r\n", b"\n"),
    "many headers": written("POST", **{f"X{n}": "y" for n in range(90)}, Origin=EVIL),
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("cut", [1, 7, 100_000])
@pytest.mark.parametrize("listen", [
    {}, {"plain_http": "health"}, {"plain_http": "reject"}, {"protocol": "websocket"}
])  # fmt: skip
def test_a_request_of_another_site_reaches_no_handler(
    data: bytes, cut: int, listen: dict[str, Any]
) -> None:
    """In Chromium, fetch(url, {method: "POST", mode: "no-cors", body}) could send chat messages
    to examples/chat.py from any page.
    """
    door = Door()
    con = door.come(**listen)
    events = []
    for at in range(0, len(data), cut):
        events += con.receive_data(data[at : at + cut], 0.0)
    assert events == []
    assert (status(con), con.state, con.kind) == (403, CLOSED, "")
    assert b"setting origins" in bytes(con.output.data_to_send())
    assert door.limits.counts == {"origins": 1}


OURS = {
    "curl": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "curl -d": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    "no Host": b"OPTIONS * HTTP/1.0\r\n\r\n",
    "typed": written("GET", Sec_Fetch_Site="none"),
    "a form of its own": written("POST", Origin=f"http://{HERE}", Sec_Fetch_Site="same-origin"),
    "fetch of its own": written("GET", Sec_Fetch_Site="same-origin"),
    "another port of this machine": written("GET", Sec_Fetch_Site="same-site"),
    "not HTTP": b"GET / HTTP/2.0\r\nOrigin: https://evil.example\r\n\r\n",
    "behind the head": b"POST / HTTP/1.1\r\n\r\nOrigin: https://evil.example\r\n\r\n",
}


@pytest.mark.parametrize("data", OURS.values(), ids=OURS)
def test_requests_of_other_programs_reach_handlers_whole_as_raw_data(data: bytes) -> None:
    con = Door().come()
    connect, message = con.receive_data(data, 0.0)
    assert tell([connect]) == ["connect raw"]
    assert isinstance(message, OnMessage)
    assert message.data == data


def test_a_page_of_an_allowed_origin_may_send_requests() -> None:
    data = written("POST", Origin="https://a.example", Sec_Fetch_Site="cross-site")
    for origins in (("https://a.example",), ("any",)):
        assert Door(origins=origins).come(data).kind == "raw"
    # The request does not name its origin, so only `any` allows it.
    data = FOREIGN["an image"]
    assert status(Door(origins=("https://a.example",)).come(data)) == 403
    assert Door(origins=("any",)).come(data).kind == "raw"
    # A raw listener does not check requests.
    assert Door().come(protocol="raw").receive_data(data, 0.0)


def test_a_page_is_of_the_same_origin_as_the_host_that_a_trusted_proxy_names() -> None:
    fields = {"Origin": "https://example.org", "X_Forwarded_Host": "example.org"}
    door = Door(trusted_proxies=("10.0.0.0/8",))
    assert door.come(written("POST", **fields), address="10.0.0.1").kind == "raw"
    assert status(door.come(written("POST", **fields), address="192.0.2.1")) == 403


def test_the_host_of_a_plain_request_is_checked_before_handlers_get_it() -> None:
    """After DNS rebinding, the page has the same origin as the server and sends neither header."""
    door = Door(hosts=("localhost",))
    rebound = b"GET /x HTTP/1.1\r\nHost: evil.example:8000\r\n\r\n"
    assert status(door.come(rebound)) == 421
    assert door.limits.counts == {"hosts": 1}
    for data in (rebound.replace(b"evil.example", b"localhost"), b"GET / HTTP/1.0\r\n\r\n"):
        assert door.come(data).kind == "raw"
    # Health checks use an IP address as the host, and do not reach handlers.
    assert status(door.come(rebound, plain_http="health")) == 200


def test_no_secret_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    secret = "SECRET"
    for headers, url in (
        ((f"Origin: https://u:{secret}@evil.example/{secret}?t={secret}#{secret}",), ""),
        ((f"Origin: https://evil.example\\{secret}",), ""),
        ((), f"?token={secret}"),
    ):
        door = Door(pools=(PoolSettings(name="a"),), routes=(RouteSettings(pool="a", path="/x"),))
        data = UPGRADE.replace(b"/chat", f"/chat{url}".encode())
        door.come(data % "".join(f"{h}\r\n" for h in headers).encode())
    with_host = UPGRADE.replace(b"server.example.com", f"u:{secret}@server".encode())
    Door(hosts=("a.example",)).come(with_host % b"")
    text = caplog.text
    assert secret not in text
    for part in ("https://...@evil.example...", "/chat?...", "...@server"):
        assert part in text


def test_refusals_are_logged_rarely_and_without_control_characters(
    caplog: pytest.LogCaptureFixture,
) -> None:
    door = Door()
    with caplog.at_level(logging.WARNING):
        for now in (0.0, 1.0, TELL_EVERY - 0.1):
            door.ask("Origin: https://evil.example/\u2028\t\u202e" + "x" * 500, now=now)
        assert len(caplog.records) == 1
        door.ask("Origin: https://evil.example", now=TELL_EVERY)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.isascii()
    assert first.isprintable()
    assert len(first) < 400
    assert "limit origins: refused a request of a web page (403): 192.0.2.1:1" in first
    assert "3 times in 10 s" in second
    assert door.limits.counts == {"origins": 4}


# --- proxies that speak HTTP ---


def test_forwarding_headers_of_a_trusted_proxy_are_believed() -> None:
    door = Door(trusted_proxies=("10.0.0.0/8",))
    con = door.ask(
        "X-Forwarded-For: 1.1.1.1, 203.0.113.9", "X-Forwarded-Proto: https", address="10.0.0.1"
    )
    assert con.about == {
        "peer": "203.0.113.9", "proxy": "10.0.0.1:1", "scheme": "wss", "listener": "test",
    }  # fmt: skip
    assert con.address_key == address_key(parse_address("203.0.113.9"))
    assert con.inf["X-Forwarded-For"] == "1.1.1.1, 203.0.113.9"


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({}, "10.0.0.1"),
        ({"trusted_proxies": ("10.0.0.0/8",)}, "192.0.2.1"),
        ({"trusted_proxies": ("10.0.0.0/8",), "forwarded": "off"}, "10.0.0.1"),
        ({"trusted_proxies": ("10.0.0.0/8",), "forwarded": "forwarded"}, "10.0.0.1"),
        ({"trusted_proxies": ("unix",)}, "10.0.0.1"),
    ],
)
def test_forwarding_headers_of_other_clients_are_ignored(
    settings: dict[str, Any], address: str
) -> None:
    con = Door(**settings).ask("X-Forwarded-For: 1.1.1.1", "X-Forwarded-Proto: https",
                               address=address)  # fmt: skip
    assert con.about == {"peer": f"{address}:1", "listener": "test"}
    assert con.address_key is None


def test_the_forwarded_header_of_a_proxy_on_a_unix_socket_is_believed() -> None:
    door = Door(trusted_proxies=("unix",), forwarded="forwarded")
    con = door.ask('Forwarded: for="[2001:db8::1]:99";proto=http', address="unix")
    assert con.about["peer"] == "[2001:db8::1]:99"
    assert (con.about["proxy"], con.about["scheme"]) == ("unix:1", "ws")


def test_a_client_that_its_proxy_hides_has_no_address() -> None:
    door = Door(trusted_proxies=("10.0.0.0/8",))
    con = door.ask("X-Forwarded-For: unknown", address="10.0.0.1")
    assert (con.about["peer"], con.address_key) == ("unknown", None)


def test_the_host_that_a_trusted_proxy_was_asked_for_is_checked() -> None:
    door = Door(trusted_proxies=("10.0.0.0/8",), hosts=("example.org",))
    good = ("X-Forwarded-Host: example.org", "Origin: https://example.org")
    assert status(door.ask(*good, address="10.0.0.1")) == 101
    assert status(door.ask(*good)) == 421
    assert status(door.ask(good[0], "Origin: https://evil.example", address="10.0.0.1")) == 403


# --- proxies that speak the PROXY protocol ---


def test_a_proxy_protocol_header_names_the_client() -> None:
    door = Door(trusted_proxies=("10.0.0.0/8",))
    con = door.come(PROXY_1 + b"hello", address="10.0.0.1", proxy_protocol="required")
    assert (con.kind, con.address_key) == ("raw", address_key(parse_address("203.0.113.9")))
    assert con.about == {"peer": "203.0.113.9:4711", "proxy": "10.0.0.1:1", "listener": "test"}


def test_behind_a_proxy_protocol_header_every_kind_of_client_is_recognized() -> None:
    door = Door(trusted_proxies=("10.0.0.0/8",))
    con = door.come(PROXY_1 + UPGRADE % b"", address="10.0.0.1", proxy_protocol="required")
    assert (status(con), con.state, con.about["peer"]) == (101, OPEN, "203.0.113.9:4711")
    con = door.come(PROXY_1, address="10.0.0.1", proxy_protocol="required", protocol="raw")
    assert (con.kind, con.state) == ("raw", OPEN)
    con = door.come(PROXY_1, 1.0, "10.0.0.1", proxy_protocol="required", first_byte_timeout=2.0)
    assert con.keepalive.deadline == 3.0
    assert tell(con.handle_timeout(3.0)) == ["connect raw"]


def test_forwarding_headers_behind_a_proxy_protocol_header_are_ignored() -> None:
    door = Door(trusted_proxies=("10.0.0.0/8",))
    spoof = UPGRADE % b"X-Forwarded-For: 1.1.1.1\r\n"
    con = door.come(PROXY_1 + spoof, address="10.0.0.1", proxy_protocol="required")
    assert con.about["peer"] == "203.0.113.9:4711"
    inner = PROXY_1.replace(b"203.0.113.9", b"10.0.0.2") + spoof
    con = door.come(inner, address="10.0.0.1", proxy_protocol="required")
    assert (con.about["peer"], con.about["proxy"]) == ("1.1.1.1", "10.0.0.1:1")


def test_a_local_proxy_header_keeps_the_address_of_the_proxy() -> None:
    door = Door(trusted_proxies=("10.0.0.0/8",))
    local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
    con = door.come(local + b"hi", address="10.0.0.1", proxy_protocol="required")
    assert con.about == {"peer": "10.0.0.1:1", "listener": "test"}
    assert con.address_key is None


def test_a_proxy_protocol_header_tells_that_the_client_used_tls() -> None:
    door = Door(trusted_proxies=("10.0.0.0/8",))
    addresses = bytes([203, 0, 113, 9, 1, 1, 1, 1, 0, 1, 0, 2])
    tls = b"\x20\0\5\1\0\0\0\0"
    head = b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + len(addresses + tls).to_bytes(2) + addresses + tls
    for data, scheme in ((b"hi", "tls"), (UPGRADE % b"", "wss")):
        con = door.come(head + data, address="10.0.0.1", proxy_protocol="required")
        assert con.about["scheme"] == scheme


@pytest.mark.parametrize("mode", ["optional", "required"])
@pytest.mark.parametrize("data", [PROXY_1 + b"hello", b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"])
def test_a_proxy_protocol_header_of_an_untrusted_address_is_refused(mode: str, data: bytes) -> None:
    door = Door(trusted_proxies=("10.0.0.0/8",))
    con = door.come(data, proxy_protocol=mode)
    assert (con.state, con.output.reset, con.kind) == (CLOSED, True, "")
    assert door.limits.counts == {"proxy_protocol": 1}
    assert door.policy.refuses_at_once(Listen(name="", proxy_protocol="required"), None)
    assert not door.policy.refuses_at_once(Listen(name="", proxy_protocol="optional"), None)


def test_without_the_setting_a_proxy_protocol_header_is_data() -> None:
    con = Door().come(PROXY_1)
    assert (con.kind, con.about["peer"]) == ("raw", "192.0.2.1:1")


@pytest.mark.parametrize("address", ["10.0.0.1", "192.0.2.1"])
def test_an_optional_proxy_protocol_header_may_be_missing(address: str) -> None:
    door = Door(trusted_proxies=("10.0.0.0/8",))
    for data in (b"hello", UPGRADE % b""):
        con = door.come(data, address=address, proxy_protocol="optional")
        assert (con.state, con.about["peer"]) == (OPEN, f"{address}:1")
    con = door.come(address=address, proxy_protocol="optional")
    for byte in b"\r\nhello":
        con.receive_data(bytes([byte]), 0.0)
    assert con.kind == "raw"


def test_a_required_proxy_protocol_header_must_arrive_in_time() -> None:
    door = Door(trusted_proxies=("10.0.0.0/8",), handshake_timeout=10)
    for begun in (b"", b"PRO", b"PROXY TCP4"):
        con = door.come(begun, address="10.0.0.1", proxy_protocol="required")
        assert con.keepalive.deadline == 10.0
        assert con.handle_timeout(10.0) == []
        assert (con.state, con.output.reset) == (CLOSED, True)
    con = door.come(b"PRO", address="10.0.0.1", proxy_protocol="optional")
    assert tell(con.handle_timeout(10.0)) == ["connect raw", "raw PRO"]


@pytest.mark.parametrize(
    ("data", "mode", "told"),
    [
        (b"", "required", []),
        (b"PRO", "required", []),
        (b"", "optional", []),
        (b"PRO", "optional", ["connect raw", "raw PRO"]),
        (b"PROXY ", "optional", []),
        (PROXY_1, "required", []),
    ],
)
def test_an_end_of_file_instead_of_a_proxy_protocol_header_closes_the_connection(
    data: bytes, mode: str, told: list[str]
) -> None:
    door = Door(trusted_proxies=("10.0.0.0/8",))
    con = door.come(data, address="10.0.0.1", proxy_protocol=mode)
    assert tell(con.receive_eof(0.0)) == told
    assert con.intake.half_closed is bool(told)
    assert told or con.state is CLOSED


def test_the_proxy_protocol_header_can_be_read_before_tls_begins() -> None:
    """This is necessary where TLS follows the header."""
    door = Door(trusted_proxies=("10.0.0.0/8",))
    con = door.come(address="10.0.0.1", proxy_protocol="required")
    assert con.phase.awaits_header
    assert con.phase.receive_header(con, PROXY_1[:20], 0.0) == ([], b"")
    assert con.phase.receive_header(con, PROXY_1[20:] + b"\x16\x03", 0.0) == ([], b"\x16\x03")
    assert not con.phase.awaits_header
    assert not door.come().phase.awaits_header
    assert tell(con.receive_data(b"plain", 0.0)) == ["connect raw", "raw plain"]


@pytest.mark.parametrize("mode", ["optional", "required"])
@pytest.mark.parametrize("cut", [1, 2, 7, 50])
def test_proxy_header_handshake_and_frames_may_be_cut_anywhere(mode: str, cut: int) -> None:
    data = PROXY_1 + UPGRADE % b"" + frame(0x81, b"hello")
    door = Door(trusted_proxies=("10.0.0.0/8",))
    con = door.come(address="10.0.0.1", proxy_protocol=mode)
    events = [
        event
        for start in range(0, len(data), cut)
        for event in con.receive_data(data[start : start + cut], 0.0)
    ]
    assert tell(events) == ["connect websocket server", "text hello"]
    assert con.about["peer"] == "203.0.113.9:4711"
