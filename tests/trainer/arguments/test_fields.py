"""Text that is read into a field."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.trainer.arguments.fields import assignments


@given(st.dictionaries(st.from_regex(r"[a-z_]{3,8}x", fullmatch=True), st.integers() | st.booleans() | st.none()))
def test_assignments_reads_what_was_written_as_assignments(values):
    assert assignments(", ".join(f"{name}={value!r}" for name, value in values.items())) == values


@pytest.mark.parametrize("text", ["momentum", "momentum=", "0.9", "**more", "momentum=0.9) + f(", "momentum=len('a')"])
def test_assignments_that_cannot_be_read_are_refused(text):
    with pytest.raises(ValueError, match="not of the form a=1, b=2"):
        assignments(text)


def test_a_value_that_is_not_a_literal_is_a_string():
    assert assignments("kind=fast, eps=-1e-3, off=none") == {"kind": "fast", "eps": -1e-3, "off": None}
