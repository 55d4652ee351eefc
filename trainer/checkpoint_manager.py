"""Checkpoint manager: saving and restoring a complete run."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from trackside.callbacks._util.plain_data import to_json
from trackside.callbacks.bus.dispatcher import Dispatcher
from trackside.callbacks.state import TrainerState

from .arguments.within_run import ArgumentsOfRun
from .checkpointing.best_model import BestModel
from .checkpointing.choosing.choice import Choice
from .checkpointing.choosing.nodes import Nodes
from .checkpointing.discovery import run_id_of
from .checkpointing.locks.run_lock import rename
from .checkpointing.manifest import BrokenCheckpointError, Contents, contents_of, open_checkpoint, roles_of
from .checkpointing.names import ARGS_FILE, PROGRESS_FILE, STATE_FILE
from .checkpointing.remote_output import RemoteOutput
from .checkpointing.replacing import EarlierRuns
from .checkpointing.restoring import SavedRun
from .checkpointing.saving.async_commit import Committer
from .checkpointing.saving.save_costs import SaveCosts
from .checkpointing.store import CheckpointStore, Write
from .engine import Engine
from .overrides import Overrides
from .progress import Progress
from .staging import RunFolder, is_address

logger: logging.Logger = logging.getLogger("trackside.trainer")


class CheckpointManager:
    """The checkpoints of one trainer.

    Args:
        trainer: Its ``args`` and ``state`` are read, and the state is filled when a run is resumed.
        engine: Takes and restores snapshots.
        dispatcher: Sends on_save and on_load; keeps the states of callbacks.
        overrides: The documented methods that the trainer overrides.

    Attributes:
        best: The best model so far.
        earlier: The runs that this one replaces.
        committer: Commits checkpoints in the background.
        costs: What the saves of the current run cost so far.
        remote: The address that the run is uploaded to, if ``output_dir`` is one.
    """

    def __init__(self, trainer: Any, engine: Engine, dispatcher: Dispatcher, overrides: Overrides) -> None:
        self.trainer = trainer
        self.engine = engine
        self.dispatcher = dispatcher
        self.overrides = overrides
        trainer.state.run_id = trainer.state.run_id or uuid.uuid4().hex
        self.best: BestModel = BestModel(trainer, lambda step: self.store.path(step), self._load_best)
        self.committer: Committer = Committer()
        self.costs: SaveCosts = SaveCosts()
        self._store: CheckpointStore | None = None
        self.earlier: EarlierRuns = EarlierRuns(None, self.run_id)
        self.remote: RemoteOutput = RemoteOutput(trainer.args)

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
        self.remote = RemoteOutput(self.trainer.args)

    @property
    def nodes(self) -> Nodes:
        """The machines of the run."""
        return Nodes(self.trainer.args, self.engine.strategy.collectives)

    # -- saving ---------------------------------------------------------------------------------------------------

    def begin_run(self) -> None:
        """Tell what callbacks' states cannot be kept, before the first update; note what a run must not change."""
        if self.trainer.args.save_strategy != "no":
            self.dispatcher.state_dicts()
        self.engine.checkpoint.begin_run()

    @property
    def in_background(self) -> bool:
        """Whether checkpoints are committed while training goes on."""
        args = self.trainer.args
        is_plain = not self.dispatcher.receivers("on_save") and "save_model" not in self.overrides
        return bool(args.save_async) and is_plain and args.world_size == 1 and not args.fsdp

    def save(self, progress: Progress, args: ArgumentsOfRun) -> None:
        """Save a checkpoint of this step, and count how long it takes.

        If a callback listens to on_save, several processes run, the model is sharded, or a subclass overrides saving,
        the checkpoint is committed before this method returns. Otherwise the commit continues in the background, and
        a failure is raised at the next step; a save waits only if two earlier ones are not yet committed.
        """
        with self.costs.waiting():
            self._save(progress, args)

    def _save(self, progress: Progress, run_args: ArgumentsOfRun) -> None:
        args, state, dispatcher = self.trainer.args, self.trainer.state, self.dispatcher
        step, background = state.global_step, self.in_background
        state.stateful_callbacks, state.callback_classes = dispatcher.state_dicts(), dispatcher.classes
        if background:
            self.committer.make_room()  # before the copy: at most two copies exist
        write = self._writer(self.engine.checkpoint.snapshot(copy=background), progress, run_args)
        best, held = state.best_model_checkpoint, self._held(step)

        def commit() -> None:
            with self.costs.writing():
                path = self.store.commit(step, write, best=best, held=held | self.remote.held())
            self.costs.add(path)
            self.remote.add(path, best)
            self.earlier.remove(self.store)

        if background:
            self.committer.submit(commit)
            return
        self.committer.wait()
        write_own = commit if args.should_save else self.engine.checkpoint.write_shards
        self.engine.strategy.collectives.outcome("the commit of a checkpoint", write_own)
        if dispatcher.receivers("on_save"):
            dispatcher.send("on_save", checkpoint=str(self.store.path(step)))

    def _held(self, step: int) -> set[str]:
        """Return what callbacks on any process work on, after they are done with an earlier checkpoint of ``step``."""
        self.dispatcher.wait_until_free(str(self.store.path(step)))
        gather = self.engine.strategy.collectives.gather
        return {path for held in gather("the checkpoints in use", self.dispatcher.held()) for path in held}

    def _writer(self, write_snapshot: Write, progress: Progress, args: ArgumentsOfRun) -> Write:
        """Return a function that writes the complete checkpoint, with the current values of all that may change."""

        def current() -> dict[str, str]:
            return {
                STATE_FILE: _as_json(self.trainer.state.to_dict(), "state"),
                ARGS_FILE: _as_json(args.to_dict(), "arguments"),
                PROGRESS_FILE: _as_json(progress.to_dict(), "progress"),
            }

        texts = self.nodes.first("the state of the run", current)

        def write(folder: Path) -> dict[str, str]:
            roles = write_snapshot(folder) or {}
            for name, text in texts.items():
                (folder / name).write_text(text, encoding="utf-8")
            return {**roles, **roles_of(texts)}

        return write

    def finish(self) -> None:
        """Wait until every checkpoint is committed, free the memory of the copies, log the costs; raise a failure."""
        try:
            self.committer.wait()
        finally:
            self.engine.checkpoint.release_memory()
            self.costs.report()

    def settle(self) -> None:
        """Do as `finish`, and report a failure without raising it."""
        try:
            self.finish()
        except Exception as error:
            logger.error("the last checkpoint could not be saved: %s", error)

    def close(self) -> None:
        """Finish the uploads, and delete what callbacks have released since the last commit; the last step of a run."""
        best = self.trainer.state.best_model_checkpoint
        if self.trainer.args.should_save:
            self.remote.finish(show=not self.trainer.args.disable_tqdm)
            self.store.rotate(*([] if best is None else [best]), *self.dispatcher.held())

    # -- reading -------------------------------------------------------------------------------------------------

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Return a context in which the process that writes into ``output_dir`` holds its lock, wherever that is."""
        args, nodes = self.trainer.args, self.nodes
        self._take_place()
        if nodes.are_apart:
            self.trainer.state.run_id = nodes.begin(self.run_id)
            self._store = None
        with ExitStack() as held:
            folder, needed = Path(args.output_dir), args.save_strategy != "no"
            if nodes.are_apart or args.should_save:
                lock = self.remote.locked(folder, self.run_id, is_needed=needed)
                nodes.each("the lock of output_dir", lambda: held.enter_context(lock))
            yield

    def _take_place(self) -> None:
        """Make the folders of the run absolute, so that a change of the current folder within it does not move them."""
        args = self.trainer.args
        if (logging_dir := args.given("logging_dir")) is not None and not is_address(logging_dir):
            args.logging_dir = os.path.abspath(logging_dir)
        if (folder := RunFolder.of_run(args.output_dir)) is not args.output_dir:
            args.output_dir = folder
            self.reopen()

    def open(self, folder: str | Path, *, run_id: str | None = None) -> Contents:
        """Verify a folder, once for all processes, and return its contents.

        Args:
            run_id: The run that must have written it; None for any.

        Raises:
            BrokenCheckpointError: If it does not exist, does not verify or is of another run; on every process.
        """
        path = self._here(folder)
        outcome: Contents | str | None = None
        if self.trainer.args.should_save:
            try:
                outcome = open_checkpoint(path)
                if run_id is not None and run_id_of(path) not in (None, run_id):
                    outcome = "is of another run"
            except BrokenCheckpointError as error:
                outcome = error.reason
        found: list[Any] = self.engine.strategy.collectives.gather("the verification of a checkpoint", outcome)
        for reason in (item for item in found if isinstance(item, str)):
            raise BrokenCheckpointError(path, reason)
        contents: Contents = contents_of(path) if self.nodes.are_apart else found[0]
        return contents

    def _here(self, folder: str | Path) -> Path:
        """Return the local copy of a folder, downloaded once on each machine; all processes must call this."""
        if not self.remote.is_elsewhere(folder) or self.trainer.args.world_size == 1:
            return self.remote.local(folder)
        state, outcome = self.trainer.state, self.engine.strategy.collectives.outcome

        def wait() -> None:  # other machines download what is uploaded
            if state.is_world_process_zero:
                self.remote.wait(show=not self.trainer.args.disable_tqdm)

        outcome("the uploads", wait)
        found = outcome("the download", lambda: self.remote.local(folder) if state.is_local_process_zero else None)
        return Path(next(path for path in found if path is not None))

    def locate(self, wanted: str | Path | bool | None) -> Path | None:
        """Return the checkpoint to resume from, the same on all processes; None for a fresh start; see `Choice`."""
        nodes, state = self.nodes, self.trainer.state
        choice = Choice(self.trainer.args, state, nodes, self.remote, self.engine.job_store)
        looks = nodes.are_apart or state.is_world_process_zero
        found = choice.locate(wanted) if looks else None
        self.earlier = choice.earlier
        if not nodes.are_apart:
            found = self.engine.strategy.collectives.gather("the checkpoint to resume from", found)[0]
        return found

    def load_weights(self, folder: str | Path) -> None:
        """Load only the weights, from a checkpoint, which is verified, or from a folder that save_model wrote.

        Raises:
            CheckpointError: If the checkpoint does not verify (a BrokenCheckpointError), or does not fit the model.
        """
        self.engine.checkpoint.load_weights(self.open(folder))

    def _load_best(self, folder: Path) -> None:
        self.engine.checkpoint.load_weights(self.open(folder, run_id=self.run_id))

    def read(self, checkpoint: Path) -> SavedRun:
        """Return what a checkpoint, which `locate` has verified, says of its run."""
        return SavedRun.read(checkpoint, contents_of(self._here(checkpoint)))

    def restore(self, saved: SavedRun, differences: dict[str, tuple[Any, Any]]) -> None:
        """Restore everything from a checkpoint except position and random number generators, and send on_load."""
        trainer = self.trainer
        self.engine.checkpoint.load_snapshot(saved.contents, saved.progress.optimizer, saved.state.global_step)
        self._take_state(saved.state)
        trainer.state.run_id = run_id_of(saved.path) or self.run_id
        self._store = None
        folders = Path(trainer.args.output_dir), saved.path.parent
        self.best.look_for(run_id_of(saved.path), *folders, before=saved.args, remote=self.remote.run_ids)
        if trainer.args.should_save:
            rename(Path(trainer.args.output_dir), self.run_id)
            self.store.clean()
        if trainer.args.restore_callback_states_from_checkpoint:
            self.dispatcher.load_state_dicts(trainer.state.stateful_callbacks, trainer.state.callback_classes)
        differences = {**trainer.args.differences(saved.args), **differences}
        for name, (old, new) in differences.items() if trainer.state.is_world_process_zero else ():
            logger.warning("resuming with %s=%r; the checkpoint was written with %r", name, new, old)
        self.dispatcher.send("on_load", checkpoint=str(saved.path), differences=differences)

    def _take_state(self, saved: TrainerState) -> None:
        """Fill the trainer's state in place: callbacks and the dispatcher hold references to it."""
        here = {"is_local_process_zero", "is_world_process_zero", "run_id"}
        for name, value in vars(saved).items():
            if name not in here:
                setattr(self.trainer.state, name, value)


def _as_json(values: dict[str, Any], what: str) -> str:
    return to_json(values, what, indent=2) + "\n"
