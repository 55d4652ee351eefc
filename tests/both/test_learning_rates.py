"""Records, on_optimizer_step and the monitor show the learning rate with which an update was done."""

from __future__ import annotations

import itertools

import pytest

from trackside import LearningRateMonitorCallback, TrainerCallback
from trackside.callbacks.builtin.learning_rate_monitor import groups_of

LINEAR = {"learning_rate": 0.01, "max_steps": 4, "lr_scheduler_type": "linear", "logging_steps": 1}
USED = [0.01, 0.0075, 0.005, 0.0025]


def records_of(trainer, name="learning_rate"):
    return [record[name] for record in trainer.state.log_history if name in record]


class Rates(TrainerCallback):
    """Notes the rates that an optimizer and its schedule show at an event."""

    def __init__(self):
        self.seen = []

    def on_optimizer_step(self, args, state, control, optimizer=None, lr_scheduler=None, **kwargs):
        self.seen.append((float(groups_of(optimizer)[0]["lr"]), lr_scheduler.get_last_lr()[0]))


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}], ids=str)
@pytest.mark.parametrize("listens", [False, True])
def test_the_rate_is_that_of_the_update(trainer_factory, listens, options):
    rates, monitor = Rates(), LearningRateMonitorCallback()
    trainer = trainer_factory(callbacks=[monitor, *[rates] * listens], **LINEAR, **options)

    trainer.train()

    assert records_of(trainer) == pytest.approx(USED)
    assert trainer.callback_report["learning_rate_monitor"].failures == 0
    assert rates.seen == [(pytest.approx(rate), pytest.approx(rate)) for rate in USED] * listens


def test_a_record_of_several_updates_has_the_rate_of_the_last(trainer_factory):
    trainer = trainer_factory(**{**LINEAR, "logging_steps": 2})

    trainer.train()

    assert records_of(trainer) == pytest.approx(USED[1::2])


def test_a_rate_that_a_callback_sets_afterwards_is_not_in_the_record(trainer_factory):
    class Lowers(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer=None, **kwargs):
            if hasattr(optimizer, "param_groups"):
                optimizer.param_groups[0]["lr"] /= 2
            else:
                optimizer.learning_rate.assign(optimizer.learning_rate / 2)

    constant = {**LINEAR, "lr_scheduler_type": "constant", "max_steps": 3}
    trainer = trainer_factory(cls=without_schedule(trainer_factory), callbacks=[Lowers()], **constant)

    trainer.train()

    assert records_of(trainer) == pytest.approx([0.01, 0.005, 0.0025])


def without_schedule(factory):
    class WithoutSchedule(factory.trainer_class):
        def create_scheduler(self, num_training_steps, optimizer=None):
            return None

    return WithoutSchedule


def test_a_resumed_run_has_the_same_rates_in_its_records(trainer_factory):
    saves = {**LINEAR, "save_strategy": "steps", "save_steps": 2}
    trainer_factory(**saves).train()

    resumed = trainer_factory(**saves)
    resumed.train(resume_from_checkpoint=str(trainer_factory.folder / "out" / "checkpoint-2"))

    assert records_of(resumed) == pytest.approx(USED)


def test_a_schedule_of_keras_shows_the_rate_of_the_update(trainer_factory):
    if trainer_factory.framework == "pytorch":
        pytest.skip("an optimizer of Keras with a schedule of its own")
    keras = pytest.importorskip("keras")
    decay = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [0.5, 0.25, 0.125])
    trainer = trainer_factory(
        optimizers=(keras.optimizers.SGD(decay), None),
        callbacks=[LearningRateMonitorCallback()],
        **{**LINEAR, "max_steps": 3},
    )

    trainer.train()

    assert records_of(trainer) == [0.5, 0.25, 0.125]


def test_groups_are_told_apart_and_show_their_own_rates(trainer_factory):
    if trainer_factory.framework != "pytorch":
        pytest.skip("an optimizer of Keras is a single group")
    torch = trainer_factory.torch
    model = trainer_factory.model()
    named = itertools.cycle(["head", "head", "body"])
    groups = [
        {"params": [parameter], "lr": 0.1 * (index + 1), "name": next(named)}
        for index, parameter in enumerate(model.parameters())
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.5)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    monitor = LearningRateMonitorCallback(momentum=True)
    trainer = trainer_factory(model=model, optimizers=(optimizer, schedule), callbacks=[monitor], **LINEAR)

    trainer.train()

    for step, factor in ((0, 1.0), (2, 0.25)):
        record = trainer.state.log_history[step]
        shown = {name: value for name, value in record.items() if name.startswith("learning_rate_")}
        assert shown == pytest.approx(
            {
                "learning_rate_head_0": 0.1 * factor,
                "learning_rate_head_1": 0.2 * factor,
                "learning_rate_body": 0.3 * factor,
                "learning_rate_head_2": 0.4 * factor,
            }
        )
        assert record["momentum_head_0"] == record["momentum_body"] == 0.5


def test_the_momentum_of_a_cycle_is_that_of_the_update(trainer_factory):
    if trainer_factory.framework != "pytorch":
        pytest.skip("a schedule of torch")
    torch = trainer_factory.torch
    model = trainer_factory.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=5)
    first = optimizer.param_groups[0]["momentum"]
    monitor = LearningRateMonitorCallback(momentum=True)
    trainer = trainer_factory(model=model, optimizers=(optimizer, schedule), callbacks=[monitor], **LINEAR)

    trainer.train()

    assert trainer.state.log_history[0]["momentum"] == first != trainer.state.log_history[1]["momentum"]


def test_a_rate_that_is_a_tensor_is_kept_as_it_was(trainer_factory):
    if trainer_factory.framework != "pytorch":
        pytest.skip("an optimizer of torch")
    torch = trainer_factory.torch
    model = trainer_factory.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.5), foreach=False)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    trainer = trainer_factory(model=model, optimizers=(optimizer, schedule), **LINEAR)

    trainer.train()

    assert records_of(trainer) == [0.5, 0.25, 0.125, 0.0625]
