"""What README and docs show runs as printed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from support.distributions import declared, imported_in, not_named, run_with_nothing_else

import trackside
from trackside.cli.main import main

ROOT = Path(__file__).resolve().parents[1]


def first_example(page: str) -> tuple[list[str], str]:
    """Return what the install line above the first block of Python on a page installs, and that block."""
    above, _, rest = (ROOT / page).read_text(encoding="utf-8").partition("```python\n")
    (extras,) = re.findall(r"pip install '\.\[([\w,]+)\]'", above)
    return declared(extras.split(",")), rest.partition("```")[0]


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

    imported = imported_in(block)

    assert len(imported) >= 2
    assert not_named(imported, requirements) == []


@pytest.mark.slow
def test_the_first_example_of_the_readme_learns_with_nothing_but_what_its_install_line_installs(tmp_path):
    pytest.importorskip("torch")
    requirements, block = first_example("README.md")

    printed = run_with_nothing_else(requirements, f"{block}\nprint('LOSS', trainer.evaluate()['eval_loss'])", tmp_path)

    assert float(printed.split("LOSS")[1]) < 0.2
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
