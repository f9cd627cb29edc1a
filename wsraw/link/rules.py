"""Sans-I/O. What the fields of an HTTP head may be, and which of them the gateway writes itself."""

from __future__ import annotations

import re
from typing import Final

NAME: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")
"""The name of a field, or another token (RFC 9110, section 5.6.2)."""

VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
"""The value of a field: a line break would begin a field, or a message, of its own."""

OF_REQUESTS: Final = frozenset(
    (
        "connection",
        "content-length",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "transfer-encoding",
        "upgrade",
    )
)
"""Those that the gateway writes itself where it opens a WebSocket."""

OF_ANSWERS: Final = OF_REQUESTS | {"sec-websocket-accept"}
"""Those that it writes itself in an answer to a handshake."""
