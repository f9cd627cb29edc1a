from __future__ import annotations

import base64
import hashlib
import re

from wsraw.admin.page.document import document


def test_the_page_loads_nothing_from_elsewhere() -> None:
    text = document().body.decode()
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert not re.findall(r"<(?:link|img|iframe)\b|\bsrc=|@import|url\(", text)


def test_the_policy_lets_only_the_script_and_the_style_of_the_page_run() -> None:
    found = document()
    policy = dict(part.split(" ", 1) for part in found.policy.split("; "))
    assert policy["default-src"] == "'none'"
    assert "unsafe" not in found.policy
    for kind in ("script", "style"):
        (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", found.body.decode(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[f"{kind}-src"] == f"'sha256-{digest}'"


def test_no_text_becomes_html() -> None:
    text = document().body.decode()
    for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert name not in text
