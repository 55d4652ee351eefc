"""A save in the background holds the values of its step, however long it takes and however many there are."""

from __future__ import annotations

import re
import threading

import pytest

from trackside import TrainerCallback
from trackside.trainer.checkpointing.saving import host_buffers
from trackside.trainer.checkpointing.store import CheckpointStore


class SavesAt(TrainerCallback):
    def __init__(self, *steps):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step in self.steps


def contents(folder):
    """What the files hold that hold tensors, by checkpoint and name."""
    names = ("model.", "optimizer.")
    files = [path for path in folder.glob("checkpoint-*/*") if path.name.startswith(names)]
    return {f"{path.parent.name}/{path.name}": content(path) for path in files}


def content(path):
    """Values in the order of the file; names of layers differ between models, and pickles between equal objects."""
    if path.suffix == ".pt":
        import torch

        return plain(torch.load(path, weights_only=True))
    if path.suffix == ".h5":
        import h5py

        values = []
        with h5py.File(path) as file:
            file.visititems(lambda name, item: values.append(item[()]) if isinstance(item, h5py.Dataset) else None)
        return [value.tobytes() for value in values]
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return [value.tobytes() for value in load_file(path).values()]
    return path.read_bytes()


def plain(value):
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value.numpy().tobytes() if hasattr(value, "numpy") else value


@pytest.fixture
def buffers_for_all(trainer_factory, monkeypatch):
    """Small tensors are copied into buffers too, and the buffers are counted."""
    taken = []
    take = host_buffers.Buffers.take
    monkeypatch.setattr(host_buffers, "SMALL_BYTES", 0)
    if trainer_factory.framework == "tensorflow":
        from trackside.trainer.tensorflow import snapshot

        monkeypatch.setattr(snapshot, "SMALL_BYTES", 0)
    monkeypatch.setattr(host_buffers.Buffers, "take", lambda self, size: taken.append(size) or take(self, size))
    return taken


@pytest.mark.parametrize("copies", ["at once", "when it is written, or when the next one begins"])
def test_what_is_written_late_is_of_the_step_of_the_save(trainer_factory, monkeypatch, buffers_for_all, copies):
    if copies != "at once":
        monkeypatch.setattr(host_buffers.Copying, "start", lambda copying, threads: None)
    steps = (2, 3, 6, 8)
    options = {"max_steps": 10, "learning_rate": 0.1, "callbacks": [SavesAt(*steps)]}
    reference = trainer_factory(output_dir=str(trainer_factory.folder / "reference"), save_async=False, **options)
    reference.train()
    commit, may_write, in_progress = CheckpointStore.commit, threading.Event(), []

    def late(store, step, *args, **kwargs):
        in_progress.append(step)
        assert may_write.wait(60)
        return commit(store, step, *args, **kwargs)

    class Opens(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:  # two saves are taken, and two updates have followed
                assert trainer_factory.checkpoints() == []
                may_write.set()

    monkeypatch.setattr(CheckpointStore, "commit", late)
    trainer = trainer_factory(**{**options, "callbacks": [SavesAt(*steps), Opens()]})
    trainer.train()

    written = contents(trainer_factory.folder / "out")
    assert in_progress == list(steps)
    assert len(written) == 2 * len(steps)
    assert written == contents(trainer_factory.folder / "reference")
    assert len(buffers_for_all) >= 4 * len(steps)


class Prepared(TrainerCallback):
    """Keeps the sizes of the memory that a run prepares."""

    def __init__(self, trainer_factory):
        self.factory = trainer_factory

    def on_train_begin(self, args, state, control, **kwargs):
        prepared = self.factory.trainer._engine.checkpoint.buffers._prepared
        if prepared is not None:
            prepared._thread.join()
        self.sizes = None if prepared is None else sorted(buffer.size for buffer in prepared._buffers)


class Listens(TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        pass


def test_the_memory_of_the_first_copy_is_made_before_the_first_update(trainer_factory, buffers_for_all):
    prepared = Prepared(trainer_factory)
    trainer_factory.trainer = trainer_factory(
        max_steps=2, save_strategy="steps", save_steps=2, callbacks=[prepared], optim="adamw_torch"
    )

    trainer_factory.trainer.train()

    weights = [4 * size for size in (6 * 16, 16, 16 * 3, 3)]
    large = sorted([*weights, *weights, *weights])
    assert [size for size in prepared.sizes if size > 8] == large
    assert trainer_factory.trainer._engine.checkpoint.buffers._prepared is None
    assert trainer_factory.trainer._engine.checkpoint.buffers.idle == []


@pytest.mark.parametrize("options", [{"save_strategy": "no"}, {"save_async": False}, {"callbacks": [Listens()]}])
def test_no_memory_is_made_for_runs_that_do_not_save_or_do_not_copy(trainer_factory, buffers_for_all, options):
    prepared = Prepared(trainer_factory)
    options = {"max_steps": 2, "save_strategy": "steps", **options}
    options["callbacks"] = [prepared, *options.get("callbacks", [])]
    trainer_factory.trainer = trainer_factory(**options)

    trainer_factory.trainer.train()

    assert prepared.sizes is None


def test_the_memory_of_the_copies_is_bounded_by_two_and_freed_at_the_end(trainer_factory, monkeypatch, buffers_for_all):
    lent, most = [], []
    lend, give_back = host_buffers.HostBuffers.lend, host_buffers.Buffers.give_back

    def counted(pool):
        lent.append(lend(pool))
        most.append(len(lent))
        return lent[-1]

    monkeypatch.setattr(host_buffers.HostBuffers, "lend", counted)
    monkeypatch.setattr(host_buffers.Buffers, "give_back", lambda self: (give_back(self), lent.remove(self)))
    trainer = trainer_factory(max_steps=8, callbacks=[SavesAt(*range(1, 9))], save_total_limit=2)

    trainer.train()

    assert 1 <= max(most) <= 2
    assert lent == []
    assert trainer._engine.checkpoint.buffers.idle == []
    assert trainer_factory.checkpoints() == ["checkpoint-7", "checkpoint-8"]


def test_what_saves_cost_is_logged_at_the_end(trainer_factory, caplog):
    trainer = trainer_factory(max_steps=6, callbacks=[SavesAt(2, 4, 6)])

    with caplog.at_level("INFO", logger="trackside.trainer"):
        result = trainer.train()

    (line,) = [record.getMessage() for record in caplog.records if "training waited" in record.getMessage()]
    count, size_mb, waited_s, each_s, written_s, speed = map(float, re.findall(r"\d+\.?\d*(?:e-\d+)?", line))
    files = list((trainer_factory.folder / "out").glob("checkpoint-*/*"))
    assert count == 3
    assert size_mb == pytest.approx(sum(path.stat().st_size for path in files) / 3e6, rel=0.01)
    assert 0 < waited_s < result.metrics["train_runtime"]
    assert each_s == pytest.approx(waited_s / 3, abs=0.001)
    assert written_s > 0
    slowest, quickest = (3 * size_mb / max(written_s + rounded, 1e-9) for rounded in (0.005, -0.005))
    assert 0.99 * slowest <= speed <= 1.01 * quickest  # the seconds have two digits, the sizes three


def test_a_run_without_saves_says_nothing_of_them(trainer_factory, caplog):
    with caplog.at_level("INFO", logger="trackside.trainer"):
        trainer_factory(max_steps=2).train()

    assert "training waited" not in caplog.text
