"""The pages are whole: every public name, every callback, and links that lead somewhere."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trackside
from trackside.callbacks.registry import registered
from trackside.callbacks.types import keywords_of

ROOT = Path(__file__).resolve().parents[1]


def docs_module(name):
    """Import a script or an extension of the documentation."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / f"docs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_name_every_event_and_every_registered_callback():
    events_page, callbacks_page = (
        (ROOT / f"docs/{name}.md").read_text(encoding="utf-8") for name in ("reference/events", "explanation/callbacks")
    )
    entry_points = (ROOT / "setup.cfg").read_text(encoding="utf-8").partition("\ntrackside.callbacks =")[2]
    declared = re.findall(r"^    (\w+) = trackside", entry_points, re.MULTILINE)

    assert [name for name in trackside.events.EVENTS if f"`{name}`" not in events_page] == []
    assert [name for name in declared if f"`{name}`" not in callbacks_page] == []


def test_the_readme_counts_the_events_and_names_the_commands():
    from trackside.cli.main import OTHERS

    page = (ROOT / "README.md").read_text(encoding="utf-8")

    assert f"| events | {len(trackside.events.EVENTS)} blinker" in page
    assert [name for name in OTHERS if f"`{name}`" not in page] == []


def test_the_reference_has_every_public_name():
    page = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")
    parts = {name: text for name, text in docs_module("reference_tables").substitutions().items() if "api" in name}
    listed = {name for part in parts.values() for name in re.findall(r"^\.\. auto\w+:: (\w+)$", part, re.MULTILINE)}
    listed |= set(re.findall(r"`from trackside import (\w+)`", page)) | set(re.findall(r"`trackside\.(\w+)`", page))

    assert [name for name in dir(trackside) if not name.startswith("_") and name not in listed] == []
    assert [name for name in parts if f"{{{{ {name} }}}}" not in page] == []


def test_the_page_of_arguments_has_every_field_of_both_frameworks_once_with_an_anchor():
    table = docs_module("reference_tables").arguments_tables()
    classes = (trackside.TrainingArguments, trackside.TFTrainingArguments, trackside.Seq2SeqTrainingArguments)

    fields = {item.name for cls in classes for item in cls.fields()}
    assert sorted(re.findall(r"^\| \[`(\w+)`\]\{#\1\} \|", table, re.MULTILINE)) == sorted(fields)
    assert "`'adamw_torch_fused'`; TensorFlow: `'adamw_torch'`" in table


def test_the_events_of_the_page_carry_what_the_types_say():
    page = (ROOT / "docs/reference/events.md").read_text(encoding="utf-8").partition("## Keyword")[0]
    common = set(keywords_of("on_step_end"))

    rows = dict(re.findall(r"^\| (`on_.*?) \| .*? \|(.*)\|$", page, re.MULTILINE))
    told = {event: payload for events, payload in rows.items() for event in re.findall(r"`(\w+)`", events)}
    missing = [
        (event, name)
        for event in trackside.events.EVENTS
        for name in set(keywords_of(event)) - common
        if not re.search(rf"`{name}\b", told[event])
    ]
    assert missing == []


OTHER_NAMES = {"metrics_to_log", "use_cpu"}
"""A method that callbacks may have, and another name of an argument."""


@pytest.mark.parametrize("name", ["ignite", "keras", "lightning"])
def test_what_a_table_for_users_of_another_trainer_names_exists(name):
    page = (ROOT / f"docs/coming-from/{name}.md").read_text(encoding="utf-8")
    known = {*trackside.events.EVENTS, *registered(), *dir(trackside), *dir(trackside.Trainer), *OTHER_NAMES}
    known |= {item.name for item in dataclasses.fields(trackside.TrainerState)}
    for arguments, trainer in (
        (trackside.TrainingArguments, trackside.Trainer),
        (trackside.TFTrainingArguments, trackside.TFTrainer),
    ):
        known |= {item.name for item in arguments.fields()} | set(inspect.signature(trainer).parameters)

    rows = re.findall(r"^\| .* \| (.*) \|$", page, re.MULTILINE)
    words = {word for row in rows for word in re.findall(r"`(?:trainer\.)?(\w+)(?:[=(][^`]*)?`", row)}

    assert len(rows) > 15
    assert sorted(words - known) == []


def test_the_drawing_of_the_loop_is_that_of_its_script_and_has_events_only():
    script = docs_module("draw_loop")

    assert script.PICTURE.read_text(encoding="utf-8") == script.drawing()
    assert [event for _, _, event in script.LINES if event not in trackside.events.EVENTS] == []


def test_a_page_that_sphinx_overwrites_is_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'docs')!r})\nextensions = ['whole_site']"
    )
    (tmp_path / "index.rst").write_text("Start\n=====\n\n.. toctree::\n\n   search\n   kept\n")
    (tmp_path / "kept.rst").write_text("Kept & found\n============\n")
    (tmp_path / "search.rst").write_text("Hyperparameters\n===============\n")

    ended = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", str(tmp_path), str(tmp_path / "html")], capture_output=True, text=True
    )

    assert re.findall(r"WARNING: (.*)", ended.stderr) == [
        "search is lost: search.html does not have the title 'Hyperparameters'"
    ]


def test_the_callbacks_of_others_were_run_with_the_versions_that_are_tested():
    page = (ROOT / "docs/reference/foreign-callbacks.md").read_text(encoding="utf-8").partition("These ran by hand")[0]
    told = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|", page, re.MULTILINE) + re.findall(r"with (\w+) ([\d.]+)\)", page)

    pinned = dict(
        re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert len(told) == 28
    assert {package: version for package, version in told if pinned[package] != version} == {}


def test_no_page_has_the_name_of_one_that_sphinx_writes_itself():
    written_by_sphinx = {"search", "genindex", "modindex", "py-modindex"}

    assert [page.name for page in (ROOT / "docs").rglob("*.md") if page.stem in written_by_sphinx] == []


def test_every_link_from_page_to_page_leads_to_a_file():
    pages = [*ROOT.glob("*.md"), *(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts)]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    ]

    assert len(links) > 40
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []


def test_each_message_of_the_page_on_troubleshooting_is_one_of_the_code():
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^### `(.*)`$", page, re.MULTILINE)
    folders = ("api", "callbacks", "integrations", "trainer")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    raised = {text for file in files for text in texts_of(ast.parse(file.read_text(encoding="utf-8")))}

    patterns = [".*".join(map(re.escape, re.split(r"\.{3,4}(?=\W|$)|\.\.\.", message))) for message in messages]
    assert len(messages) >= 15
    assert [pattern for pattern in patterns if not any(re.search(pattern, text) for text in raised)] == []


def texts_of(tree):
    """Return the texts in a module; what is put into one is "...", or "name=..." """
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 20:
            yield node.value
