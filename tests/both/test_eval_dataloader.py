"""Callbacks have the batches of the trainer's own evaluation dataset from on_train_begin on, and only these."""

from __future__ import annotations

import pytest

from trackside import TrainerCallback


def examples_in(trainer, batches):
    if isinstance(batches, dict):
        return {name: examples_in(trainer, part) for name, part in batches.items()}
    return None if batches is None else trainer.num_examples(batches)


class Look(TrainerCallback):
    """Notes how many examples the eval_dataloader has, and uses other datasets meanwhile."""

    def __init__(self, other):
        self.other = other
        self.seen = {}

    def note(self, event, trainer, batches):
        self.seen.setdefault(event, []).append(examples_in(trainer, batches))

    def on_train_begin(self, args, state, control, trainer=None, eval_dataloader=None, **kwargs):
        self.note("begin", trainer, eval_dataloader)

    def on_prediction_step(self, args, state, control, trainer=None, eval_dataloader=None, **kwargs):
        self.note("batch", trainer, eval_dataloader)

    def on_epoch_end(self, args, state, control, trainer=None, eval_dataloader=None, **kwargs):
        self.note("epoch", trainer, eval_dataloader)
        trainer.predict(self.other)
        trainer.evaluate(self.other)

    def on_train_end(self, args, state, control, trainer=None, eval_dataloader=None, **kwargs):
        self.note("end", trainer, eval_dataloader)


@pytest.mark.parametrize("strategy", ["no", "epoch"])
def test_it_is_that_of_the_trainer_at_every_event_of_training(trainer_factory, strategy):
    look = Look(trainer_factory.dataset(5))
    trainer = trainer_factory(
        callbacks=[look], eval_dataset=trainer_factory.dataset(8), eval_strategy=strategy, num_train_epochs=2
    )

    trainer.train()

    evaluated = [8] * (strategy == "epoch")
    assert look.seen == {"begin": [8], "epoch": [8, 8], "end": [8], "batch": [5, 5, *evaluated] * 2}


def test_several_datasets_are_there_by_name(trainer_factory):
    look = Look(trainer_factory.dataset(5))
    several = {"small": trainer_factory.dataset(3), "large": trainer_factory.dataset(8)}
    trainer = trainer_factory(callbacks=[look], eval_dataset=several, num_train_epochs=1)

    trainer.train()

    assert look.seen["begin"] == look.seen["end"] == [{"small": 3, "large": 8}]


def test_without_a_dataset_there_is_none(trainer_factory):
    look = Look(trainer_factory.dataset(5))

    trainer_factory(callbacks=[look], num_train_epochs=1).train()

    assert look.seen["begin"] == look.seen["epoch"] == [None]


def test_a_dataset_that_a_callback_exchanges_is_shown_from_its_evaluation_on(trainer_factory):
    class Exchanges(TrainerCallback):
        def on_epoch_begin(self, args, state, control, trainer=None, **kwargs):
            trainer.eval_dataset = trainer_factory.dataset(8)

    look = Look(trainer_factory.dataset(5))
    trainer = trainer_factory(
        callbacks=[Exchanges(), look],
        eval_dataset=trainer_factory.dataset(3),
        eval_strategy="epoch",
        num_train_epochs=1,
    )

    trainer.train()

    assert (look.seen["begin"], look.seen["end"]) == ([3], [8])
