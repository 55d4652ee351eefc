"""Private names of Keras and TensorFlow: they are there, and what stands in for each gives the same."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.tf_models import mlp
from tensorflow.python.framework import random_seed
from tensorflow.python.ops.parallel_for import control_flow_ops, pfor

from trackside.trainer.tensorflow import _compat
from trackside.trainer.tensorflow.data.shuffling import Shuffling
from trackside.trainer.tensorflow.draws.operations import DRAWN_BY, patched
from trackside.trainer.tensorflow.optim import _compat as optimizers_compat
from trackside.trainer.tensorflow.optim.torch_parity import SGD, AdamW


def built(optimizer):
    model = mlp()
    optimizer.build(model.trainable_variables)
    return optimizer, model.trainable_variables


class Nested(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.norm = mlp(), keras.layers.LayerNormalization()

    def call(self, x):
        return self.norm(self.first(x))


@pytest.mark.parametrize("model", [mlp(), Nested()], ids=["sequential", "nested"])
def test_the_layers_of_a_model_are_found_with_and_without_the_private_name(model):
    assert {id(layer) for layer in _compat._walk(model)} <= {id(layer) for layer in _compat.layers_of(model)}
    assert set(map(id, model.layers)) <= set(map(id, _compat._walk(model)))
    assert hasattr(model, "_flatten_layers")


def test_the_variables_of_a_layer_are_its_own():
    model = Nested()
    model(np.zeros((1, 6), np.float32))

    assert [v.path for v in _compat.own_trainable_variables(model.norm)] == [
        v.path for v in model.norm.trainable_variables
    ]
    assert _compat.own_trainable_variables(model) == []


def test_the_inputs_of_a_functional_model_are_known_and_those_of_others_are_not():
    assert tuple(tf.nest.flatten(_compat.input_structure(mlp()))[0].shape) == (None, 6)
    assert _compat.input_structure(Nested()) is None


def test_a_variable_knows_its_strategy():
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        inside = keras.Variable(np.zeros(3))

    assert _compat.strategy_of(inside) is strategy
    assert _compat.strategy_of(keras.Variable(np.zeros(3))) is None


def test_keras_is_kept_from_summing_gradients():
    class Other:
        pass

    optimizer = keras.optimizers.SGD()

    assert optimizers_compat.skip_gradient_reduction(optimizer)
    assert optimizer._all_reduce_sum_gradients([1, 2]) == [1, 2]
    assert not optimizers_compat.skip_gradient_reduction(Other())


def test_a_schedule_of_keras_is_told_from_a_rate():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)

    assert optimizers_compat.has_keras_schedule(keras.optimizers.SGD(schedule))
    assert not optimizers_compat.has_keras_schedule(keras.optimizers.SGD(0.1))


@pytest.mark.parametrize("optimizer", [AdamW(), SGD(momentum=0.9)])
def test_the_slots_of_a_variable_are_found_by_their_names_too(optimizer, monkeypatch):
    optimizer, variables = built(optimizer)
    names = ["momentum", "velocity"] if isinstance(optimizer, AdamW) else ["momentum"]
    found = [optimizers_compat.slot_of(optimizer, variable, name) for variable in variables for name in names]

    monkeypatch.delattr(keras.src.optimizers.base_optimizer.BaseOptimizer, "_get_variable_index")

    assert [optimizers_compat.slot_of(optimizer, variable, name) for variable in variables for name in names] == found


def test_weight_decay_leaves_out_what_was_excluded_and_without_the_private_name_biases(monkeypatch):
    optimizer, variables = SGD(weight_decay=0.1), mlp().trainable_variables
    optimizer.exclude_from_weight_decay(var_list=[v for v in variables if "bias" in v.name])
    optimizer.build(variables)
    decayed = [optimizers_compat.takes_weight_decay(optimizer, variable) for variable in variables]

    monkeypatch.delattr(keras.src.optimizers.base_optimizer.BaseOptimizer, "_use_weight_decay")

    assert decayed == [True, False, True, False]
    assert [optimizers_compat.takes_weight_decay(optimizer, variable) for variable in variables] == decayed


def test_keras_does_not_take_off_the_weight_decay_of_a_coupled_optimizer():
    assert hasattr(keras.optimizers.Optimizer, "_apply_weight_decay")
    assert SGD._apply_weight_decay is optimizers_compat.OwnWeightDecay._apply_weight_decay


def test_the_dataset_below_a_dataset_is_known():
    below = tf.data.Dataset.range(3)

    assert list(_compat.inputs_of(below.prefetch(1))) == [below]
    assert _compat.inputs_of(object()) == ()


def test_without_the_operation_for_shuffling_by_index_examples_are_held(monkeypatch):
    dataset = tf.data.Dataset.range(9).map(lambda number: tf.fill((2**18,), number))
    assert Shuffling(dataset, 9, 1).by_index

    monkeypatch.setitem(sys.modules, "tensorflow.python.data.experimental.ops.global_shuffle_op", None)

    assert not Shuffling(dataset, 9, 1).by_index


def test_random_operations_are_added_by_functions_that_can_be_replaced():
    for kind in DRAWN_BY:
        modules = [module.__name__.rsplit(".", 1)[-1] for module, _ in _compat.random_functions(kind)]

        assert len(modules) == 2, kind
        assert modules[-1] == "raw_ops"


def test_what_is_patched_while_a_step_is_traced_is_as_it_was_afterwards():
    def found():
        functions = [getattr(*place) for kind in DRAWN_BY for place in _compat.random_functions(kind)]
        return [random_seed.get_seed, control_flow_ops._pfor_impl, pfor._create_op, *functions]

    before = found()
    with patched(lambda given: tf.constant([1, 2])):
        assert not {*map(id, found())} & {*map(id, before)}

    assert found() == before
