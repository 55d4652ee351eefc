"""The command that lists, verifies, compares and deletes checkpoints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.damages import flip_a_byte
from support.lock_holder import holder
from support.remote_folders import address_in

from trackside.callbacks.builtin.early_stopping import EarlyStoppingCallback
from trackside.cli.main import main
from trackside.report import checkpoint_entries
from trackside.testing.tiny_trainer import installed_frameworks, tiny_trainer
from trackside.trainer.checkpointing.locks.run_lock import LOCK_FILE
from trackside.trainer.checkpointing.remote import RemoteFolder

OPTIONS = {"num_train_epochs": 4, "eval_strategy": "epoch", "save_strategy": "epoch", "metric_for_best_model": "loss"}


def made(framework, folder="out", **args):
    trainer = tiny_trainer(framework, folder, [EarlyStoppingCallback(9)], **{**OPTIONS, **args})
    trainer.train()
    return sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def printed(capsys, *argv, code=0):
    assert main(["checkpoints", *map(str, argv)]) == code
    return capsys.readouterr().out


def told(capsys, *argv, code=0):
    return json.loads(printed(capsys, *argv, "--json", code=code))


@pytest.mark.parametrize("framework", installed_frameworks())
def test_checkpoints_are_listed_with_their_run_metric_best_and_newest(framework, capsys):
    paths = made(framework)

    listed = told(capsys, "ls", "out")

    assert [entry["name"] for entry in listed] == [path.name for path in paths]
    assert [entry["is_newest"] for entry in listed] == [False, False, False, True]
    assert sum(entry["is_best"] for entry in listed) == 1
    assert len({entry["run_id"] for entry in listed}) == 1
    assert all(entry["reason"] is None and entry["metric"].startswith("eval_") for entry in listed)
    assert listed[0]["size_bytes"] == sum(
        item.stat().st_size for item in paths[0].rglob("*") if item.is_file() and item.name != "manifest.json"
    )
    lines = printed(capsys, "ls", "out").splitlines()
    assert lines[0].split() == ["name", "step", "size", "age", "run", "evaluation", "whole"]
    assert lines[-1].endswith("yes")


@pytest.mark.parametrize("damage", ["a byte", "a file", "the manifest"])
def test_a_checkpoint_that_is_not_whole_is_told_with_its_reason(damage, capsys):
    paths = made(installed_frameworks()[0])
    broken = paths[1]
    if damage == "a byte":
        flip_a_byte(next(broken.glob("model*")))
    elif damage == "a file":
        next(broken.glob("optimizer.*")).unlink()
    else:
        (broken / "manifest.json").unlink()

    found = {item["name"]: item for item in told(capsys, "verify", "out", code=1)}

    assert [name for name, item in found.items() if not item["whole"]] == [broken.name]
    word = {"a byte": "SHA-256 differs", "a file": "lacks optimizer", "the manifest": "has no manifest"}[damage]
    assert word in found[broken.name]["reason"]
    assert f"{broken.name}: " in printed(capsys, "verify", "out", broken.name, code=1)
    assert printed(capsys, "verify", "out", paths[0].name) == f"{paths[0].name}: whole\n"
    if damage != "a byte":  # which ls does not read
        assert word in printed(capsys, "ls", "out")


@pytest.mark.parametrize("when", ["before its manifest is read", "after its manifest was read"])
def test_a_checkpoint_that_its_run_deletes_meanwhile_is_left_out(when, monkeypatch, capsys):
    first, *others = made(installed_frameworks()[0])
    read = checkpoint_entries.read_manifest

    def read_while_a_run_deletes(path):
        manifest = read(path) if path == first and when.startswith("after") else None
        if path == first:
            shutil.rmtree(path)
        return manifest or read(path)

    monkeypatch.setattr(checkpoint_entries, "read_manifest", read_while_a_run_deletes)

    listed = told(capsys, "ls", "out")

    assert [entry["name"] for entry in listed] == [path.name for path in others]
    assert all(entry["reason"] is None for entry in listed)


@pytest.mark.parametrize("framework", installed_frameworks())
def test_the_differences_of_two_checkpoints(framework, capsys):
    first, second = made(framework)[::3]
    other = made(framework, "other", learning_rate=0.5)[0]

    found = told(capsys, "diff", first, second)

    assert found["arguments"] == {}
    assert found["state"]["global_step"] == [6, 24]
    assert "early_stopping.best" in found["callbacks"]
    assert found["weights"]["differ"][0]["largest"] > 0
    assert found["weights"]["only_first"] == found["weights"]["only_second"] == found["notes"] == []
    assert found["optimizer"]["differ"]
    assert "learning_rate" in told(capsys, "diff", first, other)["arguments"]
    same = told(capsys, "diff", first, first)
    assert same["weights"]["differ"] == same["optimizer"]["differ"] == []
    text = printed(capsys, "diff", first, second, "--top", "1")
    assert "Weights: 0 arrays are the same" in text
    assert "more (--top)" in text
    longer = printed(capsys, "diff", first, made(framework, "longer", num_train_epochs=5)[0])
    assert "max_steps" in longer
    assert max(map(len, longer.splitlines()[1:])) < 200


def test_prune_keeps_the_best_and_the_newest_of_each_run_and_what_is_not_whole(capsys):
    paths = made(installed_frameworks()[0], "second", learning_rate=0.0)  # whose first is the best
    (paths[1] / "manifest.json").unlink()

    rehearsed = told(capsys, "prune", "second", "--keep", "1", "--dry-run")
    assert [path.exists() for path in paths] == [True] * 4
    text = printed(capsys, "prune", "second", "--keep", "1")

    assert rehearsed["deleted"] == [paths[2].name]
    assert [path.exists() for path in paths] == [True, True, False, True]
    assert f"deleted {paths[2].name} (" in text
    assert f"left alone: {paths[1].name} has no manifest" in text
    assert "deleted 1 of 4 checkpoints" in text
    assert told(capsys, "prune", "second", "--keep", "1")["deleted"] == []


def test_prune_deletes_nothing_in_a_folder_into_which_a_run_writes(capsys):
    made(installed_frameworks()[0])
    with holder("out") as (process, _):
        assert main(["checkpoints", "prune", "out", "--keep", "1"]) == 2
        assert f"another run writes into it: process {process.pid} on" in capsys.readouterr().err
        assert "would delete" in printed(capsys, "prune", "out", "--keep", "1", "--dry-run")
        assert len(list(Path("out").glob("checkpoint-*"))) == 4
    assert "deleted" in printed(capsys, "prune", "out", "--keep", "1")
    assert not Path("out", LOCK_FILE).exists()


def test_prune_of_one_run_leaves_the_others(capsys):
    framework = installed_frameworks()[0]
    first = made(framework, learning_rate=0.0)
    run_id = told(capsys, "ls", "out")[0]["run_id"]
    made(framework, "second", num_train_epochs=8, learning_rate=0.0)
    for path in Path("second").glob("checkpoint-*"):
        if not (Path("out") / path.name).exists():
            path.rename(Path("out") / path.name)
    before = told(capsys, "ls", "out")

    gone = told(capsys, "prune", "out", "--keep", "1", "--run", run_id[:6])["deleted"]

    assert gone == [path.name for path in first[1:-1]]
    assert len(told(capsys, "ls", "out")) == len(before) - len(gone)


def test_checkpoints_at_an_address_are_listed_and_verified(tmp_path, capsys):
    address = address_in("memory", tmp_path)
    made(installed_frameworks()[0], address)
    remote = RemoteFolder(address)
    name = list(remote.checkpoints())[1]

    assert [entry["reason"] for entry in told(capsys, "ls", address)] == [None] * 4
    assert all(item["whole"] for item in told(capsys, "verify", address))
    remote.fs.rm_file(f"{remote.root}/{name}/progress.json")
    assert f"{name}: lacks progress.json" in printed(capsys, "verify", address, code=1)
    assert main(["checkpoints", "prune", address, "--keep", "1"]) == 2
    assert "prune deletes in local folders only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["lss", "x"], "this is not a command; available: ls, verify, diff, prune. Did you mean 'ls'?"),
        (["ls", "nowhere"], "nowhere: the folder does not exist."),
        (["ls", "outs"], "Did you mean 'out'?"),
        (["verify", "out", "checkpoint-66"], "checkpoint-66 does not exist. Did you mean 'checkpoint-6'?"),
        (["prune", "out", "--keep", "0"], "--keep 0: a whole number from 1 is needed"),
        (["prune", "out", "--keep", "1", "--run", "zz"], "--run zz: no run has this id"),
        (["diff", "out/checkpoint-6", "out/checkpoint-4"], "checkpoint-4: the folder does not exist. Did you mean"),
    ],
)
def test_mistakes_are_named(argv, message, capsys):
    made(installed_frameworks()[0], num_train_epochs=1)

    assert main(["checkpoints", *argv]) == 2
    assert message in capsys.readouterr().err


def test_listing_and_verifying_import_no_framework():
    made(installed_frameworks()[0], num_train_epochs=1)
    code = (
        "import sys; from trackside.cli.main import main; main(['checkpoints', 'ls', 'out']); "
        "main(['checkpoints', 'verify', 'out']); assert not {'torch', 'tensorflow', 'keras'} & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
