"""What configuration files and overrides come to."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.run_configs import RUN, refused

from trackside.callbacks.config.callback_config import CallbackMap
from trackside.callbacks.errors import ConfigError
from trackside.config.component import Component
from trackside.config.run_config import load_config


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


def test_an_override_changes_one_of_two_that_share_an_anchor(write):
    text = """\
        model: parts_beside.Model
        train_data: &data {class_path: parts_beside.data, init_args: {split: train}}
        eval_data: *data
        callbacks:
          csv: &often {every: 1}
          jsonl: *often
        """
    overrides = [
        ("eval_data.init_args.split", "test"),
        ("callbacks.csv.every", "100"),
        ("model.init_args.width", "1"),
    ]

    config = load_config([write("run.yaml", text)], overrides)

    parts = config.components()
    assert (parts["train_data"].init_args, parts["eval_data"].init_args) == ({"split": "train"}, {"split": "test"})
    assert [entry.attach_options.every for entry in config.entries] == [100, 1]
    assert config.source.where("train_data", "init_args", "split") == "run.yaml:2"


@pytest.mark.parametrize("turn", [1, -1])
def test_a_section_on_the_command_line_is_merged_with_single_options(turn, write):
    overrides = [("args.learning-rate", "0.1"), ("args", "{seed: 3}"), ("callbacks", "{csv: {every: 5}}")]
    overrides += [("callbacks.csv.path", "x"), ("model.init_args.width", "7"), ("model.init_args", "{depth: 2}")]

    config = load_config([write("run.yaml", RUN)], overrides[::turn])

    assert (config.args.learning_rate, config.args.seed, config.args.max_steps) == (0.1, 3, 10)
    assert config.callbacks["csv"] == {"every": 5, "path": "x"}
    assert config.components()["model"].init_args == {"width": 7, "depth": 2}
    assert config.source.where("args", "seed") == "command line"


def test_the_options_of_a_class_may_be_typed_before_it(write):
    overrides = [("model.init_args.width", "3"), ("model", "parts_beside.Deep"), ("model.init_args.layers", "9")]

    model = load_config([write("run.yaml", RUN)], overrides).components()["model"].build()

    assert (type(model).__name__, model.width, model.layers) == ("Deep", 3, 9)


def test_the_command_line_wins_under_every_name_of_an_option(write):
    files = [
        write("team.yaml", "callbacks: {early_stopping: {patience: 2}}\nargs: {evaluation_strategy: steps}\n"),
        write("mine.yaml", "callbacks: {early_stopping: {early_stopping_patience: 3}}\n"),
    ]

    without = load_config(files)
    config = load_config(files, [("callbacks.early_stopping.patience", "10"), ("eval_strategy", "no")])

    assert without.entries[0].options == without.callbacks["early_stopping"] == {"early_stopping_patience": 3}
    assert config.entries[0].options == {"early_stopping_patience": 10}
    assert config.callbacks["early_stopping"] == {"patience": 10}
    assert (without.args.eval_strategy, config.args.eval_strategy) == ("steps", "no")


def test_an_override_can_bring_in_and_leave_out_callbacks(write):
    config = load_config([write("run.yaml", RUN)], [("callbacks.csv.enabled", "false"), ("callbacks.printer", "true")])

    assert [entry.name for entry in config.entries] == ["early_stopping", "printer"]


def test_an_option_for_a_callback_that_an_earlier_source_leaves_out_is_told(write, caplog):
    files = [
        write("run.yaml", "callbacks:\n  csv: false\n  jsonl: {enabled: false, path: x}\n  printer: false\n"),
        write("more.yaml", "callbacks: {csv: {path: y}, printer: true}\n"),
    ]

    config = load_config(files, [("callbacks.jsonl.every", "5"), ("callbacks.printer.every", "2")])

    assert [entry.name for entry in config.entries] == ["printer"]
    assert [record.message for record in caplog.records] == [
        "more.yaml:1: callbacks.csv.path has no effect: run.yaml:2 leaves the callback out; to have it, set "
        "callbacks.csv.enabled to true",
        "command line: callbacks.jsonl.every has no effect: run.yaml:3 leaves the callback out; to have it, set "
        "callbacks.jsonl.enabled to true",
    ]


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
