"""The command itself, as a user types it: whatever is wrong with a list of callbacks is said in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trackside.testing.tiny_trainer import installed_frameworks

RUN = """\
framework: {framework}
args: {{max_steps: 10}}
callbacks:
  early_stopping: {{patience: 3}}
  csv:
"""


@pytest.fixture(params=["pytorch", "tensorflow"])
def command(request):
    """Run `trackside plan run.yaml more.yaml` with overrides, in a process of its own."""
    if request.param not in installed_frameworks():
        pytest.skip(f"{request.param} is not installed")
    Path("run.yaml").write_text(RUN.format(framework=request.param))

    def run(more="", *overrides):
        Path("more.yaml").write_text(more)
        command = [sys.executable, "-m", "trackside", "plan", "run.yaml", "more.yaml", *overrides]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    return run


WRONG = {
    "name": (
        "callbacks:\n  early_stoping:\n",
        "more.yaml:2: callbacks.early_stoping: no callback named 'early_stoping'",
    ),
    "option": (
        "callbacks:\n  early_stopping:\n    patiense: 5\n",
        "more.yaml:3: callbacks.early_stopping.patiense=5: this is not an option. Did you mean 'patience'?",
    ),
    "type": (
        "callbacks:\n  early_stopping:\n    patience: soon\n",
        "more.yaml:3: callbacks.early_stopping.patience='soon': a whole number is needed",
    ),
    "value": (
        "callbacks:\n  early_stopping: {patience: 0}\n",
        "more.yaml:2: callbacks.early_stopping.patience=0 is not allowed: a whole number from 1",
    ),
    "duplicate": ("callbacks:\n  csv:\n  csv:\n", "more.yaml:3: callbacks.csv is written twice; first on line 2"),
    "disabled": ("callbacks:\n  cvs: false\n", "more.yaml:2: callbacks.cvs=False: this is not the name of a callback"),
    "order": (
        "callbacks:\n  csv: {before: early_stoping}\n",
        "more.yaml:2: callback 'csv': before='early_stoping' is not attached",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_list_is_refused_with_file_key_value_and_the_nearest_name(what, command):
    text, expected = WRONG[what]

    done = command(text)

    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"trackside: error: {expected}")
    assert done.stderr.count("\n") == 1
    assert "Did you mean" in done.stderr or what in ("type", "value", "duplicate")
    assert done.stdout == ""


def test_a_wrong_override_is_the_command_lines(command):
    merged = "callbacks: {early_stopping: {threshold: 0.1}}\n"

    done = command(merged, "--callbacks.early_stopping.patiense", "5")

    assert done.returncode == 2
    assert done.stderr.startswith(
        "trackside: error: command line: callbacks.early_stopping.patiense=5: this is not an option"
    )
    assert "Did you mean 'patience'?" in done.stderr


def test_registered_only_refuses_a_class_path(command):
    done = command("callbacks: {mine: {class_path: os.path.join}}\n", "--registered-only")

    assert done.returncode == 2
    assert "more.yaml:1: callbacks.mine.class_path='os.path.join': only registered callbacks" in done.stderr
    assert "Traceback" not in done.stderr


def test_output_without_a_reader_is_not_an_error(command):
    command()
    text = f"'{sys.executable}' -m trackside plan run.yaml more.yaml | head -1"

    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=120)

    assert done.stdout.startswith("Framework: ")
    assert done.stderr == ""
