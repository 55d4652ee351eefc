"""Sphinx settings; `tox -e docs` builds with warnings as errors."""

from __future__ import annotations

import dataclasses
import importlib.util

import trackside
from trackside.trainer.arguments.base import BaseTrainingArguments

project = "trackside"
author = "The trackside developers"
project_copyright = "the trackside developers, Apache-2.0"
release = version = trackside.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"trackside {release}"
myst_enable_extensions = ["colon_fence", "deflist", "substitution"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
# the small environment of `tox -e docs` has no framework; where one is installed, the real thing is read
autodoc_mock_imports = [
    name for name in ("torch", "tensorflow", "keras", "safetensors") if importlib.util.find_spec(name) is None
]
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Shapes", "Units", "Source"]


def arguments_table() -> str:
    """Return every training argument with its default and help as a Markdown table, from where they are declared."""
    rows = ["| field | default | meaning |", "|---|---|---|"]
    for item in BaseTrainingArguments.fields():
        made = item.default_factory() if item.default is dataclasses.MISSING else item.default
        rows.append(f"| `{item.name}` | `{made!r}` | {item.metadata['help']} |")
    return "\n".join(rows)


myst_substitutions = {"arguments": arguments_table()}
