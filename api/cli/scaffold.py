"""`trackside new-callback NAME`: a complete package with one callback, to be filled in."""

from __future__ import annotations

import argparse
import keyword
import re
from collections.abc import Sequence
from pathlib import Path

from trackside.callbacks import registry
from trackside.callbacks.errors import ConfigError

SETUP_CFG = """\
[metadata]
name = {distribution}
version = 0.1.0
description = The callback {name} for trackside
long_description = file: README.md
long_description_content_type = text/markdown

[options]
packages = {module}
python_requires = >=3.11
install_requires =
    trackside

[options.extras_require]
test =
    pytest

# this line gives the callback its name, in Python, in config files and on the command line
[options.entry_points]
trackside.callbacks =
    {name} = {module}.callback:{cls}
"""

PYPROJECT = """\
[build-system]
requires = ["setuptools>=68"]
build-backend = "setuptools.build_meta"
"""

INIT = '''\
"""The callback {name} for trackside."""

from {module}.callback import {cls}

__all__ = ["{cls}"]
'''

CALLBACK = '''\
"""What {cls} does, in one line."""

from __future__ import annotations

from typing import Any

from trackside import TrainerCallback


class {cls}(TrainerCallback):
    """Count the log records of a run.

    Args:
        start: Where to begin.
    """

    role = "observer"  # "control" if it steers the run through ``control``

    def __init__(self, start: int = 0) -> None:
        self.start = start
        self.records = start

    def state_dict(self) -> dict[str, Any]:
        return {{"records": self.records}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.records = state["records"]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:  # above 0, the run is resumed
            self.records = self.start

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.records += 1
'''

TEST = """\
from __future__ import annotations

from {module} import {cls}
from trackside.testing import check_callback, installed_frameworks, tiny_trainer


def test_it_is_a_good_callback():
    check_callback({cls})


def test_it_counts_records(tmp_path):
    for framework in installed_frameworks():
        callback = {cls}(start=5)
        trainer = tiny_trainer(framework, tmp_path / framework, [callback])

        trainer.train()

        assert callback.records == 5 + len(trainer.state.log_history)
"""

README = """\
# {distribution}

The callback `{name}` for [trackside](https://pypi.org/project/trackside/).

    pip install .

Then, in a config file:

    callbacks:
      {name}: {{start: 1}}

or in Python: `Trainer(..., callbacks=[{cls}()])`. `trackside callbacks` lists it.

Its tests: `pip install '.[test]'`, then `pytest`.
"""


def write_package(name: str, folder: Path) -> list[Path]:
    """Write a package for the callback ``name`` into ``folder`` and return its files.

    Args:
        name: The name in configs, such as "slack" or "weight_norms".

    Raises:
        ConfigError: If the name cannot be one or is taken, or the folder holds something already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(f"NAME={name!r}: lower-case letters, digits and underscores are needed, a letter first")
    if owner := registry.registered().get(name):
        raise ConfigError(f"NAME={name!r} is taken: {owner.package} {owner.version} gives it to {owner.value}")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: the folder is not empty")
    module = f"trackside_{name}"
    names = {"name": name, "module": module, "cls": f"{class_name(name)}", "distribution": module.replace("_", "-")}
    texts = {
        "setup.cfg": SETUP_CFG,
        "pyproject.toml": PYPROJECT,
        "README.md": README,
        f"{module}/__init__.py": INIT,
        f"{module}/callback.py": CALLBACK,
        f"tests/test_{name}.py": TEST,
    }
    for path, template in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        text = template if path == "pyproject.toml" else template.format(**names)
        (folder / path).write_text(text, encoding="utf-8")
    return [folder / path for path in texts]


def class_name(name: str) -> str:
    """Return the name of the class of a callback.

    Example:
        >>> class_name("weight_norms")
        'WeightNormsCallback'
    """
    return "".join(part.capitalize() for part in name.split("_")) + "Callback"


def main(argv: Sequence[str]) -> int:
    """Write a package and say where; return the exit code."""
    parser = argparse.ArgumentParser(prog="trackside new-callback", description=__doc__, allow_abbrev=False)
    parser.add_argument("name", help="the name in configs, such as weight_norms")
    parser.add_argument("--folder", type=Path, help="where to write it; default: trackside-NAME")
    options = parser.parse_args(list(argv))
    folder = options.folder or Path(f"trackside-{options.name.replace('_', '-')}")
    for path in write_package(options.name, folder):
        print(path)
    print(f"\nNow: cd {folder}, pip install '.[test]', pytest")
    return 0
