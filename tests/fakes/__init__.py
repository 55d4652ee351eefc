"""Make packages that cannot be had here importable: their strict stand-ins in tests/fakes."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

FAKES = Path(__file__).parent


def torch_xla(folder: Path, version: str | None = None) -> list[str]:
    """Return what to put before sys.path for a torch_xla of ``version``, or of one that fits the installed torch."""
    fitting = importlib.metadata.version("torch").partition("+")[0]
    described = folder / "metadata" / "torch_xla.dist-info"
    described.mkdir(parents=True, exist_ok=True)
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch_xla\nVersion: {version or fitting}\n")
    _let_others_look()
    return [str(FAKES / "of_torch_xla"), str(described.parent)]


def apex() -> str:
    """Return what to put before sys.path for an apex."""
    _let_others_look()
    return str(FAKES / "of_apex")


def _let_others_look() -> None:
    """Have transformers note what is really there, as it looks once in a process."""
    from transformers.utils import import_utils

    for name in ("is_torch_xla_available", "is_apex_available"):
        getattr(import_utils, name, bool)()


def forget(package: str) -> None:
    """Forget the modules of a stand-in."""
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]
