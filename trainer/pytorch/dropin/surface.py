"""Methods of the transformers Trainer that trackside's own design does not need; `trackside.Trainer` takes them in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn

from ..optim.factory import class_by_name, decay_parameter_names
from .accelerator import AcceleratorView
from .callback_handler import CallbackHandler
from .model_card import write_model_card


def accelerator(self: Any) -> AcceleratorView:
    """Processes, device and backward pass under the names of ``accelerate.Accelerator``."""
    return AcceleratorView(self)


def callback_handler(self: Any) -> CallbackHandler:
    """The callbacks, and the sending of events, under the names of the Trainer of transformers."""
    return CallbackHandler(self._dispatcher, self._evaluator.is_scheduled)


def is_in_train(self: Any) -> bool:
    """Whether a run is going on."""
    return bool(self._evaluator.is_training)


def micro_batch_size(self: Any) -> int:
    """Number of examples of a training batch of this process."""
    return int(self.args.train_batch_size)


def is_model_parallel(self: Any) -> bool:
    """Whether the model is on several devices."""
    return len({parameter.device for parameter in self.model.parameters()}) > 1


# -- parameters and optimizer ---------------------------------------------------------------------------------


def get_num_trainable_parameters(self: Any) -> int:
    """Return the number of weights that are trained."""
    return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)


def get_decay_parameter_names(self: Any, model: nn.Module) -> list[str]:
    """Return the names of the parameters that weight decay applies to."""
    return decay_parameter_names(model)


def get_learning_rates(self: Any) -> list[float]:
    """Return the learning rate of each parameter group.

    Raises:
        ValueError: If the optimizer does not exist yet; train() creates it.
    """
    return [float(group["lr"]) for group in self.get_optimizer_group()]


def get_optimizer_group(self: Any, param: Any = None) -> Any:
    """Return the parameter groups of the optimizer, or the one that ``param`` is in.

    Raises:
        ValueError: If the optimizer does not exist yet; train() creates it.
    """
    if self.optimizer is None:
        raise ValueError("the optimizer is None: train() or create_optimizer() makes it")
    groups: list[dict[str, Any]] = self.optimizer.param_groups
    if param is None:
        return groups
    return next((group for group in groups if any(item is param for item in group["params"])), None)


def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> tuple[Any, dict[str, Any]]:
    """Return the class of ``args.optim``, and its options."""
    return class_by_name(args)


# -- batches --------------------------------------------------------------------------------------------------


def get_total_train_batch_size(self: Any, args: Any) -> int:
    """Return the number of examples of an update, over all processes."""
    return int(args.global_micro_batch_size * args.gradient_accumulation_steps)


def get_batch_samples(self: Any, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[list[Any], Any]:
    """Return the next batches of an iterator, and the number of items in their losses, or None without labels."""
    batches = list(islice(epoch_iterator, num_batches))
    model_io = self._engine.model_io
    if not batches or model_io.labels_of(batches[0]) is None:
        return batches, None
    return batches, sum(model_io.count_items(batch) for batch in batches)


def num_tokens(train_dl: Iterable[Any], max_steps: int | None = None) -> int:
    """Return the number of input tokens in a loader, or in ``max_steps`` times its first batch."""
    if max_steps is not None:
        return int(next(iter(train_dl))["input_ids"].numel()) * max_steps
    return sum(int(batch["input_ids"].numel()) for batch in train_dl)


# -- records --------------------------------------------------------------------------------------------------


def metrics_format(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics as the Trainer of transformers prints them: durations, MB, GF, four digits."""
    return {name: _formatted(name, value) for name, value in metrics.items()}


def create_model_card(
    self: Any,
    language: Any = None,
    license: str | None = None,
    tags: Any = None,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    tasks: Any = None,
    dataset_tags: Any = None,
    dataset: Any = None,
    dataset_args: Any = None,
) -> None:
    """Write ``output_dir/README.md`` on the first process: what the model is, its arguments and results.

    Args:
        language, license, tags, model_name, finetuned_from, tasks, dataset_tags, dataset, dataset_args: Texts or
            lists of texts for the card; what is None is left out.
    """
    about = {name: value for name, value in locals().items() if name != "self"}
    about["tags"] = [*_list(tags), *_list(tasks)]
    about["dataset"] = [*_list(dataset), *_list(dataset_args)]
    if self.is_world_process_zero():
        write_model_card(self, Path(self.args.output_dir).expanduser(), about)


def _list(value: Any) -> list[Any]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _formatted(name: str, value: Any) -> Any:
    if "_mem_" in name:
        return f"{int(value) >> 20}MB"
    if "_runtime" in name:
        seconds = timedelta(seconds=int(value))
        return f"{seconds}.{round((value - int(value)) * 100):02d}"
    if name == "total_flos":
        return f"{int(value) >> 30}GF"
    return round(value, 4) if isinstance(value, float) else value
