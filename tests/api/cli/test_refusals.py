"""What the command refuses, in one line and with exit code 2."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trackside.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["train", "run.yaml", "--learning_rat", "1"],
            "args.learning_rat='1': this is not an argument. Did you mean",
        ),
        (["train", "none.yaml"], "none.yaml: the file does not exist. Did you mean 'run.yaml'?"),
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
        (["predict", "run.yaml", "--checkpoint", "nowhere"], "--checkpoint nowhere: the folder does not exist"),
        (["plot", "nowhere"], "nowhere: the folder does not exist"),
        (["plot", "."], ". has no trainer_state.json"),
        (["watch", "run.yaml"], "run.yaml: this is not a journal. The callback 'journal' writes one"),
        (["report", "run.yaml"], "run.yaml: this is not a journal. The callback 'journal' writes one"),
        (["checkpoints", "ls", "run.yaml"], "run.yaml: this is a file; a folder is needed"),
        (["evaluate", "run.yaml", "--checkpoint", "run.yaml"], "--checkpoint run.yaml: this is a file; a folder is"),
        (["train", "."], ".: this is a folder; a file is needed. Did you mean 'run.yaml'?"),
        (["train", "s3://bucket/run.yaml"], "s3://bucket/run.yaml: a configuration is a local file; download it first"),
        (["train", "run.yaml", "--max_steps"], "command line: args.max_steps: this option needs a value"),
        (["train", "run.yaml", "--output_dir", "--bf16"], "command line: args.output_dir: this option needs a value"),
        (["train", "run.yaml", "--report_to"], "command line: args.report_to: this option needs a value"),
        (["train", "run.yaml", "--optim"], "command line: args.optim: this option needs a value"),
        (["train", "run.yaml", "--model"], "command line: --model: this option needs a value"),
        (["train", "run.yaml", "--model.width"], "command line: model.init_args.width: this option needs a value"),
        (["train", "run.yaml", "--callbacks.csv.path"], "command line: callbacks.csv.path: this option needs a value"),
        (["train", "pipe.yaml"], "pipe.yaml: this file cannot be read: nothing is written to this pipe"),
        (["plot", "pipes"], "pipes has no trainer_state.json"),
        (["report", "pipes/journal.jsonl"], "pipes/journal.jsonl: this is not a regular file"),
        (["train", "run.yaml", "--resum"], "--resum: this is not an option. Did you mean '--resume'?"),
        (["train", "run.yaml", "--print-confg"], "--print-confg: this is not an option. Did you mean '--print-con"),
        (
            ["train", "run.yaml", "--trainer.max_epochs", "3"],
            "Arguments are --NAME or --args.NAME, such as --num_train",
        ),
        (["train", "--config", "run.yaml", "run.yaml"], "Instead, give a configuration file by its name alone: tracks"),
        (["train", "run.yaml", "--model", "cli_part.Net"], "No module named 'cli_part'. Did you mean 'cli_parts'?"),
        (
            ["lr-find", "run.yaml", "--min-rate", "0"],
            "command line: --min-rate 0.0 is not allowed: above 0, and finite",
        ),
        (["-V"], "-V: a command comes before its options.\n"),
        (["checkpoints", "diff", "a", "b", "--top", "-1"], "command line: --top -1: a whole number from 0 is needed"),
        (["help"], "help: this is not a command. Did you mean '--help'?"),
        (["--versoin"], "--versoin: a command comes before its options. Did you mean '--version'?"),
        (["init", "run.yaml"], "run.yaml: File exists"),
        (["new-callback", "mine", "--folder", "run.yaml"], "run.yaml: Not a directory"),
        (["chaos", "--folder", "chaos", "--", "no-such-job"], "no-such-job: No such file or directory"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_without_a_traceback_and_ends_with_2(run_yaml, capsys, arguments, expected):
    Path("pipes").mkdir()
    for pipe in ("pipe.yaml", "pipes/trainer_state.json", "pipes/journal.jsonl"):
        os.mkfifo(pipe)

    code = main(arguments)

    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith("trackside: error: ")
    assert expected in said
    assert said.count("\n") == 1
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["checkpoints", "ls", "out", "--jsn"],
            "trackside checkpoints ls: error: --jsn: this is not an option. Did you",
        ),
        (["callbacks", "--json"], "usage: trackside callbacks"),
        (["schema", "run.yaml"], "trackside schema: error: run.yaml: this is more than the command takes"),
        (["init", "s3://bucket/new"], "s3://bucket/new is an address; a local path is needed"),
        (["new-callback", "mine", "--folder", "s3://bucket/new"], "s3://bucket/new is an address; a local path is"),
        (["report", "out", "-o", "s3://bucket/page.html"], "s3://bucket/page.html is an address; a local path is"),
        (["plot", "out", "-o", "s3://bucket/a.png"], "s3://bucket/a.png is an address; a local path is needed"),
        (["replay", "out", "--callback", "csv", "--output_dir", "s3://b/new"], "s3://b/new is an address; a local"),
        (["chaos", "run.yaml", "--folder", "s3://bucket/new"], "s3://bucket/new is an address; a local path is needed"),
    ],
)
def test_an_option_that_does_not_fit_ends_with_2_and_the_usage_of_its_command(run_yaml, capsys, arguments, expected):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)

    said = capsys.readouterr().err
    assert expected in said
    assert said.startswith(f"usage: trackside {arguments[0]}")
    assert not Path("s3:").exists()


class Full(io.StringIO):
    """A file on a full disk."""

    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("command", ["callbacks", "train"])
def test_an_output_that_cannot_be_written_is_an_error_of_one_line(run_yaml, monkeypatch, capsys, command):
    monkeypatch.setattr(sys, "stdout", Full())

    assert main([command, run_yaml][: 1 + (command == "train")]) == 1

    assert capsys.readouterr().err == (
        "trackside: error: the standard output cannot be written: No space left on device\n"
    )
    assert Path("out/train_results.json").exists() == (command == "train")


@pytest.mark.parametrize(
    "option",
    [
        "--bf16",
        "--resume_from_checkpoint",
        "--include_num_input_tokens_seen",
        "--callbacks.jsonl",
        "--callbacks.csv.enabled",
    ],
)
def test_an_option_that_may_be_true_needs_no_value(run_yaml, capsys, option):
    assert main(["plan", run_yaml, option]) == 0


def test_a_pipe_that_is_written_to_is_a_configuration(run_yaml):
    text = f"'{sys.executable}' -m trackside train --print-config <(sleep 0.1; cat run.yaml)"

    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=120)

    assert "class_path: cli_parts.Net" in done.stdout, done.stderr


def test_errors_that_cannot_be_written_keep_their_exit_code(run_yaml, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Full())

    assert main(["plan", run_yaml, "--seed", "x"]) == 2


@pytest.mark.parametrize("command", ["--help", "plan run.yaml --seed x"])
def test_nothing_is_left_to_the_interpreter_that_it_could_not_write_either(run_yaml, command):
    text = f"'{sys.executable}' -m trackside {command} >/dev/full 2>/dev/full"

    assert subprocess.run(["bash", "-c", text], timeout=120).returncode == (2 if "plan" in command else 1)


def test_ctrl_c_while_the_command_is_imported_ends_it_without_a_traceback(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'trackside.cli.main':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    folders = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "trackside", "--version"]

    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": folders}, capture_output=True, timeout=120)

    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_a_closed_standard_output_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)

    assert main(["callbacks"]) == 0


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


FAULTY = """\
import torch


def opened(path):
    return open(path)


def data(path="nowhere.csv"):
    return opened(path)


def refused():
    from trackside import TrainingArguments

    return TrainingArguments(seed=-1)


class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__("3", 4)


class Hears:
    def __init__(self):
        self.place = {}["place"]

    def on_log(self, args, state, control, **kwargs):
        pass
"""


@pytest.mark.parametrize(
    ("key", "path", "error", "first", "last"),
    [
        ("train_data", "faulty.data", "FileNotFoundError: ", "line 9, in data", "line 5, in opened"),
        ("train_data", "faulty.refused", "ArgumentError: seed=-1", "line 15, in refused", "line 15, in refused"),
        ("model", "faulty.Net", "TypeError: ", "line 20, in __init__", "in __init__"),
        ("callbacks.hears", "faulty.Hears", "KeyError: 'place'", "line 25, in __init__", "line 25, in __init__"),
        (
            "train_data",
            "unfinished.data",
            "importing unfinished failed: NameError",
            "line 1, in <mod",
            "line 1, in <mod",
        ),
    ],
)
def test_an_error_in_code_of_the_user_is_told_with_its_lines_alone(
    run_yaml, write_module, capsys, key, path, error, first, last
):
    write_module("faulty", FAULTY)
    write_module("unfinished", "rows = undefined\n")

    code = main(["train", run_yaml, f"--{key}.class_path", path])

    said, *lines = capsys.readouterr().err.splitlines()
    places = [line for line in lines if line.startswith("  File ")]
    assert code == 2
    assert said.startswith("trackside: error: ")
    assert key in said
    assert error in said
    assert first in places[0]
    assert last in places[-1]
    assert "trackside" not in "".join(places)
