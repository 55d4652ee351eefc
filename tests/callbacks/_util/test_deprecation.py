"""Names that will be removed warn with their versions, and are removed in time."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import trackside
from trackside.callbacks._util.deprecation import deprecated

ROOT = Path(__file__).resolve().parents[3]


@deprecated("new(value)", since="0.1.0", removed_in="1.0.0")
def old(value: int) -> int:
    """Return the value."""
    return value


@deprecated("New", since="0.1.0", removed_in="1.0.0")
class Old:
    def __init__(self, value: int) -> None:
        self.value = value


@pytest.mark.parametrize(("used", "name", "instead"), [(old, "old", "new(value)"), (Old, "Old", "New")])
def test_what_is_deprecated_works_and_warns_where_it_is_used(used, name, instead):
    with pytest.warns(FutureWarning) as told:
        made = used(3)

    assert getattr(made, "value", made) == 3
    assert [str(item.message) for item in told] == [
        f"{name} is deprecated since trackside 0.1.0 and is removed in 1.0.0; use {instead} instead"
    ]
    assert told[0].filename == __file__
    assert list(inspect.signature(used).parameters) == ["value"]
    assert used.__name__ == name


def test_python_shows_a_warning_once_for_each_line():
    code = """
from trackside import StragglerMonitorCallback, RankTimeMonitorCallback
for _ in range(3):
    RankTimeMonitorCallback()
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stderr.count("RankTimeMonitorCallback is deprecated") == 1


def deprecations(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the version since which, and the version in which it is removed, of each deprecation."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Deprecation", "deprecated"):
            given = {item.arg: item.value for item in node.keywords}
            versions = [given[name] for name in ("since", "removed_in")]
            if all(isinstance(version, ast.Constant) for version in versions):  # not where the decorator passes them on
                yield node.lineno, *(version.value for version in versions)


def overdue(source: str, now: str) -> list[int]:
    """Return the lines of the deprecations that end in the version ``now`` or before."""
    return [line for line, _, removed in deprecations(source) if numbers(removed) <= numbers(now)]


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version; those of a development version are those of the version that it leads to."""
    return tuple(map(int, version.split(".dev")[0].split(".")))


def test_nothing_is_kept_beyond_the_version_that_removes_it():
    files = [path for room in ("api", "callbacks", "integrations", "trainer") for path in (ROOT / room).rglob("*.py")]
    sources = {path: path.read_text(encoding="utf-8") for path in files if "templates" not in path.parts}
    found = {path: list(deprecations(source)) for path, source in sources.items()}

    assert sum(map(len, found.values())) >= 3
    for path, items in found.items():
        assert overdue(sources[path], trackside.__version__) == [], f"{path}: remove what these lines deprecate"
        for _, since, removed in items:
            assert numbers(since) < numbers(removed)


@pytest.mark.parametrize(("now", "lines"), [("0.9.12", []), ("1.0.0", [2]), ("1.0.0.dev1", [2]), ("1.10.0", [2, 4])])
def test_the_check_finds_what_is_kept_too_long(now, lines):
    source = """
@deprecated("new", since="0.1.0", removed_in="1.0.0")
def old(): ...
MODEL = Deprecation(name="a", instead="b", since="0.2.0", removed_in="1.9.0")
"""

    assert overdue(source, now) == lines
