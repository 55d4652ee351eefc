"""Training data that a callback replaces or resizes between epochs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trackside import TrainerCallback

RUN = {"per_device_train_batch_size": 4, "learning_rate": 0.1, "optim": "sgd", "logging_steps": 1, "save_steps": 1}


class Curriculum(TrainerCallback):
    """Give each epoch the examples that its number says, before any is read."""

    def __init__(self, trainer_factory, sizes):
        self.data = [trainer_factory.dataset(size, seed=size) for size in sizes]

    def on_epoch_begin(self, args, state, control, trainer, **kwargs):
        trainer.train_dataset = self.data[math.floor(state.epoch)]


def trained(trainer_factory, sizes, resume=None, **options):
    """Return a trainer, and the examples that it counted."""
    options = {**RUN, "num_train_epochs": len(sizes), **options}
    first = trainer_factory.dataset(sizes[0], seed=sizes[0])
    trainer = trainer_factory(train_dataset=first, callbacks=[Curriculum(trainer_factory, sizes)], **options)
    counted = []
    count = trainer._engine.count_examples
    trainer._engine.count_examples = lambda window: counted.append(count(window)) or counted[-1]
    trainer.train(resume_from_checkpoint=resume)
    return trainer, sum(counted)


def updates(sizes, accumulation=1):
    return sum(math.ceil(math.ceil(size / 4) / accumulation) for size in sizes)


@pytest.mark.parametrize("sizes", [(4, 8, 14), (16, 8, 4)])
def test_every_example_of_every_epoch_is_seen(trainer_factory, caplog, sizes):
    trainer, seen = trained(trainer_factory, sizes)

    assert seen == sum(sizes)
    assert trainer.state.global_step == trainer.state.max_steps == updates(sizes)
    assert trainer.state.epoch == 3
    words = f"epoch 1 of the training data has {sizes[1]} examples instead of {sizes[0]} examples: the run ends after"
    assert caplog.text.count(words) == 1


def test_accumulation_and_a_part_of_an_epoch_are_planned_anew(trainer_factory):
    trainer, seen = trained(trainer_factory, (4, 8, 16), num_train_epochs=2.5, gradient_accumulation_steps=2)

    assert trainer.state.global_step == trainer.state.max_steps == 3
    assert seen == 4 + 8 + 8


def test_max_steps_holds(trainer_factory):
    trainer, _ = trained(trainer_factory, (4, 8, 16, 4, 4), max_steps=5)

    assert trainer.state.global_step == trainer.state.max_steps == 5
    assert trainer.state.num_train_epochs == 3


def test_the_learning_rate_follows_the_length_of_the_run(trainer_factory):
    trainer, _ = trained(trainer_factory, (4, 16), lr_scheduler_type="linear")

    rates = [record["learning_rate"] for record in trainer.state.log_history if "learning_rate" in record]
    assert rates == pytest.approx([0.1 * (1 - step / 5) for step in range(5)], abs=1e-7)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_run_resumed_anywhere_is_the_run(trainer_factory, caplog, step):
    sizes, options = (4, 8, 14), {"lr_scheduler_type": "cosine", "save_strategy": "steps"}
    whole, _ = trained(trainer_factory, sizes, **options)
    records = [record for record in whole.state.log_history if "loss" in record]

    resumed, _ = trained(trainer_factory, sizes, trainer_factory.folder / "out" / f"checkpoint-{step}", **options)

    np.testing.assert_array_equal(trainer_factory.weights(resumed), trainer_factory.weights(whole))
    assert [record for record in resumed.state.log_history if "loss" in record] == records
    assert resumed.state.max_steps == whole.state.max_steps
    assert "rest is not what" not in caplog.text


def test_an_epoch_without_the_size_that_it_had_is_told_on_resume(trainer_factory, caplog):
    options = {"save_strategy": "steps"}
    trained(trainer_factory, (4, 16), **options)

    resumed, seen = trained(trainer_factory, (4, 8), trainer_factory.folder / "out" / "checkpoint-2", **options)

    assert "has 4 examples, and a callback had changed their number to 16" in caplog.text
    assert "has 8 examples instead of 16 examples" in caplog.text
    assert "Its rest is not what the interrupted run would have seen" in caplog.text
    assert seen == 4
    assert resumed.state.global_step == resumed.state.max_steps == 3


def test_data_that_becomes_empty_is_an_error(trainer_factory):
    with pytest.raises(ValueError, match=r"an epoch of train_dataset holds no batch|the dataset is empty"):
        trained(trainer_factory, (4, 0))


def test_an_override_may_give_each_epoch_other_batches(trainer_factory):
    sizes = (4, 12, 8)
    in_order = trainer_factory.in_order()

    class Growing(in_order):
        @property
        def train_dataset(self):
            return self.datasets[min(math.floor(self.state.epoch or 0), 2)] if hasattr(self, "state") else None

        @train_dataset.setter
        def train_dataset(self, value):
            self.datasets = value

    data = [trainer_factory.dataset(size) for size in sizes]
    trainer = trainer_factory(Growing, train_dataset=data, num_train_epochs=3, **RUN)

    trainer.train()

    assert trainer.state.global_step == trainer.state.max_steps == updates(sizes)
