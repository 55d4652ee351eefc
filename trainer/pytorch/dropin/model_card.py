"""Model card: README.md beside the weights, with the arguments, the results and the versions of a run."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trackside.callbacks.metrics import SPEEDS

SHOWN = (
    *("learning_rate", "per_device_train_batch_size", "per_device_eval_batch_size", "seed"),
    *("gradient_accumulation_steps", "optim", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps"),
)
"""Arguments in every card."""


def write_model_card(trainer: Any, folder: Path, about: Mapping[str, Any]) -> Path:
    """Write README.md into ``folder``; return its path. A card that is there is replaced.

    Args:
        trainer: Its arguments, model and history are described.
        about: What only the caller knows: language, license, tags, model_name, finetuned_from, tasks, dataset,
            dataset_tags, dataset_args; each a text or a list, or None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "README.md"
    path.write_text("\n".join(_lines(trainer, {name: value for name, value in about.items() if value}, folder)) + "\n")
    return path


def _lines(trainer: Any, about: Mapping[str, Any], folder: Path) -> list[str]:
    name = about.get("model_name") or folder.resolve().name
    lines = ["---", *_front_matter(about), "---", "", f"# {name}", ""]
    origin = f"a fine-tuned version of {about['finetuned_from']}" if "finetuned_from" in about else "a trained model"
    data = f" on {', '.join(_listed(about['dataset']))}" if "dataset" in about else ""
    lines += [f"{type(trainer.model).__name__}, {origin}{data}.", ""]
    history = trainer.state.log_history
    evaluations = [record for record in history if any(key.startswith("eval_") for key in record)]
    last = evaluations[-1] if evaluations else {}
    results = [f"- {key.removeprefix('eval_')}: {value}" for key, value in last.items() if key.startswith("eval_")]
    if results:
        lines += ["Results on the evaluation set:", "", *results, ""]
    args = trainer.args.to_dict()
    lines += ["## Arguments", "", *(f"- {key}: {args[key]}" for key in SHOWN), ""]
    lines += ["## Evaluations", "", *_table(evaluations), ""] if results else []
    return [*lines, "## Versions", "", *_versions()]


def _front_matter(about: Mapping[str, Any]) -> list[str]:
    given = {**about, "datasets": about.get("dataset_tags"), "base_model": about.get("finetuned_from")}
    tags = [*_listed(given.get("tags") or ()), "generated_from_trainer", "trackside"]
    front: dict[str, Any] = {"library_name": "transformers", "tags": list(dict.fromkeys(tags))}
    front |= {key: given[key] for key in ("license", "base_model") if given.get(key)}
    front |= {key: _listed(given[key]) for key in ("language", "datasets") if given.get(key)}
    return [f"{key}: {json.dumps(value)}" for key, value in front.items()]  # JSON is YAML


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(key for row in rows for key in ("step", "epoch", *row) if not key.endswith(SPEEDS)))
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    return [*lines, *(f"| {' | '.join(str(row.get(name, '')) for name in names)} |" for row in rows)]


def _versions() -> list[str]:
    lines = [f"- Python {platform.python_version()}"]
    for package in ("trackside", "torch", "transformers", "datasets", "tokenizers"):
        try:
            lines.append(f"- {package} {version(package)}")
        except PackageNotFoundError:
            continue
    return lines


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
