"""Values of a configuration: numbers, words, and objects among the options."""

from __future__ import annotations

import sys

import pytest
from support.run_configs import RUN, refused

from trackside.callbacks.errors import ConfigError
from trackside.config.run_config import load_config

# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "value"), [("010", 10), ("0o10", 8), ("1e2", 100)])
def test_a_number_means_the_same_in_a_file_and_on_the_command_line(text, value, write):
    in_file = load_config([write("run.yaml", f"args: {{seed: {text}}}\n")])
    on_command_line = load_config([write("empty.yaml", "args:\n")], [("seed", text)])

    assert in_file.args.seed == on_command_line.args.seed == value


@pytest.mark.parametrize("text", ["on", "yes", "1:30", "3e-4x"])
def test_words_and_times_of_yaml_1_1_are_text(text, write):
    in_file = load_config([write("run.yaml", f"args: {{run_name: {text}}}\n")])
    on_command_line = load_config([write("empty.yaml", "args:\n")], [("run_name", text)])

    assert in_file.args.run_name == on_command_line.args.run_name == text


def test_text_on_the_command_line_stays_text_for_a_field_that_takes_text(write):
    assert load_config([write("run.yaml", RUN)], [("run_name", "012")]).args.run_name == "012"


@pytest.mark.parametrize("text", ["fix for issue #12", "#1", "first\nsecond", "'quoted'", "a: b", "[x", "{}", "1e3"])
def test_a_text_on_the_command_line_is_as_it_was_typed_where_a_text_is_taken(text, write):
    keys = ("callbacks.wandb.notes", "model.init_args.label", "run_name")

    config = load_config([write("run.yaml", RUN)], [(key, text) for key in keys])

    notes = next(entry for entry in config.entries if entry.name == "wandb").options["notes"]
    label = config.components()["model"].init_args["label"]
    assert notes == label == config.args.run_name == text


@pytest.mark.parametrize(
    ("typed", "value"), [("#1", "#1"), ("5 # x", "5 # x"), ("5", 5), ("'5'", "5"), ("{a: on}", {"a": "on"}), ("", None)]
)
def test_where_any_value_is_taken_a_text_means_what_it_means_in_a_file_but_has_no_comments(typed, value, write):
    config = load_config([write("run.yaml", RUN)], [("train_data.init_args.split", typed)])

    assert config.components()["train_data"].init_args["split"] == value


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("callbacks.early_stopping.patience", "callbacks.early_stopping.patience='null': a whole number is needed"),
        ("callbacks.csv.every", "callbacks.csv.every=None: a whole number from 1"),
        ("model.init_args.width", "model.init_args.width='null': a whole number is needed"),
        ("seed", "args.seed=None is not allowed: a whole number"),
    ],
)
def test_null_is_refused_where_it_is_not_allowed(key, expected, write):
    assert refused(RUN, (key, "null"), write=write).startswith(f"command line: {expected}")


def test_null_is_none_where_it_is_allowed(write):
    config = load_config([write("run.yaml", RUN)], [("callbacks.csv.path", "null"), ("run_name", "null")])

    assert (config.entries[1].options["path"], config.args.run_name) == (None, None)


def test_a_path_may_begin_with_the_home_folder(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write("paths_beside.py", "from pathlib import Path\ndef at(path: Path): return path\n")

    config = load_config([write("run.yaml", "model: {class_path: paths_beside.at, init_args: {path: ~/data}}\n")])

    assert config.components()["model"].build() == tmp_path / "data"


# -- objects among the options ----------------------------------------------------------------------------------------


def write_run_of_a_frame(write, options):
    """Write a configuration whose model takes other objects."""
    write("frames_beside.py", FRAMES)
    return write("run.yaml", f"model:\n  class_path: frames_beside.Frame\n  init_args:\n    {options}\n")


FRAMES = """\
import dataclasses
from collections.abc import Callable

class Part:
    made = 0

    def __init__(self, width: int = 1):
        Part.made += 1
        self.width = width

class Wide(Part):
    pass

class Other:
    pass

def double(number, times: int = 2):
    return number * times

@dataclasses.dataclass
class Sizes:
    height: float = 1.0

class Frame:
    def __init__(self, part: Part | None = None, parts=(), act: Callable | None = None, sizes: Sizes | None = None):
        self.part, self.parts, self.act, self.sizes = part, parts, act, sizes
"""


@pytest.fixture
def model_of(write):
    """Return the model whose options are the YAML given, built."""

    def build(options):
        sys.modules.pop("frames_beside", None)
        return load_config([write_run_of_a_frame(write, options)]).components()["model"].build()

    return build


def test_an_option_may_be_an_object_of_its_own(model_of):
    assert model_of('part: {class_path: frames_beside.Wide, init_args: {width: "3"}}').part.width == 3
    assert type(model_of("part: frames_beside.Wide").part).__name__ == "Wide"
    assert model_of("part: {width: 4}").part.width == 4
    assert [item.width for item in model_of("parts: [{class_path: frames_beside.Part}]").parts] == [1]


def test_an_option_that_is_called_gets_a_function_with_its_options_bound(model_of):
    assert model_of("act: frames_beside.double").act(4) == 8
    assert model_of("act: {class_path: frames_beside.double, init_args: {times: 3}}").act(4) == 12


def test_an_option_that_is_a_dataclass_is_made_from_a_map(model_of):
    assert model_of("sizes: {height: 2}").sizes.height == 2.0


def test_an_object_among_the_options_is_not_made_before_the_model(write):
    config = load_config([write_run_of_a_frame(write, "part: frames_beside.Part")])

    part = config.components()["model"]
    before = sys.modules["frames_beside"].Part.made
    part.build()

    assert (before, sys.modules["frames_beside"].Part.made) == (0, 1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("part: frames_beside.Other", "run.yaml:4: model.init_args.part='frames_beside.Other': Part is needed"),
        (
            "part: {class_path: frames_beside.Wide, init_args: {widht: 3}}",
            "run.yaml:4: model.init_args.part.init_args.w",
        ),
        ("part: 3", "run.yaml:4: model.init_args.part=3: Part or null is needed"),
        ("sizes: {height: tall}", "run.yaml:4: model.init_args.sizes.height='tall': a number is needed"),
        (
            "parts: [{class_path: frames_beside.Prat}]",
            "run.yaml:4: model.init_args.parts.0.class_path='frames_beside.Prat': frames_beside has no",
        ),
    ],
)
def test_a_wrong_object_among_the_options_is_refused_with_its_keys(options, expected, write):
    sys.modules.pop("frames_beside", None)

    with pytest.raises(ConfigError) as caught:
        load_config([write_run_of_a_frame(write, options)]).components()

    assert str(caught.value).startswith(expected)
