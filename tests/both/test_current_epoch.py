"""Callbacks can ask for the mean loss of the epoch so far: over examples, each loss as it was computed."""

from __future__ import annotations

import math

import pytest


class Asks:
    """Notes the number of the epoch, its updates and its mean loss, at some events."""

    role = "control"

    def __init__(self, at=("on_epoch_end",)):
        self.at, self.seen = at, []

    def on_train_begin(self, args, state, control, current_epoch, **kwargs):
        current_epoch.watch_loss()

    def on_step_end(self, args, state, control, current_epoch, **kwargs):
        if "on_step_end" in self.at:
            self.seen.append((current_epoch.number, current_epoch.updates, current_epoch.mean_loss()))

    def on_epoch_end(self, args, state, control, current_epoch, **kwargs):
        self.seen.append(current_epoch.mean_loss())


def losses(trainer):
    return [record["loss"] for record in trainer.state.log_history if "loss" in record]


def test_the_mean_is_over_examples_with_a_ragged_last_batch(trainer_factory):
    asks = Asks()
    trainer = trainer_factory(
        train_dataset=trainer_factory.dataset(19), num_train_epochs=2, logging_steps=1, callbacks=[asks]
    )

    trainer.train()

    logged = losses(trainer)
    assert len(logged) == 6
    for epoch, mean in enumerate(asks.seen):
        first, second, last = logged[3 * epoch : 3 * epoch + 3]
        assert mean == pytest.approx((8 * first + 8 * second + 3 * last) / 19, rel=1e-6)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_it_is_known_after_each_update(trainer_factory, accumulation):
    asks = Asks(("on_step_end",))
    trainer = trainer_factory(
        train_dataset=trainer_factory.dataset(24),
        num_train_epochs=2,
        logging_steps=1,
        gradient_accumulation_steps=accumulation,
        callbacks=[asks],
    )

    trainer.train()

    logged, steps = losses(trainer), [entry for entry in asks.seen if isinstance(entry, tuple)]
    sizes = {1: [8, 8, 8], 2: [16, 8]}[accumulation]
    assert [step[:2] for step in steps] == [(epoch, n) for epoch in (0, 1) for n in range(1, len(sizes) + 1)]
    for index, (epoch, updates, mean) in enumerate(steps):
        own = logged[len(sizes) * epoch : index + 1]
        weights = sizes[:updates]
        assert mean == pytest.approx(sum(w * v for w, v in zip(weights, own, strict=True)) / sum(weights), rel=1e-6)


def test_a_loss_that_is_not_finite_is_not_filtered(trainer_factory):
    asks = Asks(("on_step_end",))
    trainer = trainer_factory(num_train_epochs=1, learning_rate=1e38, max_grad_norm=0.0, callbacks=[asks])

    trainer.train()

    assert math.isfinite(asks.seen[0][2])
    assert not math.isfinite(asks.seen[-1])


def test_asking_changes_neither_records_nor_weights(trainer_factory):
    runs = [trainer_factory(num_train_epochs=2, logging_steps=3, callbacks=asked) for asked in ([Asks()], [])]

    for trainer in runs:
        trainer.train(resume_from_checkpoint=False)

    assert losses(runs[0]) == losses(runs[1])


def test_the_sums_are_in_the_checkpoint(trainer_factory):
    options = {"num_train_epochs": 1, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
    whole, first, second = Asks(), Asks(), Asks()
    trainer_factory(callbacks=[whole], **options).train()
    trainer_factory(callbacks=[first], **{**options, "max_steps": 2}, overwrite_output_dir=True).train()
    trainer_factory(callbacks=[second], **options).train(resume_from_checkpoint=True)

    assert second.seen == whole.seen


def test_outside_of_a_run_it_is_none_and_so_is_the_header(trainer_factory):
    seen = []
    data = trainer_factory.dataset(8)
    trainer = trainer_factory(train_dataset=data, eval_dataset=data, num_train_epochs=1, eval_strategy="epoch")

    @trainer.on("on_evaluate")
    def note(trainer, current_epoch, header):
        seen.append((current_epoch is None, header is None))

    trainer.evaluate()
    trainer.train()
    trainer.evaluate()
    trainer.on("on_step_begin")(lambda trainer: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    trainer.evaluate()

    assert seen == [(True, True), (False, False), (True, True), (True, True)]
