"""A chat: WebSocket and raw clients in one room, and the web page for it, all on one port.

    wsraw run --workers examples/chat.py:2

Then open http://127.0.0.1:8000/ in a browser, or talk to it with `nc 127.0.0.1 8000`.

The gateway knows who is in the room (groups), and the connection keeps the unfinished line of its
client (con.state). So any worker can serve any client at any time.
"""

import re
from pathlib import Path

from wsraw import publish

PAGE = Path(__file__).with_name("chat.html").read_bytes()
LONGEST_LINE = 4096


def on_connect(inf, con):
    con.state = {"name": "", "rest": b""}
    if inf["Protocol"] != "raw":
        enter(con)


def on_message(msg, con):
    data = msg["data"]
    if isinstance(data, str):
        # A WebSocket message is a line. Its frames may come one by one, and so may the parts of a
        # raw line.
        data = data.encode() + (b"\n" if msg["final"] else b"")
    elif "type" in msg:
        con.close(1003, "text only")
        return
    *lines, con.state["rest"] = (con.state["rest"] + data).split(b"\n")
    if len(con.state["rest"]) > LONGEST_LINE:
        con.close(1009, "that line is too long")
        return
    if lines and not con.state["name"]:
        # The first line of a raw client. A browser that requests the page is a raw client too, and
        # what follows the first line may have been chosen by a page of any other site.
        if is_http(lines[0]):
            answer_http(lines[0].split(), con)
            return
        enter(con)
    for line in lines:
        text = line.decode(errors="replace").strip()
        if text:
            say(f"{con.state['name']}: {text}")


def on_close(con):
    if con.state["name"]:
        say(f"{con.state['name']} has left")


def enter(con):
    con.state["name"] = f"guest {con.id % 2**36}"
    con.join(con.kind)
    say(f"{con.state['name']} has come")


def say(text):
    publish("websocket", text)
    publish("raw", text + "\n")


def is_http(line):
    return re.fullmatch(rb"\S+ \S+ HTTP/[0-9.]+\r?", line) is not None


def answer_http(words, con):
    if words[0] not in (b"GET", b"HEAD"):
        status, body = "405 Method Not Allowed", b""
    elif words[1] == b"/":
        status, body = "200 OK", PAGE
    else:
        status, body = "404 Not Found", b""
    con.send(
        f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    if words[0] == b"GET":
        con.send(body)
    # After close(), on_message is not called with the rest of the request.
    con.close()
