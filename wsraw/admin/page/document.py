"""The HTML file, and the policy under which a browser runs it."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from importlib import resources
from typing import Final, NamedTuple

_INLINE: Final = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


class Document(NamedTuple):
    """The page as it is sent."""

    body: bytes
    policy: str
    """The Content-Security-Policy: the page may load nothing from other servers, and no text that
    gets into it can become a script."""


@functools.cache
def document() -> Document:
    """Read the page."""
    text = resources.files(__package__).joinpath("page.html").read_text("utf-8")
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, content in _INLINE.findall(text):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    policy = (
        f"default-src 'none'; script-src {' '.join(hashes['script'])}; "
        f"style-src {' '.join(hashes['style'])}; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    return Document(text.encode(), policy)
