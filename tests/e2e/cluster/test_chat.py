"""examples/chat.py at two gateways: a browser at each, a raw client, and a reload in between."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack

import pytest

from tests.admin.page.browser import Browser, chromium
from tests.deadline import eventually
from tests.e2e.cluster.nats_server import NatsServer
from tests.e2e.cluster.test_cluster import cluster_of, wait_for
from tests.e2e.serving import ROOT, Serving, linux, serve
from tests.running import wsraw

pytestmark = linux

CHAT = ROOT / "examples" / "chat.py"
LINES = "[...document.querySelectorAll('#room div')].map(line => line.textContent)"


def page(stack: ExitStack, gateway: Serving) -> Browser:
    browser = stack.enter_context(Browser())
    host, port = gateway.addresses[0]
    browser.open(f"http://{host}:{port}/")
    browser.wait(f"{LINES}.some(line => /^guest \\d+ has come$/.test(line))")
    return browser


def type_line(browser: Browser, text: str) -> None:
    """Type a line into the field as a person does, and send it."""
    browser.run(
        f"document.querySelector('input').value = {json.dumps(text)};"
        "document.querySelector('form').requestSubmit()"
    )


@pytest.mark.long
@chromium
def test_two_pages_and_a_raw_client_share_a_room_through_a_reload(nats: NatsServer) -> None:
    with ExitStack() as stack:
        options = (f"--cluster={nats.url}",)
        one, two = (
            stack.enter_context(serve(CHAT, *options, f"--node={name}", workers=2))
            for name in ("one", "two")
        )
        wait_for(one, "connected", 1)
        wait_for(two, "connected", 1)
        raw = stack.enter_context(one.tcp())
        raw.sendall(b"hello\n")
        near, far = page(stack, one), page(stack, two)
        # The groups of the raw client and of the pages.
        eventually(lambda: cluster_of(one)["subscriptions"] == 2, "subscriptions of one")
        eventually(lambda: cluster_of(two)["subscriptions"] == 1, "a subscription of two")
        type_line(far, "from far")
        near.wait(f"{LINES}.some(line => line.endsWith(': from far'))")
        type_line(near, "from near")
        far.wait(f"{LINES}.some(line => line.endsWith(': from near'))")
        heard = read_until(raw, b": from near\n")
        assert b": from far\n" in heard

        far.run(
            "window.count = 0; window.timer = setInterval(() => {"
            "  document.querySelector('input').value = `line ${++window.count}`;"
            "  document.querySelector('form').requestSubmit();"
            "}, 20)"
        )
        far.wait("window.count > 10")
        for each in (one, two):
            done = wsraw("reload", f"--run-dir={each.folder}")
            assert done.returncode == 0, done.stderr
        count = far.run("clearInterval(window.timer), window.count")
        expected = list(range(1, count + 1))
        for browser in (near, far):
            browser.wait(f"{LINES}.some(line => line.endsWith(': line {count}'))")
            told = browser.run(LINES)
            assert numbers(told) == expected
            assert not [line for line in told if "connection lost" in line]
            # The page has no icon.
            assert [error for error in browser.errors if "404" not in error] == []
        text = heard + read_until(raw, f": line {count}\n".encode())
        assert numbers(text.decode().splitlines()) == expected


def numbers(lines: list[str]) -> list[int]:
    return [int(line.rpartition(" ")[2]) for line in lines if ": line " in line]


def read_until(raw: socket.socket, end: bytes) -> bytes:
    heard = b""
    while end not in heard:
        part = raw.recv(4096)
        assert part, heard
        heard += part
    return heard
