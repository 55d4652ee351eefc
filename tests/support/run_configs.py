"""A run's configuration, the module that it names, and the message with which one is refused."""

from __future__ import annotations

import pytest

from trackside.callbacks.errors import ConfigError
from trackside.config.run_config import load_config

RUN = """\
model:
  class_path: parts_beside.Model
  init_args: {width: 4}
train_data: parts_beside.data
args:
  learning_rate: 3e-4
  max_steps: 10
callbacks:
  early_stopping:
    patience: 3
  csv:
"""

PARTS = """\
from collections.abc import Callable

class Model:
    def __init__(self, width: int, depth: int = 1, label: str = "", **kwargs):
        self.width, self.depth, self.label = width, depth, label

class Deep(Model):
    def __init__(self, layers: int = 2, **kwargs):
        super().__init__(**kwargs)
        self.layers = layers

class Whole:
    def __init__(self, part: Model, others: list[Model] = (), activation: Callable[[], list] = None):
        self.part, self.others, self.activation = part, others, activation

class Closed:
    def __init__(self, width: int):
        pass

class Behind(Closed):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)

def data(split="train"):
    return [split]

def loss(outputs, labels, weight: float = 1.0):
    return outputs * weight

class Loud:
    def __init__(self, volume: float = 0.5, name: str = "x"):
        self.volume = volume

    def on_log(self, args, state, control, **kwargs):
        pass
"""


def refused(text, *overrides, write=None, **options):
    """Return the message with which a configuration is refused, its components included."""
    with pytest.raises(ConfigError) as caught:
        load_config([write("run.yaml", text)], overrides, **options).components()
    return str(caught.value)
