from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw.config.origins import Hosts, Origins


@pytest.mark.parametrize(
    ("allowed", "origin", "host", "good"),
    [
        # A client without an Origin is not a browser.
        ([], None, "h", True),
        ([], "http://h", "h", False),
        (["any"], "http://evil.example", "h", True),
        (["any"], "garbage", "h", True),
        (["same-origin"], "http://h", "h", True),
        (["same-origin"], "https://h", "h", True),
        (["same-origin"], "https://H", "h:443", True),
        (["same-origin"], "http://h:80", "H.", True),
        (["same-origin"], "http://h", "h:443", False),
        (["same-origin"], "http://h:8000", "h:8000", True),
        (["same-origin"], "http://h:8000", "h:8001", False),
        (["same-origin"], "http://h:8000", "h", False),
        (["same-origin"], "http://evil.example", "h", False),
        (["same-origin"], "http://h.evil.example", "h", False),
        (["same-origin"], "http://evilh", "h", False),
        (["same-origin"], "http://h@evil.example", "h", False),
        (["same-origin"], "http://[2001:db8:0::1]:8000", "[2001:db8::1]:8000", True),
        (["same-origin"], "http://192.0.2.1", "192.0.2.1", True),
        # Origins of this machine are allowed on any port, but not for a server on another machine.
        (["same-origin"], "http://localhost:3000", "127.0.0.1:8000", True),
        (["same-origin"], "http://[::1]", "localhost:8000", True),
        (["same-origin"], "http://app.localhost", "127.9.9.9:8000", True),
        (["same-origin"], "http://localhost", "example.org", False),
        (["same-origin"], "http://example.org", "localhost:8000", False),
        (["same-origin"], "http://localhost.evil.example", "localhost:8000", False),
        (["same-origin"], "null", "h", False),
        (["same-origin", "null"], "null", "h", True),
        (["null"], "http://null", "null", False),
        (["https://a.example"], "https://a.example", "h", True),
        (["https://A.example/"], "https://a.EXAMPLE", "h", True),
        (["https://a.example"], "https://a.example:443", "h", True),
        (["https://a.example"], "http://a.example", "h", False),
        (["https://a.example"], "https://a.example:8443", "h", False),
        (["https://a.example:8443"], "https://a.example:8443", "h", True),
        (["https://*.a.example"], "https://b.a.example", "h", True),
        (["https://*.a.example"], "https://c.b.a.example", "h", True),
        (["https://*.a.example"], "https://a.example", "h", False),
        (["https://*.a.example"], "https://.a.example", "h", False),
        (["https://*.a.example"], "https://*.a.example", "h", False),
        (["https://*.a.example"], "https://xa.example", "h", False),
        (["https://*.a.example"], "https://b.a.example.evil.example", "h", False),
        (["https://a.example", "https://b.example"], "https://b.example", "h", True),
        (["https://a.example"], "https://a.example, https://b.example", "h", False),
        (["https://a.example"], "https://a.example/path", "h", False),
        (["https://a.example"], "", "h", False),
        (["chrome-extension://abcdef"], "chrome-extension://abcdef", "h", True),
        # Pages inside apps: daphne #72, channels #392, mopidy #1712.
        (["file://"], "file://", "h", True),
        (["file:///"], "file://", "h", True),
        (["FILE://"], "file://", "h", True),
        (["app://."], "app://.", "h", True),
        (["app://./"], "app://.", "h", True),
        (["capacitor://localhost"], "capacitor://localhost", "h", True),
        (["file://"], "null", "h", False),
        (["null"], "file://", "h", False),
        (["file://"], "file:///etc", "h", False),
        (["file://"], "https://", "h", False),
        (["same-origin"], "file://", "", False),
        (["same-origin"], "app://.", ".", False),
    ],
)
def test_an_origin_is_allowed_as_the_setting_says(
    allowed: list[str], origin: str | None, host: str, good: bool
) -> None:
    assert Origins(allowed).allow(origin, [host]) is good


def test_a_cross_site_request_without_origin_is_allowed_only_by_any() -> None:
    assert Origins(["any"]).allow(None, ["h"], cross_site=True)
    assert not Origins(["same-origin", "https://a.example"]).allow(None, ["h"], cross_site=True)
    # If there is an Origin, only that counts.
    assert Origins(["https://a.example"]).allow("https://a.example", ["h"], cross_site=True)


def test_same_origin_also_compares_the_host_that_a_proxy_was_asked_for() -> None:
    origins = Origins(["same-origin"])
    assert origins.allow("https://example.org", ["127.0.0.1:8000", "example.org"])
    assert not origins.allow("https://example.org", ["127.0.0.1:8000"])
    assert not origins.allow("https://example.org", ["127.0.0.1:8000", ""])


@pytest.mark.parametrize(
    "text",
    (
        *("", "example.org", "https://", "https://a.example/path", "https://a:x", "*", "https://*"),
        *("file:///home", "app://a/b", "file:", "://", "https://.", "app://a@b", "app://a b"),
    ),
)
def test_wrong_origins_are_refused_with_advice(text: str) -> None:
    with pytest.raises(ValueError, match=r"write https://example\.org"):
        Origins([text])


@pytest.mark.parametrize(
    ("allowed", "host", "good"),
    [
        (["any"], "whatever", True),
        (["any"], "", True),
        (["example.org"], "example.org", True),
        (["example.org"], "EXAMPLE.org.:8000", True),
        (["example.org:8000"], "example.org:8000", True),
        (["example.org:8000"], "example.org", False),
        (["example.org"], "evil.example", False),
        (["*.example.org"], "a.example.org", True),
        (["*.example.org"], "example.org", False),
        (["*.example.org"], "*.example.org", False),
        (["127.0.0.1"], "127.0.0.1:8000", True),
        (["[::1]"], "[0::1]:8000", True),
        (["[::1]"], "::1", False),
        (["example.org"], "", False),
        (["example.org"], "example.org:99999", False),
        (["example.org"], "example.org/x", False),
        ([], "example.org", False),
    ],
)
def test_a_host_is_allowed_as_the_setting_says(allowed: list[str], host: str, good: bool) -> None:
    assert Hosts(allowed).allow(host) is good


@pytest.mark.parametrize("text", ["", "http://h", "h/", "h:x", "::1", "*", "a b"])
def test_wrong_hosts_are_refused_with_advice(text: str) -> None:
    with pytest.raises(ValueError, match=r"write example\.org"):
        Hosts([text])


@given(st.text(), st.text())
def test_no_origin_or_host_of_a_client_raises(origin: str, host: str) -> None:
    Origins(["same-origin", "https://*.a.example"]).allow(origin, [host])
    Origins(["same-origin"]).allow(f"http://{origin}", [host])
    Hosts(["*.a.example"]).allow(host)
