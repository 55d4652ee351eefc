"""What the examples of the gallery share: run one, print its evaluation, and save its picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "images" / "gallery"


def run(name: str, train: Callable[[str], Any], draw: Callable[[Any, Any], None], folder: Path | None = None) -> Path:
    """Train in ``out/NAME``, print the evaluation, and draw into ``folder``, or beside the checkpoints."""
    import matplotlib.pyplot as plt

    trainer = train(f"out/{name}")
    print({key: round(value, 4) for key, value in trainer.evaluate().items() if isinstance(value, float)})
    figure = plt.figure(figsize=(4.2, 3.2), layout="constrained")
    draw(trainer, figure)
    path = (folder or Path(f"out/{name}")) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80, metadata={"Software": None})
    plt.close(figure)
    print(path)
    return path
