"""The same seed gives the same bits."""

from __future__ import annotations

import pytest
from support.tf_models import run_alone

RETRACED = """
import keras
from support.arrays import classified
from support.tf_models import LOSS, weights_of
from trackside import TFTrainer, TFTrainingArguments
from keras import layers

def deep():
    keras.utils.set_random_seed(0)
    x = inputs = layers.Input((6,))
    for _ in range(12):
        x = layers.LayerNormalization()(layers.Dense(6)(x)) + x
    return keras.Model(inputs, layers.Dense(3)(x))

args = TFTrainingArguments("out", max_steps=2, save_strategy="no", disable_tqdm=True, full_determinism=True)
found = set()
for _ in range(4):
    trainer = TFTrainer(deep(), args, classified(20), loss_fn=LOSS)
    trainer.pop_callback("printer")
    trainer.train()
    found.add(weights_of(trainer.model).tobytes())
print("different:", len(found))
"""


@pytest.mark.slow
def test_with_full_determinism_every_trace_of_a_deep_model_gives_the_same_bits():
    assert "different: 1\n" in run_alone(RETRACED)
