"""The search for the modules that a configuration names: installed ones first, then those beside its files."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trackside.config.source import COMPONENTS, Source
from trackside.config.yaml_reader import Keys

logger: logging.Logger = logging.getLogger("trackside.config")


def search_beside(source: Source) -> None:
    """Let the modules in the folders of ``source`` be imported.

    They come last, so that they shadow no installed package. A class path that means an installed module although one
    of that name lies beside the files is told.
    """
    folders = folders_of(source)
    for folder in source.values.get("python_path", ()):
        if not Path(folder).is_dir():
            logger.warning("%s: python_path: the folder %s does not exist", source.where("python_path"), folder)
    for keys, class_path in _class_paths(source):
        name = class_path.split(".")[0]
        beside = [folder for folder in folders if _has_module(folder, name)]
        if beside and (origin := _installed_at(name, folders)):
            logger.warning(
                "%s: %s=%r: %s is the installed module %s; the one in %s is not imported, rename it",
                *(source.where(*keys), ".".join(keys), class_path, name, origin, beside[0]),
            )
    sys.path += [str(folder) for folder in folders if str(folder) not in sys.path]


def folders_of(source: Source) -> list[Path]:
    """Return the folders in which modules are searched: ``python_path``, those of the files, and the current one."""
    written = map(Path, source.values.get("python_path", ()))
    return list(dict.fromkeys(path.resolve() for path in [*written, *(file.parent for file in source.files), Path()]))


def _class_paths(source: Source) -> Iterator[tuple[Keys, str]]:
    """Yield every class path of a configuration, with its keys."""
    for key in (*COMPONENTS, "callbacks"):
        yield from _class_paths_in(source.values.get(key), (key,))


def _class_paths_in(value: Any, keys: Keys) -> Iterator[tuple[Keys, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "class_path" and isinstance(item, str):
                yield (*keys, key), str(item)
            else:
                yield from _class_paths_in(item, (*keys, str(key)))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _class_paths_in(item, (*keys, str(number)))


def _has_module(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()


def _installed_at(name: str, folders: Sequence[Path]) -> str | None:
    """Return where the module ``name`` is found, unless that is in one of ``folders``."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or any(Path(spec.origin).is_relative_to(folder) for folder in folders):
        return None
    return spec.origin
