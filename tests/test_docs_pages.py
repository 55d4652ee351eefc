"""The pages are whole: every public name, every callback, and links that lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import trackside

ROOT = Path(__file__).resolve().parents[1]


def test_the_pages_name_every_event_and_every_registered_callback():
    events_page, callbacks_page = (
        (ROOT / f"docs/{name}.md").read_text(encoding="utf-8") for name in ("events", "callbacks")
    )
    entry_points = (ROOT / "setup.cfg").read_text(encoding="utf-8").partition("\ntrackside.callbacks =")[2]
    registered = re.findall(r"^    (\w+) = trackside", entry_points, re.MULTILINE)

    assert [name for name in trackside.events.EVENTS if f"`{name}`" not in events_page] == []
    assert [name for name in registered if f"`{name}`" not in callbacks_page] == []


def test_the_readme_counts_the_events_and_names_the_commands():
    from trackside.cli.main import OTHERS

    page = (ROOT / "README.md").read_text(encoding="utf-8")

    assert f"| events | {len(trackside.events.EVENTS)} blinker" in page
    assert [name for name in OTHERS if f"`{name}`" not in page] == []


def test_the_reference_has_every_public_name():
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\.\. auto(?:class|function):: (\w+)$", page, re.MULTILINE))
    listed |= set(re.findall(r"`from trackside import (\w+)`", page)) | set(re.findall(r"`trackside\.(\w+)`", page))

    assert [name for name in dir(trackside) if not name.startswith("_") and name not in listed] == []


def test_the_callbacks_of_others_were_run_with_the_versions_that_are_tested():
    page = (ROOT / "docs/foreign-callbacks.md").read_text(encoding="utf-8").partition("These ran by hand")[0]
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
