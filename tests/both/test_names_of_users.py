"""What a user's subclass calls its own methods and attributes collides with nothing of a trainer's machinery."""

from __future__ import annotations

import numpy as np
import pytest

NAMES = (
    *("accounts", "agree", "backward", "barrier", "batches", "best", "checkpoint", "checkpoints", "clear_gradients"),
    *("configure", "count_examples", "dispatcher", "engine", "epoch", "epoch_batches", "evaluation", "evaluation_step"),
    *("evaluator", "finish_gradients", "gather_objects", "guarded", "job_store", "load_snapshot", "load_weights"),
    *("loop", "losses", "micro_step", "model_io", "note_metrics", "optimizer_step", "overrides", "place", "plan"),
    *("precision", "prepare_data", "prepare_model", "processes", "progress", "queue", "rank", "record", "restore"),
    *("run_id", "save_checkpoint", "saver", "search", "seed", "set_seed", "snapshot", "step", "step_timer", "strategy"),
    *("sync_control", "take_loss", "train_step", "training_record", "watch_memory", "world_size", "writer"),
)


def weights_after(trainer_factory, cls=None, prepare=lambda trainer: None):
    trainer = trainer_factory(
        cls,
        eval_dataset=trainer_factory.dataset(9),
        max_steps=4,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        overwrite_output_dir=True,
    )
    prepare(trainer)
    trainer.train()
    trainer.train(resume_from_checkpoint=True)
    trainer.predict(trainer_factory.dataset(9))
    return trainer_factory.weights(trainer)


@pytest.fixture
def expected(trainer_factory):
    return weights_after(trainer_factory)


def test_methods_of_a_subclass_replace_nothing_that_training_needs(trainer_factory, expected):
    def raises(self, *args, **kwargs):
        raise AssertionError("called by the trainer")

    own = type("Own", (trainer_factory.trainer_class,), dict.fromkeys(NAMES, raises))

    assert np.array_equal(weights_after(trainer_factory, own), expected)


def test_attributes_of_a_subclass_replace_nothing_that_training_needs(trainer_factory, expected):
    def set_all(trainer):
        for name in NAMES:
            setattr(trainer, name, object())

    assert np.array_equal(weights_after(trainer_factory, prepare=set_all), expected)


def test_the_former_name_of_an_argument_of_train_warns_where_it_is_used(trainer_factory):
    trainer = trainer_factory(max_steps=1)

    with pytest.warns(
        FutureWarning, match=r"train\(model_path=...\) is deprecated .*; use resume_from_checkpoint"
    ) as told:
        trainer.train(model_path=None)

    assert told[0].filename == __file__
