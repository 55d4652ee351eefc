"""The page on the architecture names the files that exist, and all of them."""

from __future__ import annotations

import configparser
import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import trackside
from trackside.testing import tiny_trainer

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
FOLDERS = ("api", "callbacks", "integrations", "trainer")


def drawn() -> list[str]:
    """Return the paths in the drawing of the tree; those of folders end with a slash."""
    (tree,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    paths: list[str] = []
    folders: list[str] = []
    for line in filter(None, tree.splitlines()):
        indent, name = re.match(r"( *)(\S+)  +\S", line).groups()
        del folders[len(indent) // 2 :]
        paths.append("".join(folders) + name)
        folders.append(name)
    return paths


def way(framework: str) -> list[str]:
    """Return the files of the table that follows a batch through the trainer of ``framework``."""
    (table,) = re.findall(rf"### {framework}\n\n(.*?)(?=\n\n)", PAGE, re.DOTALL)
    return re.findall(r"^\| `([\w/]+\.py)` \|", table, re.MULTILINE)


def test_the_drawing_has_every_module_and_every_folder_once():
    packages = {init.parent for folder in FOLDERS for init in (ROOT / folder).rglob("__init__.py")}
    modules = {path for package in packages for path in package.glob("*.py") if path.name != "__init__.py"}
    expected = {f"{path.relative_to(ROOT)}/" for path in packages} | {str(path.relative_to(ROOT)) for path in modules}

    assert sorted(drawn()) == sorted(expected)


def test_every_path_on_the_page_leads_to_a_file():
    paths = re.findall(rf"`((?:{'|'.join(FOLDERS)}|tests|docs|examples|benchmarks)/[\w./]*)`", PAGE)

    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_layers_on_the_page_are_those_that_are_checked():
    setup_cfg = configparser.ConfigParser(interpolation=None)
    setup_cfg.read(ROOT / "setup.cfg")
    rows = dict(re.findall(r"^\| (packages|inside `\w+`) \| (.*) \|$", PAGE, re.MULTILINE))
    contracts = {"packages": "rooms", "inside `trainer`": "trainer", "inside `callbacks`": "bus"}

    for row, contract in contracts.items():
        layers = re.findall(r"[\w.]+", setup_cfg[f"importlinter:contract:{contract}"]["layers"])
        named = [name.removeprefix("trackside.") for name in re.findall(r"`([\w.]+)`", rows[row])]
        assert [name for name in layers if name.removeprefix("trackside.") not in named] == [], row


@pytest.mark.parametrize(("framework", "package"), [("PyTorch", "torch"), ("TensorFlow", "tensorflow")])
def test_a_batch_goes_through_the_files_of_its_table(framework, package, tmp_path):
    pytest.importorskip(package)
    trainer = tiny_trainer(framework.lower(), output_dir=str(tmp_path), max_steps=2, logging_steps=1)
    home = Path(trackside.__file__).parent
    visited: set[str] = set()

    def note(frame: FrameType, event: str, arg: Any) -> None:
        visited.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        trainer.train()
    finally:
        sys.setprofile(None)

    files = way(framework)
    assert 3 < len(files) <= 6
    assert [file for file in files if str(home / file) not in visited] == []
