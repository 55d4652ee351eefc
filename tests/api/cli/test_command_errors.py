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


def test_a_wrong_option_is_told_in_one_line_with_its_place_and_the_nearest_name(command):
    done = command("callbacks: {early_stopping: {threshold: 0.1}}\n", "--callbacks.early_stopping.patiense", "5")

    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(
        "trackside: error: command line: callbacks.early_stopping.patiense=5: this is not an option"
    )
    assert "Did you mean 'patience'?" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_output_without_a_reader_is_not_an_error(command):
    command()
    text = f"'{sys.executable}' -m trackside plan run.yaml more.yaml | head -1"

    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=120)

    assert done.stdout.startswith("Framework: ")
    assert done.stderr == ""
