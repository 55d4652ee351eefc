"""Trace of a run: digests of its batches, random numbers, weights and records, one line of JSON for each update."""

from __future__ import annotations

import json
import math
import os
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trackside.callbacks import events
from trackside.callbacks._util.atomic_files import append_line, open_to_append
from trackside.trainer.checkpointing.random_state import host_random_state

LIVE = "live random numbers"
BATCH = "batch"
IN_MEMORY = "weights in memory"

LARGEST_BYTES = 256 * 2**20
"""Weights up to this size are read after each update; those of larger models are compared in checkpoints only."""


class Trace:
    """Listener to the trainer that writes into ``output_dir``; it draws no random number and changes no value.

    Args:
        path: The file to append to.
        output_dir: The folder of the run; trainers with other folders are not traced.
    """

    def __init__(self, path: Path, output_dir: Path) -> None:
        self.path: Path = path
        self.output_dir: str = os.path.realpath(output_dir)
        self._batch: int | None = None
        self._hook: Any = None

    def connect(self) -> None:
        """Listen to all trainers of this process."""
        events.on_train_begin.connect(self._begin)
        events.on_train_end.connect(self._end)

    def _is_traced(self, trainer: Any) -> bool:
        is_alone = trainer.args.world_size == 1  # the weights of several processes may be parts
        return bool(is_alone) and os.path.realpath(trainer.args.output_dir) == self.output_dir

    def _begin(self, trainer: Any, **kwargs: Any) -> None:
        if not self._is_traced(trainer):
            return
        if getattr(trainer.args, "steps_per_execution", 1) == 1:  # a listener between updates would separate them
            events.on_step_end.connect(self._step, sender=trainer)
        if _is_torch(trainer.model):
            self._hook = trainer.model.register_forward_pre_hook(self._see, with_kwargs=True)

    def _end(self, trainer: Any, **kwargs: Any) -> None:
        if self._hook is not None and self._is_traced(trainer):
            self._hook.remove()

    def _see(self, model: Any, args: Any, kwargs: Any) -> None:
        if model.training:
            self._batch = digest([self._batch, args, kwargs])

    def _step(self, trainer: Any, state: Any, **kwargs: Any) -> None:
        found = {f"{LIVE}: {name}": value for name, value in _random_numbers(trainer.model).items()}
        if self._batch is not None:
            found[BATCH], self._batch = self._batch, None
        found |= {f"{IN_MEMORY}: {name}": digest(value) for name, value in _weights(trainer.model)}
        with open_to_append(self.path) as file:
            append_line(file, json.dumps({"step": state.global_step, "streams": found}) + "\n")


def read_trace(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Return the lines of a trace, each with its step; one that a kill has torn is left out."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            value = json.loads(line)
            found.append((int(value["step"]), dict(value["streams"])))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def digest(value: Any) -> int:
    """Return a checksum of the numbers and texts in nested lists, tuples and dictionaries.

    Example:
        >>> digest([1.5, {"a": (2, None)}]) == digest([1.5, {"a": (2, None)}]) != digest([1.5, {"a": (3, None)}])
        True
    """
    found = 0
    for part in _parts(value):
        found = zlib.crc32(part, found)
    return found


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield repr(key).encode()
            yield from _parts(item)
    elif isinstance(value, (list, tuple)):
        yield b"["
        for item in value:
            yield from _parts(item)
    elif hasattr(value, "shape") and hasattr(value, "dtype"):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield _bytes(value)
    elif isinstance(value, (int, float, str, bytes, type(None))):
        yield repr(value).encode()
    else:  # the repr of an object may have its address
        yield type(value).__name__.encode()


def _bytes(value: Any) -> bytes:
    import numpy as np

    if not hasattr(value, "detach"):
        return np.asarray(value).tobytes()
    dense = value.detach().to_dense() if value.is_sparse else value.detach()
    raw = dense.cpu().contiguous().reshape(-1).view(sys.modules["torch"].uint8)  # numpy does not have all types
    return bytes(raw.numpy().tobytes())


def _is_torch(model: Any) -> bool:
    return "torch" in sys.modules and isinstance(model, sys.modules["torch"].nn.Module)


def _random_numbers(model: Any) -> dict[str, int]:
    """Return digests of the generators in memory; they are not read by what checkpoints use, which may miss one."""
    states = host_random_state() | (_of_torch() if _is_torch(model) else _of_tensorflow(model))
    return {name: digest(state) for name, state in states.items()}


def _of_torch() -> dict[str, Any]:
    import torch

    cuda: Any = torch.cuda
    own = {"cuda": cuda.get_rng_state_all()} if cuda.is_initialized() else {}
    return {"torch": torch.get_rng_state(), **own}


def _of_tensorflow(model: Any) -> dict[str, Any]:
    import tensorflow as tf

    from trackside.trainer.tensorflow._compat import global_seed_generator
    from trackside.trainer.tensorflow.draws.state import DRAWS
    from trackside.trainer.tensorflow.weights.model_state import generator_states

    return {
        "tensorflow": tf.random.get_global_generator().state.numpy(),
        "keras": global_seed_generator().state.value,
        "draws": DRAWS.value(),
        "model": list(generator_states(model)),
    }


def _weights(model: Any) -> Iterator[tuple[str, Any]]:
    if _is_torch(model):
        named = [(name, value) for name, value in model.state_dict().items() if hasattr(value, "dtype")]
    else:
        named = [(value.path, value) for value in model.weights]
    if 4 * sum(math.prod(value.shape) for _, value in named) <= LARGEST_BYTES:
        yield from ((name, value if hasattr(value, "detach") else value.numpy()) for name, value in named)
