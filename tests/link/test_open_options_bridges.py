from __future__ import annotations

import pytest

from wsraw.config.settings import BridgeSettings
from wsraw.link.open_options import check, open_of, read_tokens


def test_a_file_of_tokens_is_that_of_websockify() -> None:
    text = "# desktops\none: 10.0.0.1:5900\r\n\n  two :[::1]:5901\nthree: unix:/run/x\n"
    assert read_tokens(text) == {
        "one": "10.0.0.1:5900", "two": "[::1]:5901", "three": "unix:/run/x"
    }  # fmt: skip


@pytest.mark.parametrize("line", ["nothing", ": host:1", "token:"])
def test_other_lines_are_wrong(line: str) -> None:
    with pytest.raises(ValueError, match=r"line 2: write token: host:port"):
        read_tokens(f"a: b:1\n{line}\n")


def test_a_bridge_opens_its_target_with_its_own_options() -> None:
    raw = check(open_of(BridgeSettings(to="h:1"), "tcp://h:1", ["binary"]))
    assert (raw.kind, raw.subprotocols, raw.couple) == ("raw", (), 0)
    bridge = BridgeSettings(to="x", verify=False, server_name="example.org")
    web = check(open_of(bridge, "wss://h/path"))
    assert (web.kind, web.url, list(web.subprotocols)) == ("websocket", "/path", ["binary"])
    assert (web.verify, web.server_name) == (False, "example.org")
    assert list(check(open_of(bridge, "ws://h", ["chat"])).subprotocols) == ["chat"]
