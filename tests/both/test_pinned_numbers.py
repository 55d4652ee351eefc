"""Numbers, events and files of short runs of both trainers, pinned in pinned_numbers.json beside this file.

Each configuration trains for 50 steps (6 where it says so) from fixed weights on fixed data, and predicts. Pinned:

- values: losses and all other values of the log records, predictions, norms of the final weights, as ``float.hex()``;
- bits: SHA-256 of the bytes of the final weights, predictions and labels;
- exact: the sequence of events, the names in the log records, the files of each checkpoint, the best checkpoint.

Kernels differ between processors and versions. The numbers are stored under the versions of the framework and a
fingerprint: the SHA-256 of a few fixed products, exponentials and losses. Where the file has the fingerprint of this
machine, everything is compared bit by bit. Where it does not, the test warns, compares ``values`` to a relative
tolerance of 1e-5 (5e-2 in half precision) and leaves ``bits`` out; ``exact`` is compared always.

To pin the numbers of this machine, beside those of others that are in the file::

    python tests/both/test_pinned_numbers.py --write

Pin them again only where a change of the numbers is intended, and give the reason in the commit.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import math
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))

import numpy as np
import pytest
from pinned_parts import FRAMEWORKS, accuracy, digest, environment, files_below, in_hex, run_processes

PINNED = Path(__file__).with_name("pinned_numbers.json")
STEPS = 50
TIMES = ("_runtime", "_per_second")
WITHIN_UPDATES = (
    *("on_step_begin", "on_substep_end", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end"),
    *("on_prediction_step", "on_save"),
)
"""Events that keep a trainer from doing several updates in one call, or from saving in the background."""

# -- configurations ----------------------------------------------------------------------------------------------------

RAGGED = {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 4}
EVALUATED = {"eval_strategy": "steps", "save_strategy": "steps", "metric_for_best_model": "accuracy"}
BOTH: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain, no listener within updates": {"listens": False, "logging_steps": 5},
    "accumulated, ragged last batch, labels -100": {"data": "tokens", **RAGGED},
    "clipped, weight decay, cosine, warm-up": {
        "max_grad_norm": 0.1,
        "weight_decay": 0.1,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 8,
        "logging_steps": 5,
        "logging_first_step": True,
    },
    "bf16": {"bf16": True, "learning_rate": 0.005, "logging_steps": 5},
    "fp16": {"fp16": True, "learning_rate": 0.005, "logging_steps": 5},
    "label smoothing": {"label_smoothing_factor": 0.1, "loss": None, "logging_steps": 5},
    "compute_loss overridden": {"trainer": "own_loss", "logging_steps": 5, "eval_strategy": "epoch"},
    "evaluated every 10, saved every 20, best at the end": {
        "eval_steps": 10,
        "save_steps": 20,
        "logging_steps": 7,
        "load_best_model_at_end": True,
        **EVALUATED,
    },
    "resumed, 6 steps": {
        "max_steps": 6,
        "eval_steps": 4,
        "save_steps": 3,
        "logging_steps": 2,
        "resumes": True,
        **EVALUATED,
        "gradient_accumulation_steps": 2,
        "lists_events": True,
    },
}
TORCH = {
    "batches are tuples, loss_fn": {"data": "tuples"},
    "two processes": {
        "data": "tuples",
        "processes": 2,
        **RAGGED,
        "logging_steps": 5,
        "save_strategy": "steps",
        "save_steps": 25,
    },
}
TENSORFLOW = {
    "steps_per_execution=5": {
        "listens": False,
        "steps_per_execution": 5,
        "logging_steps": 10,
        "save_strategy": "steps",
        "save_steps": 20,
    },
    "two logical CPUs": {
        "processes": 1,
        **RAGGED,
        "logging_steps": 5,
        "save_strategy": "steps",
        "save_steps": 25,
    },
}
CONFIGURATIONS = {
    **{f"{framework}: {name}": values for framework in ("torch", "tensorflow") for name, values in BOTH.items()},
    **{f"torch: {name}": values for name, values in TORCH.items()},
    **{f"tensorflow: {name}": values for name, values in TENSORFLOW.items()},
}


# -- a run -------------------------------------------------------------------------------------------------------------


def run(name: str, folder: Path) -> dict[str, Any]:
    """Run a configuration in this process and return its numbers."""
    parts, values = FRAMEWORKS[name.split(":")[0]](), dict(CONFIGURATIONS[name])
    sent: list[tuple[str, int]] = []
    payloads: dict[str, str] = {}
    with listening(sent, payloads, within_updates=values.get("listens", True)):
        trainer = make(parts, values, folder)
        output = trainer.train()
        if values.get("resumes"):
            trainer = make(parts, values, folder)
            output = trainer.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
        predicted = trainer.predict(parts.dataset(values.get("data", ""), 9, seed=2))
    found = numbers(trainer, output, predicted, parts.weights(trainer))
    lines = [
        f"{step}: {' '.join(name for name, _ in group)}"
        for step, group in itertools.groupby(sent, lambda item: item[1])
    ]
    exact = found["exact"]
    exact["events"] = {"counts": collections.Counter(name for name, _ in sent), "sequence": digest("\n".join(lines))}
    if values.get("lists_events"):
        exact |= {"events listed by step": lines, "payloads": payloads}
    exact["checkpoints"] = {path.name: files_below(path) for path in sorted(folder.glob("checkpoint-*"))}
    return found


def make(parts: Any, values: dict[str, Any], folder: Path) -> Any:
    """Return a trainer of a configuration."""
    own = ("data", "listens", "lists_events", "loss", "processes", "resumes", "trainer")
    data = values.get("data", "")
    args = {"max_steps": STEPS, "learning_rate": 0.05, "seed": 7, "logging_steps": 1, "save_strategy": "no"}
    args |= {"disable_tqdm": True, **{name: value for name, value in values.items() if name not in own}}
    trainer = getattr(parts, values.get("trainer", "trainer_class"))
    trainer = (trainer() if "trainer" in values else trainer)(
        args=parts.args_class(output_dir=str(folder), **args),
        train_dataset=parts.dataset(data, 37),
        eval_dataset=parts.dataset(data, 13, seed=1) if "eval_strategy" in values else None,
        compute_metrics=accuracy if data != "tokens" else None,
        **parts.options(data, values),
    )
    trainer.pop_callback("printer")
    return trainer


@contextlib.contextmanager
def listening(sent: list[tuple[str, int]], payloads: dict[str, str], *, within_updates: bool) -> Iterator[None]:
    """Note every event with the step it was sent at, and the names of what came with it, besides the context."""
    from trackside import events

    def listener(name: str) -> Callable[..., None]:
        def note(trainer: Any, **payload: Any) -> None:
            sent.append((name, payload["state"].global_step))
            payloads[name] = " ".join(sorted(payload.keys() - trainer._dispatcher.context.keys()))

        return note

    heard = [name for name in events.EVENTS if within_updates or name not in WITHIN_UPDATES]
    connected = [(events.EVENTS[name], events.EVENTS[name].connect(listener(name))) for name in heard]
    try:
        yield
    finally:
        for signal, note in connected:
            signal.disconnect(note)


def numbers(trainer: Any, output: Any, predicted: Any, weights: list[Any]) -> dict[str, Any]:
    """Return what is pinned of a trainer that trained and predicted."""
    history, state = trainer.state.log_history, trainer.state
    columns: dict[str, list[Any]] = {}
    for key, value in ((key, value) for record in history for key, value in record.items() if not key.endswith(TIMES)):
        columns.setdefault(key, []).append(value)
    metrics = {key: [value] for key, value in predicted.metrics.items() if not key.endswith(TIMES)}
    logits, labels = np.asarray(predicted.predictions), np.asarray(predicted.label_ids)
    more = {"training_loss": [output.training_loss], "predictions": logits.ravel()[:30].tolist(), **metrics}
    more["norms of weights"] = [math.sqrt(math.fsum(float(value) ** 2 for value in part.flat)) for part in weights]
    names = itertools.groupby(" ".join(record) for record in history)
    best = state.best_model_checkpoint
    return {
        "exact": {
            "records": [f"{len(list(group))} x {record}" for record, group in names],
            "predictions": f"{logits.dtype} {logits.shape} {labels.dtype} {labels.shape}",
            "global_step": output.global_step,
            "best": None if best is None else f"{Path(best).name} {state.best_metric}",
            "metrics": " ".join(output.metrics),
        },
        "bits": {
            "weights": digest(b"".join(part.tobytes() for part in weights)),
            "predictions": digest(logits.tobytes()),
            "labels": digest(labels.tobytes()),
        },
        "values": {key: " ".join(map(in_hex, column)) for key, column in {**columns, **more}.items()},
    }


# -- runs in processes of their own ------------------------------------------------------------------------------------


def run_where_it_belongs(name: str, folder: Path) -> dict[str, Any]:
    """Run a configuration here, or in processes of its own where it says how many; return its numbers."""
    count = CONFIGURATIONS[name].get("processes")
    if count is None:
        return as_read(run(name, folder / "out"))
    found = [folder / f"rank{rank}.json" for rank in range(count)]
    run_processes([[__file__, "--run", name, str(folder / "out"), str(path)] for path in found])
    results = [json.loads(path.read_text()) for path in found]
    return {part: {f"rank {rank}": each[part] for rank, each in enumerate(results)} for part in results[0]}


def run_in_own_process(name: str, folder: str, result: str) -> None:
    """Run a configuration that needs a process for itself, and write its numbers."""
    if name.startswith("tensorflow"):
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    Path(result).write_text(json.dumps(run(name, Path(folder))))


# -- comparing ---------------------------------------------------------------------------------------------------------


def as_read(found: Any) -> Any:
    return json.loads(json.dumps(found))


def differences(found: Any, pinned: Any, rtol: float | None, at: str = "") -> list[str]:
    """Return where two sets of numbers differ: bit by bit, or with ``rtol`` by that much, bits left out."""
    if isinstance(found, dict) and isinstance(pinned, dict):
        names = [*pinned, *(name for name in found if name not in pinned)]
        parts = [(name, found.get(name), pinned.get(name)) for name in names if rtol is None or name != "bits"]
        return [line for name, *both in parts for line in differences(*both, rtol, f"{at}/{name}")]
    if found == pinned:
        return []
    if "/values" in at and found is not None and pinned is not None:
        new, old = (np.array([float.fromhex(value) for value in column.split()]) for column in (found, pinned))
        if new.shape == old.shape:
            off = ~np.isclose(new, old, rtol=rtol or 0.0, atol=rtol or 0.0, equal_nan=True)
            where = int(np.argmax(off)) if off.any() else 0
            return [f"{at}[{where}]: {new[where]!r}, pinned {old[where]!r}"] if off.any() or rtol is None else []
    return [f"{at}: {found}, pinned {pinned}"]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * ("processes" in CONFIGURATIONS[name])) for name in CONFIGURATIONS],
)
def test_the_numbers_are_those_that_were_pinned(name, tmp_path, record_property):
    framework = name.split(":")[0]
    pytest.importorskip(framework)
    pinned, here = json.loads(PINNED.read_text()), environment(framework)
    is_known = here in pinned[framework]
    there, rtol = here, None
    if not is_known:
        there, rtol = next(iter(pinned[framework])), 5e-2 if "16" in name else 1e-5
        warnings.warn(f"no numbers are pinned for {here}: compared to those of {there} with a tolerance of {rtol}")
    record_property("compared", "bit by bit" if is_known else f"with a tolerance of {rtol} to {there}")

    found = run_where_it_belongs(name, tmp_path)

    assert differences(found, pinned[framework][there][name], rtol) == []


def test_every_configuration_is_pinned_and_no_other():
    pinned = json.loads(PINNED.read_text())

    for framework, of_machines in pinned.items():
        names = [name for name in CONFIGURATIONS if name.startswith(f"{framework}:")]
        assert all(sorted(found) == sorted(names) for found in of_machines.values())


def write() -> None:
    """Pin the numbers of this machine."""
    pinned: dict[str, Any] = json.loads(PINNED.read_text()) if PINNED.exists() else {}
    for framework in FRAMEWORKS:
        names = [name for name in CONFIGURATIONS if name.startswith(f"{framework}:")]
        found = {}
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                found[name] = run_where_it_belongs(name, Path(folder))
        pinned.setdefault(framework, {})[environment(framework)] = found
    PINNED.write_text(json.dumps(pinned, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write()
    elif sys.argv[1:2] == ["--run"]:
        run_in_own_process(*sys.argv[2:])
    else:
        sys.exit(__doc__)
