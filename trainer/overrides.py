"""Overrides: the documented methods that a trainer has of its user, and those that are never called."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from inspect import Parameter, signature
from itertools import islice
from typing import Any, TypeVar

from trackside.callbacks._util.signatures import misfit, parameters_of, place_of, signature_of
from trackside.callbacks.callback import TrainerCallback
from trackside.callbacks.errors import TracksideTypeError
from trackside.callbacks.events import EVENTS

C = TypeVar("C", bound=type)

_documented: dict[type, dict[str, Any]] = {}
"""The methods of each class that `documents` them, as they are defined."""


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
        self._trainer = trainer

    def __contains__(self, name: str) -> bool:
        return name in self._of_class or name in self._of_instance

    def check(self) -> None:
        """Check that each override that the trainer calls can be called as it will be.

        Raises:
            TracksideTypeError: If not; the message has what it takes, and what it is called with.
        """
        for name in CALLED:
            if name in self._documented:
                self.method(name)

    def method(self, name: str) -> Any:
        """Return a method of the trainer, to be called with the values that are documented.

        An override that takes fewer gets those that it takes, at least those without a default. What is documented with
        a default, and an override requires, it gets by name.

        Raises:
            TracksideTypeError: If an override cannot be called like this.
        """
        method = getattr(self._trainer, name)
        if name not in self:
            return method
        return _fitted(method, self._documented[name], f"{type(self._trainer).__name__}.{name}")

    def on_trainer(self) -> list[Any]:
        """Return the methods that are set on the trainer itself."""
        return [method for name, method in self._of_instance.items() if callable(self._documented.get(name))]

    def any(self, *names: str) -> bool:
        """Return whether one of ``names`` is overridden."""
        return any(name in self for name in names)


CALLED = (
    *("apply_gradients", "backward", "batch_size_of", "call_model_init", "compute_loss"),
    *("compute_loss_context_manager", "create_optimizer", "create_optimizer_and_scheduler", "create_scheduler"),
    *("distributed_prediction_steps", "distributed_training_steps", "evaluate", "evaluation_loop"),
    *("floating_point_ops", "get_decay_parameter_names", "get_eval_dataloader", "get_eval_tfdataset"),
    *("get_optimizer_cls_and_kwargs", "get_test_dataloader", "get_test_tfdataset", "get_train_dataloader"),
    *("get_train_tfdataset", "log", "prediction_loop", "prediction_step", "run_model", "save_model"),
    *("store_flos", "training_step"),
)
"""Documented methods that the trainer calls; all others are called by users, as they like."""

GIVEN = {"evaluate": 0, "log": 1, "save_model": 1}
"""Number of the documented values that the trainer gives, where it gives fewer than all."""

NEEDED = ("save_model", "get_eval_dataloader", "get_eval_tfdataset")
"""Methods whose override has to take what the trainer gives, although it is documented with a default."""

BY_PLACE = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def _fitted(method: Any, documented: Any, label: str) -> Any:
    """Return ``method``, or a function that passes on to it what it takes of the documented values."""
    name = label.rpartition(".")[2]
    if not callable(method):
        raise TracksideTypeError(f"{label} is a method, not {type(method).__name__}")
    parameters = [each for each in signature(documented).parameters.values() if each.kind in BY_PLACE]
    known = {each.name: each.default for each in parameters if each.name != "self"}
    known = dict(islice(known.items(), GIVEN.get(name)))
    needs = [each for each, default in known.items() if default is Parameter.empty or name in NEEDED]
    own = signature_of(method)
    if own is None:
        return method
    required = [each.name for each in own.parameters.values() if each.default is Parameter.empty]
    others = {each: known[each] for each in known if each not in needs and each in required}
    if reason := misfit(method, len(needs), others):
        call, place = f"{name}({', '.join(known)})", place_of(method)
        raise TracksideTypeError(
            f"{label} is called as {call}, and takes {parameters_of(method)}{place and f' at {place}'}: {reason}"
        )
    kinds = [each.kind for each in own.parameters.values()]
    most = None if Parameter.VAR_POSITIONAL in kinds else sum(kind in BY_PLACE for kind in kinds)
    if not others and (most is None or most >= len(known)):
        return method
    order = list(known)

    def call_with_what_it_takes(*values: Any, **options: Any) -> Any:
        given = {*order[: len(values)], *options}
        defaults = {each: default for each, default in others.items() if each not in given}
        return method(*values[:most], **options, **defaults)

    return call_with_what_it_takes


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
"""Methods and attributes of the Trainer of transformers, with the alternatives here."""


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
    if not isinstance(trainer, TrainerCallback):
        for name in EVENTS:
            if hasattr(type(trainer), name):
                text = f"{type(trainer).__name__}.{name} is a method of callbacks; a trainer calls none of its own"
                warnings.warn(f"{text}. Give callbacks=[...], or use self.on()", UserWarning, stacklevel=4)


def advice(trainer: object, name: str) -> str:
    """Return the message of an AttributeError for ``name``, with the alternative."""
    instead = f": {INSTEAD[name]}" if name in INSTEAD else ""
    return f"{type(trainer).__name__!r} object has no attribute {name!r}{instead}"
