"""The code on the pages for users of other trainers trains, and what their tables name exists."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

import trackside
from trackside.callbacks.registry import registered

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"ignite": "torch", "keras": "keras", "lightning": "lightning"}
OTHER_NAMES = {"metrics_to_log", "use_cpu"}
"""A method that callbacks may have, and another name of an argument."""


def text_of(name):
    return (ROOT / f"docs/coming-from/{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_the_code_of_a_page_trains(name, tmp_path, monkeypatch):
    pytest.importorskip(PAGES[name])
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}

    for block in re.findall(r"(?<!-->\n)```python\n(.*?)```", text_of(name), re.DOTALL):  # without those not run
        exec(compile(block, "page", "exec"), names)

    assert names["trainer"].evaluate()["eval_accuracy"] > 0.8


@pytest.mark.parametrize("name", PAGES)
def test_what_is_on_the_right_of_a_table_exists(name):
    known = {*trackside.events.EVENTS, *registered(), *dir(trackside), *dir(trackside.Trainer), *OTHER_NAMES}
    known |= {item.name for item in dataclasses.fields(trackside.TrainerState)}
    for arguments, trainer in (
        (trackside.TrainingArguments, trackside.Trainer),
        (trackside.TFTrainingArguments, trackside.TFTrainer),
    ):
        known |= {item.name for item in arguments.fields()} | set(inspect.signature(trainer).parameters)

    rows = re.findall(r"^\| .* \| (.*) \|$", text_of(name), re.MULTILINE)
    words = {word for row in rows for word in re.findall(r"`(?:trainer\.)?(\w+)(?:[=(][^`]*)?`", row)}

    assert len(rows) > 15
    assert sorted(words - known) == []
