from __future__ import annotations

from email.utils import formatdate

import pytest

from wsraw.workers.request import Headers
from wsraw.workers.static.conditions import FileVersion, range_of, status_of

FILE = FileVersion(1000, 1_700_000_000_500_000_000)
TAG = FILE.etag
THEN = formatdate(1_700_000_000, usegmt=True)
BEFORE = formatdate(1_699_999_999, usegmt=True)
AFTER = formatdate(1_700_000_001, usegmt=True)


def test_a_version_changes_with_size_and_time() -> None:
    assert FILE.last_modified == "Tue, 14 Nov 2023 22:13:20 GMT"
    tags = {
        TAG,
        FileVersion(1001, FILE.changed_ns).etag,
        FileVersion(1000, FILE.changed_ns + 1).etag,
    }
    assert len(tags) == 3


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"If-None-Match": TAG}, 304),
        ({"if-none-match": f"W/{TAG}"}, 304),
        ({"If-None-Match": f'"other", {TAG}'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-None-Match": "nonsense"}, 200),
        ({"If-Modified-Since": THEN}, 304),
        ({"If-Modified-Since": AFTER}, 304),
        ({"If-Modified-Since": BEFORE}, 200),
        ({"If-Modified-Since": "nonsense"}, 200),
        ({"If-Modified-Since": "Tue, 14 Nov 99999 22:13:20 GMT"}, 200),
        ({"If-None-Match": '"other"', "If-Modified-Since": AFTER}, 200),
        ({"If-Match": TAG}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": f"W/{TAG}"}, 412),
        ({"If-Match": '"other"'}, 412),
        ({"If-Match": TAG, "If-None-Match": TAG}, 304),
        ({"If-Unmodified-Since": THEN}, 200),
        ({"If-Unmodified-Since": BEFORE}, 412),
        ({"If-Match": TAG, "If-Unmodified-Since": BEFORE}, 200),
    ],
)
def test_conditions_hold_in_the_order_of_the_standard(headers: dict[str, str], status: int) -> None:
    assert status_of(Headers(headers), FILE) == status


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("bytes=0-0", range(1)),
        ("bytes=0-999", range(1000)),
        ("bytes=0-5000", range(1000)),
        ("BYTES=10-", range(10, 1000)),
        ("bytes=-10", range(990, 1000)),
        ("bytes=-5000", range(1000)),
        ("bytes= 1-2 ", range(1, 3)),
        ("bytes=-0", range(1000, 1000)),
        ("bytes=1000-", range(1000, 1000)),
        ("bytes=2000-3000", range(2000, 1000)),
        ("bytes=5-4", None),
        ("bytes=-", None),
        ("bytes=0-1,5-6", None),
        ("lines=0-1", None),
        ("bytes=a-b", None),
        ("bytes=0x1-2", None),
        ("bytes=" + "9" * 30 + "-", None),
        ("", None),
    ],
)
def test_a_range_is_part_of_the_file_or_none_of_it(text: str, wanted: range | None) -> None:
    found = range_of(Headers({"Range": text} if text else {}), FILE)
    if wanted is None:
        assert found is None
    else:
        assert found is not None
        assert list(found) == list(wanted)


@pytest.mark.parametrize(
    ("condition", "is_partial"),
    [
        (TAG, True),
        (f"W/{TAG}", False),
        ('"other"', False),
        (THEN, True),
        (AFTER, False),
        (BEFORE, False),
        ("nonsense", False),
    ],
)
def test_a_range_of_another_version_is_the_whole_file(condition: str, is_partial: bool) -> None:
    headers = Headers({"Range": "bytes=0-1", "If-Range": condition})
    assert (range_of(headers, FILE) is not None) == is_partial


def test_an_empty_file_has_no_range() -> None:
    empty = FileVersion(0, 1)
    assert not range_of(Headers({"Range": "bytes=0-"}), empty)
    assert not range_of(Headers({"Range": "bytes=-1"}), empty)
