"""The command `trackside new-callback`: write a complete package with one callback, to fill in."""

from __future__ import annotations

import importlib.resources
import keyword
import re
from collections.abc import Sequence
from pathlib import Path

from trackside.callbacks import registry
from trackside.callbacks.errors import ConfigError
from trackside.cli.parser import Parser, local_path

TEMPLATES = {
    "setup.cfg": "setup.cfg",
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "init.py": "trackside_callback_name/__init__.py",
    "callback.py": "trackside_callback_name/callback.py",
    "test.py": "tests/test_callback_name.py",
}
"""Files in the folder ``templates``, each with its path in the new package; see `_filled`."""


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
    written = []
    for template, path in TEMPLATES.items():
        text = (importlib.resources.files(__package__) / "templates" / template).read_text(encoding="utf-8")
        written.append(folder / _filled(path, name))
        written[-1].parent.mkdir(parents=True, exist_ok=True)
        written[-1].write_text(_filled(text, name), encoding="utf-8")
    return written


def _filled(text: str, name: str) -> str:
    """Return ``text`` with the name of the callback in place of the templates' own, which is callback_name.

    Example:
        >>> _filled("trackside-callback-name, CallbackNameCallback", "weight_norms")
        'trackside-weight-norms, WeightNormsCallback'
    """
    text = text.replace("callback_name", name).replace("callback-name", name.replace("_", "-"))
    return text.replace("CallbackName", "".join(part.capitalize() for part in name.split("_")))


def main(argv: Sequence[str]) -> int:
    """Write a package and print its files; return the exit code."""
    summary = "Write a complete package with one callback, to fill in."
    parser = Parser(prog="trackside new-callback", description=summary)
    parser.add_argument("name", help="the name in configs, such as weight_norms")
    parser.add_argument("--folder", type=local_path, help="folder to write; default: trackside-NAME")
    options = parser.parse_args(list(argv))
    folder = options.folder or Path(f"trackside-{options.name.replace('_', '-')}")
    for path in write_package(options.name, folder):
        print(path)
    print(f"\nNow: cd {folder}, pip install '.[test]', pytest")
    return 0
