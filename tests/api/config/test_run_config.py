"""Configuration files and overrides: what they come to, and what they say when they are wrong."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from trackside.callbacks.config.callback_config import CallbackMap
from trackside.callbacks.errors import ConfigError
from trackside.config.run_config import Component, load_config

RUN = """\
model:
  class_path: parts_beside.Model
  init_args: {width: 4}
train_data: parts_beside.data
args:
  learning_rate: 3e-4
  max_steps: 10
callbacks:
  early_stopping:
    patience: 3
  csv:
"""

PARTS = """\
from collections.abc import Callable

class Model:
    def __init__(self, width: int, depth: int = 1, label: str = "", **kwargs):
        self.width, self.depth, self.label = width, depth, label

class Deep(Model):
    def __init__(self, layers: int = 2, **kwargs):
        super().__init__(**kwargs)
        self.layers = layers

class Whole:
    def __init__(self, part: Model, others: list[Model] = (), activation: Callable[[], list] = None):
        self.part, self.others, self.activation = part, others, activation

class Closed:
    def __init__(self, width: int):
        pass

class Behind(Closed):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)

def data(split="train"):
    return [split]

def loss(outputs, labels, weight: float = 1.0):
    return outputs * weight

class Loud:
    def __init__(self, volume: float = 0.5, name: str = "x"):
        self.volume = volume

    def on_log(self, args, state, control, **kwargs):
        pass
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write files beside each other and make that folder the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("parts_beside", None)
    (tmp_path / "parts_beside.py").write_text(PARTS)

    def write(name, text):
        (tmp_path / name).write_text(textwrap.dedent(text))
        return name

    return write


def refused(text, *overrides, write=None, **options):
    """Return the message with which a configuration is refused, its components included."""
    with pytest.raises(ConfigError) as caught:
        load_config([write("run.yaml", text)], overrides, **options).components()
    return str(caught.value)


# -- what a configuration comes to ------------------------------------------------------------------------------------


def test_a_file_gives_arguments_components_and_callbacks(write):
    config = load_config([write("run.yaml", RUN)])

    parts = config.components()

    assert config.framework == "pytorch"
    assert (config.args.learning_rate, config.args.max_steps) == (3e-4, 10)
    assert config.args.callbacks == {"early_stopping": {"patience": 3}, "csv": {}}
    assert [entry.name for entry in config.entries] == ["early_stopping", "csv"]
    assert parts["model"].build().width == 4
    assert parts["train_data"].build() == ["train"]


def test_later_files_win_and_the_command_line_wins_over_all(write):
    files = [
        write("run.yaml", RUN),
        write("more.yaml", "args: {max_steps: 20, seed: 7}\ncallbacks: {early_stopping: {threshold: 0.1}, csv: false}"),
    ]
    overrides = [("seed", "8"), ("args.learning_rate", "1e-2"), ("callbacks.early_stopping.patience", "5")]

    config = load_config(files, overrides)

    assert (config.args.max_steps, config.args.seed, config.args.learning_rate) == (20, 8, 1e-2)
    assert config.callbacks["early_stopping"] == {"patience": 5, "threshold": 0.1}
    assert [entry.name for entry in config.entries] == ["early_stopping"]


def test_an_override_can_bring_in_and_leave_out_callbacks(write):
    config = load_config([write("run.yaml", RUN)], [("callbacks.csv.enabled", "false"), ("callbacks.printer", "true")])

    assert [entry.name for entry in config.entries] == ["early_stopping", "printer"]


def test_a_later_file_may_bring_another_class_without_the_options_of_the_old_one(write):
    files = [
        write("run.yaml", RUN),
        write("more.yaml", "model: {class_path: parts_beside.Deep, init_args: {width: 9}}"),
    ]

    model = load_config(files).components()["model"].build()

    assert (type(model).__name__, model.width, model.layers) == ("Deep", 9, 2)


def test_options_of_a_base_class_are_followed_through_kwargs(write):
    config = load_config([write("run.yaml", RUN)], [("model.class_path", "parts_beside.Deep")])
    overridden = load_config(
        ["run.yaml"],
        [
            ("model.class_path", "parts_beside.Deep"),
            ("model.init_args.width", "3"),
            ("model.init_args.label", "12"),
        ],
    )

    model = overridden.components()["model"].build()

    assert (model.width, model.label) == (3, "12")
    with pytest.raises(ConfigError, match=r"command line: model: .*'width'"):
        config.components()["model"].build()


def test_an_option_may_be_an_object_a_function_or_options_of_a_class(write):
    text = """\
        model:
          class_path: parts_beside.Whole
          init_args:
            part: {class_path: parts_beside.Deep, init_args: {layers: 3, width: "4"}}
            others: [{width: 5}]
            activation: parts_beside.data
        """

    model = load_config([write("run.yaml", text)]).components()["model"].build()
    wrong = refused(text.replace("layers: 3", "layers: x"), write=write)

    assert (model.part.layers, model.part.width, model.others[0].width, model.activation()) == (3, 4, 5, ["train"])
    assert wrong == "run.yaml:4: model.init_args.part.init_args.layers='x': a whole number is needed"


def test_an_option_that_only_the_base_class_refuses_is_refused_as_well(write):
    text = "model: {class_path: parts_beside.Behind, init_args: {width: 3, widht: 4}}\n"

    with pytest.raises(ConfigError, match=r"run.yaml:1: model: .*unexpected keyword argument 'widht'"):
        load_config([write("run.yaml", text)]).components()["model"].build()


def test_what_is_called_during_the_run_is_taken_as_it_is_and_init_args_are_bound(write):
    plain = load_config([write("run.yaml", RUN + "loss_fn: parts_beside.loss\n")]).components()["loss_fn"]
    bound = load_config(["run.yaml"], [("loss_fn.init_args.weight", "3")]).components()["loss_fn"]

    assert plain.build()(2.0, None) == 2.0
    assert bound.build()(2.0, None) == 6.0


def test_evaluation_data_may_be_several_sets(write):
    text = RUN + "eval_data: {a: parts_beside.data, b: {class_path: parts_beside.data, init_args: {split: b}}}\n"

    parts = load_config([write("run.yaml", text)]).components()["eval_data"]

    assert {name: part.build() for name, part in parts.items()} == {"a": ["train"], "b": ["b"]}


def test_the_map_of_callbacks_knows_where_each_entry_and_option_is_written(write):
    config = load_config([write("run.yaml", RUN)], [("callbacks.printer", "true")])

    assert isinstance(config.args.callbacks, CallbackMap)
    assert config.callbacks.origins["early_stopping"] == "run.yaml:9"
    assert config.callbacks.origins["early_stopping.patience"] == "run.yaml:10"
    assert config.callbacks.origins["printer"] == "command line"


def test_a_map_that_several_write_is_where_it_was_written_first_and_an_option_where_it_was_last(write):
    files = [write("run.yaml", RUN), write("more.yaml", "callbacks: {csv: false, early_stopping: {threshold: 0.1}}")]

    origins = load_config(files, [("callbacks.early_stopping.patience", "5")]).callbacks.origins

    assert (origins["early_stopping"], origins["csv"]) == ("run.yaml:9", "run.yaml:11")
    assert (origins["early_stopping.threshold"], origins["csv.enabled"]) == ("more.yaml:1", "more.yaml:1")
    assert origins["early_stopping.patience"] == "command line"


def test_an_entry_of_another_class_is_where_that_class_was_written(write):
    files = [
        write("run.yaml", "callbacks:\n  mine: {class_path: parts_beside.Loud, init_args: {volume: 1}}\n"),
        write("more.yaml", "\n\ncallbacks:\n  mine: {class_path: parts_beside.Other, init_args: {volume: 2}}\n"),
    ]

    with pytest.raises(ConfigError, match=r"more.yaml:4: callbacks.mine.class_path='parts_beside.Other': .*no 'Other'"):
        load_config(files)


def test_a_module_beside_the_file_is_found_from_another_folder(write, tmp_path, monkeypatch):
    write("run.yaml", RUN)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    part = load_config([tmp_path / "run.yaml"]).components()["model"]

    assert isinstance(part, Component)


def test_checking_a_configuration_imports_no_framework(write):
    write("run.yaml", RUN)
    program = (
        "import sys; from trackside.config.run_config import load_config; load_config(['run.yaml']); "
        "print([name for name in ('torch', 'tensorflow', 'keras') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


# -- what a wrong configuration says ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("modle: x.Y\n", "run.yaml:1: modle='x.Y': there is no such key. Did you mean 'model'?"),
        ("args: {learning_rat: 1}\n", "run.yaml:1: args.learning_rat=1: there is no such argument. Did you mean "),
        ("args:\n  max_steps: many\n", "run.yaml:2: args.max_steps='many' is not allowed: a whole number"),
        ("args:\n  eval_strategy: epochs\n", "run.yaml:2: args.eval_strategy='epochs' is not allowed"),
        ("args:\n  callbacks: {}\n", "run.yaml:2: args.callbacks: callbacks has its place beside args"),
        ("args: 3\n", "run.yaml:1: args=3: a map from names to values is needed"),
        ("framework: pytorsh\n", "run.yaml:1: framework='pytorsh': pytorch or tensorflow is needed. Did you mean 'py"),
        ("callbacks: [csv]\n", "run.yaml:1: callbacks=['csv']: a map from names to values is needed"),
        ("callbacks:\n  csv: 3\n", "run.yaml:2: callbacks.csv=3: the options of a callback are a map"),
        ("callbacks:\n  early_stoping:\n", "run.yaml:2: callbacks.early_stoping: no callback named 'early_stoping'"),
        (
            "callbacks:\n  early_stopping:\n    patiense: 3\n",
            "run.yaml:3: callbacks.early_stopping.patiense=3: there is no such option. Did you mean 'patience'?",
        ),
        ("callbacks:\n  csv:\n    path: [1]\n", "run.yaml:3: callbacks.csv.path=[1]: a text or null is needed"),
        (
            "callbacks:\n  early_stopping:\n    patience: soon\n",
            "run.yaml:3: callbacks.early_stopping.patience='soon': a whole number is needed",
        ),
        (
            "callbacks:\n  csv:\n    on: on_logs\n",
            "run.yaml:3: callbacks.csv.on='on_logs': no event named 'on_logs'; available: ",
        ),
        ("callbacks:\n  csv:\n    every: 0\n", "run.yaml:3: callbacks.csv.every=0: a whole number from 1"),
        ("callbacks:\n  csv:\n    role: controll\n", "run.yaml:3: callbacks.csv.role='controll': control or observer"),
        ("callbacks:\n  csv:\n    background: 3\n", "run.yaml:3: callbacks.csv.background=3: true or false"),
        ("callbacks:\n  csv:\n    timeout_s: 0\n", "run.yaml:3: callbacks.csv.timeout_s=0: a number of seconds"),
        ("callbacks:\n  csv:\n    enabled: 3\n", "run.yaml:3: callbacks.csv.enabled=3: true or false is needed"),
        (
            "callbacks:\n  loud:\n    class_path: parts_beside.Lout\n",
            "run.yaml:3: callbacks.loud.class_path='parts_beside.Lout': parts_beside has no 'Lout'. Did you mean",
        ),
        (
            "callbacks:\n  loud:\n    class_path: parts_beside.Loud\n    init_args:\n      volume: high\n",
            "run.yaml:5: callbacks.loud.init_args.volume='high': a number is needed",
        ),
        (
            "callbacks:\n  loud: {class_path: parts_beside.Loud, volume: 1, init_args: {}}\n",
            "run.yaml:2: callbacks.loud.volume=1: where there is init_args, options go into it",
        ),
        ("args:\n  seed: 1\n  seed: 2\n", "run.yaml:3: args.seed is written twice; first on line 2"),
        ("args: {seed: 1\n", "run.yaml:2:1: this is not valid YAML: "),
        ("- 1\n", "run.yaml: a configuration is a map with the keys framework, model, "),
        (
            "model:\n  class_path: no_such_module.Model\n",
            "run.yaml:2: model.class_path='no_such_module.Model': ",
        ),
        ("model:\n  class_path: Model\n", "run.yaml:2: model.class_path='Model': a dotted path such as package.module"),
        ("model:\n  init_args: {}\n", "run.yaml:1: model: class_path is needed"),
        ("model:\n  class_path: parts_beside.Model\n  width: 3\n", "run.yaml:3: model.width=3: only class_path and"),
        (
            "train_data:\n  class_path: parts_beside.data\n  init_args:\n    spilt: x\n",
            "run.yaml:4: train_data.init_args.spilt='x': data has no such option. Did you mean 'split'?",
        ),
        (
            "model:\n  class_path: parts_beside.Model\n  init_args:\n    width: wide\n",
            "run.yaml:4: model.init_args.width='wide': a whole number is needed",
        ),
        ("model: parts_beside.Model\n", "run.yaml:1: model.init_args: Model also needs width"),
    ],
)
def test_a_wrong_configuration_is_refused_with_place_key_value_and_the_nearest_name(text, expected, write):
    assert refused(text, write=write).startswith(expected)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (("learning_rte", "1"), "command line: args.learning_rte='1': there is no such argument. Did you mean"),
        (("learning_rate", "fast"), "command line: args.learning_rate='fast' is not allowed"),
        (("callbacks.early_stopping.patience", "x"), "command line: callbacks.early_stopping.patience='x': a whole"),
        (
            ("callback.csv.enabled", "false"),
            "command line: --callback.csv.enabled false: there is no such key. Did",
        ),
        (("args.max_steps.x", "3"), "command line: args.max_steps"),
    ],
)
def test_a_wrong_override_is_refused_in_the_same_way(override, expected, write):
    assert refused(RUN, override, write=write).startswith(expected)


def test_a_missing_file_is_refused_with_the_nearest_one(write):
    write("run.yaml", RUN)

    with pytest.raises(ConfigError, match=r"rum.yaml: there is no such file. Did you mean 'run.yaml'"):
        load_config(["rum.yaml"])


def test_a_module_that_fails_while_it_is_imported_is_named_with_its_error(write, tmp_path):
    (tmp_path / "broken_beside.py").write_text("1 / 0\n")

    message = refused("model: broken_beside.Model\n", write=write)

    assert "importing broken_beside failed: ZeroDivisionError: division by zero" in message


def test_registered_only_refuses_a_class_path(write):
    message = refused(RUN + "  loud: {class_path: parts_beside.Loud}\n", write=write, registered_only=True)

    assert message.startswith("run.yaml:12: callbacks.loud.class_path='parts_beside.Loud': only registered callbacks")


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
