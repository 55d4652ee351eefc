"""Digests, and lines of a trace."""

from __future__ import annotations

import numpy as np
import pytest

from trackside.cli.chaos.trace import digest, read_trace


def test_a_digest_tells_values_types_shapes_and_names_apart():
    zeros = np.zeros((2, 3), np.float32)
    values = [
        zeros,
        zeros.T,
        zeros.astype(np.float64),
        -zeros,
        {"x": zeros},
        {"y": zeros},
        [zeros],
        [zeros, None],
        0,
        "0",
    ]

    assert len({digest(value) for value in values}) == len(values)
    assert digest({"x": (zeros.copy(), 1)}) == digest({"x": (zeros, 1)})


def test_tensors_of_types_that_numpy_does_not_have_are_digested():
    torch = pytest.importorskip("torch")

    first, second = (torch.tensor([1.0, value], dtype=torch.bfloat16) for value in (2.0, 2.5))

    assert digest(first) == digest(first.clone()) != digest(second)
    assert digest(torch.tensor(1.0)) != digest(torch.tensor(1))


def test_a_line_that_a_kill_has_torn_is_left_out(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text('{"step": 1, "streams": {"batch": 5}}\n{"step": 2, "str\n{"step": 2, "streams": {}}\n[]\n')

    assert read_trace(path) == [(1, {"batch": 5}), (2, {})]
    assert read_trace(tmp_path / "none") == []
