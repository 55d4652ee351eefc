"""The layers of docs/explanation/architecture.md: `lint-imports` passes, and fails an import that goes upward."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import trackside

SETUP = Path(__file__).resolve().parents[1] / "setup.cfg"


def lint(folder: Path, home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()"]
    env = {**os.environ, "PYTHONPATH": str(home), "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(
        [*command, str(SETUP), "--no-cache"], cwd=folder, env=env, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("callbacks/state.py", "from trackside.trainer import progress", "callbacks"),
        ("callbacks/errors.py", "if TYPE_CHECKING:\n    from trackside.trainer import loop", "callbacks"),
        ("trainer/loop.py", "def late():\n    from trackside.trainer.pytorch import trainer", "pytorch"),
        ("trainer/tensorflow/loss.py", "from trackside.trainer.pytorch import loss", "tensorflow"),
        ("trainer/checkpointing/manifest.py", "from . import store", "checkpointing"),
    ],
)
def test_an_import_that_goes_upward_or_in_a_circle_fails(tmp_path, module, line, contract):
    home = tmp_path / "home"
    source = Path(trackside.__file__).parent
    shutil.copytree(source, home / "trackside", ignore=shutil.ignore_patterns("__pycache__"))
    with (home / "trackside" / module).open("a") as file:
        file.write(f"\n{line}\n")

    ended = lint(tmp_path, home)

    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "BROKEN" in ended.stdout
    assert contract in ended.stdout.partition("Broken contracts")[2]


def test_the_package_keeps_all_contracts(tmp_path):
    ended = lint(tmp_path, Path(trackside.__file__).parents[1])

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 broken" in ended.stdout
