"""A job without a kill, twice, and then the same job with kills: what differs between them."""

from __future__ import annotations

import random
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trackside.callbacks.errors import ConfigError
from trackside.cli.chaos.instants import Left, drawn
from trackside.cli.chaos.job import OUTPUT_DIR
from trackside.cli.chaos.launch import Ended, Watch, run_until
from trackside.cli.chaos.streams import END, Difference, Found, differences, read_run
from trackside.cli.chaos.trace import BATCH, LIVE, read_trace
from trackside.trainer.checkpointing.discovery import find_checkpoints
from trackside.trainer.checkpointing.names import step_of

KILLS_OF_A_RUN = 3
"""Most kills of one run; how many is drawn."""

MISSES = 5
"""Runs in a row that ended before their kill, after which it is given up."""

DECISIVE = (BATCH, "weights", "optimizer", "record: loss")
"""Streams without which nothing can be said."""

OUT, TRACE = "{out}", "{trace}"
"""Words of a command that stand for the output folder and for the file of the trace."""


@dataclass
class Kill:
    """One kill.

    Attributes:
        run: Number of the run.
        after_s: Seconds after the run took its folder.
        step: The last step that was seen.
        resumed_from: The newest checkpoint that it left; None if it left none.
        is_in_save: Whether it left a checkpoint half written or half deleted.
    """

    run: int
    after_s: float
    step: int
    resumed_from: int | None
    is_in_save: bool


@dataclass
class Run:
    """A run that was killed and resumed until its end.

    Attributes:
        number: Its number, from 1.
        kills: Its kills.
        differs: The streams that differ from those of the run that was not killed, first ones first.
        live: Those of the generators in memory after each update, which tell where a difference begins.
        failure: Why it did not end; None if it did.
    """

    number: int
    kills: list[Kill] = field(default_factory=list)
    differs: list[Difference] = field(default_factory=list)
    live: list[Difference] = field(default_factory=list)
    failure: str | None = None

    @property
    def is_exact(self) -> bool:
        """Whether it ended bit by bit like the run that was not killed."""
        return self.failure is None and not self.differs


class Campaign:
    """Kills a job again and again.

    Args:
        command: The command line of the job, with `OUT` and `TRACE` in it.
        folder: Where the runs write, each into a folder of its own.
        kills: How many kills.
        seed: Seed of the instants.
        tell: Called with a line of text for each kill.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, *, kills: int, seed: int, tell: Callable[[str], None]
    ) -> None:
        self.command: Sequence[str] = command
        self.folder: Path = folder
        self.kills: int = kills
        self.tell: Callable[[str], None] = tell
        self.draw: random.Random = random.Random(seed)
        self.runs: list[Run] = []
        self.left_out: list[str] = []
        self.steps: int = 0

    def run(self) -> None:
        """Do all of it.

        Raises:
            ConfigError: If the job does not end, leaves no checkpoint, differs from itself without a kill, or ends too
                early to be killed.
        """
        self.tell("the job runs without a kill, twice: what differs already then is left out")
        ended, whole = self._unharmed("whole")
        _, again = self._unharmed("again")
        self._leave_out(differences(whole, again))
        self._forget("again")
        self.steps = max((step for step, _ in whole.seen), default=0)
        missed = 0
        while (left := self.kills - sum(len(run.kills) for run in self.runs)) > 0:
            run = Run(len(self.runs) + 1)
            self._harm(run, self.draw.randint(1, min(left, KILLS_OF_A_RUN)), ended)
            missed = 0 if run.kills or run.failure else missed + 1
            if missed == MISSES:
                raise ConfigError(f"the job ended {MISSES} times before it could be killed; it needs more steps")
            if run.kills or run.failure:
                self._judge(run, whole)

    def _judge(self, run: Run, whole: Found) -> None:
        found = differences(whole, self._found(self._name(run))) if run.failure is None else []
        found = [item for item in found if item.stream not in self.left_out]
        run.live = [item for item in found if item.stream.startswith(LIVE)]
        run.differs = [item for item in found if item not in run.live]
        self.runs.append(run)
        if run.is_exact:
            self._forget(self._name(run))
        how = "exact" if run.is_exact else run.failure or f"differs, first at {place(run)}"
        self.tell(f"run {run.number} ended: {how}")

    # -- running ------------------------------------------------------------------------------------------------------

    def _unharmed(self, name: str) -> tuple[Ended, Found]:
        ended = self._start(name, self._watch(name))
        if ended.code != 0:
            raise ConfigError(f"the job failed without a kill, with exit code {ended.code}:\n{self._last_words(name)}")
        found = self._found(name)
        if not any(source == "checkpoint" for _, source in found.seen):
            raise ConfigError(
                f"the job left no checkpoint in {self.folder / name / 'out'}. Let it save some, and use as its "
                f"output_dir the folder that {OUT} in its command, or the variable {OUTPUT_DIR}, names"
            )
        return ended, found

    def _harm(self, run: Run, kills: int, whole: Ended) -> None:
        """Start a job until it ends, and kill it so many times, unless it ends before."""
        name = self._name(run)
        shutil.rmtree(self.folder / name, ignore_errors=True)
        limit_s = 60.0 + 10 * whole.train_s
        for killed in range(kills + 1):
            instant = drawn(self.draw, self._left(name, whole)) if killed < kills else None
            ended = self._start(name, self._watch(name), instant, limit_s)
            if ended.code is not None or ended.is_hung:
                break
            self._note_kill(run, ended)
        if ended.is_hung:
            run.failure = f"hangs: it was resumed, and had not ended after {limit_s:.0f} s"
        elif ended.code != 0:
            run.failure = f"resuming fails, with exit code {ended.code}:\n{self._last_words(name)}"

    def _left(self, name: str, whole: Ended) -> Left:
        share = 1.0 - (self._newest(name) or 0) / max(self.steps, 1)
        return Left(
            time_s=share * whole.train_s,
            updates=round(share * self.steps) if whole.update_s else 0,
            saves=round(share * len(whole.saves)),
            update_s=whole.update_s,
            save_s=statistics.median(whole.saves or [0.0]),
        )

    def _note_kill(self, run: Run, ended: Ended) -> None:
        name = self._name(run)
        newest = self._newest(name)
        traced = read_trace(self.folder / name / "trace.jsonl")
        step = max(traced[-1][0] if traced else 0, newest or 0)
        kill = Kill(run.number, ended.train_s, step, newest, ended.is_in_save)
        run.kills.append(kill)
        number = sum(len(other.kills) for other in self.runs) + len(run.kills)
        where = f"{kill.after_s:.1f} s, step {step}{', inside a save' if kill.is_in_save else ''}"
        resumes = "from the beginning" if newest is None else f"from checkpoint-{newest}"
        self.tell(f"kill {number} of {self.kills}: run {run.number}, {where}; goes on {resumes}")

    def _start(self, name: str, watch: Watch, instant: Any = None, limit_s: float | None = None) -> Ended:
        home = self.folder / name
        words = {OUT: str(home / "out"), TRACE: str(home / "trace.jsonl")}
        command = [_filled(word, words) for word in self.command]
        return run_until(command, {OUTPUT_DIR: words[OUT]}, watch, home / "output.log", instant, limit_s)

    # -- folders ------------------------------------------------------------------------------------------------------

    def _watch(self, name: str) -> Watch:
        home = self.folder / name
        return Watch(home / "out", home / "kept", home / "trace.jsonl" if TRACE in self.command else None)

    def _found(self, name: str) -> Found:
        home = self.folder / name
        return read_run(home / "out", home / "kept", home / "trace.jsonl")

    def _newest(self, name: str) -> int | None:
        return max(map(step_of, find_checkpoints(self.folder / name / "out")), default=None)

    def _forget(self, name: str) -> None:
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def _last_words(self, name: str) -> str:
        return (self.folder / name / "output.log").read_text(encoding="utf-8", errors="replace")[-2000:].strip()

    def _name(self, run: Run) -> str:
        return f"run-{run.number}"

    def _leave_out(self, found: Sequence[Difference]) -> None:
        decisive = [item for item in found if item.stream.startswith(DECISIVE)]
        if decisive:
            raise ConfigError(
                f"two runs without a kill differ already, first at {told(decisive[0])}: nothing can be said of "
                "resuming. Seed everything that the job draws, and see full_determinism"
            )
        self.left_out = sorted(item.stream for item in found)


def told(item: Difference) -> str:
    """Return a difference as text."""
    return f"{'the end' if item.step == END else f'step {item.step}'}: {item.stream}"


def place(run: Run) -> str:
    """Return where a run differs first, and which generator differed before that."""
    first = run.differs[0]
    same_step = [item for item in run.live if item.step <= first.step]
    return "; ".join([*map(told, same_step[:1]), told(first)])


def _filled(word: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word
