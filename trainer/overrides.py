"""Overrides: the documented methods that a trainer has of its user, and those that are never called."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

C = TypeVar("C", bound=type)


_documented: dict[type, dict[str, Any]] = {}


def documents(cls: C) -> C:
    """Keep the methods of a class as they are defined, so that another one in its place counts as an override."""
    _documented[cls] = _methods_of(cls)
    return cls


def _methods_of(cls: type) -> dict[str, Any]:
    return {name: getattr(cls, name) for name in dir(cls) if not name.startswith("__")}


class Overrides:
    """The names of the documented methods that a subclass of a trainer overrides, or that are set on the trainer.

    All behavior that depends on an override uses this record. A method may be set until train() or evaluate() begins.

    Args:
        trainer: The trainer; the nearest of its classes that `documents` its methods is the reference, if any.

    Example:
        >>> @documents
        ... class Base:
        ...     def save(self): ...
        ...     def load(self): ...
        >>> class Own(Base):
        ...     def save(self): ...
        >>> trainer = Own()
        >>> overrides = Overrides(trainer)
        >>> "save" in overrides, "load" in overrides
        (True, False)
        >>> trainer.load = print
        >>> "load" in overrides
        True
    """

    def __init__(self, trainer: Any) -> None:
        present = _methods_of(type(trainer))
        documented = next((_documented[cls] for cls in type(trainer).__mro__ if cls in _documented), present)
        self._of_class = frozenset(name for name, method in present.items() if method is not documented.get(name))
        self._of_instance: dict[str, Any] = vars(trainer)
        self._documented = documented

    def __contains__(self, name: str) -> bool:
        return name in self._of_class or name in self._of_instance

    def on_trainer(self) -> list[Any]:
        """Return the methods that are set on the trainer itself."""
        return [method for name, method in self._of_instance.items() if callable(self._documented.get(name))]

    def any(self, *names: str) -> bool:
        """Return whether one of ``names`` is overridden."""
        return any(name in self for name in names)


INSTEAD = {
    "push_to_hub": "upload the folder that save_model() writes with huggingface_hub.upload_folder()",
    "_get_train_sampler": "override get_train_dataloader",
    "_get_eval_sampler": "override get_eval_dataloader",
    "_inner_training_loop": "listen to the events of the loop",
    "_load_from_checkpoint": "listen to on_load",
    "_load_best_model": "read state.best_model_checkpoint after train()",
    "_maybe_log_save_evaluate": "listen to on_log, on_evaluate and on_save",
    "_prepare_input": "change batches in a data_collator",
    "_prepare_inputs": "change batches in a data_collator",
    "_save": "override save_model",
    "_save_checkpoint": "listen to on_save",
    "_wrap_model": "wrap the model before the trainer gets it",
}
"""Methods and attributes of that Trainer, with the alternatives here."""


ON_TENSORFLOW = {
    "get_train_dataloader": "override get_train_tfdataset",
    "get_eval_dataloader": "override get_eval_tfdataset",
    "get_test_dataloader": "override get_test_tfdataset",
    "_log": "override log",
    "setup_wandb": "attach the callback wandb",
    "setup_comet": "attach the callback comet",
}
"""Methods of the PyTorch trainer and of the original TFTrainer, with the alternatives on TFTrainer."""


def warn_of_unused_overrides(trainer: object, base: type, table: Mapping[str, str] = INSTEAD) -> None:
    """Warn about every method of a subclass of ``base`` that the transformers Trainer calls and this one does not."""
    for name, instead in table.items():
        own = getattr(type(trainer), name, None)
        if own is not None and own is not getattr(base, name, None):
            warnings.warn(f"{type(trainer).__name__}.{name} is never called: {instead}", UserWarning, stacklevel=4)


def advice(trainer: object, name: str) -> str:
    """Return the message of an AttributeError for ``name``, with the alternative."""
    instead = f": {INSTEAD[name]}" if name in INSTEAD else ""
    return f"{type(trainer).__name__!r} object has no attribute {name!r}{instead}"
