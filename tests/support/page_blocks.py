"""The fenced blocks of a page of Markdown, and what a comment above each says about running it.

<!-- not run: REASON -->   it is not run
<!-- file: NAME -->        it is written to this file, in the folder where the page runs
<!-- output -->            what the block before prints
<!-- set-up ... -->        Python that runs there and is not shown
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<info>.*?) *$")
COMMENT = re.compile(r"^ *<!-- (not run|file|output|set-up):? ?(.*?)(?: -->)?$")


@dataclass
class Block:
    """A fenced block, or hidden set-up.

    Attributes:
        page: Its page.
        line: The number of its first line of code.
        language: The language of the fence; "" if there is none.
        text: The code, without the indentation of the fence.
        said: What the comments above it say, by their first words.
    """

    page: str
    line: int
    language: str
    text: str
    said: dict[str, str]

    @property
    def place(self) -> str:
        """Return page and line, for messages."""
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Return README.md and all pages of the documentation."""
    found = [page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts]
    return ["README.md", *sorted(str(page.relative_to(ROOT)) for page in found)]


def blocks_of(page: str) -> list[Block]:
    """Return the blocks of a page in their order, without the directives of Sphinx."""
    lines = iter(enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), start=1))
    found: list[Block] = []
    said: dict[str, str] = {}
    for number, line in lines:
        if comment := COMMENT.match(line):
            said[comment[1]] = comment[2]
            if comment[1] == "set-up":
                found.append(Block(page, number + 1, "python", _until(lines, "-->", 0), {"set-up": ""}))
                said = {}
        elif fence := FENCE.match(line):
            text = _until(lines, fence["fence"], len(fence["indent"]))
            if not fence["info"].startswith("{"):
                found.append(Block(page, number + 1, fence["info"], text, said))
            said = {}
        elif line.strip():
            said = {}
    return found


def _until(lines, end: str, indent: int) -> str:
    taken = []
    for _, line in lines:
        if line.strip() == end:
            break
        taken.append(line[indent:] + "\n")
    return "".join(taken)
