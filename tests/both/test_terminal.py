"""What a run shows in terminals: header, bar and records, and the answer to Ctrl-C in a long step."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from support.fork_process import Fork
from support.terminals import Terminal

from trackside.testing.tiny_trainer import installed_frameworks

STEP_S = 4
RUN = """
import sys, time
sys.path[:0] = {path!r}
from trackside import CSVLoggerCallback, ProgressCallback, TrainerCallback
from trackside.testing.tiny_trainer import tiny_trainer

class LongStep(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == {long_step}:
            print("a long step begins", flush=True)
            time.sleep({step_s})

callbacks = [ProgressCallback(), LongStep(), CSVLoggerCallback("log.csv")]
tiny_trainer({framework!r}, "out", callbacks, disable_tqdm=False).train()
print("the end")
"""

pytestmark = [
    pytest.mark.parametrize("framework", installed_frameworks()),
    pytest.mark.skipif(sys.platform == "win32", reason="no terminals of POSIX"),
]


def start(framework: str, folder: Path, terminals: list[Terminal], long_step: int = -1) -> Any:
    code = RUN.format(path=sys.path, framework=framework, long_step=long_step, step_s=STEP_S)
    name = "torch" if framework == "pytorch" else framework
    ends = [terminals[0].its_end, os.dup(terminals[-1].its_end) if len(terminals) == 1 else terminals[1].its_end]
    return Fork(name, ["-c", code], folder, terminals=ends)


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("count", [1, 2])
def test_header_bar_and_records_keep_their_order(framework: str, tmp_path: Path, columns: int, count: int) -> None:
    terminals = [Terminal(columns) for _ in range(count)]
    process = start(framework, tmp_path, terminals)
    terminals[0].wait_for("the end", 200)
    for terminal in terminals:
        terminal.read_to_end()
    assert process.wait(60) == 0, terminals[-1].text

    lines = [line.rstrip() for line in terminals[0].lines]
    # where each was last: on a slow machine the bar is drawn at its end before the last record, and again after it
    last = [max((i for i, line in enumerate(lines) if re.search(text, line)), default=None) for text in ORDER]
    assert None not in last, repr(terminals[0].text)
    assert last == sorted(last), repr(terminals[0].text)
    assert max(len(line) for line in lines if "%|" in line) <= columns
    assert all(text not in terminal.text for text in ("model  ", "%|", "loss") for terminal in terminals[1:])


ORDER = [
    "^model      ",
    "^data       24 examples",
    "^output     out",
    "^callbacks  ",
    r"^train: +0%.* 0/12 ",
    r"^step 2, epoch 0.3333: loss ",
    r"^step 6, epoch 1: eval_accuracy .* eval_loss ",
    r"^step 12, epoch 2: loss ",
    r"^train: 100%.* 12/12 .*loss ",
    "^the end$",
]


def test_ctrl_c_in_a_long_step_is_answered_at_once_and_saves_after_it(framework: str, tmp_path: Path) -> None:
    terminal = Terminal(100)
    process = start(framework, tmp_path, [terminal], long_step=8)
    terminal.wait_for("a long step begins", 200)

    terminal.type("\x03")
    answered_s = terminal.wait_for("SIGINT: saving and stopping after this step; send it again to stop at once", 60)
    saved_before = (tmp_path / "out" / "checkpoint-9").exists()

    terminal.read_to_end()
    assert process.wait(60) in (1, -2), terminal.text  # of a KeyboardInterrupt that is not caught
    assert "\nKeyboardInterrupt" in terminal.text
    assert answered_s < STEP_S / 2
    assert not saved_before
    assert (tmp_path / "out" / "checkpoint-9").exists()
    assert "the end" not in terminal.text
