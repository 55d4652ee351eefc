"""What the benchmarks share: costs on both clocks, contestants in turn, and results as files.

A contestant is called without arguments, does its work once, and returns its cost. Each round calls every contestant
once, in turn, so that noise hits all alike; the first round warms up and does not count. Ratios are within a round.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

Cost = tuple[float, float]
"""Of the time on the clock, and of the processor's time of all threads; in the unit of a row."""

Call = Callable[[], Cost]

PACKAGES = ("torch", "tensorflow", "keras", "numpy", "transformers", "lightning", "pytorch-ignite")
CPU_ONLY = {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


@dataclass
class Result:
    """What was measured of one row.

    Attributes:
        name: Of the row, and of its file.
        title: What was done.
        unit: Of the costs.
        base: The contestant with which the others are compared; empty for none.
        costs: Of each round, by contestant.
        memory: The largest growth of the process's memory, by contestant, in sizes of the result.
        missing: Other trainers that are not installed.
        seconds: How long it took to measure.
        load: Processes that wanted a core, in the minute before and after.
    """

    name: str
    title: str
    unit: str
    base: str
    costs: dict[str, list[Cost]]
    memory: dict[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    seconds: float = 0.0
    load: list[float] = field(default_factory=list)
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())
    machine: str = field(default_factory=lambda: machine_name())
    versions: dict[str, str] = field(default_factory=lambda: installed_versions())

    def ratios(self, contestant: str, clock: int = 0) -> list[float]:
        """Return the ratios to the base, of the time on the clock (0) or of the processor (1).

        They are those of each round; where contestants have had different numbers of turns, that of the medians.
        """
        own, base = ([cost[clock] for cost in self.costs[name]] for name in (contestant, self.base))
        if len(own) != len(base):
            own, base = [statistics.median(own)], [statistics.median(base)]
        return [value / reference for value, reference in zip(own, base, strict=True) if reference > 0]

    def save(self, path: Path) -> None:
        """Write it as JSON, complete or not at all."""
        path.with_suffix(".part").write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".part").replace(path)

    @classmethod
    def load_from(cls, path: Path) -> Result:
        """Return what `save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class Watch:
    """Both clocks, from its making or the last call of ``start``."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.cpu_s, self.clock_s = time.process_time(), time.perf_counter()

    def stop(self, scale: float = 1.0) -> Cost:
        clock_s, cpu_s = time.perf_counter() - self.clock_s, time.process_time() - self.cpu_s
        return clock_s * scale, cpu_s * scale


def timed(call: Callable[[], object], scale: float = 1.0) -> Call:
    """Return a contestant that does ``call``, at a cost in seconds, times ``scale``."""

    def run() -> Cost:
        watch = Watch()
        call()
        return watch.stop(scale)

    return run


def in_turn(calls: Mapping[str, Call], rounds: int) -> dict[str, list[Cost]]:
    """Return the costs of each contestant, and show how far it is."""
    costs: dict[str, list[Cost]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            cost = call()
            if number:
                costs[name].append(cost)
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return costs


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def table(result: Result) -> str:
    """Return a result as a table in Markdown."""
    has_cpu = any(cpu for costs in result.costs.values() for _, cpu in costs)
    heads = [result.title, result.unit, "quartiles"]
    heads += ["ratio", "quartiles"] if result.base else []
    heads += ["of the processor's time" if result.base else "processor's"] if has_cpu else []
    heads += ["memory"] if result.memory else []
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, costs in result.costs.items():
        low, middle, high = quartiles([clock for clock, _ in costs])
        cells = [name, shown(middle), f"{shown(low)} to {shown(high)}"]
        if result.base:
            low, middle, high = quartiles(result.ratios(name))
            cells += [f"{middle:.2f}", f"{low:.2f} to {high:.2f}" if low < high else ""]
        if has_cpu:
            of_cpu = result.ratios(name, 1) if result.base else [cpu for _, cpu in costs]
            cells.append((f"{statistics.median(of_cpu):.2f}") if of_cpu else "")
        if result.memory:
            cells.append(f"{result.memory[name]:.2f}" if name in result.memory else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(number: float) -> str:
    """Return a number with three significant digits, and without an exponent."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def machine_name() -> str:
    """Return the kind of processor, and how many there are for this process."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores of {name}, {platform.system()}"


def installed_versions() -> dict[str, str]:
    """Return the version of Python, and of each package that is installed."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
