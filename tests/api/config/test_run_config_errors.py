"""What a wrong configuration says: its place, key and value, and the nearest name."""

from __future__ import annotations

import pytest
from support.run_configs import RUN, refused

from trackside.callbacks.errors import ConfigError
from trackside.config.run_config import load_config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("modle: x.Y\n", "run.yaml:1: modle='x.Y': this is not a key. Did you mean 'model'?"),
        ("args: {learning_rat: 1}\n", "run.yaml:1: args.learning_rat=1: this is not an argument. Did you mean "),
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
            "run.yaml:3: callbacks.early_stopping.patiense=3: this is not an option. Did you mean 'patience'?",
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
        ("- 1\n", "run.yaml:1: a configuration is a map with the keys framework, python_path, model, "),
        (
            "model:\n  class_path: no_such_module.Model\n",
            "run.yaml:2: model.class_path='no_such_module.Model': ",
        ),
        ("model:\n  class_path: Model\n", "run.yaml:2: model.class_path='Model': a dotted path such as package.module"),
        ("model:\n  init_args: {}\n", "run.yaml:1: model: class_path is needed"),
        ("model:\n  class_path: parts_beside.Model\n  width: 3\n", "run.yaml:3: model.width=3: only class_path and"),
        (
            "train_data:\n  class_path: parts_beside.data\n  init_args:\n    spilt: x\n",
            "run.yaml:4: train_data.init_args.spilt='x': data does not take this option. Did you mean 'split'?",
        ),
        (
            "model:\n  class_path: parts_beside.Model\n  init_args:\n    width: wide\n",
            "run.yaml:4: model.init_args.width='wide': a whole number is needed",
        ),
        (
            "callbacks:\n  early_stopping:\n    patience: 2\n    early_stopping_patience: 5\n",
            "run.yaml:4: callbacks.early_stopping.early_stopping_patience=5: the same option is given as 'patience'",
        ),
        (
            "args: {eval_strategy: steps, evaluation_strategy: no}\n",
            "run.yaml:1: args.evaluation_strategy='no': the same argument is given as 'eval_strategy' and as",
        ),
        ("callbacks: {csv: [1]}\n", "run.yaml:1: callbacks.csv=[1]: the options of a callback are a map"),
        ("framework: [1]\n", "run.yaml:1: framework=[1]: pytorch or tensorflow is needed"),
        ("model: [1]\n", "run.yaml:1: model=[1]: class_path is needed"),
        ("model: {class_path: parts_beside.Model, init_args: 0}\n", "run.yaml:1: model.init_args=0: a map from opt"),
        ("args: {max_steps: " + "9" * 30 + "}\n", "run.yaml:1: args.max_steps=999"),
        ("model: parts_beside.Model\n", "run.yaml:1: model.init_args: Model also needs width"),
    ],
)
def test_a_wrong_configuration_is_refused_with_place_key_value_and_the_nearest_name(text, expected, write):
    assert refused(text, write=write).startswith(expected)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (("learning_rte", "1"), "command line: args.learning_rte='1': this is not an argument. Did you mean"),
        (("learning_rate", "fast"), "command line: args.learning_rate='fast' is not allowed"),
        (("callbacks.early_stopping.patience", "x"), "command line: callbacks.early_stopping.patience='x': a whole"),
        (
            ("callback.csv.enabled", "false"),
            "command line: --callback.csv.enabled false: this is not a key. Did",
        ),
        (("args.max_steps.x", "3"), "command line: args.max_steps"),
    ],
)
def test_a_wrong_override_is_refused_in_the_same_way(override, expected, write):
    assert refused(RUN, override, write=write).startswith(expected)


def test_a_missing_file_is_refused_with_the_nearest_one(write):
    write("run.yaml", RUN)

    with pytest.raises(ConfigError, match=r"rum.yaml: the file does not exist. Did you mean 'run.yaml'"):
        load_config(["rum.yaml"])


def test_a_module_that_fails_while_it_is_imported_is_named_with_its_error(write, tmp_path):
    (tmp_path / "broken_beside.py").write_text("1 / 0\n")

    message = refused("model: broken_beside.Model\n", write=write)

    assert "importing broken_beside failed: ZeroDivisionError: division by zero" in message


def test_registered_only_refuses_a_class_path(write):
    message = refused(RUN + "  loud: {class_path: parts_beside.Loud}\n", write=write, registered_only=True)

    assert message.startswith("run.yaml:12: callbacks.loud.class_path='parts_beside.Loud': only registered callbacks")
