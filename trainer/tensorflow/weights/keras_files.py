"""Files of Keras, which load without trackside: the weights, and ``model.keras`` for ``keras.models.load_model``."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .._compat import sentence_of

logger: logging.Logger = logging.getLogger("trackside.trainer")

KERAS_FILE = "model.weights.h5"
"""Weights in the folder of ``save_model``, and in checkpoints of earlier versions."""
MODEL_FILE = "model.keras"
"""The model in the folder of ``save_model``."""


def write_keras_weights(model: Any, folder: Path) -> None:
    """Write the weights of ``model`` in the format of Keras, whose library ends the process if the disk is full."""
    file = InMemory(KERAS_FILE)
    model.save_weights(file)
    (folder / KERAS_FILE).write_bytes(file.getbuffer())


def write_keras_model(model: Any, folder: Path) -> None:
    """Write ``model``, with what it was compiled with; warn if Keras cannot write it, or will not load it by itself."""
    file, path = InMemory(MODEL_FILE), folder / MODEL_FILE
    try:
        model.save(file)
    except Exception as error:
        path.unlink(missing_ok=True)  # of an earlier call
        text = "%s is not written, only the weights are: Keras cannot describe %s: %s"
        logger.warning(text, path, type(model).__name__, sentence_of(error))
        return
    path.write_bytes(file.getbuffer())
    with zipfile.ZipFile(file) as archive:
        own = sorted(set(own_objects(json.loads(archive.read("config.json")))))
    if "lambda" in own:
        text = (
            "%s has a lambda, which keras.models.load_model runs only with safe_mode=False; use a layer or a function"
        )
        logger.warning(text, path)
    named = [name for name in own if name != "lambda"]
    if named:
        text = "keras.models.load_model(%r) needs custom_objects={%s}, since these are not registered by %s"
        objects = ", ".join(f"{name!r}: {name}" for name in named)
        logger.warning(text, str(path), objects, "@keras.saving.register_keras_serializable()")


def own_objects(config: Any) -> Iterator[str]:
    """Yield the names of classes and functions in the configuration of a model that Keras does not know by name.

    A lambda is "lambda". Registered names have a package before a ">".
    """
    if isinstance(config, Mapping):
        kind, registered = config.get("class_name"), str(config.get("registered_name"))
        if kind in ("__lambda__", "Lambda"):
            yield "lambda"
        elif kind is not None and "module" in config and ">" not in registered:
            is_own = str(config["module"]).split(".")[0] != "keras"
            if kind == "function":
                yield str(config["config"])
            elif is_own:
                yield str(kind)
        parts = list(config.values())
    else:
        parts = config if isinstance(config, list) else []
    for part in parts:
        yield from own_objects(part)


class InMemory(io.BytesIO):
    """A file in memory that Keras accepts by its ``name``."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name: str = name

    def __str__(self) -> str:
        return self.name
