"""The command line, end to end: training, stopping, resuming, evaluating, predicting, and its exit codes."""

from __future__ import annotations

import csv
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

from trackside.cli.command_line import command_that_resumes
from trackside.cli.main import main


def start(*arguments):
    """Start the command in a process of its own, as pip's script does."""
    return Fork(
        "torch", ["-c", "import sys; from trackside.cli.main import main; sys.exit(main())", *arguments], Path.cwd()
    )


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


def evaluations():
    with open("out/log.csv", newline="") as file:
        return [(int(row["step"]), float(row["eval_loss"])) for row in csv.DictReader(file) if row["eval_loss"]]


def test_an_evaluation_is_recorded_at_the_step_of_the_weights(run_yaml, caplog):
    best = ["--load_best_model_at_end", "true", "--learning_rate", "10", "--callbacks.printer", "false"]
    main(["train", run_yaml, *best])
    trained = dict(evaluations())
    better = min(trained, key=trained.get)

    for arguments in ([], ["--checkpoint", "out/checkpoint-6"], ["--checkpoint", "out/checkpoint-3"]):
        main(["evaluate", run_yaml, *best, *arguments])
    Path("bare").mkdir()
    Path("out/model.safetensors").rename("bare/model.safetensors")
    main(["evaluate", run_yaml, *best, "--checkpoint", "bare"])

    recorded = evaluations()[2:]
    assert [step for step, _ in recorded] == [better, 6, 3, 0]
    assert [loss for _, loss in recorded[:3]] == pytest.approx([trained[step] for step, _ in recorded[:3]], rel=1e-5)
    assert "bare does not say at which step it was saved" in caplog.text


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
    assert "--resume" in process.output
    assert not Path("out/train_results.json").exists()


def line_to_go_on(printed):
    (line,) = re.findall(r"^Stopped by SIGTERM\. Go on: (.*)$", printed, re.MULTILINE)
    return line


def test_the_line_that_tells_how_to_go_on_goes_on_with_the_same_run(run_yaml, capsys):
    Path("more options.yaml").write_text("args: {max_steps: 5}\n")
    options = ["--output_dir", "out 'two'", "--model.class_path", "cli_parts.StopsOnce", "--eval_strategy", "no"]

    stopped = main(["train", run_yaml, "more options.yaml", *options, "--resume"])
    trackside, *words = shlex.split(line_to_go_on(capsys.readouterr().out))
    code = main(words)

    assert (stopped, trackside, code) == (143, "trackside", 0)
    assert words == ["train", run_yaml, "more options.yaml", *options, "--resume"]
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

    assert line == f"trackside train {expected} --resume"
    assert command_that_resumes(shlex.split(line)[1:]) == line


@pytest.mark.parametrize("launcher", [[], ["timeout", "100"], ["env", "A=b c", "timeout", "100"]])
def test_what_started_the_command_is_repeated_too(launcher, tmp_path):
    script = tmp_path / "my trackside"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom trackside.cli.command_line import command_that_resumes\n"
        "print(command_that_resumes(sys.argv[1:]))\n"
    )
    script.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"

    command = [*launcher, "my trackside", "train", "run.yaml"]
    ended = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True)

    started = [word for word in launcher if word not in ("env", "A=b c")]
    assert ended.stdout == f"{shlex.join([*started, 'my trackside'])} train run.yaml --resume\n"


@pytest.mark.slow
def test_under_torchrun_the_line_that_tells_how_to_go_on_starts_torchrun(run_yaml):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "trackside"]
    command = ["train", run_yaml, "--model.class_path", "cli_parts.StopsOnce", "--output_dir", "my out"]

    def printed(words):
        return subprocess.run(words, shell=isinstance(words, str), capture_output=True, text=True, timeout=240).stdout

    line = line_to_go_on(printed([*launch, *command]))
    again = printed(line)

    assert shlex.split(line) == [*launch, *command, "--resume"]
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

    assert main(["plot", "out", "-o", "a.xyz"]) == 2
    assert "Format 'xyz' is not supported" in capsys.readouterr().err
    assert main(["plot", "out"]) == 0

    assert Path("out/loss_curve.png").exists()
