"""What the command shows without training: the plan, the callbacks, version and help."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from trackside.cli.command_line import split_overrides
from trackside.cli.main import main


def test_plan_shows_callbacks_in_order_with_origin_and_arguments_and_runs_nothing(run_yaml, capsys):
    assert main(["plan", run_yaml, "--callbacks.early_stopping.patience", "5"]) == 0

    text = capsys.readouterr().out
    names = ("early_stopping", "printer", "csv")
    places = [text.index(f"\n  {name} ") for name in names]
    assert places == sorted(places)
    assert "run.yaml:18, trackside " in text
    assert "command line, trackside " in text
    assert "  patience=5  " in text
    assert "run.yaml:10" in text
    assert not Path("out").exists()


def test_plan_shows_which_options_were_written_elsewhere_than_their_callback(run_yaml, capsys):
    Path("more.yaml").write_text("callbacks: {early_stopping: {patience: 3, threshold: 0.1}}\n")
    overrides = ["--callbacks.early_stopping.patience", "5", "--callbacks.csv.path", "records.csv"]

    assert main(["plan", run_yaml, "more.yaml", *overrides]) == 0

    text = capsys.readouterr().out
    assert "patience=5 (command line), threshold=0.1" in text
    assert "path='records.csv' (command line)" in text
    assert "more.yaml:1, trackside " in text


def test_before_and_after_may_name_the_progress_bar_that_is_there_by_itself(run_yaml, capsys):
    text = Path(run_yaml).read_text()
    Path(run_yaml).write_text(
        text.replace("  printer:\n  csv:\n", "  csv: {before: progress}\n  jsonl: {after: progress}\n")
    )

    assert main(["plan", run_yaml]) == 0

    text = capsys.readouterr().out
    assert text.index("\n  csv ") < text.index("\n  progress ") < text.index("\n  jsonl ")


OPTIONS = {
    "a name of the optimizer": (["--optim", "sgd", "--optim_args", "momentun=0.9"], "Did you mean 'momentum'?"),
    "a value of it": (["--optim", "sgd", "--optim_args", "momentum=fast"], "optim_args={'momentum': 'fast'}"),
    "a name of the schedule": (
        ["--lr_scheduler_type", "cosine", "--lr_scheduler_kwargs", '{"num_cycle": 1}'],
        "num_cycles",
    ),
    "a value of it as well": (
        ["--lr_scheduler_type", "cosine", "--lr_scheduler_kwargs", '{"num_cycles": "x"}'],
        "float",
    ),
    "an option that it needs": (["--lr_scheduler_type", "cosine_with_min_lr"], "needs either min_lr or min_lr_rate"),
    "a name of a plateau": (
        ["--lr_scheduler_type", "reduce_lr_on_plateau", "--lr_scheduler_kwargs", '{"patiance": 1}'],
        "Did you mean 'patience'?",
    ),
    "a word of a plateau": (
        ["--lr_scheduler_type", "reduce_lr_on_plateau", "--lr_scheduler_kwargs", '{"mode": "mix"}'],
        "mode is one of min, max",
    ),
}
OF_PYTORCH = {
    "a backend": (["--torch_compile_backend", "inductr"], "Did you mean 'inductor'?"),
    "a name of checkpointing": (
        ["--gradient_checkpointing", "true", "--gradient_checkpointing_kwargs", '{"use_reentrnt": false}'],
        "Did you mean 'use_reentrant'?",
    ),
}


@pytest.mark.parametrize("name", [*OPTIONS, *OF_PYTORCH])
def test_plan_refuses_options_as_training_does(run_yaml, capsys, name):
    options, message = {**OPTIONS, **OF_PYTORCH}[name]
    told = []
    for command in ("plan", "train"):
        assert main([command, run_yaml, "--eval_strategy", "epoch", *options]) == 2
        told.append(capsys.readouterr().err.splitlines()[-1])

    assert told[0] == told[1]
    assert message in told[0]


@pytest.mark.parametrize("name", OPTIONS)
def test_plan_of_tensorflow_refuses_options_too(tmp_path, monkeypatch, capsys, name):
    pytest.importorskip("tensorflow")
    monkeypatch.chdir(tmp_path)
    Path("tf.yaml").write_text("framework: tensorflow\n")
    options, message = OPTIONS[name]
    if name == "a value of it":  # which Keras takes
        options, message = ["--optim", "sgd", "--optim_args", "momentum=-3"], "optim_args={'momentum': -3}"

    assert main(["plan", "tf.yaml", "--eval_strategy", "epoch", *options]) == 2

    assert message in capsys.readouterr().err


def test_callbacks_lists_what_is_registered_with_package_and_options(capsys):
    assert main(["callbacks"]) == 0

    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("early_stopping "))
    assert "trackside " in line
    assert "patience: int = 1" in line


def test_version_and_help(capsys):
    for arguments in (["--version"], ["--help"], ["train", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
    assert "--learning_rate" in capsys.readouterr().out


def test_options_of_the_command_are_kept_apart_from_keys_of_the_configuration():
    own, overrides = split_overrides(["evaluate", "a.yaml", "--split", "test", "--seed=3", "--bf16", "--lr", "-1"])

    assert own == ["evaluate", "a.yaml", "--split", "test"]
    assert overrides == [("seed", "3"), ("bf16", "true"), ("lr", "-1")]


def test_text_that_the_terminal_cannot_show_is_escaped(run_yaml, monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)

    assert main(["plan", run_yaml, "--run_name", "pr\u00e9cision"]) == 0

    assert b"pr\\xe9cision" in stdout.buffer.getvalue()
