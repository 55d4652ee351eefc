"""The variables of an optimizer that is built for more of a model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from support.tf_models import mlp, tf

from trackside.trainer.tensorflow.optim.slots import rebuild, variables_to_build

OPTIMIZERS: dict[str, Any] = {
    "SGD": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "RMSprop": lambda: keras.optimizers.RMSprop(0.1, momentum=0.5, centered=True),
    "amsgrad": lambda: keras.optimizers.Adam(0.1, amsgrad=True),
    "accumulating": lambda: keras.optimizers.Adam(0.1, gradient_accumulation_steps=2),
    "averaged": lambda: keras.optimizers.Adam(0.1, use_ema=True),
    **{
        name: getattr(keras.optimizers, name)
        for name in ("Adadelta", "Adafactor", "Adagrad", "Adamax", "Ftrl", "Lamb", "Lion", "Muon", "Nadam")
        if hasattr(keras.optimizers, name)
    },
}


def step(optimizer: Any, variables: list[Any]) -> None:
    optimizer.apply([tf.fill(each.shape, 0.5) for each in variables], variables)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_of_keras_goes_on_with_what_it_had_after_it_is_built_for_more(name):
    grown, plain = OPTIMIZERS[name](), OPTIMIZERS[name]()
    models = mlp(), mlp()
    heads = [model.layers[-1].trainable_variables for model in models]
    for optimizer, head in zip((grown, plain), heads, strict=True):
        optimizer.build(head)
        for _ in range(3):
            step(optimizer, head)

    models[0].layers[0].trainable = True
    rebuild(grown, models[0], variables_to_build(grown, models[0]))
    for optimizer, head in zip((grown, plain), heads, strict=True):
        step(optimizer, head)

    for one, two in zip(*heads, strict=True):
        np.testing.assert_array_equal(one, two)
    before = np.array(models[0].layers[0].kernel)
    step(grown, models[0].trainable_variables)
    assert len(grown.variables) >= len(plain.variables)
    if name != "accumulating":
        assert not np.array_equal(before, models[0].layers[0].kernel)


def test_the_average_of_an_unfrozen_weight_begins_with_the_weight():
    optimizer, model = keras.optimizers.SGD(0.0, use_ema=True, ema_momentum=0.5), mlp()
    optimizer.build(model.layers[-1].trainable_variables)
    step(optimizer, model.layers[-1].trainable_variables)
    kernel = np.array(model.layers[0].kernel)

    rebuild(optimizer, model, model.trainable_variables)
    step(optimizer, model.trainable_variables)
    optimizer.finalize_variable_values(model.trainable_variables)

    np.testing.assert_array_equal(kernel, model.layers[0].kernel)
