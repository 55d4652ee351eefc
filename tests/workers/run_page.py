"""Run the blocks of a page one after the other, in this folder: ``run_page.py PAGE``."""

from __future__ import annotations

import configparser
import contextlib
import io
import linecache
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

from support.page_blocks import ROOT, Block, blocks_of

from trackside.cli.main import main as trackside
from trackside.config.run_config import load_config

SHIMS = {"python": "", "torchrun": "-m torch.distributed.run", "trackside": "-m trackside", "pytest": "-m pytest"}
GROUPS = {"trackside.callbacks", "trackside.components"}


class Page:
    """What the blocks of a page share: a folder, names in Python, and what the last block printed."""

    def __init__(self) -> None:
        self.module = sys.modules["__main__"] = types.ModuleType("__main__")
        self.printed = ""
        commands = Path("commands").absolute()
        commands.mkdir()
        Path("examples").symlink_to(ROOT / "examples")
        for name, options in SHIMS.items():
            (commands / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {options} "$@"\n')
            (commands / name).chmod(0o755)
        os.environ["PATH"] = f"{commands}:{os.environ['PATH']}"

    def run(self, block: Block) -> None:
        """Run a block, and raise what is wrong with it."""
        if "output" in block.said:
            check_output(block, block.text, self.printed)
        elif "file" in block.said:
            path = Path(block.said["file"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
            if block.language == "yaml":
                load_config([path])
        elif block.language != "text":
            runner: Callable[[Block], None] = getattr(self, f"run_{block.language or 'nothing'}")
            runner(block)

    def run_python(self, block: Block) -> None:
        """Run Python in the names of the page."""
        source = "\n" * (block.line - 1) + block.text
        linecache.cache[block.place] = (len(source), None, source.splitlines(keepends=True), block.place)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            exec(compile(source, block.place, "exec"), vars(self.module))
        self.printed = printed.getvalue()

    def run_console(self, block: Block) -> None:
        """Run each command; the lines below it must be among what it prints, in their order."""
        self.printed = ""
        for command, shown in commands_of(block.text):
            ended, printed = self.execute(command)
            self.printed += printed
            check_output(block, shown, printed)
            if ended and f"exit {ended}" not in command:
                raise SystemExit(f"{block.place}: {command}\nended with {ended}: {printed[-3000:]}")

    def execute(self, command: str) -> tuple[int, str]:
        """Return the exit status of a command, and what it printed; the plain ``trackside`` runs in this process."""
        words = shlex.split(command, comments=True)
        if words[0] != "trackside" or set(words) & {"&&", ";", "|", ">", "&", "||"}:
            ended = subprocess.run(
                ["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200
            )
            return ended.returncode, ended.stdout
        printed = io.StringIO()
        known, path = set(sys.modules), [*sys.path]
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                status = trackside(words[1:])
            except SystemExit as exit:
                status = exit.code
        sys.path[:] = path
        for name in set(sys.modules) - known:  # another run has other modules of these names
            if str(getattr(sys.modules[name], "__file__", "")).startswith(os.getcwd()):
                del sys.modules[name]
        return int(status or 0), printed.getvalue()

    def run_yaml(self, block: Block) -> None:
        """Check keys, arguments, and the names and options of callbacks."""
        part = Path("part.yaml")
        part.write_text(block.text)
        load_config([part])

    def run_ini(self, block: Block) -> None:
        """Check that it declares entry points in groups that are read."""
        parser = configparser.ConfigParser()
        parser.read_string(block.text)
        assert set(parser["options.entry_points"]) <= GROUPS, block.place


def commands_of(text: str) -> list[tuple[str, str]]:
    """Return the commands of a console, each with the lines that follow it."""
    parts = re.split(r"^\$ ", text.replace("\\\n", " "), flags=re.MULTILINE)
    assert not parts[0].strip(), "a console begins with '$ '"
    return [(part.partition("\n")[0], part.partition("\n")[2]) for part in parts[1:]]


def check_output(block: Block, shown: str, printed: str) -> None:
    """Check that each line that is shown was printed, in the same order; "..." stands for anything."""
    lines = iter([" ".join(line.split()) for line in printed.splitlines()])
    for line in filter(None, (" ".join(line.split()) for line in shown.splitlines())):
        pattern = ".*".join(map(re.escape, line.split("...")))
        if line != "..." and not any(re.fullmatch(pattern, real) for real in lines):
            raise SystemExit(f"{block.place}: not printed, or not there: {line!r}\n{printed[-5000:]}")


if __name__ == "__main__":
    page = Page()
    for block in blocks_of(sys.argv[1]):
        if "not run" not in block.said:
            page.run(block)
