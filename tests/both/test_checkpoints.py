"""Both trainers save the same files, rotate them, and keep the best."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.damages import flip_a_byte, strip_roles

from trackside.callbacks.errors import CheckpointError
from trackside.trainer.checkpointing.manifest import contents_of


def test_rotation_keeps_the_best_and_the_newest(trainer_factory):
    trainer = trainer_factory(
        train_dataset=trainer_factory.dataset(40),
        eval_dataset=trainer_factory.dataset(9),
        num_train_epochs=4,
        learning_rate=0.0,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        metric_for_best_model="loss",
        load_best_model_at_end=True,
    )

    trainer.train()

    names = sorted(path.name for path in (trainer_factory.folder / "out").glob("checkpoint-*"))
    assert names == ["checkpoint-20", "checkpoint-5"]
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-5")


def test_the_best_model_is_loaded_at_the_end(trainer_factory):
    trainer = trainer_factory(
        eval_dataset=trainer_factory.dataset(30),
        num_train_epochs=3,
        learning_rate=5.0,
        optim="sgd",
        max_grad_norm=0.0,
        eval_strategy="epoch",
        save_strategy="epoch",
        metric_for_best_model="loss",
        load_best_model_at_end=True,
    )

    trainer.train()

    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric)


@pytest.mark.parametrize("fate", ["deleted", "emptied", "damaged", "unsealed and emptied"])
def test_a_best_checkpoint_that_is_gone_or_damaged_is_told_and_the_last_weights_stay(trainer_factory, caplog, fate):
    seen = []
    trainer = trainer_factory(
        eval_dataset=trainer_factory.dataset(8),
        max_steps=4,
        learning_rate=5.0,
        optim="sgd",
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="best",
        save_async=False,
        metric_for_best_model="runtime_best",
        compute_metrics=lambda prediction: {"runtime_best": -trainer.state.global_step},
        load_best_model_at_end=True,
    )
    best = trainer_factory.folder / "out" / "checkpoint-1"

    @trainer.on("on_step_end")
    def spoil(sender, state, **rest):
        if state.global_step == 4:
            seen.append(trainer_factory.weights(sender))
            FATES[fate](best, trainer_factory.weights_file)

    assert trainer.train().global_step == 4

    assert trainer.state.best_model_checkpoint == str(best)
    np.testing.assert_array_equal(trainer_factory.weights(trainer), seen[0])
    assert any(f"the last weights stay, since the best checkpoint {best} " in text for text in caplog.messages)


def empty(folder):
    for path in folder.iterdir():
        path.unlink()


FATES = {
    "deleted": lambda folder, weights: shutil.rmtree(folder),
    "emptied": lambda folder, weights: (folder / weights).unlink(),
    "damaged": lambda folder, weights: flip_a_byte(folder / weights),
    "unsealed and emptied": lambda folder, weights: empty(folder),
}


def test_the_best_model_has_its_own_checkpoint_and_comes_back_at_the_end(trainer_factory):
    scores = iter([0.0, 0.1, 0.5, 0.9, 0.2, 0.3, 0.4])  # the first is for the trial before training
    seen = {}
    trainer = trainer_factory(
        eval_dataset=trainer_factory.dataset(8),
        compute_metrics=lambda prediction: {"score": next(scores)},
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=100,
        save_total_limit=1,
        max_steps=12,
        load_best_model_at_end=True,
        metric_for_best_model="score",
    )
    trainer.on("on_step_end")(lambda t, state, **rest: seen.update({state.global_step: trainer_factory.weights(t)}))

    trainer.train()

    assert trainer.state.best_global_step == 6
    assert trainer.state.best_metric == 0.9
    np.testing.assert_array_equal(trainer_factory.weights(trainer), seen[6])
    assert trainer_factory.checkpoints() == ["checkpoint-12", "checkpoint-6"]


def test_the_strategy_best_saves_improvements_only(trainer_factory):
    scores = iter([0.0, 0.3, 0.2, 0.4, 0.1])
    trainer = trainer_factory(
        eval_dataset=trainer_factory.dataset(8),
        compute_metrics=lambda prediction: {"score": next(scores)},
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="best",
        metric_for_best_model="score",
        max_steps=4,
    )

    trainer.train()

    assert trainer_factory.checkpoints() == ["checkpoint-1", "checkpoint-3"]


def test_a_checkpoint_holds_the_same_files_of_the_run(trainer_factory):
    trainer = trainer_factory(save_strategy="steps", save_steps=5, max_steps=5)

    trainer.train()

    names = {path.name for path in (trainer_factory.folder / "out" / "checkpoint-5").iterdir()}
    assert {"manifest.json", "trainer_state.json", "training_args.json", "progress.json"} <= names
    assert any(name.startswith("model") for name in names)


def test_the_manifest_names_the_role_of_each_file(trainer_factory):
    trainer_factory(save_strategy="steps", save_steps=5, max_steps=5).train()

    roles = contents_of(trainer_factory.folder / "out" / "checkpoint-5").roles

    assert {name.split(".")[0]: role for name, role in roles.items()} == {
        "model": "weights",
        "optimizer": "optimizer",
        "scheduler": "schedule",
        "rng_state_0": "rng",
        "trainer_state": "state",
        "training_args": "arguments",
        "progress": "progress",
    }


@pytest.mark.parametrize("how", ["save_model", "on_save"])
def test_a_second_file_of_weights_changes_nothing(trainer_factory, how):
    trainer_factory().save_model(str(trainer_factory.folder / "average"))
    average = trainer_factory.folder / "average" / trainer_factory.saved_file

    def keep_average(folder):
        shutil.copy(average, Path(folder, average.name.replace("model.", "model_ema.")))

    class Keeps(trainer_factory.trainer_class):
        def save_model(self, output_dir=None, **kwargs):
            keep_average(output_dir)

    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "learning_rate": 0.1}
    whole, resumed = (trainer_factory(Keeps if how == "save_model" else None, **options) for _ in range(2))
    if how == "on_save":
        whole.on("on_save")(lambda sender, checkpoint, **rest: keep_average(checkpoint))
    folder, other = trainer_factory.folder / "out", trainer_factory()

    whole.train()
    other.load_weights(folder / "checkpoint-4")
    resumed.train(folder / "checkpoint-2")

    assert len(list((folder / "checkpoint-2").glob("model_ema.*"))) == 1
    np.testing.assert_array_equal(trainer_factory.weights(other), trainer_factory.weights(whole))
    np.testing.assert_array_equal(trainer_factory.weights(resumed), trainer_factory.weights(whole))


def test_a_checkpoint_of_a_version_without_roles_resumes(trainer_factory):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "learning_rate": 0.1}
    whole, resumed = trainer_factory(**options), trainer_factory(**options)
    whole.train()
    strip_roles(trainer_factory.folder / "out" / "checkpoint-2")

    resumed.train(trainer_factory.folder / "out" / "checkpoint-2")

    np.testing.assert_array_equal(trainer_factory.weights(resumed), trainer_factory.weights(whole))


def test_weights_of_a_checkpoint_can_be_loaded_alone(trainer_factory):
    trainer = trainer_factory(save_strategy="steps", save_steps=5, max_steps=5)
    trainer.train()
    other = trainer_factory()

    other.load_weights(trainer_factory.folder / "out" / "checkpoint-5")

    np.testing.assert_array_equal(trainer_factory.weights(other), trainer_factory.weights(trainer))


def test_weights_of_a_damaged_checkpoint_are_not_loaded(trainer_factory):
    trainer_factory(save_strategy="steps", save_steps=2, max_steps=2).train()
    folder, other = trainer_factory.folder / "out" / "checkpoint-2", trainer_factory()
    before = trainer_factory.weights(other)
    flip_a_byte(folder / trainer_factory.weights_file)

    with pytest.raises(CheckpointError, match="has other content in model"):
        other.load_weights(folder)
    with pytest.raises(CheckpointError, match="does not exist"):
        other.load_weights(trainer_factory.folder / "nowhere")
    np.testing.assert_array_equal(trainer_factory.weights(other), before)


def test_both_trainers_write_the_same_state_and_arguments(both_factories):
    states, arguments = [], []
    for factory in both_factories:
        factory(save_strategy="steps", save_steps=5, max_steps=5, logging_steps=5).train()
        folder = factory.folder / "out" / "checkpoint-5"
        states.append(json.loads((folder / "trainer_state.json").read_text()))
        arguments.append(json.loads((folder / "training_args.json").read_text()))

    assert states[0].keys() == states[1].keys()
    own = {"log_history", "stateful_callbacks", "run_id"}
    assert {n: v for n, v in states[0].items() if n not in own} == {n: v for n, v in states[1].items() if n not in own}
    shared = arguments[0].keys() & arguments[1].keys()
    assert len(shared) > 80


def test_save_model_writes_what_load_weights_reads(trainer_factory):
    trainer = trainer_factory(max_steps=2, learning_rate=0.1)
    trainer.train()
    other = trainer_factory()

    trainer.save_model(str(trainer_factory.folder / "saved"))
    other.load_weights(trainer_factory.folder / "saved")

    assert (trainer_factory.folder / "saved" / trainer_factory.saved_file).is_file()
    np.testing.assert_array_equal(trainer_factory.weights(other), trainer_factory.weights(trainer))


@pytest.mark.parametrize("calls_super", [True, False])
def test_checkpoints_have_what_an_overridden_save_model_writes_and_can_be_resumed(trainer_factory, calls_super):
    class Saves(trainer_factory.trainer_class):
        def save_model(self, output_dir=None, **kwargs):
            if calls_super:
                super().save_model(output_dir, **kwargs)
            Path(output_dir, "card.md").write_text("mine")

    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "learning_rate": 0.1}
    whole, resumed = trainer_factory(Saves, **options), trainer_factory(Saves, **options)
    folder = trainer_factory.folder / "out"

    whole.train()
    resumed.train(folder / "checkpoint-2")

    assert (folder / "checkpoint-4" / "card.md").read_text() == "mine"
    np.testing.assert_array_equal(trainer_factory.weights(whole), trainer_factory.weights(resumed))


def test_a_failed_commit_in_the_background_is_raised_at_a_later_step(trainer_factory, monkeypatch):
    def no_space(checkpoint, folder, files):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trackside.trainer.base_engine.checkpoint.BaseCheckpoint._write_files", no_space)

    with pytest.raises(CheckpointError, match="No space left"):
        trainer_factory(save_strategy="steps", save_steps=1, max_steps=5).train()
    assert trainer_factory.checkpoints() == []


def test_a_checkpoint_of_another_model_is_refused(trainer_factory):
    trainer_factory(save_strategy="steps", save_steps=2, max_steps=2).train()
    other = trainer_factory(model=small_model(trainer_factory))

    with pytest.raises(CheckpointError):
        other.load_weights(trainer_factory.folder / "out" / "checkpoint-2")


def small_model(factory):
    return factory.torch.nn.Linear(6, 3) if factory.framework == "pytorch" else factory.parts.mlp(width=4)
