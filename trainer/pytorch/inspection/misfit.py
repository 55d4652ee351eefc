"""Errors of a layer or of a loss that got data it cannot take, found in the traceback of torch's error."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trackside.callbacks.errors import TracksideTypeError, TracksideValueError, did_you_mean

from ...calls import check_call
from .._compat import is_out_of_memory

TORCHS = (RuntimeError, ValueError, IndexError, TypeError, AttributeError)
"""Types of the errors that torch raises for data that do not fit."""
FUNCTIONS = nn.functional.__name__.replace(".", "/")


def explain(error: BaseException, model: nn.Module) -> None:
    """Raise TracksideValueError if ``error`` is torch's about data that a layer or a loss cannot take.

    The message has the layer with its name, or the outputs and the labels, and what does not fit.
    """
    if type(error) not in TORCHS or (isinstance(error, RuntimeError) and is_out_of_memory(error)):
        return
    if "does not require grad and does not have a grad_fn" in str(error) and not torch.is_grad_enabled():
        raise TracksideValueError(
            f"{type(model).__name__} takes gradients in its forward pass, and an evaluation runs without them. Put "
            "torch.enable_grad() around that part"
        ) from error
    for frame in _frames(error):
        known = frame.f_locals
        is_of_functional = FUNCTIONS in frame.f_code.co_filename.replace("\\", "/")
        if is_of_functional and "target" in known and "input" in known:
            raise TracksideValueError(_of_loss(frame.f_code.co_name, known, _sentence(error))) from error
        if frame.f_code.co_name == "_verify_batch_size" and is_of_functional:
            raise TracksideValueError(
                f"a layer of normalization cannot be trained on one example: {_sentence(error)}. "
                "dataloader_drop_last=True leaves the last batch out if it is smaller"
            ) from error
        layer = known.get("self")
        if isinstance(layer, nn.Module) and type(layer).__module__.startswith("torch.nn.modules"):
            given = next((value for name, value in known.items() if isinstance(value, Tensor)), None)
            if given is None and isinstance(error, TypeError):
                given = next((value for name, value in known.items() if name != "self"), None)
                what: str | None = "it takes a tensor. Make tensors of the examples, in the dataset or data_collator"
            else:
                what = None if given is None else _of_layer(layer, given)
            if what is not None:
                name = next((name for name, each in model.named_modules() if each is layer and name), "the model")
                raise TracksideValueError(
                    f"{type(model).__name__} cannot be called on this batch: {name}, {layer!r}, got {in_words(given)}; "
                    f"{what}"
                ) from error


def check_loss_fn(loss_fn: Any) -> None:
    """Check that a loss is a function of outputs and labels, or an instance.

    Raises:
        TracksideTypeError: If not.
    """
    if isinstance(loss_fn, type):
        raise TracksideTypeError(f"loss_fn is an instance of a loss, not the class: {loss_fn.__name__}()")
    if loss_fn is None or (callable(loss_fn) and type(loss_fn).__module__.split(".")[0] not in ("keras", "tensorflow")):
        check_call("loss_fn", loss_fn, "outputs", "labels")
        return
    near = ""
    if isinstance(loss_fn, str):
        known = [each for each in (*dir(nn.functional), *dir(nn)) if each.lower().endswith(("loss", "entropy"))]
        near = did_you_mean(loss_fn, known)
    raise TracksideTypeError(
        f"loss_fn is a function of (outputs, labels) or an instance of a torch loss, not {type(loss_fn).__name__} "
        f"{loss_fn if isinstance(loss_fn, str) else ''}".rstrip()
        + f".{near}"
    )


def in_words(value: Any) -> str:
    """Return the dtypes and shapes of nested tensors in words.

    Example:
        >>> in_words({"x": torch.zeros(2, 3), "y": (torch.zeros(2, dtype=torch.long),)})
        "{'x': float32 (2, 3), 'y': (int64 (2))}"
    """
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} ({', '.join(map(str, value.shape))})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {in_words(part)}" for name, part in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        shown = [in_words(part) for part in value[:6]]
        return "(" + ", ".join([*shown, *(["..."] if len(value) > 6 else [])]) + ")"
    return type(value).__name__


def _of_loss(function: str, known: Mapping[str, Any], sentence: str) -> str:
    outputs, labels = known["input"], known["target"]
    return (
        f"{function} cannot be computed of outputs {in_words(outputs)} and labels {in_words(labels)}: "
        f"{_why(function, outputs, labels, known.get('ignore_index', -100)) or sentence}"
    )


def _why(function: str, outputs: Any, labels: Any, ignored: int) -> str | None:
    """Return what does not fit, in words; None if it is something else."""
    if not isinstance(outputs, Tensor):
        return "outputs are a tensor; give a loss_fn that takes one out of what the model returns"
    if not isinstance(labels, Tensor):
        are_texts = isinstance(labels, (list, tuple)) and any(isinstance(label, str) for label in labels)
        return "labels are a tensor" + ("; give each class its number, in the dataset" if are_texts else "")
    takes_classes = function in ("cross_entropy", "nll_loss") and labels.shape != outputs.shape
    if takes_classes:
        if outputs.ndim > 1 and labels.ndim == outputs.ndim and labels.shape[1] == 1:
            return "labels of classes have one dimension less than the outputs; .squeeze(1) them"
        if labels.is_floating_point():
            return "labels of classes are whole numbers; make them int64"
        if outputs.ndim > 2 and labels.shape == outputs.shape[:-1]:
            return "the classes are dimension 1 of the outputs; .flatten(0, 1) outputs and labels, or transpose"
        classes = outputs.shape[1] if outputs.ndim > 1 else outputs.shape[0]
        counted = labels[labels != ignored]
        if labels.is_cpu and counted.numel() and (counted.min() < 0 or counted.max() >= classes):
            low, high = int(counted.min()), int(counted.max())
            return f"labels are from 0 to {classes - 1}, or {ignored} to be ignored; these are from {low} to {high}"
    elif outputs.shape != labels.shape:
        return "both have the same shape"
    elif not labels.is_floating_point():
        return "labels are floating-point numbers; make them float32"
    return None


def _of_layer(layer: nn.Module, given: Tensor) -> str | None:
    """Return what about ``given`` does not fit a layer of torch, in words; None if it is something else."""
    width = getattr(layer, "in_features", None)
    if isinstance(width, int) and given.shape[-1:] != (width,):
        return f"its last dimension is {width}"
    channels = getattr(layer, "in_channels", None)
    places = len(getattr(layer, "kernel_size", ()) or ()) if isinstance(getattr(layer, "kernel_size", 0), tuple) else 0
    if isinstance(channels, int) and (given.ndim <= places or given.shape[-places - 1] != channels):
        return f"it takes {channels} channels, in the dimension before the last {places}"
    rows = getattr(layer, "num_embeddings", None)
    if isinstance(rows, int):
        if given.is_floating_point():
            return "it takes whole numbers"
        if given.is_cpu and given.numel() and (int(given.min()) < 0 or int(given.max()) >= rows):
            return f"it takes numbers from 0 to {rows - 1}, and they are from {int(given.min())} to {int(given.max())}"
        return None
    weight = getattr(layer, "weight", None)
    if isinstance(weight, Tensor) and given.dtype != weight.dtype and not torch.is_autocast_enabled(given.device.type):
        return f"its weights are {str(weight.dtype).removeprefix('torch.')}"
    return None


def _sentence(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _frames(error: BaseException) -> Iterator[types.FrameType]:
    """Yield the frames of a traceback, the innermost first."""
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return reversed(frames)
