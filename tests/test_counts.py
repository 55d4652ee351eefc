"""The paths that every run takes cost what they cost when tests/counts.json was written, counted in instructions."""

from __future__ import annotations

import json
import os
import re
import runpy
from pathlib import Path

import pytest
from support.fork_process import Fork

ROOT = Path(__file__).resolve().parents[1]
COUNTS = ROOT / "benchmarks" / "counts.py"
RENEW = "if that is meant: python benchmarks/counts.py --renew"
LARGEST_CHANGE = 0.03

FRAMEWORKS = ["none", "torch", pytest.param("tensorflow", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def program():
    return runpy.run_path(str(COUNTS))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_instructions_and_calls_are_those_that_are_stored(framework, program, tmp_path):
    pytest.importorskip("torch" if framework == "none" else framework)
    stored = json.loads((ROOT / "tests" / "counts.json").read_text(encoding="utf-8")).get(program["VERSION"], {})
    if stored.get(framework, {}).get("versions") != (installed := program["versions"](framework)):
        pytest.skip(f"nothing is stored for Python {program['VERSION']} with {installed}")

    forked = "torch" if framework == "none" else framework
    process = Fork(forked, [str(COUNTS), "--framework", framework, "--json"], tmp_path, dict(os.environ))
    process.wait(240)

    assert process.returncode == 0, process.errors
    counts, expected = json.loads(process.output.splitlines()[-1]), stored[framework]["rows"]
    moved = [
        f"{title}: {counts[title][kind]:,} {kind}, {counts[title][kind] / number - 1:+.1%} of {number:,}"
        for title, row in expected.items()
        for kind, number in row.items()
        if abs(counts[title][kind] / number - 1) > LARGEST_CHANGE
    ]
    assert counts.keys() == expected.keys(), RENEW
    assert not moved, "\n".join([*moved, RENEW])


def test_the_stored_counts_are_those_of_the_versions_that_tox_installs(program):
    pinned = dict(
        re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    )
    stored = json.loads((ROOT / "tests" / "counts.json").read_text(encoding="utf-8"))

    assert set(stored) >= {"3.11"}
    for frameworks in stored.values():
        assert {framework: set(entry["versions"]) for framework, entry in frameworks.items()} == {
            framework: set(names) for framework, names in program["PACKAGES"].items()
        }
        for entry in frameworks.values():
            assert {name: pinned[name] for name in entry["versions"]} == entry["versions"], RENEW
