"""What is computed of a batch: the model is called, its loss found, overridden methods respected, items counted."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from trackside.callbacks.errors import TracksideValueError

from ._torch_util import unwrap
from .arguments import TrainingArguments
from .loss import LossWindow, count_items, is_causal_lm, weighed
from .model_io import call_model, forward_parameters, labels_of, loss_or_none, output_at


class Objective:
    """The part of a trainer that knows its model and calls ``compute_loss``."""

    args: TrainingArguments
    model: Any
    loss_fn: Callable[..., Any] | None
    compute_loss: Callable[..., Any]
    has_own: Callable[..., bool]
    _window: LossWindow
    _is_padding: bool

    def _know_model(self) -> None:
        """Note what the model and an overridden compute_loss take, so that no step has to look."""
        model = unwrap(self.model)
        names, takes_any = forward_parameters(model)
        is_qa = "QuestionAnswering" in type(model).__name__
        self.label_names: list[str] = self.args.label_names or (
            ["start_positions", "end_positions"] if is_qa else ["labels"]
        )
        makes_inputs = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))  # of the labels
        withhold = self.loss_fn is not None or (self.args.label_smoothing_factor > 0 and not makes_inputs)
        self._not_taken = [name for name in self.label_names if name not in names and not takes_any]
        self._withheld = [*self._not_taken, *(self.label_names if withhold else ())]
        self._is_causal = is_causal_lm(model)
        self._ignored_outputs = list(getattr(getattr(model, "config", None), "keys_to_ignore_at_inference", []))
        parameters = inspect.signature(self.compute_loss).parameters
        takes_all = any(item.kind is item.VAR_KEYWORD for item in parameters.values())
        self._loss_takes_outputs = "return_outputs" in parameters or takes_all
        self._loss_takes_items = self.has_own("compute_loss") and ("num_items_in_batch" in parameters or takes_all)
        self._counts_flos = self.has_own("floating_point_ops") or hasattr(model, "floating_point_ops")
        self._past: Any = None

    def _call(self, model: nn.Module, inputs: Any, *, with_labels: bool) -> Any:
        """Call the model, with labels as far as it takes them, and with the memory of ``past_index``."""
        withheld = self._not_taken if with_labels else self._withheld
        index = self.args.past_index
        if index >= 0 and self._past is not None and isinstance(inputs, Mapping):
            inputs = {**inputs, "mems": self._past}
        outputs = call_model(model, inputs, withhold=withheld, with_labels=with_labels)
        if index >= 0:
            lacks_loss = self.loss_fn is None and loss_or_none(outputs) is None
            self._past = output_at(outputs, index - 1 if lacks_loss else index)
        return outputs

    def _compute_loss(self, model: nn.Module, inputs: Any) -> Any:
        """Call compute_loss with what it takes, on a batch that it may change."""
        own = dict(inputs) if isinstance(inputs, Mapping) else inputs
        if self._loss_takes_items:
            return self.compute_loss(model, own, num_items_in_batch=self._count_items(inputs))
        return self.compute_loss(model, own)

    def _loss_and_outputs(self, model: nn.Module, inputs: Any) -> tuple[Any, Any]:
        """Return what compute_loss returns together with the model's outputs, from one forward pass."""
        if self._loss_takes_outputs:
            own = dict(inputs) if isinstance(inputs, Mapping) else inputs
            extra = {"num_items_in_batch": self._count_items(inputs)} if self._loss_takes_items else {}
            result, outputs = self.compute_loss(model, own, return_outputs=True, **extra)
            return result, outputs
        seen: list[Any] = []
        hook = model.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs))
        try:
            result = self._compute_loss(model, inputs)
        finally:
            hook.remove()
        if not seen:
            raise TracksideValueError("compute_loss did not call the model, so that there are no predictions")
        return result, seen[-1]

    def _mean_loss(self, result: Any, inputs: Any) -> Tensor:
        """Return the mean loss of what compute_loss gave, and note over how many items it is."""
        window = self._window
        if window.is_single and isinstance(result, Tensor) and result.ndim == 0:
            return result
        loss, items = weighed(result, lambda: self._count_items(inputs))
        self._items = 0.0 if self._is_padding else items
        window.set_items(self._items)
        return loss

    def _count_items(self, inputs: Any) -> Any:
        return count_items(labels_of(inputs, self.label_names), inputs, is_causal=self._is_causal)
