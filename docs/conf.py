"""Sphinx settings; `tox -e docs` builds with warnings as errors."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import trackside

sys.path.insert(0, str(Path(__file__).parent))

import reference_tables

project = "trackside"
author = "The trackside developers"
project_copyright = "the trackside developers, Apache-2.0"
release = version = trackside.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "public_names",
    "whole_site",
]
# the copy buttons are of the extra docs; without them the pages are the same
extensions += [
    name for name in ("sphinx_copybutton",) if importlib.util.find_spec(name)
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"trackside {release}"
html_favicon = "static/favicon.svg"
html_static_path = ["static"]
html_css_files = ["start.css"]
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "substitution"]
myst_heading_anchors = 3
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"

nitpicky = True
default_role = "py:obj"
# a name in single backticks is a link if the reference has it, otherwise code; the inside of the package, short names
# in annotations, and the words of a "Returns:" section have no page
nitpick_ignore_regex = [
    ("py:obj", ".*"),
    ("py:class", r"trackside\.\w+\..*"),
    ("py:class", r"Action|Dataset|Tensor|nn\.Module|predictions|label_ids"),
]
# names of other projects, in files of the repository: a build needs no network, and a new name must be written down
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", "inventories/python.inv"),
    "torch": ("https://docs.pytorch.org/docs/stable/", "inventories/torch.inv"),
    "blinker": ("https://blinker.readthedocs.io/en/stable/", "inventories/blinker.inv"),
}

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
# the small environment of `tox -e docs` has no framework; where one is installed, the real thing is read
autodoc_mock_imports = [
    name
    for name in ("torch", "tensorflow", "keras", "safetensors")
    if importlib.util.find_spec(name) is None
]
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Shapes", "Units", "Source"]

myst_substitutions = reference_tables.substitutions()
