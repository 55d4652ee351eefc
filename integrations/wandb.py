"""Weights & Biases integration, online and offline."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from trackside.callbacks.errors import LoginError, check_one_of
from trackside.callbacks.state import TrainerControl, TrainerState

from ._base.tracker import Status, Tracker, values_of
from ._compat.wandb_datastore import earlier_files, read_last_steps, run_file, wait_until_complete
from ._compat.wandb_service import has_login, log_to_itself, service_errors

logger: logging.Logger = logging.getLogger("trackside.integrations")

EXIT_CODES = {"finished": 0, "failed": 1, "killed": 255}
"""W&B's exit codes of a run; it shows 255 as killed."""

ID_WAIT_S = 5.0
"""Longest time, in seconds, that W&B's service keeps the id of a run in use after the run was finished."""

CHOICES: dict[str, tuple[str | None, ...]] = {
    "mode": ("online", "offline", "disabled", None),
    "ranks": ("first", "all"),
    "watch": ("gradients", "parameters", "all", None),
}
"""Values that are allowed for an option."""


NOT_GLOBAL = (
    "the run of WandbCallback is not the one of wandb.log(): log with trainer.log({...}), which reaches every tracker, "
    "or with run.log({...}) of the WandbCallback"
)


class WandbCallback(Tracker):
    """Log to Weights & Biases: records, arguments as config, best metric and reason for stopping as summary.

    A resumed run continues the same W&B run. In offline mode each part has a folder of its own in ``output_dir/wandb``,
    all with the same run id; `wandb sync` joins them.

    The run is not the one that is global in the process (``wandb.run``), which stays what the user has opened. A
    callback that logs something too calls ``trainer.log({...})``, which reaches every tracker, or ``run.log`` of this.

    Args:
        project, entity, tags, notes: As in `wandb.init`.
        name: Name of the run; None: ``args.run_name``.
        mode: "online", "offline" or "disabled"; None: the environment variable WANDB_MODE, else online.
        group: Group of the run; None: no group, or the run's name if ``ranks`` is "all".
        ranks: "first": only the first process logs; "all": each process logs to its own run, all in one group.
        checkpoints: Keep every checkpoint as a version of an artifact. Saving then waits for W&B.
        watch: Log the distributions of "gradients", "parameters" or "all" (PyTorch only); None: log none.
        settings: More options, for `wandb.Settings`.

    Attributes:
        run: The W&B run that is open; None outside of a run.

    Raises:
        LoginError: At the start, if W&B would ask for a login: a question beside the training could not be answered.
        MissingPackageError: If wandb is not installed.
        ArgumentError: If ``mode``, ``ranks`` or ``watch`` has another value.
    """

    name: str | None = "wandb"
    package: str = "wandb"

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
        for option, value in (("mode", mode), ("ranks", ranks), ("watch", watch)):
            check_one_of(option, value, CHOICES[option])
        self.run_name = name
        self.options: dict[str, Any] = {
            "project": project,
            "entity": entity,
            "tags": tags,
            "notes": notes,
            "mode": mode,
        }
        self.group = group
        self.ranks = ranks
        self.watch = watch
        self.settings: dict[str, Any] = dict(settings or {})
        self.run: Any = None
        self._watched: Any = None
        self.checkpoints = checkpoints
        if self.checkpoints:
            self.on_save = self._keep_checkpoint  # type: ignore[method-assign]  # else saving waits
        waits = {"on_save": checkpoints, "on_train_begin": watch is not None}
        self.waits_at: frozenset[str] = frozenset(event for event, is_needed in waits.items() if is_needed)

    def is_writer(self, state: TrainerState) -> bool:
        return self.ranks == "all" or state.is_world_process_zero

    def on_init_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_init_end(args, state, control, **kwargs)
        if self.is_writer(state):
            self._check_login()

    def _check_login(self) -> None:
        given = {name: value for name, value in self.options.items() if name == "mode" and value is not None}
        if not has_login({**self.settings, **given}):
            raise LoginError("W&B", "Run `wandb login` or set WANDB_API_KEY, or record offline with mode='offline'")

    def on_exception(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_exception(args, state, control, **kwargs)
        import wandb

        error = kwargs.get("exception")
        if isinstance(error, wandb.Error) and wandb.run is None:
            error.add_note(NOT_GLOBAL)

    def on_callback_error(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        import wandb

        if isinstance(kwargs.get("error"), wandb.Error) and wandb.run is None:
            logger.warning("the callback %r: %s", kwargs.get("callback"), NOT_GLOBAL)

    def open(self, args: Any, state: TrainerState, resume: bool, model: Any = None, **kwargs: Any) -> None:
        """Start a run, or continue the one whose id is ``run_id``."""
        import wandb

        self._check_login()

        folder = Path(args.output_dir).resolve()  # W&B's own process may have been started in another folder
        folder.mkdir(parents=True, exist_ok=True)
        name = self.run_name or getattr(args, "run_name", None)
        self.run = _init(
            **self.options,
            **self._placed(args, name or folder.name, name),
            id=self.run_id,
            resume="allow",
            dir=str(folder),
            settings=wandb.Settings(**self.settings),
            reinit="create_new",  # a run that the user has opened stays open, and global
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

    def last_steps(self) -> Mapping[str, int] | None:
        """Return the last steps in the files of the earlier parts of an offline run."""
        return read_last_steps(earlier_files(self.run)) if self.run.offline else {}

    def last_step(self, name: str) -> int | None:
        """Return the last step of a curve: in the files if offline, else the run's last step on W&B's server."""
        return super().last_step(name) if self.run.offline else int(self.run.starting_step) - 1

    def close(self, status: Status, state: TrainerState) -> None:
        """End the run, and add its summary."""
        run, self.run = self.run, None
        if self._watched is not None:
            run.unwatch(self._watched)
            self._watched = None
        summary = {name: getattr(state, name) for name in ("stop_reason", "best_metric", "best_global_step")}
        run.summary.update({name: value for name, value in summary.items() if value is not None})
        run.finish(exit_code=EXIT_CODES[status])
        if run.offline:
            wait_until_complete(run_file(run))

    def _watch(self, model: Any, every: int) -> None:
        if not hasattr(model, "named_parameters"):
            found = type(model).__name__
            logger.warning("watch=%r has no effect: W&B watches PyTorch models only, not %s", self.watch, found)
            return
        log_to_itself(self.run)
        self.run.watch(model, log=self.watch, log_freq=every)
        self._watched = model

    def _keep_checkpoint(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.run is None or not state.is_world_process_zero:
            return
        import wandb

        artifact = wandb.Artifact(f"checkpoint-{self.run_id}", type="model", metadata={"step": state.global_step})
        artifact.add_dir(kwargs["checkpoint"])
        is_best = state.best_global_step == state.global_step
        aliases = ["latest", f"step-{state.global_step}", *(["best"] if is_best else [])]
        self.run.log_artifact(artifact, aliases=aliases)


def _init(**options: Any) -> Any:
    """Start a run; if its id is in use, because its last part was just finished in this process, wait for W&B."""
    import wandb

    deadline = time.monotonic() + ID_WAIT_S
    while True:
        try:
            return wandb.init(**options)
        except service_errors():
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
