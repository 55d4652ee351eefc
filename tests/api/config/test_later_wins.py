"""Random files and command lines come to what a short model of "the later wins" says."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.run_configs import PARTS

from trackside.callbacks import registry
from trackside.config.merged import merged_text
from trackside.config.run_config import load_config

NUMBERS, TEXTS = st.integers(1, 50), st.sampled_from(["a", "12", "on", "fix #3", "#1", "a: b", "1e3", "[x]"])

VALUES = {
    "args.seed": NUMBERS,
    "args.run_name": TEXTS,
    "args.no_cuda": st.booleans(),
    "args.per_device_train_batch_size": NUMBERS,
    "args.gradient_checkpointing": st.booleans(),
    "model.init_args.width": NUMBERS,
    "model.init_args.label": TEXTS,
    "callbacks.early_stopping.early_stopping_patience": NUMBERS,
    "callbacks.early_stopping.every": NUMBERS,
    "callbacks.csv.path": TEXTS,
    "callbacks.csv.every": NUMBERS,
    "callbacks.jsonl.path": TEXTS,
    "callbacks.jsonl.every": NUMBERS,
}
"""The keys of the model, each with its values."""

OTHER_NAMES = {
    "args.no_cuda": "args.use_cpu",
    "args.per_device_train_batch_size": "args.per_gpu_train_batch_size",
    "args.gradient_checkpointing": "args.activation_checkpointing",
    "callbacks.early_stopping.early_stopping_patience": "callbacks.early_stopping.patience",
}

ANCHORED = {"callbacks.early_stopping.every", "args.seed", "model.init_args.width"}
"""Keys that may share one number by an anchor; the first one in a file, where the callbacks come first, has it."""

SECTIONS = ("args", "model.init_args", "callbacks", "callbacks.csv")


def reference(sources):
    """Return what is right: each source is a list of (key, value), and the later wins."""
    found = {}
    for source in sources:
        found |= dict(source)  # the later wins
    return found


def resolved(config):
    """Return what a configuration came to, by the keys of the model."""
    names = [key.removeprefix("args.") for key in VALUES if key.startswith("args.")]
    found = {f"args.{name}": getattr(config.args, name) for name in names}
    found |= {f"model.init_args.{name}": value for name, value in config.components()["model"].init_args.items()}
    for entry in config.entries:
        found |= {f"callbacks.{entry.name}.{name}": value for name, value in entry.options.items()}
        found[f"callbacks.{entry.name}.every"] = entry.attach_options.every
    return found


@st.composite
def assignments(draw, keys=tuple(VALUES)):
    """Draw values for some keys, in random order; half of the time only for those with several names."""
    keys = draw(st.sampled_from([keys, [key for key in keys if key in OTHER_NAMES]]))
    chosen = draw(st.permutations(keys))[: draw(st.integers(0, 4))]
    return [(key, draw(VALUES[key])) for key in chosen]


@st.composite
def files(draw):
    """Draw the text of a file, and what it assigns; keys share a number, or the two loggers a map, by an anchor."""
    assigned = draw(assignments())
    if draw(st.booleans()) and not ANCHORED & {key for key, _ in assigned}:
        number = draw(NUMBERS)
        text = json.dumps(tree(draw, [*((key, f"@{key}") for key in sorted(ANCHORED, reverse=True)), *assigned]))
        text = text.replace('"@callbacks.early_stopping.every"', f"&shared_number {number}")
        for key in ANCHORED:
            text = text.replace(f'"@{key}"', "*shared_number")
        return text, [*assigned, *((key, number) for key in ANCHORED)]
    text = json.dumps(tree(draw, assigned))
    how = draw(st.sampled_from(["", "*shared", "{<<: *shared, every: 7}", "{every: 7, <<: [*shared, {path: x}]}"]))
    if not how or any(key.startswith(("callbacks.csv", "callbacks.jsonl")) for key, _ in assigned):
        return text, assigned
    path, every = draw(TEXTS), draw(NUMBERS)
    shared = json.dumps({"path": path, "every": every})
    anchored = f'"csv": &shared {shared}, "jsonl": {how}'
    text = text.replace('"callbacks": {', f'"callbacks": {{{anchored}, ').replace(", }", "}")
    here = [("callbacks.csv.path", path), ("callbacks.csv.every", every), ("callbacks.jsonl.path", path)]
    return text, [*assigned, *here, ("callbacks.jsonl.every", every if how == "*shared" else 7)]


@st.composite
def command_lines(draw):
    """Draw overrides, of single keys and of sections, and what they assign."""
    overrides, sources = [], []
    for section in draw(st.lists(st.sampled_from([*SECTIONS, ""]), max_size=4)):
        assigned = draw(assignments(tuple(key for key in VALUES if key.startswith(section))))
        if section:
            below = tree(draw, assigned)
            for part in section.split("."):
                below = below.get(part, {})
            overrides.append((section, json.dumps(below)))
        else:
            texts = [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in assigned]
            overrides += [(name_of(draw, key), text) for key, text in texts]
        sources.append(assigned)
    return overrides, sources


def tree(draw, assigned):
    """Return assignments as nested maps, each key under one of its names."""
    made = {"callbacks": {}}
    for key, value in assigned:
        *above, last = name_of(draw, key).split(".")
        level = made
        for part in above:
            level = level.setdefault(part, {})
        level[last] = value
    return made


def name_of(draw, key):
    return draw(st.sampled_from([key, OTHER_NAMES.get(key, key)]))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(registry, "claims_by_name", functools.cache(registry.claims_by_name))  # it searches the path
    sys.modules.pop("parts_beside", None)
    Path("parts_beside.py").write_text(PARTS)
    Path("base.yaml").write_text("model: {class_path: parts_beside.Model, init_args: {width: 0}}\n")


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.lists(files(), max_size=3), typed=command_lines())
def test_whatever_is_written_where_the_later_wins(folder, written, typed):
    names = ["base.yaml", *(f"{number}.yaml" for number in range(len(written)))]
    for name, (text, _) in zip(names[1:], written, strict=True):
        Path(name).write_text(text)
    overrides, sources = typed

    config = load_config(names, overrides)
    found = resolved(config)

    expected = reference([[("model.init_args.width", 0)], *(assigned for _, assigned in written), *sources])
    assert {key: found.get(key) for key in expected} == expected
    Path("merged.yaml").write_text(merged_text(config))
    assert resolved(load_config(["merged.yaml"])) == found


def test_the_last_of_several_names_wins_however_often_each_is_written(folder):
    Path("run.yaml").write_text('{"callbacks": {"early_stopping": {"early_stopping_patience": 1}}}')
    overrides = [
        ("callbacks", '{"early_stopping": {"early_stopping_patience": 1}}'),
        ("callbacks.early_stopping.patience", "3"),
        ("callbacks.early_stopping.early_stopping_patience", "2"),
    ]

    (entry,) = load_config(["base.yaml", "run.yaml"], overrides).entries

    assert entry.options == {"early_stopping_patience": 2}
