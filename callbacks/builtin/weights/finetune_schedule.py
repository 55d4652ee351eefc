"""Finetuning schedule: layers that are frozen at first, and trained from a later epoch on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ...callback import TrainerCallback
from ...errors import ArgumentError, did_you_mean
from ...state import TrainerControl, TrainerState
from ...types import Args, Role

logger: logging.Logger = logging.getLogger("trackside.callbacks")


class FinetuneScheduleCallback(TrainerCallback):
    """Train a part of the weights at first, and more of them from later epochs on.

    All weights that are trainable when the run begins are frozen, except those of the first stage; each later stage
    adds weights. After the run all of them are trainable again. The optimizer has all weights from the beginning: those
    that are frozen have no gradient, and neither decay nor momentum changes them. A resumed run is in the stage of its
    epoch.

    Args:
        stages: By epoch, patterns of the names of the weights that are trained from that epoch on, such as
            ``{0: ["head.*"], 2: ["*"]}``. Names are those of ``named_parameters()``, or with Keras the paths of the
            variables, with or without the name of the model. The first epoch is 0.

    Raises:
        ArgumentError: If an epoch is not a whole number, or no stage begins at epoch 0; at the start of the run, if a
            pattern matches no weight, or DistributedDataParallel is not asked to find unused parameters.
    """

    role: Role = "control"
    name: str | None = "finetune_schedule"

    def __init__(self, stages: Mapping[Any, Sequence[str] | str]) -> None:
        self.stages: dict[int, list[str]] = {}
        for epoch, patterns in stages.items():
            if not str(epoch).isdecimal():
                raise ArgumentError("stages", dict(stages), "a map from epochs, which are whole numbers, to patterns")
            self.stages[int(epoch)] = [patterns] if isinstance(patterns, str) else list(patterns)
        if not self.stages.get(0):
            raise ArgumentError("stages", dict(stages), "a map with patterns for epoch 0, so that something is trained")
        self.trained: list[bool] = []
        """Whether each weight was trainable when the run began; names may have other numbers in a resumed run."""
        self.names: list[str] = []
        """The names of those that were."""

    def state_dict(self) -> dict[str, Any]:
        return {"trained": self.trained}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.trained = [bool(each) for each in state["trained"]]

    def on_train_begin(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        weights = weights_of(kwargs["model"])
        if state.global_step == 0 or len(self.trained) != len(weights):
            self.trained = [is_trained(weight) for weight in weights.values()]
        self.names = [name for name, was_trained in zip(weights, self.trained, strict=True) if was_trained]
        for pattern in (pattern for patterns in self.stages.values() for pattern in patterns):
            if not any(matches(name, pattern) for name in self.names):
                near = did_you_mean(pattern, self.names)
                raise ArgumentError("stages", pattern, f"patterns that match the name of a trainable weight.{near}")
        if getattr(args, "world_size", 1) > 1 and getattr(args, "ddp_find_unused_parameters", True) is not True:
            allowed = "true beside finetune_schedule, since frozen weights get no gradient"
            raise ArgumentError(
                "ddp_find_unused_parameters", getattr(args, "ddp_find_unused_parameters", None), allowed
            )
        self._freeze(weights, int(state.epoch or 0), state)

    def on_epoch_begin(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        epoch = int(state.epoch or 0)
        if not self.names:  # the callback was attached within the run
            self.on_train_begin(args, state, control, **kwargs)
        elif epoch in self.stages:
            self._freeze(weights_of(kwargs["model"]), epoch, state)

    def on_train_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._release(weights_of(kwargs["model"]))

    def undo(self, args: Args, state: TrainerState, **kwargs: Any) -> None:
        """Train all weights again when the callback is removed within a run."""
        count = self._release(weights_of(kwargs["model"]))
        if count and state.is_world_process_zero:
            logger.warning("finetune_schedule was removed: the %d weights that it had frozen are trained again", count)

    def _release(self, weights: Mapping[str, Any]) -> int:
        """Make all weights trainable that were so when the run began; return how many were not."""
        frozen = [name for name in self.names if name in weights and not is_trained(weights[name])]
        for name in frozen:
            train(weights[name], True)
        self.names = []  # a later run may end before it begins here
        return len(frozen)

    def _freeze(self, weights: Mapping[str, Any], epoch: int, state: TrainerState) -> None:
        """Train the weights of all stages up to ``epoch``, and no others."""
        patterns = [pattern for first, found in self.stages.items() if first <= epoch for pattern in found]
        names = [name for name in self.names if name in weights]
        trained = {name for name in names if any(matches(name, pattern) for pattern in patterns)}
        is_new = any(is_trained(weights[name]) != (name in trained) for name in names)
        for name in names:
            train(weights[name], name in trained)
        if is_new and state.is_world_process_zero:
            logger.warning(
                "finetune_schedule: %d of %d weights are trained from epoch %d on", len(trained), len(names), epoch
            )


def weights_of(model: Any) -> dict[str, Any]:
    """Return the weights of a model of either framework by name."""
    if hasattr(model, "named_parameters"):
        return dict(model.named_parameters())
    return {weight.path: weight for weight in model.weights}


def matches(name: str, pattern: str) -> bool:
    """Return whether a name fits a pattern, with or without the part before its first slash.

    Example:
        >>> matches("head.weight", "head.*"), matches("model/head/kernel", "head/*"), matches("body.weight", "head.*")
        (True, True, False)
    """
    return fnmatchcase(name, pattern) or fnmatchcase(name.partition("/")[2], pattern)


def is_trained(weight: Any) -> bool:
    """Return whether a weight of either framework is trainable."""
    return bool(weight.requires_grad if hasattr(weight, "requires_grad_") else weight.trainable)


def train(weight: Any, is_trained: bool) -> None:
    """Make a weight of either framework trainable, or freeze it."""
    if hasattr(weight, "requires_grad_"):
        weight.requires_grad_(is_trained)
        weight.grad = weight.grad if is_trained else None
    elif weight.trainable != is_trained:
        weight.trainable = is_trained
