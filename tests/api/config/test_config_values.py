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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("args: {5: 1}\n", "run.yaml:1: args.5: a name is needed as key"),
        ("callbacks: &a\n  csv: {path: *a}\n", "run.yaml:2: callbacks.csv.path: an alias of what it stands in"),
        ("callbacks: &a\n  csv:\n  - *a\n", "run.yaml:3: callbacks.csv.0: an alias of what it stands in"),
    ],
)
def test_keys_that_are_not_names_and_aliases_of_themselves_are_refused_with_their_line(text, expected, write):
    assert refused(text, write=write).startswith(expected)


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
