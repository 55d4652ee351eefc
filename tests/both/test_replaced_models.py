"""A trainer lets go of its model, and goes on with another one."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from trackside import TrainerCallback

OPTIONS = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "save_strategy": "epoch", "eval_strategy": "epoch"}


def used(trainer_factory, **options):
    """Return a trainer that has trained, evaluated and predicted."""
    trainer = trainer_factory(eval_dataset=trainer_factory.dataset(8, seed=1), **{**OPTIONS, **options})
    trainer.train()
    trainer.evaluate()
    trainer.predict(trainer_factory.dataset(4))
    return trainer


def doubled(trainer_factory):
    """Return another model with other weights."""
    model = trainer_factory.model()
    if trainer_factory.framework == "pytorch":
        with trainer_factory.torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2)
    else:
        model.set_weights([2 * value for value in model.get_weights()])
    return model


def forget(trainer):
    trainer.model = None


def delete(trainer):
    del trainer.model


@pytest.mark.parametrize("let_go", [forget, delete])
def test_a_model_is_freed_when_the_trainer_has_none(trainer_factory, let_go):
    trainer = used(trainer_factory)
    reference, optimizer = weakref.ref(trainer.model), weakref.ref(trainer.optimizer)

    let_go(trainer)
    gc.collect()

    assert reference() is None
    assert optimizer() is None
    assert trainer.model is trainer.model_wrapped is None
    for method in (trainer.train, trainer.evaluate, lambda: trainer.predict(trainer_factory.dataset(4))):
        with pytest.raises(TypeError, match=r"needs model, .* or model_init; it got NoneType"):
            method()


def test_the_training_data_is_freed_with_its_attribute_and_the_model(trainer_factory):
    if trainer_factory.framework == "tensorflow":
        dataset = trainer_factory.parts.tf.data.Dataset.from_tensor_slices(trainer_factory.dataset(16))
    else:
        dataset = trainer_factory.dataset(16)
    trainer = trainer_factory(train_dataset=dataset, **{**OPTIONS, "eval_strategy": "no"})
    trainer.train()
    reference = weakref.ref(dataset)

    trainer.model = trainer.train_dataset = None
    del dataset
    gc.collect()

    assert reference() is None


def test_another_model_is_trained_evaluated_and_used_to_predict(trainer_factory):
    options = {**OPTIONS, "save_strategy": "no"}
    test, held_out = trainer_factory.dataset(4), trainer_factory.dataset(8, seed=1)
    fresh = trainer_factory(model=doubled(trainer_factory), eval_dataset=held_out, **options)
    expected = [fresh.evaluate()["eval_loss"], fresh.predict(test).predictions]
    fresh.train()
    trainer = used(trainer_factory, **options)
    reference = weakref.ref(trainer.model)

    trainer.model = doubled(trainer_factory)
    gc.collect()

    assert reference() is None
    assert trainer.evaluate()["eval_loss"] == expected[0]
    np.testing.assert_array_equal(trainer.predict(test).predictions, expected[1])
    trainer.train()
    np.testing.assert_array_equal(trainer_factory.weights(trainer), trainer_factory.weights(fresh))
    assert trainer.model_wrapped is trainer.model


class Given(TrainerCallback):
    def __init__(self):
        self.models = []

    def on_evaluate(self, args, state, control, model, **kwargs):
        self.models.append(model)


def test_callbacks_get_the_other_model(trainer_factory):
    given = Given()
    trainer = trainer_factory(eval_dataset=trainer_factory.dataset(8), callbacks=[given])

    trainer.evaluate()
    trainer.model = other = doubled(trainer_factory)
    trainer.evaluate()

    assert given.models[0] is not other
    assert given.models[1] is other


def test_a_subclass_may_swap_models_for_an_evaluation(trainer_factory):
    other = doubled(trainer_factory)

    class Swapping(trainer_factory.trainer_class):
        def evaluate(self, *args, **kwargs):
            trained, self.model = self.model, other
            try:
                return super().evaluate(*args, **kwargs)
            finally:
                self.model = trained

    data = {"eval_dataset": trainer_factory.dataset(8), "num_train_epochs": 2, "eval_strategy": "epoch"}
    plain = trainer_factory(**data)
    plain.train()

    trainer = trainer_factory(Swapping, **data)
    trainer.train()

    losses = [record["eval_loss"] for record in trainer.state.log_history if "eval_loss" in record]
    assert losses[0] == losses[1]
    np.testing.assert_array_equal(trainer_factory.weights(trainer), trainer_factory.weights(plain))


def test_what_is_not_a_model_is_refused(trainer_factory):
    trainer = trainer_factory()

    with pytest.raises(TypeError, match=r"needs model, .*; it got str"):
        trainer.model = "other"
