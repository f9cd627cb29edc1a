"""The fields that the records of the gateway's state had: ``python -m tests.gateway.frozen.fields``
updates the list.

Until there is a release, any change is allowed. After that fields may only be appended (see
test_records.py), as other versions read the records that this one has frozen.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from wsraw.gateway.frozen import records

FILE = Path(__file__).with_name("fields.json")

STATES: dict[str, type[records.State]] = {
    name: each
    for name, each in vars(records).items()
    if isinstance(each, type) and issubclass(each, records.State) and each is not records.State
}


def fields() -> dict[str, list[str]]:
    """The fields by record; those with a default have an equals sign."""
    return {
        name: [each.name + ("" if each.required else "=") for each in msgspec.structs.fields(state)]
        for name, state in sorted(STATES.items())
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(fields(), indent=1) + "\n", "utf-8")
