"""Tokens a second and MFU on a GPU: a hand-written loop, Trainer, and the transformers Trainer, interleaved.

    python benchmarks/gpu.py [--steps 30] [--rounds 7] [--batch 8]
    python benchmarks/gpu.py --tiny --device cpu        # a toy, to see that it runs; its numbers mean nothing

The model is a GPT of the size of GPT-2 (124 million weights, 1024 tokens, random data), in bf16 autocast with
torch.compile, fused AdamW, clipping by global norm and a linear schedule for each contestant. Each is built and
compiled once; every round runs each of them once, in turn, so that noise hits all alike. Shown are medians over the
rounds, and the median and the quartiles of the ratio within a round.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from gpt import GPT, RandomTokens, Shape, flops_per_token
from torch import nn
from torch.utils.data import DataLoader

from trackside import Trainer, TrainerCallback, TrainingArguments

PEAK_TFLOPS = {
    "B200": 2250,
    "GH200": 989,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L40": 181,
    "A10": 125,
    "L4": 121,
}
"""Dense bf16 peaks from the makers' data sheets; the first of them that is a word of the device's name counts."""


class Stopwatch:
    """Times the steps after the first ``warmup``, until the device is through with them."""

    def __init__(self, device: torch.device, warmup: int) -> None:
        self.device = device
        self.warmup = warmup
        self.steps = 0
        self.seconds = 0.0

    def begin(self) -> None:
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.warmup:
            self._wait()
            self._start = time.perf_counter()

    def end(self) -> float:
        self._wait()
        self.seconds = time.perf_counter() - self._start
        return self.seconds

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Timed(TrainerCallback):
    """Runs a stopwatch at the events that both trainers send."""

    role = "observer"

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.step()
        if self.watch.steps == state.max_steps:
            self.watch.end()


Contestant = Callable[[], float]
"""Trains for all steps and returns the seconds for those that count."""


def by_hand(options: argparse.Namespace, shape: Shape) -> Contestant:
    """Return a hand-written loop."""
    torch.manual_seed(0)
    device, total = options.device, options.warmup + options.steps
    model = GPT(shape).to(device)
    if options.compile:
        model.compile()
    data = RandomTokens(total * options.batch, shape)

    def run() -> float:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / total)
        watch = Stopwatch(device, options.warmup)
        for batch in DataLoader(data, options.batch, shuffle=True, pin_memory=device.type == "cuda"):
            batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss = model(**batch)["loss"]
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            watch.step()
        return watch.end()

    return run


def with_trainer(options: argparse.Namespace, shape: Shape) -> Contestant:
    """Return this Trainer."""
    torch.manual_seed(0)
    watch = Stopwatch(options.device, options.warmup)
    args = TrainingArguments(**common_arguments(options), no_cuda=options.device.type == "cpu")
    data = RandomTokens((options.warmup + options.steps) * options.batch, shape)
    trainer = Trainer(GPT(shape), args, train_dataset=data, callbacks=[Timed(watch)])
    trainer.pop_callback("printer")
    return lambda: (trainer.train(), watch.seconds)[1]


def with_transformers(options: argparse.Namespace, shape: Shape) -> Contestant:
    """Return the Trainer of transformers."""
    import transformers

    class ForTransformers(Timed, transformers.TrainerCallback):  # it calls every event, so that all must be there
        pass

    torch.manual_seed(0)
    watch = Stopwatch(options.device, options.warmup)
    args = transformers.TrainingArguments(
        **common_arguments(options), report_to=[], use_cpu=options.device.type == "cpu"
    )
    data = RandomTokens((options.warmup + options.steps) * options.batch, shape)
    trainer = transformers.Trainer(GPT(shape), args, train_dataset=data, callbacks=[ForTransformers(watch)])
    trainer.remove_callback(transformers.PrinterCallback)
    return lambda: (trainer.train(), watch.seconds)[1]


def common_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Return what both trainers are told, in the words that they share."""
    return {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": options.batch,
        "max_steps": options.warmup + options.steps,
        "learning_rate": 1e-4,
        "bf16": True,
        "torch_compile": options.compile,
        "optim": "adamw_torch_fused",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


def contestants(options: argparse.Namespace, shape: Shape) -> dict[str, Contestant]:
    made = {"hand-written": by_hand(options, shape), "Trainer": with_trainer(options, shape)}
    missing = [name for name in ("transformers", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"transformers' Trainer is left out: pip install {' '.join(missing)}")
    else:
        made["transformers Trainer"] = with_transformers(options, shape)
    return made


def peak_flops(options: argparse.Namespace) -> float | None:
    """Return the floating point operations a second that the device could do at best, if that is known."""
    if options.peak_tflops:
        return float(options.peak_tflops) * 1e12
    return peak_of(torch.cuda.get_device_name(options.device)) if options.device.type == "cuda" else None


def peak_of(name: str) -> float | None:
    """Return the peak of the device of this name; a name within another word (L4 in L40) is that of another device."""
    return next((peak * 1e12 for part, peak in PEAK_TFLOPS.items() if re.search(rf"\b{part}\b", name)), None)


def report(times: dict[str, list[float]], options: argparse.Namespace, shape: Shape) -> None:
    tokens = options.steps * options.batch * shape.length
    flops, peak = flops_per_token(GPT(shape)), peak_flops(options)
    print(f"{'':<22} {'tokens/s':>12} {'MFU':>7} {'of the hand-written loop':>25} {'quartiles':>15}")
    for name, seconds in times.items():
        rate = tokens / statistics.median(seconds)
        ratios = [base / own for base, own in zip(times["hand-written"], seconds, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        mfu = f"{rate * flops / peak:7.1%}" if peak else f"{'?':>7}"
        print(f"{name:<22} {rate:12,.0f} {mfu} {middle:25.3f} {low:7.3f} -{high:6.3f}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="steps that count, in each run")
    parser.add_argument("--warmup", type=int, default=5, help="steps before them that do not")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count; one more comes before, to compile")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="by default not on a CPU")
    parser.add_argument("--tiny", action="store_true", help="a toy of a model")
    parser.add_argument("--peak-tflops", type=float, help="what the device could do at best, where it is not known")
    options = parser.parse_args()
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU that it can use; to see that this runs: --tiny --device cpu")
    if options.device.type == "cuda" and torch.cuda.device_count() > 1:
        parser.error("choose one GPU with CUDA_VISIBLE_DEVICES: the transformers Trainer would take all that it sees")
    if min(options.steps, options.warmup) < 1 or options.rounds < 2:
        parser.error("--steps and --warmup are at least 1, --rounds at least 2")
    options.compile = options.device.type != "cpu" if options.compile is None else options.compile
    return options


def main() -> None:
    options = parse()
    logging.disable(logging.WARNING)
    shape = Shape(layers=2, heads=2, width=32, vocabulary=64, length=32) if options.tiny else Shape()
    where = (
        torch.cuda.get_device_name(options.device) if options.device.type == "cuda" else platform.processor() or "CPU"
    )
    print(f"{time.strftime('%Y-%m-%d')}, {where}, torch {torch.__version__}, Python {platform.python_version()}")
    print(
        f"{shape}, batch {options.batch}, compiled: {options.compile}, {options.rounds} rounds of {options.steps} steps"
    )
    runs = contestants(options, shape)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(options.rounds + 1):
        for name, run in runs.items():
            seconds = run()
            if number:  # the first round compiles
                times[name].append(seconds)
    report(times, options, shape)


if __name__ == "__main__":
    main()
