"""The command line, end to end: training, stopping, resuming, evaluating, predicting, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.fork_process import Fork

from trackside.cli.main import command_that_resumes, main, split_overrides

PARTS = """\
import os
import signal
import time
import torch
from torch.utils.data import TensorDataset


class Net(torch.nn.Module):
    def __init__(self, width: int = 4, delay_s: float = 0.0):
        super().__init__()
        self.layer = torch.nn.Linear(3, width)
        self.delay_s = delay_s

    def forward(self, x):
        time.sleep(self.delay_s)
        return self.layer(x)


class StopsOnce(Net):
    calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls == 2 and not os.path.exists("stopped"):
            open("stopped", "w").close()
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(x)


class Fails(Net):
    def forward(self, x):
        raise RuntimeError("no way forward")


def data(rows: int = 32, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(rows, 3, generator=generator), torch.arange(rows) % 4)


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}
"""

RUN = """\
model: {class_path: cli_parts.Net}
train_data: {class_path: cli_parts.data}
eval_data: {class_path: cli_parts.data, init_args: {rows: 10, seed: 1}}
test_data: {class_path: cli_parts.data, init_args: {rows: 9, seed: 2}}
loss_fn: torch.nn.functional.cross_entropy
compute_metrics: cli_parts.accuracy
args:
  output_dir: out
  max_steps: 6
  per_device_train_batch_size: 8
  learning_rate: 1e-2
  logging_steps: 2
  eval_strategy: steps
  eval_steps: 3
  save_steps: 3
  no_cuda: true
callbacks:
  printer:
  csv:
"""


@pytest.fixture
def run_yaml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("cli_parts", None)
    Path("cli_parts.py").write_text(PARTS)
    Path("run.yaml").write_text(RUN)
    return "run.yaml"


def start(*arguments):
    """Start the command in a process of its own, as pip's script does."""
    return Fork(
        "torch", ["-c", "import sys; from trackside.cli.main import main; sys.exit(main())", *arguments], Path.cwd()
    )


# -- running ----------------------------------------------------------------------------------------------------------


def test_train_ends_with_a_summary_and_leaves_model_metrics_and_picture(run_yaml, capsys):
    code = main(["train", run_yaml, "--do_predict", "true"])

    text = capsys.readouterr().out
    assert code == 0
    for expected in ("step 6 of 6", "steps/s", "accuracy", "checkpoint-6", "loss_curve.png", "csv", "share"):
        assert expected in text
    left = {path.name for path in Path("out").iterdir()}
    assert left >= {"train_results.json", "eval_results.json", "test_results.json", "predictions.npz", "loss_curve.png"}
    assert json.loads(Path("out/trainer_state.json").read_text())["global_step"] == 6


def test_evaluate_and_predict_use_the_trained_weights(run_yaml, capsys):
    main(["train", run_yaml])
    trained = json.loads(Path("out/eval_results.json").read_text())["eval_loss"]

    assert main(["evaluate", run_yaml]) == 0
    assert main(["evaluate", run_yaml, "--checkpoint", "out/checkpoint-3"]) == 0
    assert main(["predict", run_yaml]) == 0

    losses = [float(line.split("=")[1]) for line in capsys.readouterr().out.splitlines() if "eval_loss =" in line]
    assert losses[0] == pytest.approx(trained, rel=1e-5)
    assert losses[1] != pytest.approx(trained, rel=1e-5)
    with np.load("out/predictions.npz") as arrays:
        assert arrays["predictions"].shape == (9, 4)
        assert arrays["label_ids"].shape == (9,)


def test_a_run_that_goes_on_ends_as_one_that_was_not_cut(run_yaml):
    constant = [run_yaml, "--lr_scheduler_type", "constant"]
    main(["train", *constant, "--output_dir", "whole"])
    main(["train", *constant, "--output_dir", "cut", "--max_steps", "3"])

    code = main(["train", *constant, "--output_dir", "cut", "--resume_from_checkpoint", "true"])

    whole, cut = (json.loads(Path(folder, "eval_results.json").read_text()) for folder in ("whole", "cut"))
    assert code == 0
    assert cut["eval_loss"] == whole["eval_loss"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_with_its_code_and_says_how_to_go_on(run_yaml, number, code):
    slow = ["--model.init_args.delay_s", "0.05", "--max_steps", "2000", "--eval_strategy", "no"]
    process = start("train", run_yaml, *slow)
    while not Path("out/checkpoint-3").exists():
        assert process.poll() is None, process.errors
        time.sleep(0.02)

    process.send_signal(number)

    assert process.wait(120) == code, process.errors
    assert f"received {number.name}" in process.output
    assert "--resume_from_checkpoint true" in process.output
    assert not Path("out/train_results.json").exists()


def line_to_go_on(printed):
    (line,) = re.findall(r"^Stopped by SIGTERM\. Go on: (.*)$", printed, re.MULTILINE)
    return line


def test_the_line_that_tells_how_to_go_on_goes_on_with_the_same_run(run_yaml, capsys):
    Path("more options.yaml").write_text("args: {max_steps: 5}\n")
    options = ["--output_dir", "out 'two'", "--model.class_path", "cli_parts.StopsOnce", "--eval_strategy", "no"]

    stopped = main(["train", run_yaml, "more options.yaml", *options, "--resume_from_checkpoint", "true"])
    trackside, *words = shlex.split(line_to_go_on(capsys.readouterr().out))
    code = main(words)

    assert (stopped, trackside, code) == (143, "trackside", 0)
    assert words == ["train", run_yaml, "more options.yaml", *options, "--resume_from_checkpoint", "true"]
    assert json.loads(Path("out 'two'/trainer_state.json").read_text())["global_step"] == 5
    assert "checkpoint-2" in {path.name for path in Path("out 'two'").iterdir()}
    assert not Path("out").exists()


def test_a_run_that_saved_nothing_does_not_go_on_with_what_another_run_left(run_yaml, capsys):
    main(["train", run_yaml])
    mine = ["--save_strategy", "no", "--overwrite_output_dir", "true", "--model.class_path", "cli_parts.StopsOnce"]

    code = main(["train", run_yaml, *mine])

    assert code == 143
    assert Path("out/checkpoint-6").exists()
    text = capsys.readouterr().out
    assert "Stopped by SIGTERM. It has saved no checkpoint to go on from." in text
    assert "Go on:" not in text


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("a.yaml 'b c.yaml'", "a.yaml 'b c.yaml'"),
        ("a.yaml --registered-only --seed 1 b.yaml", "a.yaml --registered-only b.yaml --seed 1"),
        (
            "a.yaml --args.seed=-1 --callbacks.csv.path 'my log.csv'",
            "a.yaml --args.seed -1 --callbacks.csv.path 'my log.csv'",
        ),
        ("a.yaml --fp16 --learning-rate 1e-3", "a.yaml --fp16 true --learning-rate 1e-3"),
        ("a.yaml --run_name=--odd --run_name ''", "a.yaml --run_name=--odd --run_name ''"),
        ("""a.yaml --run_name "it's \\"it\\" $HOME" """, """a.yaml --run_name 'it'"'"'s "it" $HOME'"""),
        ("a.yaml --resume_from_checkpoint", "a.yaml"),
        ("a.yaml --resume-from-checkpoint=x --seed 1", "a.yaml --seed 1"),
        ("a.yaml --args.resume_from_checkpoint other/checkpoint-3", "a.yaml"),
    ],
)
def test_every_option_is_repeated_but_the_choice_of_another_checkpoint(typed, expected):
    line = command_that_resumes(["train", *shlex.split(typed)])

    assert line == f"trackside train {expected} --resume_from_checkpoint true"
    assert command_that_resumes(shlex.split(line)[1:]) == line


@pytest.mark.parametrize("launcher", [[], ["timeout", "100"], ["env", "A=b c", "timeout", "100"]])
def test_what_started_the_command_is_repeated_too(launcher, tmp_path):
    script = tmp_path / "my trackside"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom trackside.cli.main import command_that_resumes\n"
        "print(command_that_resumes(sys.argv[1:]))\n"
    )
    script.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"

    command = [*launcher, "my trackside", "train", "run.yaml"]
    ended = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True)

    started = [word for word in launcher if word not in ("env", "A=b c")]
    assert ended.stdout == f"{shlex.join([*started, 'my trackside'])} train run.yaml --resume_from_checkpoint true\n"


@pytest.mark.slow
def test_under_torchrun_the_line_that_tells_how_to_go_on_starts_torchrun(run_yaml):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "trackside"]
    command = ["train", run_yaml, "--model.class_path", "cli_parts.StopsOnce", "--output_dir", "my out"]

    def printed(words):
        return subprocess.run(words, shell=isinstance(words, str), capture_output=True, text=True, timeout=240).stdout

    line = line_to_go_on(printed([*launch, *command]))
    again = printed(line)

    assert shlex.split(line) == [*launch, *command, "--resume_from_checkpoint", "true"]
    assert "step 6 of 6" in again
    assert json.loads(Path("my out/trainer_state.json").read_text())["global_step"] == 6


def test_training_that_raises_shows_its_traceback_and_ends_with_1(run_yaml):
    process = start("train", run_yaml, "--model.class_path", "cli_parts.Fails")

    assert process.wait(120) == 1
    assert "RuntimeError: no way forward" in process.errors
    assert "Traceback" in process.errors


def test_plot_draws_the_run_again(run_yaml, capsys):
    pytest.importorskip("matplotlib")
    main(["train", run_yaml])
    Path("out/loss_curve.png").unlink()

    assert main(["plot", "out"]) == 0

    assert Path("out/loss_curve.png").exists()


# -- refusing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["train", "run.yaml", "--learning_rat", "1"],
            "args.learning_rat='1': there is no such argument. Did you mean",
        ),
        (["train", "none.yaml"], "none.yaml: there is no such file. Did you mean 'run.yaml'?"),
        (["train", "run.yaml", "--callbacks.cvs", "true"], "callbacks.cvs: no callback named 'cvs'"),
        (["train", "run.yaml", "--model", "cli_parts.Nett"], "cli_parts has no 'Nett'. Did you mean 'Net'?"),
        (["train", "run.yaml", "--callbacks.csv.before", "csvv"], "callback 'csv': before='csvv' is not attached"),
        (
            ["plan", "run.yaml", "--report_to", "tensorbord"],
            "command line: args.report_to=['tensorbord'] is not allowed: names of callbacks are needed, or all, or "
            "none; none is named 'tensorbord'. Did you mean 'tensorboard'?",
        ),
        (
            ["plan", "run.yaml", "--callbacks.early_stopping.background", "true"],
            "command line: callbacks.early_stopping: EarlyStoppingCallback steers the run and cannot do so in the",
        ),
        (["evaluate", "run.yaml"], "out has neither a model nor a checkpoint; train first"),
        (["predict", "run.yaml", "--checkpoint", "nowhere"], "--checkpoint nowhere: there is no such folder"),
        (["plot", "nowhere"], "nowhere: the folder has no trainer_state.json"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_without_a_traceback_and_ends_with_2(run_yaml, capsys, arguments, expected):
    code = main(arguments)

    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith("trackside: error: ")
    assert expected in said
    assert said.count("\n") == 1
    assert not Path("out").exists()


def test_a_damaged_checkpoint_is_not_evaluated(run_yaml, capsys):
    main(["train", run_yaml])
    weights = next(Path("out/checkpoint-3").glob("model.*"))
    weights.write_bytes(weights.read_bytes()[:-1])
    capsys.readouterr()

    assert main(["evaluate", run_yaml, "--checkpoint", "out/checkpoint-3"]) == 2

    assert f"checkpoint out/checkpoint-3 has {weights.stat().st_size} bytes in model." in capsys.readouterr().err


def test_a_folder_with_another_run_is_refused_with_what_to_do(run_yaml, capsys):
    main(["train", run_yaml])
    capsys.readouterr()

    assert main(["train", run_yaml]) == 2

    assert capsys.readouterr().err.startswith("trackside: error: run.yaml:8: args.output_dir='out' is not allowed: it")


def test_the_model_or_the_data_missing_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text("args: {max_steps: 1}\n")

    assert main(["train", "run.yaml"]) == 2

    assert "run.yaml: model is missing" in capsys.readouterr().err


# -- looking ----------------------------------------------------------------------------------------------------------


def test_plan_shows_callbacks_in_order_with_origin_and_arguments_and_runs_nothing(run_yaml, capsys):
    assert main(["plan", run_yaml, "--callbacks.early_stopping.patience", "5"]) == 0

    text = capsys.readouterr().out
    names = ("default_flow", "early_stopping", "printer", "csv")
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
    Path("run.yaml").write_text(
        RUN.replace("  printer:\n  csv:\n", "  csv: {before: progress}\n  jsonl: {after: progress}\n")
    )

    assert main(["plan", run_yaml]) == 0

    text = capsys.readouterr().out
    assert text.index("\n  csv ") < text.index("\n  progress ") < text.index("\n  jsonl ")


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
