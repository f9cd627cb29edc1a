"""The golden bytes of docs/vectors/records.json, encoded and decoded; `python
tests/test_vectors.py` updates the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from wsraw.link.records import (
    ID_EPOCH_SHIFT,
    Accept,
    Ack,
    Answer,
    Attach,
    Bye,
    Close,
    CloseRef,
    Command,
    Couple,
    Detach,
    Drain,
    Event,
    Figures,
    GiveBack,
    Hello,
    Hung,
    Join,
    Leave,
    Mark,
    Notice,
    OnClose,
    OnConnect,
    OnError,
    OnJoin,
    OnLeave,
    OnMessage,
    OnRequest,
    Open,
    Opened,
    Part,
    Publish,
    Query,
    Reached,
    Record,
    Refused,
    Reject,
    Relay,
    Respond,
    Send,
    SendRef,
    SendToUser,
    Splice,
    State,
    Stats,
    User,
    Watch,
    Welcome,
    Who,
    decode_value,
    encode,
    gateway_decoder,
    worker_decoder,
)

FILE = Path(__file__).resolve().parent.parent / "docs/vectors/records.json"

TO_WORKER = "gateway to worker"
TO_GATEWAY = "worker to gateway"

CON = 1 << ID_EPOCH_SHIFT | 1
LAST = (1 << 53) - 1
SESSION = (1 << 40) + 7
ASTRAL = "Grüße, 世界 😀"
REQUEST = {"method": "POST", "url": "/a?b=1", "Host": "example.org", "Protocol": "http"}
INF = {"method": "GET", "url": "/chat?x=1", "Host": "example.org", "Protocol": "websocket server"}
ABOUT = {"peer": "192.0.2.1:4711", "listener": "0.0.0.0:8000"}

Vector = dict[str, Any]


def of(name: str, direction: str, *records: Record, session: int = 7) -> Vector:
    """An entry with bytes that wsraw itself writes."""
    data = encode([session, *records])
    return entry(name, direction, decode_value(data))


def entry(name: str, direction: str, batch: list[Any], means: list[Any] | None = None) -> Vector:
    """An entry with bytes that are read as `means`, if they differ from it."""
    vector = {
        "name": name,
        "direction": direction,
        "json": to_json(batch),
        "hex": encode(batch).hex(),
    }
    if means is not None:
        vector["means"] = to_json([batch[0], *(decode_value(encode(each)) for each in means)])
    return vector


def vectors() -> list[Vector]:
    """The entries, in the order of the tables."""
    down, up = TO_WORKER, TO_GATEWAY
    return [
        of("on_connect", down, OnConnect(1, CON, INF, False, 1, ABOUT)),
        of("on_connect, a verdict is wanted", down, OnConnect(1, CON, INF, True, 2, ABOUT)),
        entry(
            "on_connect, fields left out", down, [7, ["on_connect", 1, CON, INF]],
            [OnConnect(1, CON, INF)],
        ),
        of("on_message, text", down, OnMessage(2, CON, ASTRAL.encode(), "text")),
        of("on_message, binary", down, OnMessage(2, CON, bytes(range(256)), "binary")),
        of("on_message, raw", down, OnMessage(2, CON, b"GET\r\n", "raw")),
        of("on_message, no data", down, OnMessage(2, CON, b"", "text")),
        of("on_message, not the last frame", down, OnMessage(2, CON, b"a", "text", False)),
        of("on_message, the largest id", down, OnMessage(1 << 33, LAST, b"x", "text", True, 300),
           session=SESSION),
        entry(
            "on_message, fields left out", down, [7, ["on_message", 2, CON, b"x", "text"]],
            [OnMessage(2, CON, b"x", "text")],
        ),
        entry(
            "on_message, fields of a later version", down,
            [7, ["on_message", 2, CON, b"x", "text", True, 1, "later", {"a": [None, 1.5]}]],
            [OnMessage(2, CON, b"x", "text")],
        ),
        of("on_request", down, OnRequest(2, CON, REQUEST, b"a=1", 1, ABOUT)),
        entry(
            "on_request, fields left out", down, [7, ["on_request", 2, CON, REQUEST]],
            [OnRequest(2, CON, REQUEST)],
        ),
        of("on_error", down, OnError(3, CON, "frame above the limit", 1)),
        of(
            "on_error, of a server that refuses us",
            down,
            OnError(
                3,
                CON + 1,
                "server rejected WebSocket connection: HTTP 401",
                1,
                {
                    "target": "ws://example.org/",
                    "kind": "websocket",
                    "response": {
                        "status": 401,
                        "headers": {"WWW-Authenticate": "Basic"},
                        "body": b"who are you?",
                    },
                },
            ),
        ),
        of("on_close", down, OnClose(4, CON, 1001, "bye", "peer", 1)),
        of("on_close, a new gateway", down, OnClose(1, CON, 1006, "", "gateway-died", 1)),
        of("on_join", down, OnJoin(5, CON, "room.1", 1)),
        of("on_leave", down, OnLeave(6, CON, "room.1", 2)),
        entry("on_leave, fields left out", down, [7, ["on_leave", 6, CON, "room.1"]],
              [OnLeave(6, CON, "room.1")]),
        of("who", down, Who(), session=0),
        of(
            "welcome", down,
            Welcome(1, SESSION, 1, CON + 1, CON + 1000, 100,
                      {"state": 65536, "window_bytes": 1048576, "batch": 67108864,
                       "event": 268435456}),
            session=SESSION,
        ),
        of("welcome, in a cluster", down, Welcome(1, 7, 1, CON + 1, CON + 9, 100, {}, "gateway-1")),
        of("attach", down, Attach(CON, INF, b"\x93\x01\xa1x\xc0", 3, ABOUT)),
        of("attach, inf is known", down, Attach(CON, None, b"", 4, ABOUT)),
        of("detach", down, Detach(CON)),
        of("drain", down, Drain(2.5)),
        of("refused", down, Refused(3, 0, "no connection 5 was ever given out")),
        of("refused, shut out", down, Refused(0, 0, "its token is wrong"), session=0),
        of("reached", down, Reached(CON, 1)),
        of("answer", down, Answer(1, [CON, CON + 1])),
        of("answer, to a join", down, Answer(7, ["8f3a21c01", 45, True, 3])),
        of("opened", down, Opened(CON + 2, CON + 1)),
        of("hung", down, Hung(CON, 3)),
        of("watch", down, Watch(ASTRAL, False)),
        of("relay, to an agent", down, Relay("publish", "room", b"hi", "text")),
        entry("a notice of a later version", down, [7, ["weather", 21.5, {"wind": "west"}]], []),
        entry("no records", down, [7], []),
        of(
            "several records", down, Attach(CON, INF, b"", 0, ABOUT),
            OnMessage(5, CON, b"a", "text"), OnMessage(6, CON, b"b", "text"), Drain(1.5),
        ),
        of("hello", up, Hello(1, "default", "5e1f", "lua/5.4", "secret", 100, 1), session=0),
        of(
            "hello, with connections", up,
            Hello(1, "default", "5e1f", "lua/5.4", "", 100, 10, [CON, LAST], True), session=0,
        ),
        of(
            "hello, with events on request", up,
            Hello(1, "default", "5e1f", "lua/5.4", "", 100, 10, [], False, ["on_join", "on_leave"]),
            session=0,
        ),
        of("ack", up, Ack(3, 3)),
        of("ack, a range", up, Ack(127, 70000), session=SESSION),
        of("part", up, Part(3)),
        of("commands of a part", up, Send(CON, b"HI", "text"), State(CON, b"\x01"), Part(3)),
        of("give_back", up, Send(CON, b"HI", "text"), Ack(2, 2), GiveBack(3)),
        of("accept", up, Accept(CON, "chat", {"Set-Cookie": "a=b"})),
        entry("accept, fields left out", up, [7, ["accept", CON]], [Accept(CON)]),
        of("respond", up, Respond(CON, 201, [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")], b"ok")),
        of("respond, a body in pieces", up, Respond(CON, 200, [], b"one", False)),
        entry("respond, fields left out", up, [7, ["respond", CON]], [Respond(CON)]),
        of("reject", up, Reject(CON, 403, "not you", {"Retry-After": "60"}, b"no\n")),
        of("send, text", up, Send(CON, ASTRAL.encode(), "text")),
        of("send, binary", up, Send(CON, b"\x00\xff")),
        of("send, no data", up, Send(CON, b"", "text")),
        of("send, not the last frame", up, Send(LAST, b"a", "text", False)),
        entry("send, fields left out", up, [7, ["send", CON, b"x"]], [Send(CON, b"x")]),
        entry(
            "send, data as a string", up, [7, ["send", CON, ASTRAL, "text"]],
            [Send(CON, ASTRAL.encode(), "text")],
        ),
        of(
            "open", up,
            Open(CON + 1, "ws://example.org/", "websocket", "/", "example.org", "",
                   {"during": CON, "couple": None, "subprotocols": ["chat"]}),
        ),
        of("close", up, Close(CON, 4000, "enough")),
        of("state", up, State(CON, b"\x81\xa1n\x02")),
        of("join", up, Join(CON, "room")),
        of("join, from a position on", up, Join(CON, "room", "8f3a21c01:42", 7)),
        entry("join, fields left out", up, [7, ["join", CON, "room"]], [Join(CON, "room")]),
        of("leave", up, Leave(CON, "room")),
        of("publish", up, Publish("room", b"hi", "text", {"except": [CON]})),
        of("couple", up, Couple(CON, CON + 1)),
        of("splice", up, Splice(CON, CON + 1)),
        of("splice with what has begun", up, Splice(CON, CON + 1, 3, 7, {"framing": "line"})),
        of("mark", up, Mark(CON, 1)),
        of("query", up, Query(1, "members", "room")),
        of("user", up, User(CON, "ann")),
        of("user, to none", up, User(CON, "")),
        of("send_to_user", up, SendToUser("ann", b"hi", "text", {"except": [CON]})),
        entry("send_to_user, fields left out", up, [7, ["send_to_user", "ann", b"x"]],
              [SendToUser("ann", b"x")]),
        of("send_ref", up, SendRef(f"gateway-2/{CON}", ASTRAL.encode(), "text")),
        entry(
            "send_ref, data as a string", up, [7, ["send_ref", f"gateway-2/{CON}", "hi", "text"]],
            [SendRef(f"gateway-2/{CON}", b"hi", "text")],
        ),
        of("close_ref", up, CloseRef(f"gateway-2/{CON}", 4000, "enough")),
        of(
            "relay, of an agent", up,
            Relay("close", str(CON), options={"code": 4000, "reason": "enough"}),
        ),
        of("figures", up, Figures({"state": "connected", "counts": {"sent": 1}})),
        of("stats", up, Stats("on_message", 1200, 0.75, 2, [3, 0, 1])),
        of("bye", up, Bye()),
        of("commands, their ack, bye", up, Send(CON, b"HI", "text"), State(CON, b"\x01"),
           Ack(3, 3), Bye()),
    ]  # fmt: skip


def to_json(value: Any) -> Any:
    """Convert to JSON, which has no bytes: {"$bin": HEX} stands for them."""
    if isinstance(value, bytes):
        return {"$bin": value.hex()}
    if isinstance(value, list):
        return [to_json(each) for each in value]
    if isinstance(value, dict):
        return {key: to_json(each) for key, each in value.items()}
    return value


def from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [from_json(each) for each in value]
    if isinstance(value, dict):
        if set(value) == {"$bin"}:
            return bytes.fromhex(value["$bin"])
        return {key: from_json(each) for key, each in value.items()}
    return value


def text() -> str:
    lines = ",\n".join("  " + json.dumps(each, ensure_ascii=False) for each in vectors())
    return f"[\n{lines}\n]\n"


WRITTEN: list[Vector] = json.loads(FILE.read_text("utf-8")) if FILE.exists() else []


def test_the_file_of_vectors_is_up_to_date() -> None:
    assert FILE.read_text("utf-8") == text(), "stale; run: python tests/test_vectors.py"


@pytest.mark.parametrize("vector", WRITTEN, ids=lambda vector: vector["name"])
def test_the_bytes_of_a_vector_decode_to_its_record(vector: Vector) -> None:
    data = bytes.fromhex(vector["hex"])
    batch = from_json(vector["json"])
    assert encode(batch) == data
    assert decode_value(data) == batch
    decoder = worker_decoder() if vector["direction"] == TO_WORKER else gateway_decoder()
    head, records, wrong = decoder.decode(data)
    means = from_json(vector.get("means", vector["json"]))
    # A record of a later version is left out here, as a worker ignores it.
    understood = [decode_value(encode(each)) for each in records if each is not None]
    assert [head, *understood] == means
    assert len(wrong) == records.count(None)
    if "means" not in vector:
        assert encode([head, *records]) == data


@pytest.mark.parametrize("direction", [TO_WORKER, TO_GATEWAY])
def test_every_record_has_a_vector(direction: str) -> None:
    unions = (Event, Notice) if direction == TO_WORKER else (Command,)
    tags = {kind.__struct_config__.tag for union in unions for kind in get_args(union)}
    shown = {
        record[0]
        for vector in WRITTEN
        if vector["direction"] == direction
        for record in vector["json"][1:]
    }
    assert tags <= shown


def test_names_are_used_once() -> None:
    names = [vector["name"] for vector in WRITTEN]
    assert len(set(names)) == len(names)


def test_ids_are_numbers_that_json_can_hold() -> None:
    """JavaScript, for example, reads numbers in JSON as doubles."""
    assert max(int(token) for each in WRITTEN for token in numbers(each["json"])) == LAST


def numbers(value: Any) -> list[int]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [each for item in value for each in numbers(item)]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else []


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text(), "utf-8")
