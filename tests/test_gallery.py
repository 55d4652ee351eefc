"""The examples of the gallery run, and the page shows all of them."""

from __future__ import annotations

import re

import pytest
from support.distributions import declared, imported_in, not_named, run_with_nothing_else
from support.fork_process import Fork
from support.page_blocks import ROOT

GALLERY = ROOT / "examples/gallery"
EXAMPLES = sorted(path.stem for path in GALLERY.glob("*.py") if path.stem != "picture")
SHORT = """
import sys
sys.path.insert(0, {folder!r})
import matplotlib
matplotlib.use("agg")
import {name}
import picture

def train(folder):
    return {name}.train(folder, max_steps=3)

assert picture.run({name!r}, train, {name}.draw).is_file()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_trains_and_draws(name, tmp_path):
    framework = "tensorflow" if name.endswith("_tf") else "torch"
    for package in (framework, "sklearn", "matplotlib"):
        pytest.importorskip(package)

    process = Fork(framework, ["-c", SHORT.format(folder=str(GALLERY), name=name)], tmp_path)
    try:
        ended = process.wait(200)
    finally:
        process.kill()

    assert ended == 0, process.errors[-5000:]
    assert "eval_loss" in process.output


def test_the_examples_import_what_the_extra_installs_beside_their_framework():
    pytest.importorskip("sklearn")
    frameworks = {False: ["torch"], True: ["tensorflow", "keras"]}
    files = {path.stem: path.read_text(encoding="utf-8") for path in GALLERY.glob("*.py")}

    missing = {
        name: not_named(imported_in(text) - {"picture"}, declared(["examples"]) + frameworks[name.endswith("_tf")])
        for name, text in files.items()
    }

    assert {name: packages for name, packages in missing.items() if packages} == {}
    assert "examples]'" in (ROOT / "docs/gallery.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_example_that_reads_a_photograph_needs_nothing_but_the_extra(tmp_path):
    for package in ("torch", "sklearn", "matplotlib"):
        pytest.importorskip(package)

    run_with_nothing_else(declared(["torch", "examples"]), SHORT.format(folder=str(GALLERY), name="flower"), tmp_path)

    assert not {"transformers", "pytest"} & {path.name for path in (tmp_path / "site").iterdir()}


def test_the_page_shows_every_example_with_a_small_picture():
    page = (ROOT / "docs/gallery.md").read_text(encoding="utf-8")

    shown = re.findall(
        r"!\[.*?\]\((images/gallery/(\w+)\.png)\)\n\n.*?\]\(../examples/gallery/\2\.py\)", page, re.DOTALL
    )
    assert sorted(name for _, name in shown) == EXAMPLES
    assert len(EXAMPLES) >= 8
    assert [path for path, _ in shown if (ROOT / "docs" / path).stat().st_size > 60_000] == []
