"""Runs the drawing in the events' docstring: what it says a run sends, for a given schedule."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field

from trackside import events

Node = tuple[str, list["Node"]]


@dataclass
class Schedule:
    """A run: the micro-batches of each update of one epoch, and when what is asked for."""

    windows: list[int]
    epochs: int
    evaluation_batches: int = 0
    logs_at: set[int] = field(default_factory=set)
    saves_at: set[int] = field(default_factory=set)
    evaluates_at_epoch_end: bool = False
    evaluates_at: set[int] = field(default_factory=set)
    evaluates_on_start: bool = False


def drawn_events(schedule: Schedule) -> list[str]:
    """Return the events that the drawing gives for ``schedule``."""
    return list(_Run(schedule).walk(_tree()))


def _tree() -> list[Node]:
    text = events.__doc__ or ""
    drawing = text.split("::\n\n", 1)[1].split("\n\n``predict()``", 1)[0]
    lines = [line for line in textwrap.dedent(drawing).splitlines() if line.strip()]
    return _parse(lines, 0)[0]


def _parse(lines: list[str], depth: int) -> tuple[list[Node], list[str]]:
    nodes: list[Node] = []
    while lines:
        indent = (len(lines[0]) - len(lines[0].lstrip())) // 4
        if indent < depth:
            break
        text, lines = lines[0].strip(), lines[1:]
        children, lines = _parse(lines, depth + 1)
        nodes.append((text, children))
    return nodes, lines


class _Run:
    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.step = 0
        self.in_epoch = False
        self.blocks: dict[str, list[Node]] = {}

    def walk(self, nodes: list[Node]) -> Iterator[str]:
        self.blocks.update({text[:-1]: children for text, children in nodes if text[:-1] in ("ACT", "EVALUATE")})
        for text, children in nodes:
            if text.rstrip(":") in self.blocks:
                if not text.endswith(":"):
                    yield from self.walk(self.blocks[text])
            elif text.startswith("for each"):
                for _ in self.rounds(text):
                    yield from self.walk(children)
            elif text.startswith("if "):
                if self.conditions()[text]:
                    yield from self.walk(children)
            else:
                yield text

    def rounds(self, text: str) -> Iterator[None]:
        schedule = self.schedule
        if text == "for each epoch:":
            for _ in range(schedule.epochs):
                yield
        elif text == "for each update:":
            self.in_epoch = True
            for self.window in schedule.windows:
                self.step += 1
                yield
            self.in_epoch = False
        elif text == "for each micro-batch but the last:":
            yield from [None] * (self.window - 1)
        elif text == "for each evaluation batch:":
            yield from [None] * schedule.evaluation_batches
        else:
            raise ValueError(f"the drawing has a loop that the test does not know: {text}")

    def conditions(self) -> dict[str, bool]:
        schedule, after_step = self.schedule, self.in_epoch
        evaluates = self.step in schedule.evaluates_at if after_step else schedule.evaluates_at_epoch_end
        return {
            "if resuming:": False,
            "if evaluating on start:": schedule.evaluates_on_start,
            "if should_roll_back:": False,
            "if should_log:": after_step and self.step in schedule.logs_at,
            "if should_evaluate:": evaluates,
            "if should_save:": after_step and self.step in schedule.saves_at,
        }
