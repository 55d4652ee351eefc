"""Running a configuration: build its components, train, evaluate or predict, and write the results."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackside.callbacks._util.atomic_files import write_atomically
from trackside.callbacks._util.imports import is_installed
from trackside.callbacks.errors import ArgumentError, CheckpointError, ConfigError
from trackside.callbacks.state import TrainerState
from trackside.cli import report
from trackside.cli.refusals import told_plainly
from trackside.config.component import built
from trackside.config.merged import MERGED, merged_text
from trackside.config.run_config import RunConfig
from trackside.config.source import DATA
from trackside.report.run_files import check_folder
from trackside.trainer.base_trainer import checkpoints_of
from trackside.trainer.checkpointing.discovery import find_checkpoints, run_id_of
from trackside.trainer.checkpointing.manifest import contents_of
from trackside.trainer.checkpointing.names import STATE_FILE
from trackside.trainer.checkpointing.remote_output import RemoteOutput
from trackside.trainer.staging import is_address
from trackside.trainer.stop_signals import StopSignals

if TYPE_CHECKING:
    from trackside.trainer.base_trainer import BaseTrainer
    from trackside.trainer.short_runs.rate_finder import RateSearch

logger: logging.Logger = logging.getLogger("trackside")

PARAMETERS = {"train_data": "train_dataset", "eval_data": "eval_dataset"}
"""Components that a parameter of the trainer with another name gets."""

TRAIN_RESULTS = "train_results.json"
"""Written last by a run that ends by itself; its presence means that the run is complete."""

PREDICTIONS = "predictions.npz"

LEARNING_RATES = "learning_rates.png"


@dataclass
class Outcome:
    """The result of a command.

    Attributes:
        trainer: The trainer that ran.
        results: Metrics by split: "train", "eval", "test".
        picture: File of the loss curve, if it was drawn.
        predictions: File of the predictions, if they were written.
    """

    trainer: BaseTrainer
    results: dict[str, dict[str, float]] = field(default_factory=dict)
    picture: Path | None = None
    predictions: Path | None = None

    @property
    def has_checkpoint(self) -> bool:
        """Whether ``output_dir`` holds a checkpoint of this very run."""
        found = find_checkpoints(self.trainer.args.output_dir)
        return any(run_id_of(path) == self.trainer.state.run_id for path in found)


def train(config: RunConfig) -> Outcome:
    """Train, evaluate, and with ``do_predict`` test; write all results and the merged configuration to ``output_dir``.

    After a run that a signal stopped, nothing is evaluated and no model is written; its checkpoint stays.
    """
    wanted = ["test_data"] if config.args.do_predict else []
    with located(config):
        built = build(config, needed=["model", "train_data", *wanted], unused=[] if wanted else ["test_data"])
        trainer = make_trainer(config, built)
    outcome = Outcome(trainer, {"train": _train(config, trainer)})
    output_dir = Path(config.args.output_dir)
    if trainer.state.stopped_by is None:
        _conclude(outcome, built)
    if trainer.is_world_process_zero():
        outcome.picture = report.draw_loss_curve(trainer.state.log_history, output_dir / report.LOSS_CURVE)
        checkpoints_of(trainer).remote.upload_files()
    return outcome


def evaluate(config: RunConfig, *, split: str = "eval", checkpoint: str | None = None) -> Outcome:
    """Evaluate the trained model on ``eval_data`` or ``test_data``; the record has the step of the weights.

    Args:
        split: "eval" or "test".
        checkpoint: Folder to take the weights from; without it, the final model or else the newest checkpoint.
    """
    outcome, built = _with_weights(config, f"{split}_data", checkpoint)
    metrics = outcome.trainer.evaluate(built[f"{split}_data"], metric_key_prefix=split)
    _keep(outcome, split, metrics)
    return outcome


def predict(config: RunConfig, *, checkpoint: str | None = None) -> Outcome:
    """Predict ``test_data`` with the trained model and write the predictions to ``output_dir``."""
    outcome, built = _with_weights(config, "test_data", checkpoint)
    _predict(outcome, built["test_data"])
    return outcome


def find_learning_rate(
    config: RunConfig, min_rate: float, max_rate: float, steps: int
) -> tuple[RateSearch, Path | None]:
    """Find a learning rate; draw the losses into ``output_dir`` if matplotlib is installed."""
    with located(config):
        trainer = make_trainer(config, build(config, needed=["model", "train_data"], unused=["test_data"]))
        found = trainer.find_learning_rate(min_rate, max_rate, steps)
    path = Path(config.args.output_dir) / LEARNING_RATES
    return found, found.draw(path) if is_installed("matplotlib") else None


def is_complete(output_dir: str | Path) -> bool:
    """Return whether the last run into ``output_dir`` is complete, instead of stopped on the way."""
    return (Path(output_dir) / TRAIN_RESULTS).exists()


def _train(config: RunConfig, trainer: BaseTrainer) -> dict[str, float]:
    """Train and return the metrics; an error of trackside before the first step is a ConfigError."""
    with ExitStack() as until_training:
        until_training.enter_context(located(config))

        @trainer.on("on_train_begin")
        def begin(_: object, **kwargs: object) -> None:
            (Path(config.args.output_dir) / TRAIN_RESULTS).unlink(missing_ok=True)
            if trainer.is_world_process_zero():
                checkpoints_of(trainer).remote.remove(TRAIN_RESULTS)
                write_atomically(Path(config.args.output_dir) / MERGED, merged_text(config))
            until_training.pop_all()

        with StopSignals():  # the run does not pass a signal on: the command line tells how to go on
            return dict(trainer.train().metrics)


@contextmanager
def located(config: RunConfig) -> Iterator[None]:
    """Turn errors of trackside into a ConfigError with the place of the argument in the configuration."""
    with told_plainly():
        try:
            yield
        except ArgumentError as error:
            keys = ["args", error.field] if hasattr(config.args, error.field) else []
            raise ConfigError(f"{config.source.where(*keys)}: {'args.' if keys else ''}{error}") from error


# -- building ---------------------------------------------------------------------------------------------------------


def build(config: RunConfig, needed: Sequence[str], unused: Sequence[str] = ()) -> dict[str, Any]:
    """Import and check everything that ``config`` names, then make the objects from a fixed seed.

    Raises:
        ConfigError: If a component in ``needed`` is missing, or one is wrong.
    """
    for key in needed:
        if config.source.values.get(key) is None:
            raise ConfigError(f"{config.source.where()}: {key} is missing; give it a class_path")
    for entry in config.entries:
        entry.arguments()  # a variable of the environment that is not set is told before the model is made
    components = {key: part for key, part in config.components().items() if key not in unused}
    from trackside import set_seed

    set_seed(config.args.seed)
    return {key: built(part) for key, part in components.items()}


def make_trainer(config: RunConfig, built: dict[str, Any]) -> BaseTrainer:
    """Return the trainer of ``config`` with the objects that `build` made."""
    import trackside

    cls: Any = trackside.Trainer if config.framework == "pytorch" else trackside.TFTrainer
    given = {PARAMETERS.get(key, key): value for key, value in built.items() if key != "test_data"}
    trainer: BaseTrainer = cls(args=config.args, **given)
    return trainer


def _with_weights(config: RunConfig, data: str, checkpoint: str | None) -> tuple[Outcome, dict[str, Any]]:
    """Return a trainer whose model has its trained weights, and the objects that were built for it."""
    unused = {*DATA} - {data}
    if config.args.eval_strategy != "no":
        unused.discard("eval_data")  # the trainer requires it
    with located(config):
        folder = _weights_folder(config, checkpoint)
        built = build(config, needed=["model", data], unused=sorted(unused))
        trainer = make_trainer(config, built)
        if trainer.eval_dataset is None:
            trainer.eval_dataset = built[data]  # a Keras model that is not built yet is built on it
        trainer.load_weights(folder)
        _take_step(trainer, checkpoints_of(trainer).remote.local(folder))
    return Outcome(trainer), built


def _take_step(trainer: BaseTrainer, folder: Path) -> None:
    """Let the trainer record at the step, and epoch, of the weights that it has loaded from ``folder``."""
    saved = contents_of(folder).read(STATE_FILE)
    if saved is None:
        logger.warning("%s does not say at which step it was saved: results are recorded at step 0", folder)
        return
    state = TrainerState.from_dict(saved)
    is_final = folder.resolve() == Path(trainer.args.output_dir).resolve()
    has_best = is_final and trainer.args.load_best_model_at_end and state.best_global_step is not None
    step = state.best_global_step if has_best else state.global_step
    epochs = [record.get("epoch") for record in state.log_history if record.get("step") == step]
    trainer.state.global_step, trainer.state.epoch = int(step or 0), epochs[-1] if epochs else state.epoch


def _weights_folder(config: RunConfig, checkpoint: str | None) -> Path | str:
    if checkpoint is not None:
        if is_address(checkpoint):
            return checkpoint
        folder = Path(checkpoint).expanduser()
        try:
            check_folder(folder)
        except ConfigError as error:
            raise ConfigError(f"command line: --checkpoint {error}") from None
        return folder
    from trackside import get_last_checkpoint

    output_dir = Path(config.args.output_dir)
    RemoteOutput(config.args).fetch_model(is_complete)
    if is_complete(output_dir):
        return output_dir
    newest = get_last_checkpoint(str(output_dir)) if output_dir.is_dir() else None
    if newest is None:
        raise CheckpointError(f"{output_dir} has neither a model nor a checkpoint; train first, or give --checkpoint")
    return Path(newest)


# -- results ----------------------------------------------------------------------------------------------------------


def _conclude(outcome: Outcome, built: dict[str, Any]) -> None:
    """Write the results of a complete run; `TRAIN_RESULTS` comes last."""
    trainer: Any = outcome.trainer
    trainer.save_model()
    trainer.save_state()
    if trainer.eval_dataset is not None:
        _keep(outcome, "eval", _evaluation_of(trainer) or trainer.evaluate())
    if trainer.args.do_predict:
        _predict(outcome, built["test_data"])
    trainer.save_metrics("train", outcome.results["train"])


def _evaluation_of(trainer: BaseTrainer) -> dict[str, float]:
    """Return the metrics that training measured on the present weights of the model; empty if it measured none."""
    state, has_best = trainer.state, checkpoints_of(trainer).best.is_loaded
    step = state.best_global_step if has_best else state.global_step
    records = [record for record in state.log_history if record.get("step") == step]
    found = {name: value for record in records for name, value in record.items() if name.startswith("eval_")}
    return {**found, "epoch": records[-1]["epoch"]} if found else {}


def _predict(outcome: Outcome, dataset: object) -> None:
    import numpy as np

    output = outcome.trainer.predict(dataset)
    _keep(outcome, "test", output.metrics)
    if not outcome.trainer.is_world_process_zero():
        return
    path = Path(outcome.trainer.args.output_dir) / PREDICTIONS
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {**_arrays("predictions", output.predictions), **_arrays("label_ids", output.label_ids)}
    np.savez(path, **arrays)
    checkpoints_of(outcome.trainer).remote.upload_files()
    outcome.predictions = path


def _arrays(name: str, nested: object) -> dict[str, Any]:
    """Return the arrays in ``nested``, each named after its path in it."""
    if isinstance(nested, (list, tuple)):
        nested = dict(enumerate(nested))
    if not isinstance(nested, dict):
        return {} if nested is None else {name: nested}
    return {key: array for part, value in nested.items() for key, array in _arrays(f"{name}_{part}", value).items()}


def _keep(outcome: Outcome, split: str, metrics: dict[str, float]) -> None:
    outcome.results[split] = dict(metrics)
    outcome.trainer.save_metrics(split, metrics)
