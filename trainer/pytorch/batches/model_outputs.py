"""What a model returned for a batch: its loss, its logits, and its other outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from trackside.callbacks.errors import TracksideValueError

from ...evaluation.output_collector import leaves, map_nested
from .._torch_util import fields_of, has_fields


def by_name(outputs: Any) -> Any:
    """Return named outputs (a dict, dataclass, named tuple or plain object) as a dict, without entries that are None.

    Other outputs, tensors and tuples, are returned unchanged.
    """
    if isinstance(outputs, Tensor) or not (isinstance(outputs, Mapping) or _has_names(outputs)):
        return outputs
    fields: Mapping[str, Any] = outputs if isinstance(outputs, Mapping) else fields_of(outputs)
    return {name: value for name, value in fields.items() if value is not None}


def _has_names(outputs: Any) -> bool:
    if isinstance(outputs, (tuple, list)):
        return bool({"loss", "logits"} & set(getattr(outputs, "_fields", ())))
    return has_fields(outputs)


def loss_in(outputs: Any) -> Any:
    """Return the loss in a model's outputs: the entry ``loss``, or the first element.

    Raises:
        TracksideValueError: If there is none.
    """
    loss = loss_of_labelled(outputs)
    if loss is None:
        raise TracksideValueError(
            f"the model returned no loss, only: {_in_words(outputs)}. Give the trainer loss_fn=..., and "
            "batches with labels (the last of a tuple, or what is called 'labels' or is in args.label_names), override "
            "compute_loss, or check that the batch holds the labels that the model takes"
        )
    return loss


def loss_of_labelled(outputs: Any) -> Any:
    """Return the loss of a model that got labels; in a tuple it may have one value for each example, or each device."""
    loss = loss_or_none(outputs)
    if loss is None and isinstance(outputs, (tuple, list)) and outputs and getattr(outputs[0], "ndim", 2) == 1:
        return outputs[0]
    return loss


def loss_or_none(outputs: Any) -> Any:
    """Return the loss in a model's outputs: the entry ``loss``, or a scalar first element; None without one.

    A first element of shape (1,) is a scalar if another one has more rows.
    """
    if isinstance(outputs, Mapping):
        return outputs.get("loss")
    known = by_name(outputs)
    if isinstance(known, Mapping):
        return known.get("loss")
    first, rest = (known[0], known[1:]) if isinstance(known, (tuple, list)) and known else (known, ())
    if not isinstance(first, (Tensor, np.ndarray, np.generic)):
        return None
    is_scalar = first.ndim == 0 or (first.shape == (1,) and any(len(leaf) > 1 for leaf in _rows_in(rest)))
    return first if is_scalar else None


def _rows_in(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in leaves(outputs) if isinstance(leaf, Tensor) and leaf.ndim]


def _in_words(outputs: Any) -> str:
    if isinstance(outputs, Tensor):
        return f"Tensor of shape {tuple(outputs.shape)}"
    known = by_name(outputs)
    if isinstance(known, Mapping):
        return ", ".join(known) or "nothing"
    if isinstance(outputs, (tuple, list)):
        return f"{type(outputs).__name__} of {', '.join(_in_words(part) for part in outputs) or 'nothing'}"
    return type(outputs).__name__


def logits_in(outputs: Any, *, ignore_keys: Sequence[str], loss: Any = None) -> Any:
    """Return a model's outputs without the loss and the ignored ones; a single output is returned itself.

    Entries that are not tensors or arrays (None, a cache, a name) are left out, and so is None within an entry.

    Args:
        loss: The loss, if it is known to be among the outputs, whatever its shape.
    """
    if isinstance(outputs, Tensor):
        return None if outputs is loss else outputs
    known = by_name(outputs)
    if isinstance(known, Mapping):
        parts = [value for name, value in known.items() if name not in (*ignore_keys, "loss")]
    elif isinstance(known, (tuple, list)):
        has_loss = loss_or_none(outputs) is not None or (len(known) > 0 and known[0] is loss)
        parts = list(known[1:] if has_loss else known)
    else:
        return known
    rest = tuple(part for part in parts if all(isinstance(leaf, (Tensor, np.ndarray)) for leaf in leaves(part)))
    if len(rest) < len(parts):
        parts = [_without_none(part) for part in parts]
        kept = [(part, leaves(part)) for part in parts if part is not None]
        rest = tuple(p for p, found in kept if found and all(isinstance(x, (Tensor, np.ndarray)) for x in found))
    return rest[0] if len(rest) == 1 else rest or None


def _without_none(part: Any) -> Any:
    if isinstance(part, Mapping):
        return {name: _without_none(value) for name, value in part.items() if value is not None}
    if isinstance(part, (tuple, list)):
        return tuple(_without_none(value) for value in part if value is not None)
    return part


def main_logits(outputs: Any) -> Tensor:
    """Return the logits for a loss: the entry ``logits``, or the first element that is not a loss.

    Raises:
        TracksideValueError: If there are none.
    """
    known = by_name(outputs)
    if isinstance(known, Mapping):
        found = known.get("logits")
    elif isinstance(known, (tuple, list)):
        found = next((part for part in known if isinstance(part, Tensor) and part.ndim), None)
    else:
        found = known
    if not isinstance(found, Tensor):
        raise TracksideValueError(f"the model returned no logits to compute a loss of, only: {_in_words(outputs)}")
    return found


def output_at(outputs: Any, index: int) -> Any:
    """Return the output at ``index``, in the order of the names if there are names, detached.

    Raises:
        TracksideValueError: If there are fewer outputs.
    """
    known = by_name(outputs)
    parts = list(known.values()) if isinstance(known, Mapping) else known
    if not isinstance(parts, (tuple, list)) or not 0 <= index < len(parts):
        held = _in_words(outputs)
        raise TracksideValueError(f"past_index asks for output {index} of the model, counted from 0; it gave {held}")
    return map_nested(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, parts[index])
