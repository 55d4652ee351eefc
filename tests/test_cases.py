"""CASES.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent


def test_each_case_is_held_by_tests_that_exist():
    rows = [line.split("|") for line in (HERE / "CASES.md").read_text().splitlines() if line.startswith("| ")]
    held = {cells[1].strip(): re.findall(r"`([\w/.]+)::(\w+)`", cells[3]) for cells in rows if "case" not in cells[1]}
    missing = [
        f"{case}: {path}::{name}"
        for case, tests in held.items()
        for path, name in tests
        if not (HERE / path).is_file()
        or name not in {getattr(item, "name", None) for item in ast.parse((HERE / path).read_text()).body}
    ]

    assert missing == []
    assert len(held) > 50
    assert all(held.values())
