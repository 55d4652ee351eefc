"""The command `trackside chaos`: real jobs, real kills; one that leaves a generator out is found by step and stream."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support.fork_process import TESTS, Fork

from trackside.callbacks.errors import ConfigError
from trackside.cli.chaos import launch
from trackside.cli.chaos.command import parsed, with_trace
from trackside.cli.main import main

JOB = str(TESTS / "workers" / "chaos_job.py")
IN_THE_MIDDLE = ["--seed", "14"]
"""Its first kill is drawn within the 17th of 30 updates."""


TRACED = "from trackside.cli.chaos.job import main; main()"


@pytest.fixture
def forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let chaos fork its jobs from a process that has imported their framework already."""

    popen = launch.subprocess.Popen

    def start(command: list[str], env: dict[str, str], **options: Any) -> Any:
        if command[1].endswith("fork_server.py"):
            return popen(command, env=env, **options)
        assert command[:3] == [sys.executable, "-m", "trackside.cli.chaos.job"]
        assert options["start_new_session"]
        framework = next(word for word in ("tensorflow", "torch") if command[5].startswith(word))
        return Fork(framework, ["-c", TRACED, *command[3:]], tmp_path, env, name="job")

    monkeypatch.setattr(launch.subprocess, "Popen", start)


def chaos(capsys: Any, *words: str) -> tuple[int, dict[str, Any]]:
    code = main(["chaos", "--json", *words])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_a_run_of_a_configuration_that_is_killed_and_resumed_is_exact(run_yaml, capsys):
    slow = ["--model.init_args.delay_s", "0.03", "--max_steps", "20", "--eval_strategy", "no"]

    code = main(["chaos", run_yaml, "--kills", "2", *slow])

    text = capsys.readouterr().out
    assert code == 0
    assert "kill 2 of 2" in text
    assert "exact 2 of 2 kills" in text
    assert "runs of 20 steps" in text
    assert "run_id" in text.split("left out, since they differ without a kill: ")[1]
    assert not Path("out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "left_out"), [("torch, workers: 0", "torch"), ("tensorflow own", "model")])
def test_a_generator_that_is_left_out_is_named_with_its_step(kind, left_out, capsys, tmp_path, forked):
    pytest.importorskip(kind.split(",")[0].split()[0])
    job = [sys.executable, JOB, kind, "torch"]

    code, found = chaos(capsys, "--kills", "1", *IN_THE_MIDDLE, "--folder", str(tmp_path / "runs"), "--", *job)

    assert code == 1
    assert not found["exact"]
    (run,) = found["runs"]
    (kill,) = run["kills"]
    first = {"step": kill["resumed_from"] + 1, "stream": f"live random numbers: {left_out}"}
    assert run["live"][0] == first
    assert run["first"].startswith(f"step {first['step']}: {first['stream']}; step {first['step']}: ")
    assert (tmp_path / "runs" / "run-1" / "kept" / f"checkpoint-{kill['resumed_from']}").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch, workers: 2", "tensorflow own"])
def test_a_script_that_is_killed_and_resumed_is_exact(kind, capsys, forked):
    pytest.importorskip(kind.split(",")[0].split()[0])

    code, found = chaos(capsys, "--kills", "2", *IN_THE_MIDDLE, "--", sys.executable, JOB, kind)

    assert code == 0, found
    assert found["exact_kills"] == 2
    assert not Path(found["folder"]).exists()


def test_a_job_that_fails_without_a_kill_is_an_error_with_its_last_words(capsys, tmp_path):
    job = [sys.executable, "-c", "raise SystemExit('no data')"]

    assert main(["chaos", "--folder", str(tmp_path / "runs"), "--", *job]) == 2

    text = capsys.readouterr().err
    assert "the job failed without a kill, with exit code 1:\nno data" in text


def test_a_job_that_saves_elsewhere_is_an_error_that_says_where_to(capsys, tmp_path):
    job = [sys.executable, "-c", "print('trained')"]

    assert main(["chaos", "--folder", str(tmp_path / "runs"), "--", *job]) == 2

    text = capsys.readouterr().err
    assert "the job left no checkpoint" in text
    assert "TRACKSIDE_OUTPUT_DIR" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "either a configuration or, behind --, the command"),
        (["run.yaml", "--", "python", "train.py"], "either a configuration or, behind --, the command"),
        (["--max_steps", "3", "--", "python", "train.py"], "--max_steps: options of the script belong behind its name"),
        (["run.yaml", "--kills", "0"], "--kills 0: a whole number from 1 is needed"),
        (["run.yaml", "--folder", "."], "the folder is not empty"),
    ],
)
def test_a_wrong_command_line_is_told(words, message, run_yaml, capsys):
    assert main(["chaos", *words]) == 2

    assert message in capsys.readouterr().err


def test_a_configuration_is_trained_into_the_folder_of_its_run():
    options, command = parsed(["run.yaml", "--kills", "3", "--args.seed", "5", "--learning_rate=1e-3"])

    assert (options.kills, options.seed) == (3, 0)
    assert command[1:5] == ["-m", "trackside.cli.chaos.job", "{trace}", "-m"]
    assert command[5:] == [
        *("trackside", "train", "run.yaml", "--args.seed=5", "--learning_rate=1e-3"),
        *("--output_dir={out}", "--resume_from_checkpoint=true"),
    ]


@pytest.mark.parametrize(
    ("command", "is_traced"),
    [
        ("python train.py", True),
        ("/usr/bin/python3.11 -W ignore -m train --out x", True),
        ("python -c pass", False),
        ("torchrun train.py", False),
    ],
)
def test_python_that_runs_a_program_is_traced(command, is_traced):
    assert ("{trace}" in with_trace(command.split())) == is_traced


def test_the_options_of_chaos_are_its_own():
    with pytest.raises(ConfigError, match="belong behind"):
        parsed(["--kils", "3", "--", "python", "train.py"])
