"""Files of a TensorFlow checkpoint: formats, writing and reading.

Weights are safetensors, named by layer; the optimizer's variables are an .npz file without objects; schedule, loss
scale and random numbers are JSON. All files are data without code. ``save_model`` writes Keras' own
``model.weights.h5``, which earlier versions also wrote into checkpoints; both are read.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trackside.callbacks._util.exact_data import Tell, exact, returned
from trackside.callbacks.errors import CheckpointError

from ..checkpointing.manifest import BrokenCheckpointError, Contents
from ..checkpointing.random_state import generators_lent, host_random_state, set_host_random_state
from ..checkpointing.saving.hashed_file import system_errors
from ..checkpointing.saving.host_buffers import SMALL_BYTES, Buffers
from ._compat import global_seed_generator
from .draws.state import DRAWS
from .weights import model_state
from .weights.keras_files import KERAS_FILE

logger: logging.Logger = logging.getLogger("trackside.trainer")

WEIGHTS_FILE = "model.safetensors"
"""Weights in a checkpoint."""
METADATA = {"format": "keras"}

# -- random numbers ---------------------------------------------------------------------------------------------------


def random_state(model: Any) -> dict[str, Any]:
    """Return the states of the generators of Python, numpy, TensorFlow and Keras, of the model's layers and draws."""
    with generators_lent():
        of_host = host_random_state()
    return {
        **of_host,
        "tensorflow": tf.random.get_global_generator().state.numpy().tolist(),
        "keras": _global_state().numpy().tolist(),
        "draws": DRAWS.value(),
        "model": [keras.ops.convert_to_numpy(state).tolist() for state in model_state.generator_states(model)],
    }


def set_random_state(state: dict[str, Any], model: Any) -> None:
    """Restore the states that `random_state` returned."""
    with generators_lent():
        set_host_random_state(state)
    tf.random.get_global_generator().state.assign(state["tensorflow"])
    own = model_state.generator_states(model)
    if len(own) != len(state["model"]):
        raise CheckpointError(
            f"the checkpoint holds {len(state['model'])} states of random number generators, the model has {len(own)}"
        )
    for variable, value in zip(own, state["model"], strict=True):
        model_state.assign(variable, value)
    if "keras" in state:  # earlier versions left it out
        model_state.assign(_global_state(), state["keras"])
    if "draws" in state:  # and this
        DRAWS.restore(state["draws"])


# -- weights ----------------------------------------------------------------------------------------------------------


def weights_writer(model: Any, buffers: Buffers | None) -> Callable[[Path], None]:
    """Return a function that writes the current weights of ``model`` into the folder of a checkpoint.

    Args:
        buffers: Memory for a copy of the weights; without it, the values are held, and the next assignment to a
            variable makes a new buffer, which takes longer.
    """
    values = {name: model_state.held(value) for name, value in model_state.everything(model).items()}
    values = values if buffers is None else copied(values, buffers)
    return lambda folder: write_arrays(values, folder / WEIGHTS_FILE)


def copied(values: dict[str, Any], buffers: Buffers) -> dict[str, Any]:
    """Return copies of named tensors and arrays, as arrays in the memory of ``buffers``.

    Large tensors on the host are copied later, while training goes on: a tensor never changes. If a variable is updated
    before its value is copied, TensorFlow gives it other memory.
    """
    copies = {}
    for name, value in values.items():
        array = np.asarray(value)  # the memory of a tensor on the host, or a copy of one on a device
        if not tf.is_tensor(value) or array.nbytes < SMALL_BYTES or not array.flags.c_contiguous:
            copies[name] = array.copy()
        elif "CPU" not in value.device:
            copies[name] = array
        else:
            memory = buffers.copy_later(array.reshape(-1).view(np.uint8))
            copies[name] = memory.view(array.dtype).reshape(array.shape)
    return copies


def write_arrays(values: dict[str, Any], path: Path) -> None:
    """Write named tensors or arrays to a safetensors file.

    Raises:
        OSError: If the file cannot be written, with the errno of the system.
    """
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(value).reshape(np.shape(value)) for name, value in values.items()}
    with system_errors(path):
        save_file(arrays, path, metadata=METADATA)


def load_weights(model: Any, checkpoint: Contents) -> None:
    """Load the weights of a checkpoint, or of a folder that ``save_model`` wrote, into ``model``.

    Raises:
        CheckpointError: If there are no weights, or they do not fit.
    """
    path = checkpoint.find(WEIGHTS_FILE)
    if path is not None:
        _load_arrays(model, path)
        return
    path = checkpoint.find(KERAS_FILE)
    if path is None:
        reason = f"holds no weights of a Keras model: {WEIGHTS_FILE} and {KERAS_FILE} are missing"
        raise BrokenCheckpointError(checkpoint.path, reason)
    try:
        model.load_weights(path)
    except Exception as error:
        raise CheckpointError(f"the weights in {path} do not fit the model: {error}") from error


def _load_arrays(model: Any, path: Path) -> None:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata, arrays = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if metadata.get("format") != METADATA["format"]:
        found = metadata.get("format", "unknown")
        raise BrokenCheckpointError(path.parent, f"holds no weights of a Keras model: {path.name} has format {found!r}")
    _check_fit(model, arrays, path)
    missing = model_state.load(model, arrays)
    if missing:
        logger.warning(
            "%s has state that the model does not have yet, so the run does not go on exactly: %s. Make it in "
            "__init__() or build() of its layer, not in call()", path, ", ".join(missing),
        )  # fmt: skip


def _check_fit(model: Any, arrays: dict[str, Any], path: Path) -> None:
    own = model_state.weights_of(model)
    given = {name: array for name, array in arrays.items() if not model_state.is_other(name)}
    missing, extra = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    wrong = sorted(name for name in own.keys() & given.keys() if tuple(own[name].shape) != given[name].shape)
    if missing or extra or wrong:
        raise CheckpointError(
            f"the weights in {path} do not fit the model: missing {missing[:5] or 'none'}; unknown "
            f"{extra[:5] or 'none'}; of another shape {wrong[:5] or 'none'}"
        )


def _global_state() -> Any:
    return global_seed_generator().state.value


# -- optimizer --------------------------------------------------------------------------------------------------------


def optimizer_arrays(optimizer: Any) -> dict[str, Any]:
    """Return the values of the optimizer's variables, by index and path."""
    return {name: model_state.held(variable) for name, variable in named_variables(optimizer)}


def optimizer_outline(optimizer: Any) -> dict[str, Any]:
    """Return `optimizer_arrays` with arrays of the same types and without values."""
    return {name: np.empty(0, dtype_of(variable)) for name, variable in named_variables(optimizer)}


def dtype_of(variable: Any) -> Any:
    """Return numpy's type of a variable."""
    return np.dtype(tf.as_dtype(keras.backend.standardize_dtype(variable.dtype)).as_numpy_dtype)


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
    return [name for name in (WEIGHTS_FILE, KERAS_FILE) if (folder / name).exists()][:1]


def as_data(state: Any, name: str, tell: Tell) -> Any:
    """Return a state as `write_file` takes it for the file ``name``: arrays as they are, others as `exact` data.

    Raises:
        NotPlainError: If a value cannot be kept.
    """
    return state if name.endswith(".npz") else exact(state, f"the state in {name}", tell=tell)


def sizes_of(*owners: Any) -> list[int]:
    """Return the bytes of each variable of a model and an optimizer, as far as they exist."""
    variables = [variable for owner in owners for variable in owner.variables]
    return [math.prod(variable.shape) * dtype_of(variable).itemsize for variable in variables]


def write_file(content: Any, path: Path) -> None:
    """Write arrays to an .npz file, or what `as_data` returned to a JSON file.

    Types that .npz files cannot keep, such as bfloat16, are written as float32.
    """
    if path.suffix == ".npz":
        np.savez(path, **{name: _as_native(np.asarray(array)) for name, array in content.items()})
    else:
        path.write_text(json.dumps(content), encoding="utf-8")


def _as_native(array: Any) -> Any:
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def read_file(path: Path) -> Any:
    """Read a file that `write_file` wrote.

    Raises:
        CheckpointError: If it cannot be read.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        return returned(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
