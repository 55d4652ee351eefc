"""Compilation of a model, and recomputation of its activations, with the options that arguments give."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from trackside.callbacks.errors import ArgumentError, TracksideValueError, did_you_mean
from trackside.trainer.optim.choice import check_options


def check_options_of_model(args: Any) -> None:
    """Check the names that the arguments about compilation and recomputation have.

    Raises:
        ArgumentError: If torch does not know one; the message suggests the nearest name.
    """
    if args.torch_compile and args.torch_compile_backend is not None:
        known = torch.compiler.list_backends(exclude_tags=("debug", "experimental"))
        if args.torch_compile_backend not in torch.compiler.list_backends(exclude_tags=()):
            allowed = f"{', '.join(known)}.{did_you_mean(args.torch_compile_backend, known)}"
            raise ArgumentError("torch_compile_backend", args.torch_compile_backend, allowed)
    if args.gradient_checkpointing and args.gradient_checkpointing_kwargs:
        kinds = inspect.signature(checkpoint).parameters.values()
        known = [item.name for item in kinds if item.kind is item.KEYWORD_ONLY]
        field, options = "gradient_checkpointing_kwargs", args.gradient_checkpointing_kwargs
        check_options(field, options, known, "torch.utils.checkpoint.checkpoint")


def compile_model(model: Any, args: Any) -> None:
    """Compile the model in place, with the backend and the mode that ``args`` have.

    Raises:
        ArgumentError: If the backend does not know the mode.
    """
    try:
        model.compile(backend=args.torch_compile_backend or "inductor", mode=args.torch_compile_mode)
    except RuntimeError as error:
        if args.torch_compile_mode is None:
            raise
        raise ArgumentError("torch_compile_mode", args.torch_compile_mode, f"one that torch knows: {error}") from error


def enable_checkpointing(model: Any, options: Any) -> None:
    """Enable recomputation of activations in the backward pass of ``model``.

    Raises:
        TracksideValueError: If the model has no method for it.
    """
    if not hasattr(model, "gradient_checkpointing_enable"):
        raise TracksideValueError(
            f"gradient_checkpointing=True needs a model with gradient_checkpointing_enable(); {type(model).__name__} "
            "has none. Use torch.utils.checkpoint inside the model instead"
        )
    model.gradient_checkpointing_enable(**({"gradient_checkpointing_kwargs": options} if options else {}))
