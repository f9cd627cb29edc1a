from __future__ import annotations

import pytest

from wsraw.workers.connection import decode_state, encode_state
from wsraw.workers.handshake_info import Inf


def test_header_names_are_found_in_any_case_and_keep_their_spelling() -> None:
    inf = Inf({"method": "GET", "authorization": "Basic x", "X-Empty": ""})
    for name in ("Authorization", "authorization", "AUTHORIZATION"):
        assert inf[name] == inf.get(name) == "Basic x"
        assert name in inf
    assert (inf.get("x-empty"), "x-empty" in inf) == ("", True)
    assert (inf.get("Cookie"), inf.get("Cookie", "none"), "Cookie" in inf) == (None, "none", False)
    with pytest.raises(KeyError, match="Cookie"):
        inf["Cookie"]
    assert 7 not in inf  # type: ignore[comparison-overlap]
    assert list(inf) == ["method", "authorization", "X-Empty"]
    assert inf == dict(inf) == inf.copy()
    assert repr(inf) == repr(dict(inf))
    assert inf.copy()["Method"] == "GET"
    assert decode_state(encode_state({"inf": inf})) == {"inf": inf}


def test_a_header_does_not_replace_a_field_of_the_gateway() -> None:
    inf = Inf({"protocol": "raw", "URL": "/x", "url": "/", "Protocol": "websocket server"})
    assert (inf["Protocol"], inf["url"]) == ("websocket server", "/")
    assert (inf.get("Protocol"), inf.get("url")) == ("websocket server", "/")
