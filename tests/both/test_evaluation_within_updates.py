"""An evaluation or a prediction in the middle of an update leaves the update as it was."""

from __future__ import annotations

import numpy as np
import pytest

from trackside import TrainerCallback
from trackside.callbacks.errors import BusyError

ARGUMENTS = {"max_steps": 4, "gradient_accumulation_steps": 3, "save_strategy": "no", "logging_steps": 2}


def trained(factory, callbacks=(), cls=None):
    """Train a model with dropout, and return its weights and records."""
    data = factory.dataset(24, seed=1)
    trainer = factory(
        cls=cls, model=factory.model(dropout=0.5), eval_dataset=data, callbacks=list(callbacks), **ARGUMENTS
    )
    trainer.train()
    records = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    return [np.asarray(weight) for weight in factory.weights(trainer)], records


@pytest.mark.parametrize("act", ["evaluate", "predict"])
@pytest.mark.parametrize("event", ["on_substep_end", "on_pre_optimizer_step", "on_optimizer_step"])
def test_in_an_event_of_an_update(trainer_factory, event, act):
    class Asks(TrainerCallback):
        def ask(self, args, state, control, *, trainer, **kwargs):
            found = trainer.evaluate() if act == "evaluate" else trainer.predict(trainer.eval_dataset).metrics
            self.metrics = found

    setattr(Asks, event, Asks.ask)
    asks = Asks()

    weights, losses = trained(trainer_factory)
    with_asking, other_losses = trained(trainer_factory, [asks])

    assert asks.metrics
    assert other_losses == losses
    for one, other in zip(weights, with_asking, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("method", ["compute_loss", "training_step"])
def test_within_a_method_of_the_step(trainer_factory, method):
    class Asks(trainer_factory.trainer_class):
        asked = 0

        def ask(self, *inputs, **options):
            if not self.asked:
                Asks.asked = 1
                self.evaluate()
            return getattr(super(), method)(*inputs, **options)

    setattr(Asks, method, Asks.ask)
    weights, losses = trained(trainer_factory)

    if trainer_factory.framework == "tensorflow":  # which traces both methods: there are no values yet
        with pytest.raises(BusyError, match=r"cannot be called within a function that TensorFlow traces"):
            trained(trainer_factory, cls=Asks)
        return
    with_asking, other_losses = trained(trainer_factory, cls=Asks)

    assert other_losses == losses
    for one, other in zip(weights, with_asking, strict=True):
        np.testing.assert_array_equal(one, other)
