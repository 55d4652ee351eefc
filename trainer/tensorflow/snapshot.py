"""Files of a TensorFlow checkpoint: formats, writing and reading.

Weights are Keras' own ``model.weights.h5``; the optimizer's variables are an .npz file without objects; schedule, loss
scale and random numbers are JSON. All files are data without code.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trackside.callbacks._util.plain_data import plain
from trackside.callbacks.errors import CheckpointError

from ..checkpointing.manifest import BrokenCheckpointError, Contents
from ..checkpointing.random_state import host_random_state, set_host_random_state
from .seeding import seed_generators

WEIGHTS_FILE = "model.weights.h5"

# -- random numbers ---------------------------------------------------------------------------------------------------


def random_state(model: Any) -> dict[str, Any]:
    """Return the states of the random number generators of Python, numpy, TensorFlow and the model's own layers."""
    return {
        **host_random_state(),
        "tensorflow": tf.random.get_global_generator().state.numpy().tolist(),
        "model": [keras.ops.convert_to_numpy(state).tolist() for state in seed_generators(model)],
    }


def set_random_state(state: dict[str, Any], model: Any) -> None:
    """Restore the states that `random_state` returned."""
    set_host_random_state(state)
    tf.random.get_global_generator().state.assign(state["tensorflow"])
    own = seed_generators(model)
    if len(own) != len(state["model"]):
        raise CheckpointError(
            f"the checkpoint holds {len(state['model'])} states of random number generators, the model has {len(own)}"
        )
    for variable, value in zip(own, state["model"], strict=True):
        variable.assign(np.array(value, dtype=np.uint32))


# -- weights ----------------------------------------------------------------------------------------------------------


def weights_writer(model: Any, *, copy: bool) -> Callable[[Path], None]:
    """Return a function that writes the weights of ``model`` into a folder.

    Args:
        copy: Whether to write them now, to a temporary file that the function moves, since the model may change.
    """
    if not copy:
        return lambda folder: model.save_weights(folder / WEIGHTS_FILE)
    aside = tempfile.TemporaryDirectory(prefix="trackside-")  # deleted with the returned function
    model.save_weights(Path(aside.name) / WEIGHTS_FILE)

    def move(folder: Path) -> None:
        shutil.move(Path(aside.name) / WEIGHTS_FILE, folder / WEIGHTS_FILE)
        aside.cleanup()

    return move


def load_weights(model: Any, checkpoint: Contents) -> None:
    """Load the weights of a checkpoint into ``model``.

    Raises:
        CheckpointError: If there are no weights, or they do not fit.
    """
    path = checkpoint.find(WEIGHTS_FILE)
    if path is None:
        reason = f"holds no weights of a Keras model: there is no {WEIGHTS_FILE}"
        raise BrokenCheckpointError(checkpoint.path, reason)
    try:
        model.load_weights(path)
    except Exception as error:
        raise CheckpointError(f"the weights in {path} do not fit the model: {error}") from error


# -- optimizer --------------------------------------------------------------------------------------------------------


def optimizer_arrays(optimizer: Any) -> dict[str, Any]:
    """Return copies of the optimizer's variables, by index and path."""
    return {name: keras.ops.convert_to_numpy(variable) for name, variable in named_variables(optimizer)}


def optimizer_outline(optimizer: Any) -> dict[str, Any]:
    """Return `optimizer_arrays` with arrays of the same types and without values."""
    return {name: np.empty(0, dtype_of(variable)) for name, variable in named_variables(optimizer)}


def bytes_of(*owners: Any) -> int:
    """Return the bytes of the variables of a model and an optimizer, as far as they exist."""
    variables = [variable for owner in owners for variable in owner.variables]
    return sum(math.prod(variable.shape) * dtype_of(variable).itemsize for variable in variables)


def dtype_of(variable: Any) -> Any:
    """Return numpy's type of a variable."""
    return tf.as_dtype(keras.backend.standardize_dtype(variable.dtype)).as_numpy_dtype().dtype


def named_variables(optimizer: Any) -> list[tuple[str, Any]]:
    """Return each variable with its index and its name, without Keras' counters, which differ between runs."""
    names = [uncounted(variable.name) for variable in optimizer.variables]
    numbered = [f"{index:04d}.{name}" for index, name in enumerate(names)]
    return list(zip(numbered, optimizer.variables, strict=True))


def uncounted(name: str) -> str:
    """Return a name of Keras without its counters.

    Example:
        >>> uncounted("dense_12_kernel_momentum")
        'dense_kernel_momentum'
    """
    return re.sub(r"_\d+", "", name)


# -- files ------------------------------------------------------------------------------------------------------------


def weights_in(folder: Path) -> list[str]:
    """Return the names of the weight files in ``folder``; empty if there are none."""
    return [WEIGHTS_FILE] if (folder / WEIGHTS_FILE).exists() else []


def as_data(state: Any, what: str) -> Any:
    """Return a state as `write_file` takes it: arrays as they are, other values as plain data.

    Raises:
        NotPlainError: If a value has no plain form.
    """
    is_arrays = isinstance(state, dict) and all(isinstance(value, np.ndarray) for value in state.values())
    return {name: as_native(value) for name, value in state.items()} if is_arrays else plain(state, what)


def as_native(array: Any) -> Any:
    """Return an array in a type of numpy's own: bfloat16 and the like, which .npz files cannot keep, as float32."""
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def write_file(content: Any, path: Path) -> None:
    """Write arrays to an .npz file, or plain data to a JSON file."""
    if path.suffix == ".npz":
        np.savez(path, **content)
    else:
        path.write_text(json.dumps(content), encoding="utf-8")


def read_file(path: Path) -> Any:
    """Read a file that `write_file` wrote.

    Raises:
        CheckpointError: If it cannot be read.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
