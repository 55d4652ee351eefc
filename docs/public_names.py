"""Sphinx extension: the reference shows public names, where they are imported from.

A link to a class by the module that defines it leads to its public name, and private base classes are left out.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

import trackside


def public_name(path: str) -> str | None:
    """Return the public name of a dotted path, such as ``trackside.Trainer``; None if it has none."""
    name = path.rpartition(".")[2]
    return f"trackside.{name}" if name in trackside._HOMES else None


def resolve(app: Sphinx, env: Any, node: Any, contnode: Any) -> Any:
    """Link a name that Sphinx does not find to the public name of the same object."""
    if node.get("refdomain") != "py" or not (public := public_name(node["reftarget"])):
        return None
    return env.domains["py"].resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], public, node, contnode
    )


def leave_out_private_bases(
    app: Sphinx, name: str, cls: type, options: Any, bases: list[Any]
) -> None:
    """Keep the public bases of a class, those of its private bases included, and those of other packages."""
    found = [base for base in cls.__mro__[1:] if public_name(base.__name__)]
    others = [
        base
        for base in bases
        if isinstance(base, type) and not base.__module__.startswith("trackside")
    ]
    bases[:] = found[:1] or others or [object]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-bases", leave_out_private_bases)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
