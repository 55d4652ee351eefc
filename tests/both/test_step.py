"""One update is the same update on both trainers, however it is cut into micro-batches."""

from __future__ import annotations

import numpy as np
import pytest

from trackside import TrainerCallback
from trackside.trainer.arguments.enums import SchedulerType


def losses_of(trainer):
    return [record["loss"] for record in trainer.state.log_history if "loss" in record]


@pytest.mark.parametrize(
    "options",
    [
        {"optim": "sgd", "learning_rate": 0.1},
        {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.1, "gradient_accumulation_steps": 2},
        {"optim": "adamw_torch", "learning_rate": 1e-2, "weight_decay": 0.1},
        {"optim": "adamw_torch", "learning_rate": 1e-2, "lr_scheduler_type": "cosine", "warmup_ratio": 0.1},
        {"optim": "sgd", "learning_rate": 0.1, "weight_decay": 0.1, "optim_args": "momentum=0.9"},
        {"optim": "sgd", "learning_rate": 0.1, "optim_args": "momentum=0.9, nesterov=True"},
        {"optim": "rmsprop", "learning_rate": 1e-3, "weight_decay": 0.1},
        {"optim": "adagrad", "learning_rate": 1e-2, "weight_decay": 0.1},
        {"optim": "lion", "learning_rate": 1e-3, "weight_decay": 0.1},
        {"optim": "adafactor", "learning_rate": 1e-2},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_losses_of_both_trainers_agree_for_fifty_steps(both_factories, options):
    found = []
    for factory in both_factories:
        trainer = factory(factory.in_order(), max_steps=50, logging_steps=1, **options)
        trainer.train()
        records = [record for record in trainer.state.log_history if "loss" in record]
        found.append(np.array([[r["loss"], r["grad_norm"], r["learning_rate"]] for r in records]))

    assert found[0].shape == (50, 3)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(found[0][:, 0], found[1][:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("examples", [40, 37])
@pytest.mark.parametrize("accumulation", [2, 3])
def test_accumulated_micro_batches_give_the_update_of_one_big_batch(trainer_factory, accumulation, examples):
    options = {"learning_rate": 0.1, "optim": "sgd", "num_train_epochs": 2, "lr_scheduler_type": "constant"}
    data, cls = trainer_factory.dataset(examples), trainer_factory.in_order()

    big = trainer_factory(cls, train_dataset=data, per_device_train_batch_size=4 * accumulation, **options)
    small = trainer_factory(
        cls, train_dataset=data, per_device_train_batch_size=4, gradient_accumulation_steps=accumulation, **options
    )
    big.train()
    small.train()

    assert big.state.global_step == small.state.global_step
    np.testing.assert_allclose(trainer_factory.weights(big), trainer_factory.weights(small), atol=2e-6)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_gradients_are_clipped_by_their_global_norm(trainer_factory, accumulation):
    def moved(max_grad_norm):
        trainer = trainer_factory(
            trainer_factory.in_order(),
            optim="sgd",
            learning_rate=1.0,
            lr_scheduler_type="constant",
            max_steps=1,
            logging_steps=1,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=max_grad_norm,
        )
        before = trainer_factory.weights(trainer)
        trainer.train()
        return trainer_factory.weights(trainer) - before, trainer.state.log_history[0]["grad_norm"]

    free, norm = moved(0.0)
    clipped, norm_again = moved(0.01)

    assert norm == pytest.approx(norm_again) == pytest.approx(np.linalg.norm(free), rel=1e-5)
    np.testing.assert_allclose(clipped, free * (0.01 / norm), rtol=1e-3, atol=1e-7)


SCHEDULES = [
    ("linear", {}),
    ("cosine", {}),
    ("cosine", {"num_cycles": 1.5}),
    ("cosine_with_restarts", {"num_cycles": 3}),
    ("cosine_with_min_lr", {"min_lr": 1e-3}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
    ("polynomial", {"lr_end": 1e-3, "power": 2.0}),
    ("constant", {}),
    ("constant_with_warmup", {}),
    ("inverse_sqrt", {}),
    ("inverse_sqrt", {"timescale": 5}),
    ("warmup_stable_decay", {"num_decay_steps": 6, "decay_type": "cosine", "min_lr_ratio": 0.2}),
]


def test_every_schedule_that_goes_by_steps_is_among_those_compared():
    assert {name for name, _ in SCHEDULES} == {str(kind) for kind in SchedulerType} - {"reduce_lr_on_plateau"}


@pytest.mark.parametrize("warmup", [{}, {"warmup_steps": 4}, {"warmup_ratio": 0.25}], ids=str)
@pytest.mark.parametrize(("name", "options"), SCHEDULES, ids=lambda value: str(value))
def test_schedules_have_the_same_values_at_every_step(both_factories, name, options, warmup):
    rates = []
    for factory in both_factories:
        trainer = factory(
            lr_scheduler_type=name, lr_scheduler_kwargs=options, learning_rate=0.01, optim="sgd", **warmup
        )
        trainer.create_optimizer_and_scheduler(20)
        if factory.framework == "pytorch":
            trainer.optimizer.step()  # or torch warns
        rates.append([trainer.lr_scheduler.get_last_lr()[0]])
        for _ in range(25):
            trainer.lr_scheduler.step()
            rates[-1].append(trainer.lr_scheduler.get_last_lr()[0])

    assert rates[0] == rates[1]


def test_the_learning_rates_of_a_run_are_those_of_its_schedule(both_factories):
    rates = []
    for factory in both_factories:
        trainer = factory(lr_scheduler_type="cosine", warmup_steps=3, max_steps=10, logging_steps=1)
        trainer.train()
        rates.append([r["learning_rate"] for r in trainer.state.log_history if "learning_rate" in r])

    assert rates[0] == rates[1]
    assert len(set(rates[0])) == 10


def test_weight_decay_leaves_biases_alone(trainer_factory):
    class Watch(TrainerCallback):
        """Forgets the gradients: what still changes is the decay."""

        def on_pre_optimizer_step(self, args, state, control, trainer=None, **kwargs):
            if trainer_factory.framework == "pytorch":
                for parameter in trainer.model.parameters():
                    parameter.grad.zero_()
            else:
                for accumulator in trainer._engine.train_step.compiled.accumulators:
                    accumulator.assign(accumulator * 0.0)

    trainer = trainer_factory(
        callbacks=[Watch()], weight_decay=0.5, learning_rate=0.1, lr_scheduler_type="constant", max_steps=1
    )
    before = trainer_factory.weights(trainer)
    trainer.train()

    kernels = np.concatenate([np.ones(96), np.zeros(16), np.ones(48), np.zeros(3)])
    np.testing.assert_allclose(trainer_factory.weights(trainer), before * (1 - 0.05 * kernels), rtol=1e-5)


def test_a_plateau_lowers_the_learning_rate(both_factories):
    rates = []
    for factory in both_factories:
        trainer = factory(
            lr_scheduler_type="reduce_lr_on_plateau",
            lr_scheduler_kwargs={"patience": 1, "factor": 0.5, "threshold": 10.0},
            num_train_epochs=6,
            logging_steps=5,
            eval_strategy="epoch",
            eval_dataset=factory.dataset(9),
            metric_for_best_model="loss",
        )
        trainer.train()
        rates.append([r["learning_rate"] for r in trainer.state.log_history if "learning_rate" in r])

    assert rates[0] == rates[1]
    assert rates[0][-1] < rates[0][0]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_update_that_the_loss_scale_holds_back_is_reported_and_the_schedule_waits(trainer_factory, accumulation):
    class Watch(TrainerCallback):
        def __init__(self):
            self.skipped, self.weights = [], []

        def on_optimizer_step(self, args, state, control, skipped=None, trainer=None, **kwargs):
            self.skipped.append(skipped)
            self.weights.append(trainer_factory.weights(trainer))

    watch = Watch()
    trainer = trainer_factory(
        trainer_factory.disturbed(1, float("inf")), callbacks=[watch], fp16=True, max_steps=4, logging_steps=1,
        learning_rate=1e-3, gradient_accumulation_steps=accumulation,
    )  # fmt: skip

    trainer.train()

    rates = [record["learning_rate"] for record in trainer.state.log_history if "learning_rate" in record]
    assert watch.skipped == [False, True, False, False]
    np.testing.assert_array_equal(watch.weights[0], watch.weights[1])
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.75e-3, 0.5e-3])
