"""Both trainers save, rotate, keep the best, and go on from a checkpoint as if nothing had been."""

from __future__ import annotations

import numpy as np
import pytest

from trackside import TrainerCallback
from trackside.callbacks.errors import ArgumentError, CheckpointError


class StopAt(TrainerCallback):
    """Ends a run as a kill would, after a checkpoint."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("stop", [3, 7])
def test_a_run_that_was_cut_short_and_resumed_is_the_run_that_was_not(trainer_factory, stop, copies):
    def make(folder, **options):
        return trainer_factory(
            model=trainer_factory.model(0.3),
            train_dataset=trainer_factory.dataset(37),
            output_dir=str(trainer_factory.folder / folder),
            num_train_epochs=3,
            gradient_accumulation_steps=2,
            learning_rate=1e-2,
            logging_steps=2,
            save_strategy="steps",
            save_steps=1,
            save_async=copies,
            **options,
        )

    whole = make("whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        make("cut", callbacks=[StopAt(stop)]).train()
    resumed = make("cut")
    resumed.train(resume_from_checkpoint=True)

    np.testing.assert_array_equal(trainer_factory.weights(whole), trainer_factory.weights(resumed))
    names = ("loss", "grad_norm", "learning_rate", "epoch", "step", "train_loss")

    def history(trainer):
        return [{name: record.get(name) for name in names} for record in trainer.state.log_history]

    assert history(whole) == history(resumed)


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


def test_a_checkpoint_holds_the_same_files_of_the_run(trainer_factory):
    trainer = trainer_factory(save_strategy="steps", save_steps=5, max_steps=5)

    trainer.train()

    names = {path.name for path in (trainer_factory.folder / "out" / "checkpoint-5").iterdir()}
    assert {"manifest.json", "trainer_state.json", "training_args.json", "progress.json"} <= names
    assert any(name.startswith("model") for name in names)


def test_weights_of_a_checkpoint_can_be_loaded_alone(trainer_factory):
    trainer = trainer_factory(save_strategy="steps", save_steps=5, max_steps=5)
    trainer.train()
    other = trainer_factory()

    other.load_weights(trainer_factory.folder / "out" / "checkpoint-5")

    np.testing.assert_array_equal(trainer_factory.weights(other), trainer_factory.weights(trainer))


def test_a_fresh_run_into_a_folder_with_checkpoints_is_refused(trainer_factory):
    trainer_factory(save_strategy="steps", save_steps=2, max_steps=2).train()

    with pytest.raises(ArgumentError, match="resume_from_checkpoint"):
        trainer_factory(save_strategy="steps", save_steps=2, max_steps=2).train()


def test_a_checkpoint_of_another_model_is_refused(trainer_factory):
    trainer_factory(save_strategy="steps", save_steps=2, max_steps=2).train()
    other = trainer_factory(model=small_model(trainer_factory))

    with pytest.raises(CheckpointError):
        other.load_weights(trainer_factory.folder / "out" / "checkpoint-2")


def small_model(factory):
    return factory.torch.nn.Linear(6, 3) if factory.framework == "pytorch" else factory.parts.mlp(width=4)
