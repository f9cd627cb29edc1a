"""Sans-I/O. Workers on other machines: who they are, and whether their key lets them in.

libzmq asks for each handshake with a key whether it may go on (ZAP, ZeroMQ RFC 27). The answer is
about the key alone; for which pools it is good is judged at its hello.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

OK: Final = b"200"
LATER: Final = b"300"
"""For whom we do not know. Not 400, which says never: libzmq's client would not come back for as
long as its process lives, although its key may be let in a minute later."""

MECHANISM: Final = 5
CREDENTIALS: Final = 6
ADDRESS: Final = 3
# Places in a request: version, request id, domain, address, routing id, mechanism, credentials.


def zap_reply(
    request: Sequence[bytes], lets_in: Callable[[bytes], str | None]
) -> tuple[list[bytes], str]:
    """The answer to a ZAP request, and whom to tell the log of: an address, "" for one let in.

    `lets_in` gives the user id for a public key, or None.
    """
    user = None
    if len(request) == CREDENTIALS + 1 and request[MECHANISM] == b"CURVE":
        user = lets_in(request[CREDENTIALS])
    head = list(request[:2]) if len(request) > 1 else [b"1.0", b""]
    if user is None:
        address = request[ADDRESS].decode(errors="replace") if len(request) > ADDRESS else "?"
        return [*head, LATER, b"this key is not let in", b"", b""], address
    return [*head, OK, b"OK", user.encode(), b""], ""
