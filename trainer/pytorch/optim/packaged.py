"""Optimizers of other packages, under the names that transformers has for them; imported when they are created."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from trackside.callbacks._util.imports import is_installed
from trackside.callbacks.errors import ArgumentError, MissingPackageError

Options = Callable[[Any], dict[str, Any]]


class Packaged(NamedTuple):
    """An optimizer of a package: its class, and its options as they follow from the arguments.

    Attributes:
        of_targets: Options that only the parameters of ``optim_target_modules`` have, with their defaults.
    """

    module: str
    class_name: str
    options: Options
    of_targets: Mapping[str, Any] = MappingProxyType({})

    @property
    def missing(self) -> str:
        """The name under which pip knows a package that is needed and not installed; empty if none is missing."""
        top = self.module.partition(".")[0]
        absent = [name for name in (top, *ALSO_IMPORTED.get(top, ())) if not is_installed(name)]
        return PIP_NAMES.get(absent[0], absent[0]) if absent else ""


PIP_NAMES = {"optimi": "torch-optimi", "galore_torch": "galore-torch", "apollo_torch": "apollo-torch"}
ALSO_IMPORTED = {"galore_torch": ("bitsandbytes",), "apollo_torch": ("bitsandbytes",)}
"""Packages that a package imports for its optimizers in 8 bits, which one of these needs to be installed too."""


def check_package(name: str) -> None:
    """Raise if the optimizer ``name`` is that of a package that is not installed, without importing it.

    Raises:
        MissingPackageError: If it is not.
    """
    missing = PACKAGED[name].missing if name in PACKAGED else ""
    if missing:
        raise MissingPackageError(missing, f"optim={str(name)!r}")


def check_targets(args: Any) -> None:
    """Raise if ``optim_target_modules`` is given to an optimizer that has none, or the other way round.

    Raises:
        ArgumentError: If it is.
    """
    name, targets = str(args.optim), args.optim_target_modules
    low_rank = [each for each, packaged in PACKAGED.items() if packaged.of_targets]
    if name not in low_rank:
        if targets:
            allowed = f"only with optim={', '.join(map(repr, low_rank))}"
            raise ArgumentError("optim_target_modules", targets, allowed)
        return
    if not targets:
        allowed = f"names of linear layers, a pattern of names, or 'all-linear' with optim={name!r}"
        raise ArgumentError("optim_target_modules", targets, allowed)
    if args.fsdp:
        raise ArgumentError("optim", name, "not together with fsdp, which leaves a process no whole matrix to project")


def name_of(optimizer_cls: type) -> str:
    """Return the name of an optimizer's class; with that of its package if the package calls it as torch does another.

    GaLore's ``AdamW`` is ``galore_torch.AdamW``: its state is not that of torch's.
    """
    top = optimizer_cls.__module__.partition(".")[0]
    exported = [found.class_name for found in PACKAGED.values() if found.module == top]
    is_renamed = exported and optimizer_cls.__name__ not in exported
    return f"{top}.{optimizer_cls.__name__}" if is_renamed else optimizer_cls.__name__


def class_and_options(name: str, args: Any) -> tuple[Any, dict[str, Any]]:
    """Return the class of the optimizer ``name``, and its options."""
    found = PACKAGED[name]
    return getattr(importlib.import_module(found.module), found.class_name), found.options(args)


def adam_options(args: Any) -> dict[str, Any]:
    """Return betas and epsilon of Adam."""
    return {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}


def _without_warning(args: Any) -> dict[str, Any]:
    return {**adam_options(args), "no_deprecation_warning": True}


def _fixed_rate(args: Any) -> dict[str, Any]:
    return {"scale_parameter": False, "relative_step": False}


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


GALORE = {"rank": 128, "update_proj_gap": 200, "scale": 0.25, "proj_type": "std"}
APOLLO = {**GALORE, "scale": 1.0, "proj": "random", "scale_type": "channel"}

PACKAGED: dict[str, Packaged] = {
    **_bitsandbytes(),
    "apollo_adamw": Packaged("apollo_torch", "APOLLOAdamW", _without_warning, APOLLO),
    "galore_adafactor": Packaged("galore_torch", "GaLoreAdafactor", _fixed_rate, GALORE),
    "galore_adamw": Packaged("galore_torch", "GaLoreAdamW", _without_warning, GALORE),
    "galore_adamw_8bit": Packaged("galore_torch", "GaLoreAdamW8bit", adam_options, GALORE),
    "adamw_torch_4bit": Packaged("torchao.optim", "AdamW4bit", _low_bit),
    "adamw_torch_8bit": Packaged("torchao.optim", "AdamW8bit", _low_bit),
    "grokadamw": Packaged("grokadamw", "GrokAdamW", _none),
    "schedule_free_adamw": Packaged("schedulefree", "AdamWScheduleFree", _adam_with_warmup),
    "schedule_free_radam": Packaged("schedulefree", "RAdamScheduleFree", adam_options),
    "schedule_free_sgd": Packaged("schedulefree", "SGDScheduleFree", _warmup),
    "stable_adamw": Packaged("optimi", "StableAdamW", adam_options),
}
"""By the value of ``args.optim``."""
