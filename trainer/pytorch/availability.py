"""Availability of optional packages of PyTorch (apex, bitsandbytes, torch_xla), checked without importing them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

from trackside.callbacks._util.imports import is_installed
from trackside.callbacks.errors import ArgumentError, MissingPackageError, UnsupportedError

NATIVE = {"adamw_apex_fused": "adamw_torch_fused", "sgd_apex_fused": "sgd", "adagrad_apex_fused": "adagrad"}
"""Equivalents of apex's optimizers in torch."""


def check_optimizer(name: str) -> None:
    """Raise if the installed packages do not have the optimizer ``name``, without importing them.

    Raises:
        ArgumentError: If a package is installed, but does not have the optimizer.
    """
    reason = why_no_apex("optimizers") if name.endswith("_apex_fused") else None
    if reason is not None:
        raise ArgumentError("optim", str(name), apex_needed(name, reason))


def check_liger() -> None:
    """Raise if liger-kernel is not installed, without importing it.

    Raises:
        MissingPackageError: If it is not.
    """
    if not is_installed("liger_kernel"):
        raise MissingPackageError("liger-kernel", "use_liger_kernel=True")


def apex_needed(name: str, reason: str) -> str:
    """Return the message that apex is needed, with the reason and the equivalent optimizer of torch."""
    instead = f"; optim={NATIVE[name]!r} does the same with torch alone" if name in NATIVE else ""
    return f"it needs NVIDIA apex, built from source (https://github.com/NVIDIA/apex): {reason}{instead}"


def check_torch_xla() -> None:
    """Raise if torch_xla cannot be imported, without importing it.

    Raises:
        UnsupportedError: If it cannot; the message has the versions and the solution.
    """
    reason = why_no_xla()
    if reason is not None:
        raise UnsupportedError(
            f"tpu_num_cores and PJRT_DEVICE=TPU cannot be used: {reason}. The last torch_xla is 2.9.0: pip install "
            "'torch==2.9.*' 'torch_xla[tpu]==2.9.0' in an environment of its own"
        )


def why_no_xla() -> str | None:
    """Return the reason why torch_xla cannot be imported here, or None if it can.

    Its native part is built for one minor version of torch; with another version, the import ends the process.

    Source:
        https://github.com/pytorch/xla#installation, and its wheels' tags.
    """
    try:
        found = importlib.metadata.version("torch_xla")
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError as error:
        return f"{error.name} is not installed"
    if found.split(".")[:2] != torch.split(".")[:2]:
        return (
            f"torch_xla {found} works with torch {'.'.join(found.split('.')[:2])} only, and torch {torch} is installed"
        )
    return None


def check_apex_amp() -> None:
    """Raise if apex.amp is not installed, without importing it.

    Raises:
        UnsupportedError: If it is not; the message has the reason and the alternative.
    """
    reason = why_no_apex("amp")
    if reason is not None:
        raise UnsupportedError(f"fp16_backend='apex' cannot be used: {reason}; fp16_backend='auto' is torch's own fp16")


def why_no_apex(part: str) -> str | None:
    """Return the reason why NVIDIA apex with ``part`` ("optimizers", "amp") is missing, or None if it is installed."""
    if importlib.util.find_spec("apex") is None:
        return "apex is not installed"
    if has_apex(part):
        return None
    if any(has_apex(other) for other in ("contrib", "optimizers", "normalization")):
        return f"this build of NVIDIA apex has no {part}" + (", which was removed after tag 25.05" * (part == "amp"))
    return "the package apex that is installed is the one of PyPI, a Pyramid toolkit, and not NVIDIA's"


def has_apex(part: str) -> bool:
    """Return whether NVIDIA apex with ``part`` ("optimizers", "amp") is installed, without importing it.

    The PyPI package of that name is a different project, and newer builds of NVIDIA apex lack amp, so check the files.
    """
    spec = importlib.util.find_spec("apex")
    folders = [Path(folder) / part for folder in spec.submodule_search_locations or ()] if spec else []
    return any((folder / "__init__.py").is_file() for folder in folders)
