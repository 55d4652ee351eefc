"""Weights & Biases, offline and online."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from trackside.callbacks.errors import ArgumentError
from trackside.callbacks.state import TrainerControl, TrainerState

from ._base.tracker import Status, Tracker, values_of
from ._formats.wandb_datastore import is_finished, read_history

logger = logging.getLogger("trackside.integrations")

EXIT_CODES = {"finished": 0, "failed": 1, "killed": 255}
"""What W&B takes for the end of a run; 255 is what it shows as killed."""

FILE_WAIT_S = 5.0
"""So long may W&B take to write the rest of an offline run."""

ID_WAIT_S = 5.0
"""So long may W&B take to forget a run that was finished."""


class WandbCallback(Tracker):
    """Log to Weights & Biases: records, arguments as config, how the run ended as summary.

    A resumed run goes on with the same W&B run. In offline mode that leaves one folder for each part, all of the same
    run id, in ``output_dir/wandb``; `wandb sync` puts them together.

    Args:
        project, entity, name, tags, notes: As `wandb.init` takes them; name: ``args.run_name`` without it.
        mode: "online", "offline" or "disabled"; None: as WANDB_MODE says, else online.
        group: Runs of one group are shown together; with ``ranks="all"`` it is made from the run's name.
        ranks: "first": the first process logs; "all": each process logs to a run of its own, in one group.
        checkpoints: Keep every checkpoint as a version of an artifact. Saving then waits for W&B.
        watch: "gradients", "parameters" or "all" logs their distributions (PyTorch only); None: nothing.
        settings: More options for `wandb.Settings`.

    Raises:
        MissingPackageError: If wandb is not installed.
        ArgumentError: If an option holds a value that is not allowed.
    """

    name = "wandb"
    package = "wandb"
    extra = "wandb"

    def __init__(
        self,
        *,
        project: str | None = None,
        entity: str | None = None,
        name: str | None = None,
        tags: Sequence[str] | None = None,
        notes: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        group: str | None = None,
        ranks: Literal["first", "all"] = "first",
        checkpoints: bool = False,
        watch: Literal["gradients", "parameters", "all"] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _check("mode", mode, ("online", "offline", "disabled", None))
        _check("ranks", ranks, ("first", "all"))
        _check("watch", watch, ("gradients", "parameters", "all", None))
        self.run_name = name
        self.options = {"project": project, "entity": entity, "tags": tags, "notes": notes, "mode": mode}
        self.group = group
        self.ranks = ranks
        self.watch = watch
        self.settings = dict(settings or {})
        self.run: Any = None
        """The W&B run that is open."""
        self._watched: Any = None
        self._folder = Path()
        self._last_steps: dict[str, int] | None = None
        if checkpoints:
            self.on_save = self._keep_checkpoint  # type: ignore[method-assign]  # without it, commits need not wait
        waits = {"on_save"} if checkpoints else set()
        self.waits_at = frozenset(waits | ({"on_train_begin"} if watch else set()))  # type: ignore[misc]

    def is_writer(self, state: TrainerState) -> bool:
        """Return whether this process writes."""
        return self.ranks == "all" or state.is_world_process_zero

    def open(self, args: Any, state: TrainerState, is_known: bool, model: Any = None, **kwargs: Any) -> None:
        """Start a run, or go on with the one of this id."""
        import wandb

        folder = Path(args.output_dir).resolve()  # W&B's own process may have been started in another folder
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._last_steps = folder / "wandb", None
        name = self.run_name or getattr(args, "run_name", None)
        self.run = _init(
            **self.options,
            **self._placed(args, name or folder.name, name),
            id=self.run_id,
            resume="allow",
            dir=str(folder),
            settings=wandb.Settings(**self.settings),
            # W&B's hooks on the model log to the run of the process, so that one it has to be
            reinit="finish_previous" if self.watch else "create_new",
        )
        self.run.config.update(values_of(args), allow_val_change=True)
        if self.watch:
            self._watch(model, max(int(state.logging_steps), 1))

    def _placed(self, args: Any, group: str, name: str | None) -> dict[str, Any]:
        if self.ranks == "first":
            return {"name": name, "group": self.group}
        rank = int(getattr(args, "process_index", 0))
        return {"name": f"{name or group}-rank-{rank}", "group": self.group or group, "job_type": f"rank-{rank}"}

    def write(self, values: dict[str, float], step: int) -> None:
        """Add one point to each curve."""
        self.run.log(values, step=step)

    def last_step(self, name: str) -> int:
        """Return the last step of a curve in the run: as W&B's server says, or the files of an offline run."""
        if not self.run.offline:
            return int(self.run.starting_step) - 1
        if self._last_steps is None:
            self._last_steps = self._read_last_steps()
        return self._last_steps.get(name, -1)

    def _read_last_steps(self) -> dict[str, int]:
        last: dict[str, int] = {}
        for path in sorted(self._folder.glob(f"*run-*-{self.run_id}*/run-{self.run_id}.wandb")):
            if not os.path.samefile(path.parent, Path(self.run.dir).parent):
                for step, row in read_history(path):
                    last.update(dict.fromkeys(row, step))
        return last

    def close(self, status: Status, state: TrainerState) -> None:
        """End the run, with its summary."""
        run, self.run = self.run, None
        if self._watched is not None:
            run.unwatch(self._watched)
            self._watched = None
        summary = {"stop_reason": state.stop_reason, "best_metric": state.best_metric}
        summary["best_global_step"] = state.best_global_step
        run.summary.update({name: value for name, value in summary.items() if value is not None})
        run.finish(exit_code=EXIT_CODES[status])
        if run.offline:
            wait_for_end(Path(run.dir).parent / f"run-{self.run_id}.wandb")

    def _watch(self, model: Any, every: int) -> None:
        if not hasattr(model, "named_parameters"):
            logger.warning("watch=%r: W&B watches PyTorch models only, not %s", self.watch, type(model).__name__)
            return
        self.run.watch(model, log=self.watch, log_freq=every)
        self._watched = model

    def _keep_checkpoint(
        self, args: Any, state: TrainerState, control: TrainerControl, checkpoint: str = "", **kwargs: Any
    ) -> None:
        if self.run is None or not state.is_world_process_zero:
            return
        import wandb

        artifact = wandb.Artifact(f"checkpoint-{self.run_id}", type="model", metadata={"step": state.global_step})
        artifact.add_dir(checkpoint)
        is_best = state.best_global_step == state.global_step
        aliases = ["latest", f"step-{state.global_step}", *(["best"] if is_best else [])]
        self.run.log_artifact(artifact, aliases=aliases)


def _init(**options: Any) -> Any:
    """Start a run; if it was finished in this process just now, wait for W&B to let go of its id."""
    import wandb

    deadline = time.monotonic() + ID_WAIT_S
    while True:
        try:
            return wandb.init(**options)
        except Exception as error:
            if "is in use" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def wait_for_end(path: Path) -> None:
    """Wait until the file of an offline run is complete: W&B returns before it has written it."""
    deadline = time.monotonic() + FILE_WAIT_S
    while time.monotonic() < deadline and not (path.exists() and is_finished(path)):
        time.sleep(0.01)


def _check(option: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise ArgumentError(option, value, ", ".join(map(str, allowed)))
