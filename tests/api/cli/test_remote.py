"""Commands on a run whose output_dir is an address."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from trackside import get_last_checkpoint
from trackside.cli.main import main


@pytest.fixture
def address(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return f"file://{tmp_path}/bucket/run"


def losses_in(text):
    return [float(line.split("=")[1]) for line in text.splitlines() if "eval_loss =" in line]


def test_what_one_machine_trained_another_evaluates_and_predicts(run_yaml, address, capsys):
    assert main(["train", run_yaml, "--output_dir", address]) == 0
    bucket = Path(address.removeprefix("file://"))
    assert {"log.csv", "eval_results.json", "train_results.json"} <= {path.name for path in bucket.iterdir()}
    assert f"output       {address}" in capsys.readouterr().out
    shutil.rmtree("tmp")
    Path("tmp").mkdir()

    assert main(["evaluate", run_yaml, "--output_dir", address]) == 0
    assert main(["evaluate", run_yaml, "--checkpoint", f"{address}/checkpoint-3"]) == 0
    assert main(["predict", run_yaml, "--output_dir", address]) == 0

    first, second = losses_in(capsys.readouterr().out)
    assert first != second
    assert (bucket / "predictions.npz").exists()
    assert get_last_checkpoint(address) == f"{address}/checkpoint-6"
    assert get_last_checkpoint(f"{address}/nowhere") is None


def test_the_plan_shows_the_address_and_an_unknown_one_is_told_with_its_place(run_yaml, address, capsys):
    assert main(["plan", run_yaml, "--output_dir", address]) == 0
    assert address in capsys.readouterr().out

    assert main(["train", run_yaml, "--output_dir", "s4://bucket/run"]) == 2
    assert "command line: args.output_dir='s4://bucket/run' is not allowed" in capsys.readouterr().err
