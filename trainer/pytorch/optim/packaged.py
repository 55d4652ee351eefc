"""Optimizers of other packages, under the names that transformers has for them; imported when they are created."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from trackside.callbacks._util.imports import is_installed
from trackside.callbacks.errors import ArgumentError, MissingPackageError

Options = Callable[[Any], dict[str, Any]]


class Packaged(NamedTuple):
    """An optimizer of a package: its class, and its options as they follow from the arguments."""

    module: str
    class_name: str
    options: Options

    @property
    def package(self) -> str:
        """The name under which pip knows the package."""
        top = self.module.partition(".")[0]
        return {"optimi": "torch-optimi"}.get(top, top)


def check_package(name: str) -> None:
    """Raise if the optimizer ``name`` is that of a package that is not installed, without importing it.

    Raises:
        MissingPackageError: If it is not.
    """
    found = PACKAGED.get(name)
    if found is not None and not is_installed(found.module.partition(".")[0]):
        raise MissingPackageError(found.package, f"optim={str(name)!r}")


def class_and_options(name: str, args: Any) -> tuple[Any, dict[str, Any]]:
    """Return the class of the optimizer ``name``, and its options."""
    found = PACKAGED[name]
    return getattr(importlib.import_module(found.module), found.class_name), found.options(args)


def adam_options(args: Any) -> dict[str, Any]:
    """Return betas and epsilon of Adam."""
    return {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}


def _betas(args: Any) -> dict[str, Any]:
    return {"betas": (args.adam_beta1, args.adam_beta2)}


def _ademamix(args: Any) -> dict[str, Any]:
    return {"betas": (args.adam_beta1, args.adam_beta2, 0.9999), "eps": args.adam_epsilon}


def _low_bit(args: Any) -> dict[str, Any]:
    return {**adam_options(args), "block_size": 256}


def _none(args: Any) -> dict[str, Any]:
    return {}


def _warmup(args: Any) -> dict[str, Any]:
    """Return the warm-up of a schedule-free optimizer, which is its own."""
    if args.warmup_steps < 1 and (args.warmup_steps or args.warmup_ratio):
        field = "warmup_steps" if args.warmup_steps else "warmup_ratio"
        allowed = f"0 with optim={str(args.optim)!r}, whose own warm-up is a number of updates: give it as warmup_steps"
        raise ArgumentError(field, getattr(args, field), allowed)
    return {"warmup_steps": int(args.warmup_steps)}


def _adam_with_warmup(args: Any) -> dict[str, Any]:
    return {**adam_options(args), **_warmup(args)}


def _bitsandbytes() -> dict[str, Packaged]:
    kinds: dict[str, tuple[str, Options]] = {
        "adamw_8bit": ("AdamW8bit", adam_options),
        "adamw_bnb_8bit": ("AdamW8bit", adam_options),
        "ademamix": ("AdEMAMix", _ademamix),
        "ademamix_8bit": ("AdEMAMix8bit", _ademamix),
        "lion_32bit": ("Lion32bit", _betas),
        "lion_8bit": ("Lion8bit", _betas),
        "paged_adamw_32bit": ("PagedAdamW32bit", adam_options),
        "paged_adamw_8bit": ("PagedAdamW8bit", adam_options),
        "paged_ademamix_32bit": ("PagedAdEMAMix", _ademamix),
        "paged_ademamix_8bit": ("PagedAdEMAMix8bit", _ademamix),
        "paged_lion_32bit": ("PagedLion32bit", _betas),
        "paged_lion_8bit": ("PagedLion8bit", _betas),
        "rmsprop_bnb": ("RMSprop32bit", _none),
        "rmsprop_bnb_32bit": ("RMSprop32bit", _none),
        "rmsprop_bnb_8bit": ("RMSprop8bit", _none),
    }
    return {name: Packaged("bitsandbytes.optim", *kind) for name, kind in kinds.items()}


PACKAGED: dict[str, Packaged] = {
    **_bitsandbytes(),
    "adamw_torch_4bit": Packaged("torchao.optim", "AdamW4bit", _low_bit),
    "adamw_torch_8bit": Packaged("torchao.optim", "AdamW8bit", _low_bit),
    "grokadamw": Packaged("grokadamw", "GrokAdamW", _none),
    "schedule_free_adamw": Packaged("schedulefree", "AdamWScheduleFree", _adam_with_warmup),
    "schedule_free_radam": Packaged("schedulefree", "RAdamScheduleFree", adam_options),
    "schedule_free_sgd": Packaged("schedulefree", "SGDScheduleFree", _warmup),
    "stable_adamw": Packaged("optimi", "StableAdamW", adam_options),
}
"""By the value of ``args.optim``."""
