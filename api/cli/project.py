"""The command `trackside init`: write run.yaml, model.py and data.py that train, to begin with."""

from __future__ import annotations

import importlib.resources
import shlex
from collections.abc import Sequence
from pathlib import Path

from trackside.callbacks._util.imports import is_installed
from trackside.callbacks.errors import ConfigError, MissingPackageError
from trackside.cli.parser import Parser, local_path
from trackside.config.run_config import FRAMEWORKS

WORDS = {
    "pytorch": {"MAKER": "Net", "LOSS": "torch.nn.CrossEntropyLoss"},
    "tensorflow": {
        "MAKER": "net",
        "LOSS": "{class_path: keras.losses.SparseCategoricalCrossentropy, init_args: {from_logits: true}}",
    },
}
"""What stands in place of a word of the template run.yaml."""


def write_project(folder: Path, framework: str) -> list[Path]:
    """Write the three files into ``folder`` and return them.

    Raises:
        ConfigError: If one of them is there.
    """
    templates = importlib.resources.files(__package__) / "templates" / "project"
    text = (templates / "run.yaml").read_text(encoding="utf-8").replace("FRAMEWORK", framework)
    for word, meaning in WORDS[framework].items():
        text = text.replace(word, meaning)
    texts = {folder / "run.yaml": text}
    for name in ("model.py", "data.py"):
        texts[folder / name] = (templates / framework / name).read_text(encoding="utf-8")
    for path in texts:
        if path.exists():
            raise ConfigError(f"{path} is there already; nothing was written. Give another folder: trackside init NEW")
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in texts.items():
        path.write_text(content, encoding="utf-8")
    return list(texts)


def main(argv: Sequence[str]) -> int:
    """Write the files and print them; return the exit code."""
    summary = "Write run.yaml, model.py and data.py that train, to begin with."
    parser = Parser(prog="trackside init", description=summary)
    parser.add_argument("folder", nargs="?", type=local_path, default=Path(), help="folder to write; default: this one")
    parser.add_argument("--framework", choices=FRAMEWORKS, help="default: the one that is installed, PyTorch of both")
    options = parser.parse_args(list(argv))
    installed = [name for name, module in FRAMEWORKS.items() if is_installed(module)]
    framework = options.framework or next(iter(installed), "pytorch")
    for path in write_project(options.folder, framework):
        print(path)
    if framework not in installed:
        print(f"\nFirst: {MissingPackageError(FRAMEWORKS[framework], framework, FRAMEWORKS[framework])}")
    go_there = "" if options.folder == Path() else f"cd {shlex.quote(str(options.folder))} && "
    print(f"\nNow: {go_there}trackside train run.yaml")
    return 0
