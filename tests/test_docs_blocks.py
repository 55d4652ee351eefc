"""Every block of code on every page runs, or says why it does not."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from support.fork_process import TESTS, Fork
from support.page_blocks import blocks_of, pages

LANGUAGES = {"python", "console", "yaml", "ini", "text"}
NOT_RUN = {
    "another test runs it": 2,
    "installs packages": 7,
    "needs a TPU": 1,
    "needs a package that no test installs": 3,
    "needs an account": 1,
    "needs another terminal": 1,
    "needs several machines": 4,
    "takes minutes": 4,
}
"""Reasons why a block does not run, each with the number of such blocks."""

BLOCKS = {page: blocks_of(page) for page in pages()}
PACKAGES = {"datasets", "keras", "lightning", "optuna", "plotly", "sklearn", "tensorflow", "torch", "transformers"}
NEEDS = {"trackside.report": "plotly"}
"""Optional packages that a page may import, and that a module of trackside needs."""

RUN = [page for page, blocks in BLOCKS.items() if any(block.language != "text" for block in blocks)]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_the_blocks_of_a_page_run_one_after_the_other(page, tmp_path):
    code = "\n".join(block.text for block in BLOCKS[page] if block.language == "python" and "not run" not in block.said)
    is_tensorflow = re.search(r"^(import keras|.*TFTrainer)", code, re.MULTILINE)
    framework = "tensorflow" if is_tensorflow else "torch"
    for module in (framework, "sklearn", *re.findall(r"^(?:import|from) ([\w.]+)", code, re.MULTILINE)):
        package = module.partition(".")[0] if module not in NEEDS else NEEDS[module]
        if package in PACKAGES:
            pytest.importorskip(package)

    process = Fork("tensorflow" if is_tensorflow else "pages", [str(TESTS / "workers/run_page.py"), page], tmp_path)
    try:
        ended = process.wait(280)
    finally:
        process.kill()

    assert ended == 0, f"{process.output[-2000:]}\n{process.errors[-8000:]}"


def test_every_block_has_a_language_that_can_be_checked():
    assert [block.place for blocks in BLOCKS.values() for block in blocks if block.language not in LANGUAGES] == []


def test_the_blocks_that_do_not_run_are_those_that_are_stated():
    reasons = Counter(
        block.said["not run"] for blocks in BLOCKS.values() for block in blocks if "not run" in block.said
    )

    assert reasons == NOT_RUN


def test_no_line_of_code_is_longer_than_88_columns():
    long = [
        f"{block.page}:{block.line + number}"
        for page, blocks in BLOCKS.items()
        for block in blocks
        if page != "README.md" and block.language != "text" and "set-up" not in block.said
        for number, line in enumerate(block.text.splitlines())
        if len(line) > 88
    ]

    assert long == []
