"""The page in a real browser, with a real run behind it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.admin.page.browser import Browser, chromium
from tests.admin.page.test_actions import Admin
from tests.deadline import DEADLINE
from tests.e2e.serving import ECHO, serve
from tests.needs import signals

pytestmark = chromium

HOSTILE = (
    "/<img/src=x/onerror=window.hacked=1>",
    "/<script>window.hacked=1</script>",
    "/'-alert(1)-'&lt;b&gt;",
)


@pytest.fixture(scope="module")
def admin() -> Iterator[Admin]:
    with serve(ECHO, "--admin=127.0.0.1:0") as serving:
        yield Admin(serving)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def page(admin: Admin, browser: Browser) -> Browser:
    """The page, opened by the link that contains the token."""
    browser.open("about:blank")
    browser.errors.clear()
    browser.open(f"http://{admin.place}/#token={admin.token}")
    browser.wait("document.querySelector('#state')?.textContent === 'healthy'")
    return browser


def rows(browser: Browser) -> str:
    return "[...document.querySelectorAll('#connections tr')]"


def raw_websocket(admin: Admin, path: str) -> socket.socket:
    """A WebSocket with a path that no library would send."""
    sock = admin.serving.tcp()
    sock.sendall(
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert b" 101 " in sock.recv(4096)
    return sock


def test_the_token_is_asked_for_and_a_wrong_one_is_refused(admin: Admin, browser: Browser) -> None:
    browser.open("about:blank")
    browser.open(f"http://{admin.place}/")
    browser.wait("document.querySelector('#ask')?.open")
    enter = (
        "document.querySelector('#token').value = '%s';"
        "document.querySelector('#ask button').click()"
    )
    browser.run(enter % "wrong")
    browser.wait("document.querySelector('#ask-text').textContent.startsWith('That token')")
    assert browser.run("document.querySelector('#main').hidden")
    browser.run(enter % admin.token)
    browser.wait("!document.querySelector('#main').hidden")
    browser.run("document.querySelector('#leave').click()")
    browser.wait("document.querySelector('#ask').open")
    assert browser.run("sessionStorage.length") == 0


def test_the_token_of_a_link_does_not_stay_in_the_address(admin: Admin, page: Browser) -> None:
    assert page.run("location.href") == f"http://{admin.place}/"
    assert page.run("document.cookie") == ""
    assert page.errors == []


def test_figures_and_plots_follow_the_traffic(admin: Admin, page: Browser) -> None:
    with admin.serving.ws() as client:
        page.wait("document.querySelector('#tiles .value').textContent === '1'")
        for _ in range(3):
            client.send("hello")
            client.recv(DEADLINE)
        page.wait("[...document.querySelectorAll('#charts path')].length >= 2")
    page.wait("document.querySelector('#tiles .value').textContent === '0'")
    assert page.errors == []


def test_text_of_clients_is_shown_as_text(admin: Admin, page: Browser) -> None:
    clients = [raw_websocket(admin, path) for path in HOSTILE]
    try:
        page.wait(f"{rows(page)}.length === {len(clients)}")
        text = page.run("document.querySelector('#connections').textContent")
        for path in HOSTILE:
            assert path in text
        assert page.run("document.querySelectorAll('#connections img, #connections b').length") == 0
        assert page.run("window.hacked") is None
        assert page.errors == []
    finally:
        for client in clients:
            client.close()


def test_a_connection_is_looked_at_and_kicked_after_a_question(admin: Admin, page: Browser) -> None:
    with admin.serving.ws(path="/room/7") as client:
        page.wait(f"{rows(page)}.some(row => row.textContent.includes('/room/7'))")
        page.run("document.querySelector('#connections button.link').click()")
        page.wait("document.querySelector('#one').open")
        assert "/room/7" in page.run("document.querySelector('#one').textContent")
        page.run("document.querySelector('#one-kick').click()")
        page.wait("document.querySelector('#sure').open")
        page.run("document.querySelector('#sure-yes').click()")
        page.wait("!document.querySelector('#toast').hidden")
        with pytest.raises(Exception, match="1008"):
            client.recv(DEADLINE)
    page.wait("document.querySelector('#connections').textContent === 'no such connections'")


def test_workers_are_added_by_a_button(admin: Admin, page: Browser) -> None:
    page.run("document.querySelectorAll('#pools .steps button')[1].click()")
    page.wait("document.querySelector('#pools').textContent.includes('2 of 2')")
    assert page.errors == []


def test_handlers_are_shown_once_a_worker_has_told_of_them(admin: Admin, page: Browser) -> None:
    with admin.serving.ws() as client:
        client.send("hello")
        client.recv(DEADLINE)
        page.wait("document.querySelector('#handlers').textContent.includes('on_message')")
    assert page.run("!document.querySelector('#handlers-card').hidden")
    assert page.errors == []


def test_the_end_of_the_log_is_shown(page: Browser) -> None:
    page.wait("document.querySelector('#log').textContent.includes('worker 1 is ready')")
    assert page.run("!document.querySelector('#log-card').hidden")


@signals
def test_a_problem_and_the_end_of_the_gateway_are_shown(page: Browser, admin: Admin) -> None:
    gateway = admin.serving.gateway
    os.kill(gateway, signal.SIGSTOP)
    try:
        page.wait("document.querySelector('#problems').textContent.includes('does not answer')")
    finally:
        os.kill(gateway, signal.SIGCONT)
    page.wait("document.querySelector('#state').textContent === 'healthy'")


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_fits_every_width(admin: Admin, page: Browser, width: int) -> None:
    clients = [raw_websocket(admin, "/" + "long" * 45) for _ in range(2)]
    try:
        page.resize(width, 800, mobile=width < 768)
        page.wait(f"{rows(page)}.length === 2")
        assert page.run("document.documentElement.scrollWidth") <= width
    finally:
        page.resize(1280, 800)
        for client in clients:
            client.close()


@pytest.mark.long
def test_a_picture_of_the_page_can_be_taken(page: Browser, tmp_path: Path) -> None:
    for scheme in ("light", "dark"):
        page.prefer(scheme)
        page.picture(tmp_path / f"{scheme}.png")
    light, dark = ((tmp_path / f"{each}.png").read_bytes() for each in ("light", "dark"))
    assert light != dark
    page.prefer("light")
