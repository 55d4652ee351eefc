"""Which layers and variables of a Keras model are trainable, and what has changed since."""

from __future__ import annotations

from typing import Any

from .._compat import layers_of


class TrainableParts:
    """The trainable parts of a model, compared without a walk over it.

    Args:
        model: A built model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._parts = _parts_of(model)
        self._flags = self._now()

    def changed(self) -> list[str]:
        """Return the paths of the layers and variables that were frozen or unfrozen since the last call."""
        flags = self._now()
        if flags == self._flags:
            return []
        pairs = zip(self._parts, flags, self._flags, strict=True)
        names = [part.path or part.name for part, now, before in pairs if now != before]
        self._parts = _parts_of(self._model)  # a layer may have made variables, too, such as those of LoRA
        self._flags = self._now()
        return names

    def _now(self) -> list[bool]:
        return [part.trainable for part in self._parts]


def flags_of(model: Any) -> str:
    """Return which layers and variables of a model are trainable, as a text that a checkpoint holds."""
    return "".join("01"[bool(part.trainable)] for part in _parts_of(model))


def set_flags(model: Any, flags: str) -> list[str]:
    """Freeze and unfreeze layers and variables as in a model with the same ones, of which `flags_of` gave ``flags``.

    Returns:
        The paths of all layers and variables.
    """
    parts = _parts_of(model)
    for part, flag in zip(parts, flags, strict=True):
        if part.trainable != (flag == "1"):
            part.trainable = flag == "1"
    return [part.path or part.name for part in parts]


def _parts_of(model: Any) -> list[Any]:
    """Return the layers, each before its parts, whose flags it sets, and then the variables."""
    return [*layers_of(model), *model.weights]
