"""While a checkpoint is loaded nothing is unpickled, imported or run, and no file outside of its folder is opened."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
from support.audit import watched
from support.damages import sealed_again

from trackside.callbacks.errors import CheckpointError

SAVES = {"save_strategy": "steps", "save_steps": 2}


class Runs:
    """What a stranger pickles."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def checkpoint(trainer_factory):
    trainer_factory(**SAVES, max_steps=2).train()
    return trainer_factory.folder / "out" / "checkpoint-2"


def load(factory, checkpoint):
    """Resume for another step, and load the weights alone; return what was seen meanwhile."""
    resumes, reads = factory(max_steps=3), factory()
    with watched() as seen:
        resumes.train(checkpoint)
        reads.load_weights(checkpoint)
    return seen


def test_loading_opens_only_files_of_the_checkpoint(trainer_factory, checkpoint):
    load(trainer_factory, checkpoint)  # libraries are imported at their first use

    seen = load(trainer_factory, checkpoint)

    assert seen.ran == []
    assert seen.imported == []
    assert seen.outside(checkpoint, trainer_factory.folder / "out") == []  # the lock is in the output folder
    assert any(path.endswith("manifest.json") for path in seen.opened)


def test_what_the_manifest_does_not_list_is_not_opened(trainer_factory, checkpoint, tmp_path):
    right = trainer_factory(max_steps=2, output_dir=str(tmp_path / "right"))
    right.train()
    (checkpoint / "shards").mkdir()
    strays = [checkpoint / name for name in ("model_ema.safetensors", "a.safetensors", "shards/.metadata", "rng.pt")]
    for stray in strays:
        stray.write_bytes(pickle.dumps(Runs(tmp_path / "proof")))

    loads = trainer_factory(max_steps=2)
    with watched() as seen:
        loads.load_weights(checkpoint)
        trainer_factory(max_steps=3).train(checkpoint)

    assert not {os.path.realpath(path) for path in seen.opened} & {str(stray.resolve()) for stray in strays}
    assert (trainer_factory.weights(loads) == trainer_factory.weights(right)).all()
    assert not (tmp_path / "proof").exists()


def test_saving_needs_no_room_outside_of_the_output_folder(trainer_factory, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/does/not/exist")

    trainer_factory(**SAVES, max_steps=4).train()

    assert sorted(path.name for path in (trainer_factory.folder / "out").glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-4",
    ]


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "without a manifest"])
def test_a_pickle_in_the_place_of_any_file_runs_nothing(trainer_factory, checkpoint, tmp_path, sealed):
    load(trainer_factory, checkpoint)
    names = [path.name for path in checkpoint.iterdir() if path.name != "manifest.json"]
    contents = {name: (checkpoint / name).read_bytes() for name in names}
    for name in names:
        (checkpoint / name).write_bytes(pickle.dumps(Runs(tmp_path / "proof")))
        if sealed:
            sealed_again(checkpoint / name)
        else:
            (checkpoint / "manifest.json").unlink(missing_ok=True)

        trainer = trainer_factory(**SAVES, max_steps=3)
        with watched() as seen, pytest.raises(CheckpointError):
            trainer.train(checkpoint)

        assert [event for event, _ in seen.ran if event != "pickle.find_class"] == []
        assert seen.outside(checkpoint, trainer_factory.folder / "out") == []
        assert not (tmp_path / "proof").exists()
        (checkpoint / name).write_bytes(contents[name])
        if sealed:
            sealed_again(checkpoint / name)


def test_the_watch_sees_what_it_is_there_for(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "outside").write_text("x")
    (tmp_path / "a_module_of_a_stranger.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)

    with watched() as seen:
        (tmp_path / "outside").read_text()
        (tmp_path / "folder" / "inside").write_text("x")
        pickle.loads(pickle.dumps(Runs(tmp_path / "proof")))
        subprocess.run([sys.executable, "-c", ""], check=True)
        import a_module_of_a_stranger  # noqa: F401

    assert seen.outside(tmp_path / "folder") == [str(tmp_path / "outside")]
    assert {"pickle.find_class", "os.system", "subprocess.Popen"} <= {event for event, _ in seen.ran}
    assert "a_module_of_a_stranger" in seen.imported
    (tmp_path / "outside").read_text()
    assert len(seen.outside(tmp_path / "folder")) == 1
