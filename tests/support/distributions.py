"""The distributions that an install line brings, and an environment that has these and nothing else."""

from __future__ import annotations

import ast
import configparser
import contextlib
import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import trackside

ROOT = Path(__file__).resolve().parents[2]


def declared(extras: Iterable[str]) -> list[str]:
    """Return what `pip install '.[EXTRAS]'` requires, those of extras within extras included."""
    setup_cfg = configparser.ConfigParser(interpolation=None)
    setup_cfg.read(ROOT / "setup.cfg")
    found = [setup_cfg["options"]["install_requires"]]
    todo = list(extras)
    while todo:
        text = setup_cfg["options.extras_require"][todo.pop()]
        todo += [
            extra for group in re.findall(r"^trackside\[([\w,]+)\]$", text, re.MULTILINE) for extra in group.split(",")
        ]
        found.append(text)
    return [line for text in found for line in text.split("\n") if line and not line.startswith("trackside[")]


def not_named(modules: Iterable[str], requirements: Iterable[str]) -> list[str]:
    """Return the packages of modules that are neither Python's own nor those of a requirement."""
    named = {re.split(r"[\[ <>=]", line)[0] for line in requirements} | {"trackside"}
    owners = importlib.metadata.packages_distributions()
    tops = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names
    return sorted(top for top in tops if not named & {top, *owners.get(top, [])})


def imported_in(source: str) -> set[str]:
    """Return the modules that Python code imports, at any place."""
    nodes = list(ast.walk(ast.parse(source)))
    found = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    return found | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}


def with_their_own(requirements: Iterable[str]) -> set[str]:
    """Return the names of the distributions that pip installs for some requirements, those of these included."""
    packaging = pytest.importorskip("packaging.requirements")
    canonical = pytest.importorskip("packaging.utils").canonicalize_name
    found, todo = set(), [(packaging.Requirement(text), "") for text in requirements]
    while todo:
        requirement, extra = todo.pop()
        is_needed = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        for chosen in ("", *requirement.extras) if is_needed else ():
            item = canonical(requirement.name), chosen
            if item not in found:
                found.add(item)
                todo += [(packaging.Requirement(text), chosen) for text in requires(requirement.name)]
    return {name for name, _ in found}


def requires(distribution: str) -> list[str]:
    try:
        return importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def link_distributions(names: set[str], site: Path) -> None:
    """Make a folder that holds these distributions and trackside, as in an environment with nothing else."""
    package = Path(trackside.__file__).parent
    linked = {package, *package.parent.glob("trackside-*.dist-info")}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # needed on other platforms only
            found = importlib.metadata.distribution(name)
            linked |= {Path(found.locate_file(file.parts[0])) for file in found.files or () if file.parts[0] != ".."}
    site.mkdir()
    for path in linked:
        (site / path.name).symlink_to(path)


def run_with_nothing_else(requirements: Iterable[str], code: str, folder: Path) -> str:
    """Run Python code with trackside and what these requirements install in ``folder/site``; return what it prints."""
    link_distributions(with_their_own(requirements), folder / "site")
    ended = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "site")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
