"""Fast development run: everything that a run does, once each, in seconds and without a trace."""

from __future__ import annotations

import logging
import shutil
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trackside.callbacks.bus.dispatcher import Dispatcher
from trackside.callbacks.events import signal_named

from ..engine import Engine
from ..outputs import TrainOutput

logger: logging.Logger = logging.getLogger("trackside.trainer")

MIB = 1 << 20


def leave_out_writers(dispatcher: Dispatcher, args: Any) -> None:
    """Remove the callbacks that write somewhere else than into ``output_dir``, if this is a development run."""
    if not args.fast_dev_run:
        return
    found = [name for name, item in dispatcher.attachments.items() if writes_elsewhere(item.callback)]
    for name in found:
        dispatcher.remove(name)
    if found and dispatcher.state.is_world_process_zero:
        logger.warning("fast_dev_run: %s stays out, and nothing is sent or written there", ", ".join(found))


def writes_elsewhere(callback: Any) -> bool:
    """Return whether a callback says that it writes somewhere else than into ``output_dir``."""
    return bool(getattr(callback, "writes_elsewhere", False))


def begin_dev_run(trainer: Any, dispatcher: Dispatcher) -> bool:
    """Return whether a run is a development run; make its temporary folder, which goes with the trainer."""
    if not trainer.args.fast_dev_run:
        return False
    leave_out_writers(dispatcher, trainer.args)
    folder = Path(trainer.args.output_dir)
    if trainer.is_local_process_zero():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        weakref.finalize(trainer, shutil.rmtree, folder, ignore_errors=True)
    return True


def dev_run(trainer: Any, engine: Engine, train: Callable[[bool | None, Any], TrainOutput], trial: Any) -> TrainOutput:
    """Train one update, evaluate, save, resume, train another update, and predict; say what it took.

    Args:
        train: Trains from the beginning (None), or from the newest checkpoint (True), with a trial.

    Returns:
        The result of the resumed run.
    """
    start_s, _ = time.perf_counter(), engine.device_memory(True)
    output = None
    for step, resumed in ((1, None), (2, True)):
        with stopped_at(trainer, step):
            output = train(resumed, trial)
        if trainer.state.stopped_by is not None:
            return output
    assert output is not None
    did = ["train", "save", "resume"]
    if trainer.args.eval_strategy != "no" or trainer.eval_dataset is not None:
        did.insert(1, "evaluate")
        if trainer.args.eval_strategy == "no":
            trainer.evaluate()
    dataset = trainer.train_dataset if trainer.eval_dataset is None else trainer.eval_dataset
    if engine.evaluation.is_dict_of_datasets(dataset):
        dataset = next(iter(dataset.values()), None)
    if dataset is not None:
        trainer.predict(dataset)
        did.append("predict")
    if trainer.is_world_process_zero():
        print(_report(trainer, engine, did, time.perf_counter() - start_s), flush=True)
    return output


@contextmanager
def stopped_at(trainer: Any, step: int) -> Iterator[None]:
    """Return a context in which a run stops after ``step`` updates."""

    @trainer.on("on_step_end")  # type: ignore[untyped-decorator]
    def stop(_: object, state: Any, control: Any) -> None:
        if state.global_step >= step:
            control.stop("fast_dev_run")

    try:
        yield
    finally:
        signal_named("on_step_end").disconnect(stop, trainer)


def _report(trainer: Any, engine: Engine, did: list[str], seconds: float) -> str:
    peaks, device = _peak_of_process(), engine.device_memory(False)
    if device is not None:
        peaks.append(f"{device.peak_bytes / MIB:,.0f} MiB of its device")
    return (
        f"fast_dev_run: {', '.join(did)} work, one batch each, in {seconds:.1f} s\n"
        f"  memory   at most {', '.join(peaks) or 'unknown'}\n"
        f"  output   nothing in {trainer.args.inferred_from('output_dir')}"
    )


def _peak_of_process() -> list[str]:
    try:
        import resource
    except ImportError:  # on Windows
        return []
    return [f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB:,.0f} MiB of this process"]
