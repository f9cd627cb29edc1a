"""A supervisor reads the records of another one, or says why not."""

from __future__ import annotations

import random

import msgspec
import pytest

from tests.supervisor.policy_run import Run
from wsraw.supervisor.replacing.records import (
    FORMAT,
    ControlRecord,
    FolderRecord,
    HelperRecord,
    NextRecord,
    NotUnderstoodError,
    PendingRecord,
    ProcessRecord,
    RunRecord,
    decode,
    encode,
)
from wsraw.supervisor.replacing.state import Freezing


def record() -> RunRecord:
    run = Run(2).up()
    return RunRecord(
        format=FORMAT,
        version="1.2.3",
        settings="{}",
        policy=Freezing(run.now).policy(run.policy),
        folder=FolderRecord("/run", True, 3, -1, {"a": "b"}, {"a": (1, 2, 3, 4)}, 5),
        spare=None,
        control=ControlRecord(4, "/run/control.sock", "a", "b", "c"),
        sockets=[5],
        passed=[],
        numbers=[],
        names={3: "web"},
        link=-1,
        addresses=["127.0.0.1:80"],
        standalone_token="d",
        node="e",
        age=1.5,
        admin=None,
        agent=None,
        unread=[],
        last_output="",
        pending=[PendingRecord(6, 7, 8, "reload", "reload", [("a", True, "b"), ("c", None, "")])],
        refusals={"default": (1.0, "why")},
        log=[(1, "info", "text")],
        next=NextRecord(reload=["default"]),
    )


def test_a_record_is_read_as_it_was_written() -> None:
    assert decode(encode(record())) == record()


def test_a_record_names_all_descriptors_that_are_kept_open() -> None:
    told = record()
    told.link, told.unread = 9, [ProcessRecord(0, -1, 10, "worker", False, b"", [])]
    told.policy.children[0].process = ProcessRecord(1, 11, 12, "gateway", True, b"", [], offers=13)
    told.admin = HelperRecord(0, socket=14)
    told.spare = FolderRecord("/spare", True, 15, 16, {}, {}, 0)
    assert sorted(told.descriptors()) == [3, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15, 16]


def test_fields_of_a_newer_version_are_ignored_and_those_of_an_older_one_have_defaults() -> None:
    array = msgspec.msgpack.decode(encode(record()))
    assert decode(msgspec.msgpack.encode([*array, "new"])) == record()
    # The last field has a default.
    assert decode(msgspec.msgpack.encode(array[:-1])) == record()


def test_another_format_is_refused_in_words() -> None:
    array = msgspec.msgpack.decode(encode(record()))
    array[0] = FORMAT + 1
    with pytest.raises(NotUnderstoodError, match=r"wsraw 1\.2\.3 writes its state in format 2"):
        decode(msgspec.msgpack.encode(array))


def test_a_damaged_record_is_refused_or_read_as_another_one() -> None:
    data = encode(record())
    luck = random.Random(1)
    refused = 0
    for _ in range(500):
        damaged = bytearray(data)
        for _ in range(luck.randrange(1, 4)):
            damaged[luck.randrange(len(damaged))] = luck.randrange(256)
        try:
            decode(bytes(damaged[: luck.randrange(len(damaged) + 1)]))
        except NotUnderstoodError:
            refused += 1
    assert refused > 250
