"""The merged configuration as one file, which trains again to the same bits."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from trackside.callbacks.secrets import MASK, masked
from trackside.config.command_text import read_as_yaml
from trackside.config.module_search import folders_of
from trackside.config.run_config import RunConfig
from trackside.config.source import TOP_KEYS
from trackside.trainer.staging import address_of

MERGED = "run.yaml"
"""The file in ``output_dir``."""


def merged_text(config: RunConfig) -> str:
    """Return files and command line as one YAML document.

    Values are those that were given, as their option reads them; references such as ``${ENV:NAME}`` stay, and secrets
    are masked. ``python_path`` names the folders in which modules were searched, so that the document may be anywhere.
    That a run was resumed is left out.
    """
    values = config.source.values
    found: dict[str, Any] = {key: _plain(masked(values[key], key)) for key in TOP_KEYS if values.get(key)}
    if not config.registered_only:
        found["python_path"] = [str(folder) for folder in folders_of(config.source)]
    if found.get("args", {}).get("resume_from_checkpoint") in (True, "true", "True"):
        del found["args"]["resume_from_checkpoint"]
    document = io.StringIO()
    writer = YAML(typ="safe", pure=True)
    vars(writer).update(default_flow_style=False, sort_base_mapping_type_on_output=False, width=10_000)
    writer.dump({key: found[key] for key in TOP_KEYS if key in found}, document)
    return _about(config, document.getvalue()) + document.getvalue()


def _about(config: RunConfig, document: str) -> str:
    """Return the comment on top."""
    from trackside import __version__

    origin = ", ".join([*map(str, config.source.files), "command line"])
    output_dir = address_of(config.args.output_dir)
    again = f"trackside train {Path(MERGED) if '://' in str(output_dir) else Path(output_dir, MERGED)} --output_dir NEW"
    fill_in = f"# Secrets are left out: fill in {MASK}\n" if MASK in document else ""
    return f"# Merged by trackside {__version__} from: {origin}\n# Train it again: {again}\n{fill_in}"


def _plain(value: Any) -> Any:
    """Return ``value`` of types that YAML knows; a text of a class of its own as a text."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    found = read_as_yaml(value)
    return str(found) if isinstance(found, str) else found
