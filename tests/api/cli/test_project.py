"""`trackside init`, by its real command line, and the run that its files describe."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from trackside.cli.main import main
from trackside.testing.tiny_trainer import installed_frameworks


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("model", "data"):
        sys.modules.pop(name, None)
    return tmp_path


def evaluation(folder):
    return json.loads(Path(folder, "eval_results.json").read_text())["eval_loss"]


@pytest.mark.parametrize("framework", installed_frameworks())
def test_what_init_writes_trains_and_what_the_run_leaves_trains_to_the_same_bits(framework, capsys):
    assert main(["init", "--framework", framework]) == 0
    assert "Now: trackside train run.yaml" in capsys.readouterr().out

    assert main(["train", "--disable_tqdm", "run.yaml", "--model.width", "24", "--num_train_epochs", "3"]) == 0
    assert main(["train", "out/run.yaml", "--output_dir", "again"]) == 0

    assert json.loads(Path("out/eval_results.json").read_text())["eval_accuracy"] > 0.8
    assert evaluation("again") == evaluation("out")
    assert "24" in Path("again/run.yaml").read_text()


def test_nothing_is_overwritten(capsys):
    Path("data.py").write_text("mine = 1\n")

    assert main(["init"]) == 2

    assert "data.py is there already; nothing was written" in capsys.readouterr().err
    assert not Path("run.yaml").exists()
    assert Path("data.py").read_text() == "mine = 1\n"


def test_a_folder_is_made_and_named(capsys):
    assert main(["init", "my run/new", "--framework", "pytorch"]) == 0

    assert "cd 'my run/new' && trackside train run.yaml" in capsys.readouterr().out
    assert Path("my run/new/model.py").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "trian: this is not a command. Did you mean 'train'?"),
        (["train", "run.yaml", "--max_epochs", "3"], "this is not an argument. Did you mean 'num_train_epochs'?"),
        (["train", "run.yaml", "--lr", "3"], "Did you mean 'learning_rate'?"),
        (["train", "run.yaml", "--batch-size=3"], "Did you mean 'per_device_train_batch_size'?"),
        (["train", "run.yaml", "--gpus", "2"], "Instead, start the script with torchrun --nproc-per-node."),
    ],
)
def test_names_of_other_tools_are_understood(words, message, capsys):
    main(["init", "--framework", "pytorch"])

    assert main(words) == 2

    assert message in capsys.readouterr().err


def test_without_a_command_the_help_is_shown(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])

    assert ended.value.code == 0
    assert "Write run.yaml, model.py and data.py" in " ".join(capsys.readouterr().out.split())
