"""State of a Keras model: its weights by layer, the state that Keras leaves out, and its random number generators.

Keras saves what its layers track. A run also depends on state that they do not track, such as the states of a stateful
RNN, a ``tf.Variable`` in an attribute, or a layer in an object of the user; it is found in the layers' attributes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ...data.sharding import derive_seed
from .._compat import global_seed_generator, layers_of, strategy_of

LIBRARIES = ("builtins", "keras", "tensorflow", "numpy", "trackside", "threading", "_thread")
"""Packages whose objects are not searched for variables."""

PLAIN = (str, bytes, int, float, type(None), np.ndarray, tf.Tensor, keras.optimizers.Optimizer)
"""Types that hold no state of a model."""

Named = dict[str, Any]
"""Values by unique names, which are the same in every process."""


def weights_of(model: Any) -> Named:
    """Return what each layer saves of itself, by index, class, key and name."""
    found: Named = {}
    for index, layer in enumerate(layers_of(model)):
        store: dict[str, Any] = {}
        layer.save_own_variables(store)
        for key, value in store.items():
            found[f"{index:04d}.{type(layer).__name__}.{key}.{_plain_name(value)}"] = value
    return found


def everything(model: Any) -> Named:
    """Return weights and other variables by name."""
    saved = weights_of(model)
    return {**saved, **_rest_of_weights(model, saved), **other_variables(model)}


def load(model: Any, arrays: Named) -> list[str]:
    """Restore what `everything` returned; return the names of other variables that the model does not have."""
    stores: dict[int, dict[str, Any]] = {}
    for name, array in arrays.items():
        if not is_other(name):
            index, _, key, _ = name.split(".")
            stores.setdefault(int(index), {})[key] = array
    layers = layers_of(model)
    for number, store in stores.items():
        layers[number].load_own_variables(store)
    others = {**_rest_of_weights(model, weights_of(model)), **other_variables(model)}
    for name, variable in others.items():
        if name in arrays:
            assign(variable, arrays[name])
    return sorted(name for name in arrays if is_other(name) and name not in others)


def _rest_of_weights(model: Any, saved: Named) -> Named:
    """Return the weights that no layer saves as they are: with LoRA, Keras saves their product with the kernel."""
    known = _ids(list(saved.values()))
    rest = [(index, weight) for index, weight in enumerate(model.weights) if not known & _ids([weight])]
    return {f"other.weight{index:04d}.{_plain_name(weight)}": weight for index, weight in rest}


def is_other(name: str) -> bool:
    """Return whether a name is not one of `weights_of`."""
    return name.startswith("other.")


def other_variables(model: Any) -> Named:
    """Return the variables of a model that are neither weights nor states of generators, by index and name."""
    inside = _found_in(model)
    known = _ids([*model.weights, *_generator_states(model, inside)])
    found = [variable for variable in _unique([*model.variables, *inside]) if not known & _ids([variable])]
    return {f"other.{index:04d}.{_plain_name(variable)}": variable for index, variable in enumerate(found)}


def generator_states(model: Any) -> list[Any]:
    """Return the state variables of the random number generators in a model, such as those of dropout."""
    return _generator_states(model, _found_in(model))


def _generator_states(model: Any, inside: list[Any]) -> list[Any]:
    weights = {id(variable) for variable in model.weights}
    own = [state for state in model.variables if id(state) not in weights and _is_seed(state)]
    return _unique([*own, *(state for state in inside if _is_seed(state))])


def seed_generators(model: Any, seed: int) -> None:
    """Seed all generators that a model draws from by ``seed`` and their positions in the model."""
    for index, state in enumerate([*generator_states(model), global_seed_generator().state]):
        assign(state, [derive_seed(seed, index) % 2**31, *[0] * (state.shape[0] - 1)])


def assign(variable: Any, value: Any) -> None:
    """Assign an array or a list to a variable."""
    variable.assign(np.asarray(value, dtype=tf.as_dtype(variable.dtype).as_numpy_dtype))


def states_of(model: Any) -> list[Any]:
    """Return the variables that a call of the model may change; not those of frozen layers, which nothing changes."""
    own = [v for layer in layers_of(model) if layer.trainable for v in layer.non_trainable_variables]
    return _unique([*own, *other_variables(model).values()])


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Return a context in which the model is called, but keeps its states, such as those of a stateful RNN."""
    before = [(part, held(part)) for part in parts_of(states_of(model))]
    try:
        yield
    finally:
        for part, value in before:
            part.assign(value)


def parts_of(variables: Iterable[Any]) -> list[Any]:
    """Return the variables of the replicas of this process: each has running statistics of its own."""
    found: list[Any] = []
    for variable in variables:
        own, strategy = _of_tensorflow(variable), strategy_of(variable)
        found += [own] if strategy is None else strategy.experimental_local_results(own)
    return found


def held(variable: Any) -> Any:
    """Return the current value of a variable; it costs nothing, since the next assignment makes a new buffer."""
    return tf.convert_to_tensor(_of_tensorflow(variable)) if is_variable(variable) else variable


def _of_tensorflow(variable: Any) -> Any:
    """Return the tf.Variable in a variable of Keras, or the tf.Variable that is given."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def is_variable(value: Any) -> bool:
    """Return whether a value is a variable of Keras or TensorFlow."""
    return isinstance(value, (keras.Variable, tf.Variable))


def _plain_name(value: Any) -> str:
    """Return the name of a variable without the counters of Keras, which differ between runs."""
    return re.sub(r"[_:]\d+", "", getattr(value, "name", "value")).replace(".", "_")


def _is_seed(variable: Any) -> bool:
    name = str(getattr(variable, "path", variable.name))
    return name.endswith("seed_generator_state") or name.split(":")[0].split("/")[-1] == "StateVar"


def variables_of(model: Any) -> list[Any]:
    """Return all variables of a model, those in the attributes of its layers included."""
    return _unique([*model.variables, *_found_in(model)])


def _found_in(model: Any) -> list[Any]:
    """Return the variables in the attributes of the layers, at any depth, in a fixed order."""
    layers = layers_of(model)
    seen = {id(layer) for layer in layers}
    return [v for layer in layers for v in _parts_in(_own_attributes(layer), seen)]


def _variables_in(value: Any, seen: set[int]) -> Iterator[Any]:
    if id(value) in seen or isinstance(value, PLAIN):
        return
    seen.add(id(value))
    if is_variable(value):
        yield value
    elif isinstance(value, (tf.random.Generator, keras.random.SeedGenerator)):
        yield value.state
    elif isinstance(value, keras.Layer):
        yield from value.variables
        for layer in layers_of(value):
            yield from _parts_in(_own_attributes(layer), seen)
    elif isinstance(value, Mapping):
        yield from _parts_in(value.values(), seen)
    elif isinstance(value, (list, tuple, set)):
        yield from _parts_in(value, seen)
    elif hasattr(value, "__dict__") and not isinstance(value, type) and _package(value) not in LIBRARIES:
        yield from _parts_in(vars(value).values(), seen)


def _own_attributes(layer: Any) -> list[Any]:
    """Return the attributes of a layer that Keras does not give to every layer."""
    return [value for name, value in vars(layer).items() if name not in _attributes_of_all()]


@cache
def _attributes_of_all() -> frozenset[str]:
    return frozenset(vars(keras.Layer(name="layer"))) | frozenset(vars(keras.Sequential(name="model")))


def _package(value: Any) -> str:
    return type(value).__module__.split(".")[0]


def _parts_in(parts: Any, seen: set[int]) -> Iterator[Any]:
    for part in list(parts):
        yield from _variables_in(part, seen)


def _unique(variables: list[Any]) -> list[Any]:
    """Return the variables without repetitions; a Keras variable and the tf.Variable in it are the same."""
    seen: set[int] = set()
    kept = []
    for variable in variables:
        if not seen & _ids([variable]):
            kept.append(variable)
        seen |= _ids([variable])
    return kept


def _ids(variables: list[Any]) -> set[int]:
    return {id(part) for variable in variables for part in (variable, _of_tensorflow(variable))}
