"""Text that is read into a field."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trackside.trainer.arguments.fields import assignments


@given(st.dictionaries(st.from_regex(r"[a-z_]{3,8}x", fullmatch=True), st.integers() | st.booleans() | st.none()))
def test_assignments_reads_what_was_written_as_assignments(values):
    assert assignments(", ".join(f"{name}={value!r}" for name, value in values.items())) == values
