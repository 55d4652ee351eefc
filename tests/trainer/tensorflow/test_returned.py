"""What an override of TFTrainer returns in the place of its result is an error that names it."""

from __future__ import annotations

import pytest

from trackside import TFTrainer


class Returns(TFTrainer):
    def run_model(self, features, labels, training):
        loss, logits = super().run_model(features, labels, training)
        return loss if self.what == "the loss" else (loss, logits)

    def training_step(self, features, labels, nb_instances_in_global_batch):
        gradients = super().training_step(features, labels, nb_instances_in_global_batch)
        return {"nothing": None, "too few": gradients[1:]}.get(self.what, gradients)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("the loss", r"Returns.run_model\(\) returned float32 \(batch\); it returns a pair"),
        (
            "nothing",
            r"Returns.training_step\(\) returned NoneType; it returns the gradients of the \d trainable",
        ),
        ("too few", r"Returns.training_step\(\) returned \d values; it returns the gradients"),
    ],
)
def test_what_an_override_returns_instead_is_named(make_trainer, what, message):
    Returns.what = what

    with pytest.raises(TypeError, match=message):
        make_trainer(Returns, max_steps=1).train()
