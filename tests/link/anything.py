"""Random values that MessagePack can carry, and records of them."""

from __future__ import annotations

from hypothesis import strategies as st

from wsraw.link.records import Command

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)

commands = st.builds(
    lambda tag, fields: [tag, *fields],
    st.sampled_from([struct.__struct_config__.tag for struct in Command.__args__]),
    st.lists(values, max_size=8),
)
"""A worker's commands with any fields, right or wrong."""
