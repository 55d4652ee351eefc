"""What README and docs show runs as printed."""

from __future__ import annotations

import ast
import configparser
import contextlib
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trackside
from trackside.cli.main import main

ROOT = Path(__file__).resolve().parents[1]


def first_example(page: str) -> tuple[list[str], str]:
    """Return what the install line above the first block of Python on a page installs, and that block."""
    above, _, rest = (ROOT / page).read_text(encoding="utf-8").partition("```python\n")
    (extras,) = re.findall(r"pip install '\.\[([\w,]+)\]'", above)
    setup_cfg = configparser.ConfigParser(interpolation=None)
    setup_cfg.read(ROOT / "setup.cfg")
    declared = [setup_cfg["options"]["install_requires"]]
    declared += [setup_cfg["options.extras_require"][extra] for extra in extras.split(",")]
    return [line for text in declared for line in text.split("\n") if line], rest.partition("```")[0]


def with_their_own(requirements: list[str]) -> set[str]:
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


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/tutorials/first-run-pytorch.md",
        "docs/explanation/distributed.md",
        "docs/how-to/hyperparameter-search.md",
    ],
)
def test_the_first_example_of_a_page_imports_what_the_install_line_above_it_names(page):
    pytest.importorskip("sklearn")
    requirements, block = first_example(page)

    nodes = list(ast.walk(ast.parse(block)))
    imported = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}

    named = {re.split(r"[\[ <>=]", line)[0] for line in requirements} | {"trackside"}
    distributions = importlib.metadata.packages_distributions()
    tops = {module.partition(".")[0] for module in imported} - sys.stdlib_module_names
    assert len(tops) >= 2
    assert [top for top in tops if not named & {top, *distributions.get(top, [])}] == []


@pytest.mark.slow
def test_the_first_example_of_the_readme_learns_with_nothing_but_what_its_install_line_installs(tmp_path):
    pytest.importorskip("torch")
    requirements, block = first_example("README.md")
    link_distributions(with_their_own(requirements), tmp_path / "site")

    ended = subprocess.run(
        [sys.executable, "-S", "-c", f"{block}\nprint('LOSS', trainer.evaluate()['eval_loss'])"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout.split("LOSS")[1]) < 0.2
    assert not {"sklearn", "transformers", "pytest"} & {path.name for path in (tmp_path / "site").iterdir()}


def test_the_page_of_the_command_has_all_of_it(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])

    commands = re.findall(r"^    ([a-z-]+)(?: |$)", capsys.readouterr().out, re.MULTILINE)
    page = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    assert len(commands) >= 10
    assert [name for name in commands if f"`trackside {name}" not in page] == []


def test_the_plan_on_the_page_of_the_command_is_what_it_prints(monkeypatch, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [*sys.path])
    page = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    ((command, excerpt),) = re.findall(r"`trackside (plan [^`]*)`, in part:\n\n```text\n(.*?)\n```", page, re.DOTALL)

    assert main(command.split()) == 0

    printed = capsys.readouterr().out.splitlines()
    assert [line for line in excerpt.splitlines() if line != "  ..." and line not in printed] == []


def test_the_error_on_the_page_of_arguments_is_the_one_that_is_raised():
    (text,) = re.findall(
        r"```text\n(.*?)\n```", (ROOT / "docs/reference/arguments.md").read_text(encoding="utf-8"), re.DOTALL
    )

    with pytest.raises(trackside.errors.ArgumentError) as caught:
        trackside.TrainingArguments("out", eval_strategy="epochs")

    assert f"{type(caught.value).__name__}: {caught.value}" == text
