"""The examples of the gallery run, and the page shows all of them."""

from __future__ import annotations

import re

import pytest
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


def test_the_page_shows_every_example_with_a_small_picture():
    page = (ROOT / "docs/gallery.md").read_text(encoding="utf-8")

    shown = re.findall(
        r"!\[.*?\]\((images/gallery/(\w+)\.png)\)\n\n.*?\]\(../examples/gallery/\2\.py\)", page, re.DOTALL
    )
    assert sorted(name for _, name in shown) == EXAMPLES
    assert len(EXAMPLES) >= 8
    assert [path for path, _ in shown if (ROOT / "docs" / path).stat().st_size > 60_000] == []
