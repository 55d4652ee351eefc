"""Probe: a copy of a trainer that trains its model for a few updates, after which everything is as it was."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from trackside.callbacks.errors import UnsupportedError
from trackside.callbacks.state import TrainerState

from ..engine import Engine


@contextmanager
def probe_of(trainer: Any, engine: Engine, caller: str, **changes: Any) -> Iterator[tuple[Any, Engine]]:
    """Return a context with a copy of a trainer, and its engine, for one run on the same model, without callbacks.

    Weights, gradients and random numbers are kept from the first event of the run to the end of the context.

    Args:
        engine: The engine of ``trainer``.
        caller: The method that needs the copy, for the error.
        changes: Training arguments in which the copy differs.

    Raises:
        UnsupportedError: On several processes or devices.
    """
    if trainer.args.world_size > 1 or engine.strategy.local_replicas > 1:
        raise UnsupportedError(f"{caller} runs in one process, on one device. Start the script without torchrun")
    with tempfile.TemporaryDirectory() as folder, engine.checkpoint.random_state_kept(), ExitStack() as kept:
        probe = _copied(trainer, engine, folder, changes)
        own: Engine = probe._engine

        @probe.on("on_train_begin")  # type: ignore[untyped-decorator]
        def begin(_: object, **kwargs: object) -> None:
            kept.enter_context(own.checkpoint.random_state_kept())
            kept.enter_context(own.sandbox.model_kept())

        yield probe, own


def _copied(trainer: Any, engine: Engine, folder: str, changes: dict[str, Any]) -> Any:
    """Return the copy; ``folder`` stands in the place of ``output_dir``."""
    own: dict[str, Any] = {
        "output_dir": folder,
        "logging_dir": None,
        "staging_dir": None,
        "callbacks": {},
        "report_to": [],
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "fast_dev_run": False,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "disable_tqdm": True,
        "lr_scheduler_type": "constant",
        "lr_scheduler_kwargs": None,
        "warmup_steps": 0,
        "warmup_ratio": 0.0,
        "resume_from_checkpoint": None,
        "skip_memory_metrics": True,
        "on_stop_signal": "raise",
    }
    args = trainer.args.replace(**{**own, **changes})
    vars(args)["place"] = trainer.args.place
    optimizer = engine.sandbox.copied_optimizer(engine.given.pair[0])
    kept = {**trainer.__getstate__(), "args": args, "callbacks": [], "optimizers": (optimizer, None)}
    kept["state"] = TrainerState(is_local_process_zero=True, is_world_process_zero=True)
    probe: Any = object.__new__(type(trainer))
    probe.__setstate__(kept)
    return probe
