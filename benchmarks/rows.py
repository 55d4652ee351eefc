"""The rows of docs/explanation/performance.md: each measures one thing, in a process of its own.

A function of a row gets an `Effort` and returns a `harness.Result`. `all` starts the processes.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import Call, Cost, Result, Watch, in_turn, timed

HAND = "hand-written loop"
TRAINER = "Trainer"


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: How often each contestant has its turn; None for the number of the row.
        is_quick: Whether only to see that it runs.
    """

    rounds: int | None = None
    is_quick: bool = False

    def of(self, rounds: int) -> int:
        """Return the rounds of a row that has ``rounds`` of its own."""
        return self.rounds or (1 if self.is_quick else rounds)


# -- PyTorch ----------------------------------------------------------------------------------------------------------


def step(name: str, title: str, effort: Effort, **options: Any) -> Result:
    """Measure a step."""
    import peers
    from mlp import Setting
    from step import contestants

    steps = 40 if effort.is_quick else 400
    setting = Setting(steps // 2 if options.get("accumulation") else steps, **options)
    calls = contestants(setting) | peers.training(setting)
    costs = in_turn(calls, effort.of(15))
    return Result(name, title, "us a step", HAND, costs, missing=peers.MISSING)


def imports(name: str, title: str, effort: Effort) -> Result:
    """Measure the start of Python with an import."""
    import peers

    modules = {"torch alone": "import torch", TRAINER: "from trackside import Trainer, TrainingArguments"}
    modules |= peers.of(
        {
            "transformers": "from transformers import Trainer, TrainingArguments",
            "Lightning": "from lightning import Trainer",
            "Ignite": "from ignite.engine import Engine",
        }
    )

    def started(code: str) -> Cost:
        watch, before = Watch(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)
        clock_s, after = watch.stop()[0], resource.getrusage(resource.RUSAGE_CHILDREN)
        return clock_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    calls = {name: lambda code=code: started(code) for name, code in modules.items()}
    return Result(name, title, "s", "torch alone", in_turn(calls, effort.of(5)), missing=peers.MISSING)


def predict(name: str, title: str, effort: Effort, *, is_evaluation: bool = False) -> Result:
    """Measure a prediction of 100 outputs for each of 200,000 rows, or their evaluation."""
    import peers
    import predict as own
    import torch

    rows = 20_000 if effort.is_quick else 200_000
    features = torch.randn(rows, own.WIDTH, generator=torch.Generator().manual_seed(0))
    options = argparse.Namespace(outputs=100, batch=256)
    calls = (own.evaluators if is_evaluation else own.predictors)(features, options)
    names = {"hand-written loop, plain DataLoader": HAND, "Trainer.predict": TRAINER}
    calls = {names.get(each, each): call for each, call in calls.items()}
    missing = []
    if not is_evaluation:
        calls |= peers.predictors(own.make_model(100), features, options.batch)
        missing = peers.MISSING
    sizes = {each: own.added_memory(call) for each, call in calls.items() if call() is not None}
    costs = in_turn({each: timed(call, 1e3) for each, call in calls.items()}, effort.of(9))
    memory = {each: size for each, size in sizes.items() if size is not None}
    return Result(name, title, "ms", HAND, costs, memory, missing=missing)


def callbacks(name: str, title: str, effort: Effort) -> Result:
    """Measure what a callback at on_step_end costs, as the difference of 100 and none."""
    import peers
    from mlp import Setting
    from step import with_trainer

    from trackside import TrainerCallback

    class OnStep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            pass

    class OnSave(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            pass

    setting = Setting(steps=50 if effort.is_quick else 400)
    number = 100

    def added(train: Callable[[bool], Cost]) -> Call:
        def run() -> Cost:
            without, with_them = train(False), train(True)
            clock, cpu = (setting.a_step((many, few)) for many, few in zip(with_them, without, strict=True))
            return (clock[0] - clock[1]) / number, (cpu[0] - cpu[1]) / number

        return run

    trains: dict[str, Callable[[bool], Cost]] = {
        TRAINER: lambda has_any: with_trainer(setting, [OnStep() for _ in range(number if has_any else 0)]),
        "Trainer, callbacks of other events": lambda has_any: with_trainer(
            setting, [OnSave() for _ in range(number if has_any else 0)]
        ),
        **peers.with_callbacks(setting, number),
    }
    costs = in_turn({each: added(train) for each, train in trains.items()}, effort.of(9))
    return Result(name, title, "us", "", costs, missing=peers.MISSING)


def resume(name: str, title: str, effort: Effort, framework: str = "torch") -> Result:
    """Measure the start of a resumed run, up to the end of its first step."""
    import resume as own

    examples, step = (20_000, 200) if effort.is_quick else (2_000_000, 20_000)
    options = argparse.Namespace(examples=examples, step=step)
    missing = []
    with tempfile.TemporaryDirectory(prefix="resume-") as folder:
        calls = {"torch": own.with_torch, "tf": own.with_tf}[framework](Path(folder), options)
        if framework == "torch":
            import peer_saves
            import peers

            calls |= peer_saves.resumes(Path(folder), examples, step)
            missing = peers.MISSING

        def cost(call: Callable[[], tuple[float, float]]) -> Call:
            return lambda: tuple(1e3 * seconds for seconds in reversed(call()))  # type: ignore[return-value]

        costs = in_turn({each: cost(call) for each, call in calls.items()}, effort.of(7))
    return Result(name, title, "ms", HAND, costs, missing=missing)


# -- saves ------------------------------------------------------------------------------------------------------------


def save(name: str, title: str, effort: Effort, framework: str = "torch") -> Result:
    """Measure how long training stands still for a save, beside blocking saves of the same state."""
    import checkpoint

    parameters, layers = 50e4 if effort.is_quick else 50e6, 12
    width, rounds = round((parameters / layers) ** 0.5), max(effort.of(5), 2)
    run = {"torch": checkpoint.with_torch, "tf": checkpoint.with_tf}[framework]
    with tempfile.TemporaryDirectory(dir=".", prefix="checkpoints-") as folder:
        times = run(width, layers, Path(folder), rounds)
    shown = (
        *(each for each in times if each.startswith("blocking")),
        *(each + added for each in checkpoint.KINDS for added in ("", checkpoint.ADDED)),
    )
    costs: dict[str, list[Cost]] = {each: [(value, 0.0) for value in times[each]] for each in shown}
    missing = []
    if framework == "torch":
        import peer_saves
        import peers
        import torch

        model = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(layers)))
        costs |= {f"{peer}, blocking": values for peer, values in peer_saves.stalls(model, width, rounds).items()}
        missing = peers.MISSING
    return Result(name, title, "s", checkpoint.BASE, costs, missing=missing)


# -- TensorFlow -------------------------------------------------------------------------------------------------------


def tf_options(effort: Effort, *, is_plain: bool) -> argparse.Namespace:
    return argparse.Namespace(steps=40 if effort.is_quick else 600, rounds=effort.of(7), plain=is_plain)


def one_thread_of_tf() -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def tf_step(name: str, title: str, effort: Effort, setting: str, *, is_plain: bool = False) -> Result:
    """Measure a step on TensorFlow."""
    import step_tf

    one_thread_of_tf()
    options = tf_options(effort, is_plain=is_plain)
    data, (per_call, every) = step_tf.make_data(options.steps * step_tf.BATCH), step_tf.SETTINGS[setting]
    runs = {each: make(data, options, per_call, every) for each, make in step_tf.CONTESTANTS.items()}
    times = step_tf.measured(runs, options.rounds)
    scale = 1e6 / options.steps
    costs = {each: [(clock * scale, cpu * scale) for clock, cpu in values] for each, values in times.items()}
    return Result(name, title, "us a step", HAND, costs)


def tf_predict(name: str, title: str, effort: Effort) -> Result:
    """Measure a prediction on TensorFlow."""
    import step_tf

    one_thread_of_tf()
    calls = step_tf.predictors(step_tf.make_data(20_000 if effort.is_quick else 200_000))
    memory = {each: step_tf.added_memory(call) for each, call in calls.items() if call() is not None}
    costs = in_turn({each: timed(call, 1e3) for each, call in calls.items()}, effort.of(7))
    return Result(name, title, "ms", HAND, costs, memory)


# -- all of them ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A row: what it is called, and how it is measured."""

    title: str
    measure: Callable[..., Result]
    options: tuple[tuple[str, Any], ...] = ()
    framework: str = "PyTorch"

    def run(self, name: str, effort: Effort) -> Result:
        """Measure it."""
        watch, load = Watch(), os.getloadavg()[0]
        logging.disable(logging.WARNING)
        if self.framework == "PyTorch":
            import torch

            torch.set_num_threads(1)
        result = self.measure(name, self.title, effort, **dict(self.options))
        result.seconds, result.load = watch.stop()[0], [round(load, 1), round(os.getloadavg()[0], 1)]
        return result


TF_STEPS = {
    "tf-1": "1 update a call",
    "tf-1-log": "1 update a call, log every 10 steps",
    "tf-20": "20 updates a call",
    "tf-10-log": "10 updates a call, log every 10 steps",
}

ROWS: dict[str, Row] = {
    "step": Row("a step", step),
    "step-watched": Row("a step; records every 10 steps, bar and TensorBoard", step, (("is_watched", True),)),
    "step-accumulation": Row("an update of 4 micro-batches", step, (("accumulation", 4),)),
    "callbacks": Row("one of 100 callbacks, each step", callbacks),
    "import": Row("import", imports),
    "predict": Row("prediction, 200,000 rows of 100, batches of 256", predict),
    "evaluate": Row("evaluation of the same", predict, (("is_evaluation", True),)),
    "resume": Row("the start of a run at step 20,000 of 62,500", resume),
    "save": Row("what a save of 50 million parameters with AdamW stops training for", save),
    **{name: Row(title, tf_step, (("setting", title),), "TensorFlow") for name, title in TF_STEPS.items()},
    **{
        f"{name}-plain": Row(f"{title}, not shuffled", tf_step, (("setting", title), ("is_plain", True)), "TensorFlow")
        for name, title in TF_STEPS.items()
    },
    "tf-predict": Row("prediction, 200,000 rows of 10, batches of 256", tf_predict, (), "TensorFlow"),
    "resume-tf": Row("the start of a run at step 20,000 of 62,500", resume, (("framework", "tf"),), "TensorFlow"),
    "save-tf": Row(
        "what a save of 50 million parameters with AdamW stops training for", save, (("framework", "tf"),), "TensorFlow"
    ),
}
