"""An optimizer, a schedule or a model that is set on a trainer after its construction is that of the next run."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from trackside import TrainerCallback
from trackside.callbacks.errors import ArgumentError

OPTIONS = {"max_steps": 3, "save_strategy": "no", "logging_steps": 1}


def sgd(trainer_factory, model, rate=0.5):
    if trainer_factory.framework == "pytorch":
        return trainer_factory.torch.optim.SGD(model.parameters(), lr=rate)
    import keras

    return keras.optimizers.SGD(rate)


def constant(trainer_factory, optimizer, rate):
    """Return a schedule of the rate ``rate``, of an optimizer whose own is 0.5."""
    if trainer_factory.framework == "pytorch":
        return trainer_factory.torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate / 0.5)
    return lambda step: rate


def rates(trainer):
    return [record["learning_rate"] for record in trainer.state.log_history if "learning_rate" in record]


def given_at_construction(trainer_factory, *, scheduled):
    model = trainer_factory.model()
    optimizer = sgd(trainer_factory, model)
    schedule = constant(trainer_factory, optimizer, 0.25) if scheduled else None
    return trainer_factory(model=model, optimizers=(optimizer, schedule), **OPTIONS)


def set_afterwards(trainer_factory, *, scheduled):
    trainer = trainer_factory(model=trainer_factory.model(), **OPTIONS)
    trainer.optimizer = sgd(trainer_factory, trainer.model)
    if scheduled:
        trainer.lr_scheduler = constant(trainer_factory, trainer.optimizer, 0.25)
    return trainer


@pytest.mark.parametrize("scheduled", [False, True])
def test_what_is_set_trains_like_what_is_given(trainer_factory, scheduled):
    given, later = (make(trainer_factory, scheduled=scheduled) for make in (given_at_construction, set_afterwards))

    given.train()
    later.train()

    assert rates(later) == rates(given)
    assert rates(later)[0] == (0.25 if scheduled else 0.5)
    np.testing.assert_array_equal(trainer_factory.weights(later), trainer_factory.weights(given))


def test_an_optimizer_that_is_set_between_two_runs_is_that_of_the_second(trainer_factory):
    trainer = trainer_factory(**OPTIONS, learning_rate=0.125)
    trainer.train()
    made = rates(trainer)

    trainer.optimizer = sgd(trainer_factory, trainer.model)
    trainer.train()
    own = rates(trainer)
    trainer.optimizer = None
    trainer.train()

    assert (made[0], own[0]) == (0.125, 0.5)
    assert rates(trainer) == made


def test_another_model_and_its_optimizer_are_set_in_either_order(trainer_factory):
    expected = given_at_construction(trainer_factory, scheduled=False)
    expected.train()
    for names in (("model", "optimizer"), ("optimizer", "model")):
        trainer = trainer_factory(**OPTIONS)
        trainer.train()
        model = trainer_factory.model()
        parts = {"model": model, "optimizer": sgd(trainer_factory, model)}

        for name in names:
            setattr(trainer, name, parts[name])
        trainer.train()

        np.testing.assert_array_equal(trainer_factory.weights(trainer), trainer_factory.weights(expected))


def test_what_a_subclass_sets_in_its_constructor_is_used(trainer_factory):
    class Own(trainer_factory.trainer_class):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.optimizer = sgd(trainer_factory, self.model)

    trainer = trainer_factory(Own, **OPTIONS)
    trainer.train()

    assert rates(trainer)[0] == 0.5


def test_an_optimizer_that_create_optimizer_made_before_train_keeps_what_was_changed(trainer_factory):
    trainer = trainer_factory(**OPTIONS, optim="sgd", learning_rate=0.125, lr_scheduler_type="constant")

    optimizer = trainer.create_optimizer()
    if trainer_factory.framework == "pytorch":
        for group in optimizer.param_groups:
            group["lr"] = 0.25
    else:
        optimizer.learning_rate = 0.25
    trainer.train()

    assert trainer.optimizer is optimizer
    assert rates(trainer)[0] == 0.25


def test_a_copy_has_what_was_set(trainer_factory):
    trainer = set_afterwards(trainer_factory, scheduled=False)
    trainer.train()

    twin = copy.deepcopy(trainer)

    assert twin.optimizer is not None
    assert type(twin.optimizer) is type(trainer.optimizer)


def test_an_optimizer_beside_model_init_is_refused_as_it_is_at_construction(trainer_factory):
    trainer = trainer_factory(model=None, model_init=lambda: trainer_factory.model(), **OPTIONS)

    trainer.optimizer = sgd(trainer_factory, trainer.model)

    with pytest.raises(ArgumentError, match="none beside model_init"):
        trainer.train()


class Replaces(TrainerCallback):
    def __init__(self, name, value):
        self.name, self.value = name, value

    def on_step_end(self, args, state, control, trainer, **kwargs):
        if state.global_step == 1:
            setattr(trainer, self.name, self.value)


def test_an_optimizer_that_a_callback_sets_within_a_run_steps_from_then_on_and_is_resumed(trainer_factory, caplog):
    """The state of one is never loaded into another, which would write beyond the memory of smaller parameters."""
    options = {**OPTIONS, "max_steps": 5, "lr_scheduler_type": "constant", "save_strategy": "steps", "save_steps": 3}
    model, weights = trainer_factory.model(), {}
    trainer = trainer_factory(model=model, callbacks=[Replaces("optimizer", sgd(trainer_factory, model))], **options)
    trainer.on("on_step_end")(lambda trainer, state, **rest: weights.update({state.global_step: trainer_weights()}))

    def trainer_weights():
        return trainer_factory.weights(trainer)

    trainer.train()
    resumed = trainer_factory(**options)
    resumed.train(resume_from_checkpoint=str(trainer_factory.folder / "out" / "checkpoint-3"))

    assert caplog.text.count("trainer.optimizer was replaced within the run: this one steps from now on") == 1
    assert "that of the checkpoint is SGD; its state " in caplog.text
    assert type(trainer.optimizer).__name__ == "SGD"
    # SGD with the rate that it came with, or that of the schedule, moves as far as the gradient is long
    rate = rates(trainer)[-1]
    norms = [record["grad_norm"] for record in trainer.state.log_history if "grad_norm" in record]
    for step in (3, 4, 5):
        moved = float(((weights[step] - weights[step - 1]) ** 2).sum() ** 0.5)
        assert moved == pytest.approx(rate * min(norms[step - 1], 1.0), rel=1e-3)


def test_a_schedule_that_a_callback_sets_within_a_run_steps_from_then_on_and_is_told_by_a_save(trainer_factory, caplog):
    options = {**OPTIONS, "max_steps": 5, "learning_rate": 0.5, "optim": "sgd", "lr_scheduler_type": "constant"}
    options |= {"save_strategy": "steps", "save_steps": 2}
    trainer = trainer_factory(**options)

    @trainer.on("on_step_end")
    def replace(trainer, state, **rest):
        if state.global_step == 1:
            trainer.lr_scheduler = constant(trainer_factory, trainer.optimizer, 0.25)

    trainer.train()
    resumed = trainer_factory(**options)
    resumed.train(resume_from_checkpoint=str(trainer_factory.folder / "out" / "checkpoint-2"))

    assert rates(trainer)[2:] == [0.25] * 3
    assert caplog.text.count("trainer.lr_scheduler was replaced within the run") == 1
    assert rates(resumed)[2:] == [0.5] * 3
    assert "learning rate" in caplog.text.partition("resuming: ")[2]


def test_a_model_that_a_callback_sets_within_a_run_is_told_once_and_the_first_is_trained(trainer_factory, caplog):
    model, other = trainer_factory.model(), trainer_factory.model()
    data = trainer_factory.dataset(20)  # with a last batch that is smaller, for which the step is traced anew
    options = {**OPTIONS, "max_steps": 6}
    plain = trainer_factory(train_dataset=data, **options)
    trainer = trainer_factory(model=model, train_dataset=data, callbacks=[Replaces("model", other)], **options)

    plain.train()
    trainer.train()

    assert (
        caplog.text.count("trainer.model was replaced within the run: evaluations and checkpoints have this one") == 1
    )
    assert trainer.model is other
    trainer.model = model
    assert (trainer_factory.weights(trainer) == trainer_factory.weights(plain)).all()


def test_arguments_that_are_set_after_their_construction_are_converted_and_checked(trainer_factory, caplog):
    args = trainer_factory.args_class(output_dir=str(trainer_factory.folder / "out"), save_strategy="no")
    args.max_steps, args.lerning_rate, args.classes = "2", 0.1, 3
    trainer = trainer_factory.trainer_class(trainer_factory.model(), args, train_dataset=trainer_factory.dataset(8))

    assert (trainer.args.max_steps, type(trainer.args.max_steps)) == (2, int)
    assert caplog.text.count("which is not a field of it and has no effect") == 1
    assert "args has 'lerning_rate'" in caplog.text
    args.max_steps = "many"
    with pytest.raises(ArgumentError, match="max_steps='many' is not allowed"):
        trainer_factory.trainer_class(trainer_factory.model(), args)
