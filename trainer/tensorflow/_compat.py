"""Compatibility with Keras and TensorFlow: private names, each with a fallback, and errors without their own type."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

# -- models -----------------------------------------------------------------------------------------------------------


def layers_of(layer: Any) -> list[Any]:
    """Return a layer or model, and every layer inside it, at any depth."""
    flatten = getattr(layer, "_flatten_layers", None)
    return list(_walk(layer)) if flatten is None else list(flatten())


def _walk(layer: Any) -> Iterator[Any]:
    yield layer
    for part in getattr(layer, "layers", ()):
        yield from _walk(part)


def own_trainable_variables(layer: Any) -> list[Any]:
    """Return the trainable variables of a layer, without those of layers inside it."""
    return list(getattr(layer, "_trainable_variables", layer.trainable_variables))


def input_structure(model: Any) -> Any:
    """Return the nested inputs that a functional model takes; None if unknown."""
    return getattr(getattr(model, "_functional", None) or model, "_inputs_struct", None)


def input_names(model: Any) -> list[str]:
    """Return the names of the inputs that a functional model takes; empty if unknown."""
    taken = input_structure(model)
    if taken is None:
        return []
    return list(taken) if isinstance(taken, dict) else [leaf.name for leaf in tf.nest.flatten(taken)]


def strategy_of(variable: Any) -> Any:
    """Return the tf.distribute.Strategy under which a variable, of Keras or not, was created; None without one."""
    of_keras = getattr(variable, "value", None)
    return getattr(variable, "_distribute_strategy", None) or getattr(of_keras, "_distribute_strategy", None)


def global_seed_generator() -> Any:
    """Return the generator from which Keras draws where no seed is given; made if it does not exist."""
    from keras.src.random import seed_generator

    return seed_generator.global_seed_generator()


def global_seed() -> int | None:
    """Return the seed that ``tf.random.set_seed`` set; None if there is none."""
    from tensorflow.python.eager import context

    seed = context.global_seed()
    return None if seed is None else int(seed)


# -- losses -----------------------------------------------------------------------------------------------------------


def keras_mask(nested: Any) -> Any:
    """Return the mask that Keras keeps with a tensor; None without one, or for nested tensors."""
    return getattr(nested, "_keras_mask", None)


def with_mask_of(source: Any, tensor: Any) -> Any:
    """Return ``tensor``, made from ``source``, with the mask that Keras keeps with ``source``."""
    mask = keras_mask(source)
    if mask is not None:
        tensor._keras_mask = mask
    return tensor


def keras_step(model: Any, name: str) -> Any:
    """Return a method of ``keras.Model`` that the class of a model overrides, such as ``train_step``; None if not."""
    own = getattr(type(model), name, None)
    is_of_keras = str(getattr(own, "__module__", "keras")).split(".")[0] == "keras"
    is_own = not is_of_keras or name in getattr(model, "__dict__", {})
    return getattr(model, name) if is_own else None


def call_compute_loss(model: Any, x: Any, y: Any, y_pred: Any, sample_weight: Any, training: bool) -> Any:
    """Call a model's ``compute_loss``, which took no ``training`` before Keras 3.3."""
    call = getattr(model, "_compute_loss", model.compute_loss)
    return call(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)


# -- random operations ------------------------------------------------------------------------------------------------


class Unseeded(int):
    """A seed that TensorFlow chose for an operation without one of the user."""


def random_functions(kind: str) -> list[tuple[Any, str]]:
    """Return the modules and names of the functions that add an operation of ``kind`` to a graph."""
    from tensorflow.python.ops import gen_image_ops, gen_random_ops

    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower()
    places = [(gen_random_ops, name), (gen_image_ops, name), (tf.raw_ops, kind)]
    return [(module, attribute) for module, attribute in places if hasattr(module, attribute)]


def telling_seeds() -> Callable[[], None]:
    """Let TensorFlow mark the seeds that it chooses as `Unseeded`; return a function that undoes it."""
    from tensorflow.python.framework import random_seed

    original = random_seed.get_seed

    def get_seed(op_seed: Any) -> Any:
        seeds = original(op_seed)
        return tuple(Unseeded(seed or 0) for seed in seeds) if op_seed is None and seeds[1] is not None else seeds

    random_seed.get_seed = get_seed
    return partial(setattr, random_seed, "get_seed", original)


def vectorizing(within: Callable[[Callable[..., Any]], Callable[..., Any]], create: Any) -> Callable[[], None]:
    """Let ``tf.vectorized_map`` and related functions report what they do; return a function that undoes it.

    Args:
        within: Wraps the function whose operations they convert.
        create: Called with the kind, inputs and attributes of each operation that they add; returns its outputs, or
            None where TensorFlow is to add it.
    """
    from tensorflow.python.ops.parallel_for import control_flow_ops, pfor

    implementation, original = control_flow_ops._pfor_impl, pfor._create_op

    def convert(loop_fn: Any, *args: Any, **kwargs: Any) -> Any:
        return implementation(within(loop_fn), *args, **kwargs)

    def create_op(op_type: str, inputs: Any, op_dtypes: Any, attrs: Any = None) -> Any:
        outputs = create(op_type, inputs, attrs)
        return original(op_type, inputs, op_dtypes, attrs) if outputs is None else SimpleNamespace(outputs=outputs)

    control_flow_ops._pfor_impl, pfor._create_op = convert, create_op

    def undo() -> None:
        control_flow_ops._pfor_impl, pfor._create_op = implementation, original

    return undo


# -- functions --------------------------------------------------------------------------------------------------------


def flat_call(function: Any) -> Callable[[list[Any]], Any]:
    """Return a call of a tf.types.experimental.ConcreteFunction with flat tensors, which skips checks of arguments.

    They take as much time as the step of a small model.
    """
    if not hasattr(function, "_call_flat") or not hasattr(function, "captured_inputs"):
        return lambda tensors: function(*tensors)
    captured = function.captured_inputs
    return lambda tensors: function._call_flat(tensors, captured)


# -- datasets ---------------------------------------------------------------------------------------------------------


def inputs_of(dataset: Any) -> Sequence[Any]:
    """Return the datasets from which a tf.data.Dataset reads; empty if unknown."""
    return dataset._inputs() if hasattr(dataset, "_inputs") else ()


def captures_of(dataset: Any) -> dict[str, list[Any]]:
    """Return the variables' handles that the functions of a tf.data.Dataset use, by the name of the function."""
    found: dict[str, list[Any]] = {}
    for wrapper in dataset._functions() if hasattr(dataset, "_functions") else ():
        function = wrapper.function
        name = function.name.decode() if isinstance(function.name, bytes) else function.name
        found[name] = [tensor for tensor in function.captured_inputs if tensor.dtype == tf.resource]
    for part in inputs_of(dataset):
        found |= captures_of(part)
    return found


def may_be_random(dataset: Any) -> bool:
    """Return whether a tf.data.Dataset has a function, or an operation that draws numbers; True if unknown."""
    if not hasattr(dataset, "_inputs") or not hasattr(dataset, "_functions"):
        return True
    name = type(dataset).__name__
    own = dataset._functions() or any(word in name for word in ("Shuffle", "Random", "Generator", "Variant"))
    return bool(own) or any(map(may_be_random, dataset._inputs()))


def slices_of(dataset: Any) -> Any:
    """Return the nested arrays of a ``tf.data.Dataset.from_tensor_slices`` of dense numbers; None for others."""
    specs, tensors = tf.nest.flatten(dataset.element_spec), getattr(dataset, "_tensors", None)
    if type(dataset).__name__.strip("_") != "TensorSliceDataset" or tensors is None or len(tensors) != len(specs):
        return None
    if not all(type(spec) is tf.TensorSpec and np.dtype(spec.dtype.as_numpy_dtype).kind in "biufc" for spec in specs):
        return None
    return tf.nest.pack_sequence_as(dataset.element_spec, [np.asarray(tensor) for tensor in tensors])


def shuffled_by_index(dataset: Any, seed: int) -> Any:
    """Return a tf.data.Dataset whose source is read in an order of ``seed``, so that no example is held in a buffer.

    Raises:
        tf.errors.OpError: If one of its transformations cannot give an element by its index; some raise at the
            first element.
        ImportError: If this version of TensorFlow has no such operation.
    """
    from tensorflow.python.data.experimental.ops.global_shuffle_op import _global_shuffle

    return _global_shuffle(dataset, seed=seed, reshuffle_each_iteration=False)


class PythonFunction(NamedTuple):
    """A function that ``tf.numpy_function`` or a related operation calls, and how it is replaced."""

    original: Callable[..., Any]
    replace: Callable[[Callable[..., Any]], None]


def python_function(token: bytes) -> PythonFunction | None:
    """Return the function that an operation calls, by the operation's token; None if unknown."""
    from tensorflow.python.ops import script_ops

    functions = getattr(getattr(script_ops, "_py_funcs", None), "_funcs", {})
    key = token if token in functions else token.decode()
    found: Any = functions.get(key)
    if found is None:
        return None
    if hasattr(found, "_func"):  # of tf.py_function
        return PythonFunction(_unwrapped(found._func), partial(setattr, found, "_func"))
    kept: list[Any] = []  # the functions are held weakly

    def replace(function: Callable[..., Any]) -> None:
        kept[:] = [function]
        functions[key] = function

    return PythonFunction(_unwrapped(found), replace)


def _unwrapped(function: Any) -> Any:
    return getattr(function, "__wrapped__", function) if getattr(function, "is_of_stream", False) else function


# -- errors -----------------------------------------------------------------------------------------------------------

MISFITS = (
    "Invalid input shape",
    "expected structure",
    "incompatible with the layer",
    "but it received",
    "missing a required argument",
    "Missing data for input",
    "shape with unknown rank",
    "Iterating over a symbolic",
)


def is_misfit(error: TypeError | ValueError) -> bool:
    """Return whether Keras reports that a model does not accept its inputs."""
    return any(words in str(error) for words in MISFITS)


def sentence_of(error: BaseException) -> str:
    """Return the bold sentence of a Keras error, or else the entire error, on one line without a final period."""
    found = re.search(r"\x1b\[1m(.*?)\x1b\[0m", str(error), re.DOTALL)
    return " ".join((found.group(1) if found else str(error)).split()).removesuffix(".")


def label_out_of_range(error: BaseException) -> str | None:
    """Return TensorFlow's message about a label outside the classes of a model; None for other errors."""
    text = str(error)
    found = re.search(r"a label value of .*? outside the valid range of \[.*?\)", text)
    if found is None and "SparseSoftmaxCrossEntropyWithLogits" in text:  # the deterministic kernel
        found = re.search(r"= (-?\d+) is not in (\[0, \d+\))", text)
        return f"a label value of {found[1]} which is outside the valid range of {found[2]}" if found else None
    return found.group(0) if found else None


def unequal_shapes(error: BaseException) -> list[str] | None:
    """Return two shapes of examples that TensorFlow could not batch; None for other errors."""
    found = re.search(r"Cannot (?:batch tensors|add tensor to the batch).*", str(error))
    return None if found is None else re.findall(r"\[[\d, ]*\]", found[0])[:2]


def lacking_in_xla(error: BaseException) -> str | None:
    """Return what XLA cannot compile, from an error of TensorFlow; None for other errors."""
    text = str(error)
    if "Detected unsupported operations when trying to compile graph" not in text:
        return None
    kinds = dict.fromkeys(re.findall(r"No registered '(\w+)' OpKernel", text))
    named = [f"the operation {kind}" for kind in kinds if kind not in ("_Arg", "_Retval")]
    return " and ".join([*(["texts"] if "DT_STRING" in text else []), *named][:3]) or "one of its operations"
