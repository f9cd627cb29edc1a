"""Authenticate clients by password, by token, or by cookie.

    wsraw run --workers examples/auth.py:2 --verdict handlers

With `verdict = handlers` a WebSocket's handshake waits for on_connect. The client is accepted if
on_connect returns without rejecting it, and refused if on_connect raises.
"""

import base64
import hmac
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlsplit

USERS = {"ann": "secret"}  # In production, store hashes (argon2, for example).
# Programs send a token in a header; browsers send one in a cookie or in ?token=.
TOKENS = {"token-of-ben": "ben"}


def on_connect(inf, con):
    user = who(inf) if con.kind == "websocket" else None
    if user is None:
        headers = {"WWW-Authenticate": 'Basic realm="wsraw", Bearer'}
        con.reject(401, headers=headers, body="Who are you?\n")
        return
    con.state = user
    con.send(f"Hello {user}!")


def on_message(msg, con):
    return f"{con.state}: {msg['data']}"


def who(inf):
    """Return the name of the user that the request's credentials prove, or None."""
    scheme, _, given = inf.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        return by_password(given)
    if scheme.lower() == "bearer":
        return by_token(given)
    # A browser cannot set headers: it sends cookies, and `origins` allows only pages of this site.
    # A token in the URL may end up in the logs of proxies, so let it expire after a minute.
    cookie = SimpleCookie(inf.get("Cookie", "")).get("token")
    if cookie is not None:
        return by_token(cookie.value)
    return by_token(parse_qs(urlsplit(inf["url"]).query).get("token", [""])[0])


def by_password(given):
    try:
        user, _, password = base64.b64decode(given, validate=True).decode().partition(":")
    except ValueError:
        return None
    known = USERS.get(user, "")
    # The comparison takes constant time: an unknown user takes as long as a wrong password.
    return user if hmac.compare_digest(known.encode(), password.encode()) and known else None


def by_token(given):
    for token, user in TOKENS.items():
        if hmac.compare_digest(token.encode(), given.encode()):
            return user
    return None
