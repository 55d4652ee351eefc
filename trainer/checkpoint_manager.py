"""Checkpoint manager: saving and restoring a complete run."""

from __future__ import annotations

import dataclasses
import json
import logging
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from trackside.callbacks._util.plain_data import to_json
from trackside.callbacks.bus.dispatcher import Dispatcher
from trackside.callbacks.errors import ArgumentError, CheckpointError
from trackside.callbacks.state import TrainerState

from .checkpointing.async_commit import Committer
from .checkpointing.best_model import BestModel
from .checkpointing.discovery import find_checkpoints, newest_valid, run_id_of
from .checkpointing.manifest import BrokenCheckpointError, Contents, contents_of, open_checkpoint, roles_of
from .checkpointing.store import CheckpointStore, Write
from .engine import Engine, Overrides
from .progress import Progress

logger: logging.Logger = logging.getLogger("trackside.trainer")

STATE_FILE = "trainer_state.json"
ARGS_FILE = "training_args.json"
PROGRESS_FILE = "progress.json"

runs_begun: Counter[Path] = Counter()
"""Number of runs that this process has begun, by folder; identifies the entry of an earlier attempt of the job."""


class CheckpointManager:
    """The checkpoints of one trainer.

    Args:
        trainer: Its ``args`` and ``state`` are read, and the state is filled when a run is resumed.
        engine: Takes and restores snapshots.
        dispatcher: Sends on_save and on_load; keeps the states of callbacks.
        overrides: The documented methods that the trainer overrides.

    Attributes:
        best: The best model so far.
        committer: Commits checkpoints in the background.
    """

    def __init__(self, trainer: Any, engine: Engine, dispatcher: Dispatcher, overrides: Overrides) -> None:
        self.trainer = trainer
        self.engine = engine
        self.dispatcher = dispatcher
        self.overrides = overrides
        trainer.state.run_id = trainer.state.run_id or uuid.uuid4().hex
        self.best: BestModel = BestModel(trainer, lambda step: self.store.path(step), self.load_weights)
        self.committer: Committer = Committer()
        self._store: CheckpointStore | None = None

    @property
    def run_id(self) -> str:
        """The id in every manifest of the run, so that a run deletes only its own checkpoints; kept on resume."""
        return str(self.trainer.state.run_id)

    @property
    def store(self) -> CheckpointStore:
        """The checkpoint store; created at the first use, so that an unused trainer leaves no folder behind."""
        if self._store is None:
            args = self.trainer.args
            self._store = CheckpointStore(args.output_dir, run_id=self.run_id, save_total_limit=args.save_total_limit)
        return self._store

    def reopen(self) -> None:
        """Open the checkpoint store again after the trainer's arguments have changed."""
        self._store = None

    # -- saving ---------------------------------------------------------------------------------------------------

    def save(self, progress: Progress) -> None:
        """Save a checkpoint of this step.

        If a callback listens to on_save, several processes run, the model is sharded, or a subclass overrides saving,
        the checkpoint is committed before this method returns. Otherwise the commit continues in the background, and
        a failure is raised at the next step; a save waits only if two earlier ones are not yet committed.
        """
        trainer = self.trainer
        args, state, dispatcher = trainer.args, trainer.state, self.dispatcher
        step, is_heard = state.global_step, bool(dispatcher.receivers("on_save"))
        is_plain = not is_heard and "save_model" not in self.overrides
        background = bool(args.save_async) and is_plain and args.world_size == 1 and not args.fsdp
        state.stateful_callbacks = dispatcher.state_dicts()
        if background:
            self.committer.make_room()  # before the copy: at most two copies exist
        write = self._writer(self.engine.checkpoint.snapshot(copy=background), progress)
        best, held = state.best_model_checkpoint, self._held(step)

        def commit() -> Path:
            return self.store.commit(step, write, best=best, held=held)

        if background:
            self.committer.submit(commit)
            return
        self.committer.wait()
        write_own = commit if state.is_world_process_zero else self.engine.checkpoint.write_shards
        self.engine.strategy.collectives.outcome("the commit of a checkpoint", write_own)
        if is_heard:
            dispatcher.send("on_save", checkpoint=str(self.store.path(step)))

    def _held(self, step: int) -> set[str]:
        """Return what callbacks on any process work on, after they are done with an earlier checkpoint of ``step``."""
        self.dispatcher.wait_until_free(str(self.store.path(step)))
        gather = self.engine.strategy.collectives.gather
        return {path for held in gather("the checkpoints in use", self.dispatcher.held()) for path in held}

    def _writer(self, write_snapshot: Write, progress: Progress) -> Write:
        """Return a function that writes the complete checkpoint, with the current values of all that may change."""
        texts = {
            STATE_FILE: _as_json(self.trainer.state.to_dict(), "state"),
            ARGS_FILE: _as_json(self.trainer.args.to_dict(), "arguments"),
            PROGRESS_FILE: _as_json(dataclasses.asdict(progress), "progress"),
        }

        def write(folder: Path) -> dict[str, str]:
            roles = write_snapshot(folder) or {}
            for name, text in texts.items():
                (folder / name).write_text(text, encoding="utf-8")
            return {**roles, **roles_of(texts)}

        return write

    def finish(self) -> None:
        """Wait until every checkpoint is committed, and free the memory of the copies; raise a failure."""
        try:
            self.committer.wait()
        finally:
            self.engine.checkpoint.release_memory()

    def settle(self) -> None:
        """Do as `finish`, and report a failure without raising it."""
        try:
            self.finish()
        except Exception as error:
            logger.error("the last checkpoint could not be saved: %s", error)

    def close(self) -> None:
        """Delete what callbacks held at the last commit, and hold no more; the last thing of a run."""
        best = self.trainer.state.best_model_checkpoint
        if self.trainer.state.is_world_process_zero:
            self.store.rotate(*([] if best is None else [best]), *self.dispatcher.held())

    # -- reading -------------------------------------------------------------------------------------------------

    def open(self, folder: str | Path) -> Contents:
        """Verify a folder, once for all processes, and return its contents.

        Raises:
            BrokenCheckpointError: If it does not exist, or does not verify; on every process.
        """
        path = Path(folder)
        outcome: Contents | str | None = None
        if self.trainer.state.is_world_process_zero:
            try:
                outcome = open_checkpoint(path)
            except BrokenCheckpointError as error:
                outcome = error.reason
        first: Contents | str = self.engine.strategy.collectives.gather("the verification of a checkpoint", outcome)[0]
        if isinstance(first, str):
            raise BrokenCheckpointError(path, first)
        return first

    def locate(self, wanted: str | Path | bool | None) -> Path | None:
        """Return the checkpoint to resume from; None for a fresh start.

        If the launcher restarted the job, the newest checkpoint of an earlier attempt takes precedence over ``wanted``.

        Args:
            wanted: A folder; True for the newest valid one in ``output_dir`` (a fresh start if there is none); None or
                False for a fresh start.

        Raises:
            CheckpointError: If the folder does not exist or does not verify, or if no checkpoint in it verifies.
            ArgumentError: If a fresh start would write into a folder that holds checkpoints of another run.
        """
        folder = Path(self.trainer.args.output_dir).resolve()
        runs_begun[folder] += 1
        name = f"run-in/{folder}/{runs_begun[folder]}"
        # not for a trial: a restarted search may try other hyperparameters in it
        notes = None if self.trainer.state.is_hyper_param_search else self.engine.job_store()
        if notes is None:
            return self._wanted(wanted)
        earlier = self._of_earlier_attempt(notes.get(name).decode()) if notes.check([name]) else None
        checkpoint = earlier or self._wanted(wanted)
        notes.set(name, (checkpoint and run_id_of(checkpoint)) or self.run_id)
        return checkpoint

    def _of_earlier_attempt(self, run_id: str) -> Path | None:
        self.trainer.state.run_id = run_id
        checkpoint, skipped = newest_valid(self.trainer.args.output_dir, run_id)
        _tell(skipped)
        logger.warning(
            "this job was started again; it %s",
            f"goes on from {checkpoint}" if checkpoint else "had saved nothing yet, and begins anew",
        )
        return checkpoint

    def _wanted(self, wanted: str | Path | bool | None) -> Path | None:
        output_dir = Path(self.trainer.args.output_dir)
        if wanted is True:
            return _newest(output_dir)
        if wanted:
            _state_file(open_checkpoint(Path(str(wanted))))
            return Path(str(wanted))
        if not self.trainer.args.overwrite_output_dir:
            self._refuse_foreign(output_dir)
        return None

    def _refuse_foreign(self, output_dir: Path) -> None:
        for path in find_checkpoints(output_dir):
            if run_id_of(path) != self.run_id:
                raise ArgumentError(
                    "output_dir",
                    str(output_dir),
                    f"it holds checkpoints of another run ({path.name}); set resume_from_checkpoint=True to go on from "
                    "them, overwrite_output_dir=True to start afresh, or another output_dir",
                )

    def load_weights(self, folder: str | Path) -> None:
        """Load only the weights, from a checkpoint, which is verified, or from a folder that save_model wrote.

        Raises:
            CheckpointError: If the checkpoint does not verify (a BrokenCheckpointError), or does not fit the model.
        """
        self.engine.checkpoint.load_weights(self.open(folder))

    def restore(self, checkpoint: Path) -> Progress:
        """Restore everything from a checkpoint except the random number generators, and send on_load."""
        trainer, contents = self.trainer, contents_of(checkpoint)  # `locate` has verified it
        self.engine.checkpoint.load_snapshot(contents)
        self._take_state(_state_file(contents))
        trainer.state.run_id = run_id_of(checkpoint) or self.run_id
        self._store = None
        if trainer.state.is_world_process_zero:
            self.store.clean()
        if trainer.args.restore_callback_states_from_checkpoint:
            self.dispatcher.load_state_dicts(trainer.state.stateful_callbacks)
        differences = trainer.args.differences(_read(contents.find(ARGS_FILE)))
        for name, (old, new) in differences.items() if trainer.state.is_world_process_zero else ():
            logger.warning("resuming with %s=%r; the checkpoint was written with %r", name, new, old)
        self.dispatcher.send("on_load", checkpoint=str(checkpoint), differences=differences)
        kept = _read(contents.find(PROGRESS_FILE)) or {"epoch": int(trainer.state.epoch or 0)}  # transformers has none
        progress = Progress(**kept)
        if trainer.args.ignore_data_skip:  # back to the beginning of the epoch
            progress.batches_in_epoch = progress.examples_in_epoch = 0
        return progress

    def _take_state(self, path: Path) -> None:
        """Fill the trainer's state in place: callbacks and the dispatcher hold references to it."""
        state = self.trainer.state
        here = {"is_local_process_zero", "is_world_process_zero", "run_id"}
        for name, value in vars(TrainerState.load_from_json(path)).items():
            if name not in here:
                setattr(state, name, value)


def _newest(output_dir: Path) -> Path | None:
    path, skipped = newest_valid(output_dir)
    _tell(skipped)
    if path is None and skipped:
        reasons = "; ".join(f"{item.path.name}: {item.reason}" for item in skipped)
        raise CheckpointError(f"no checkpoint in {output_dir} verifies ({reasons})")
    return path


def _tell(skipped: list[BrokenCheckpointError]) -> None:
    for item in skipped:
        logger.warning("skipped %s: %s", item.path, item.reason)


def _state_file(contents: Contents) -> Path:
    path = contents.find(STATE_FILE)
    if path is None:
        raise CheckpointError(f"{contents.path} is not a checkpoint: it has no {STATE_FILE}")
    return path


def _read(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values


def _as_json(values: dict[str, Any], what: str) -> str:
    return to_json(values, what, indent=2) + "\n"
