"""Parts of the reference that are made from the code when the pages are built."""

from __future__ import annotations

import inspect
from typing import Any

import trackside
from trackside.callbacks import events, types
from trackside.callbacks._util.conversion import hints_of
from trackside.cli.fields import choices_of, value_of
from trackside.trainer.arguments.base import BaseTrainingArguments
from trackside.trainer.arguments.groups import groups_of
from trackside.trainer.arguments.serialization import default_of

SECTIONS = {
    "trainers": (
        "trackside.trainer.pytorch.trainer",
        "trackside.trainer.tensorflow.trainer",
    ),
    "seq2seq": ("trackside.trainer.pytorch.seq2seq.trainer",),
    "arguments_classes": (
        "trackside.trainer.pytorch.arguments",
        "trackside.trainer.tensorflow.arguments",
        "trackside.trainer.pytorch.seq2seq.arguments",
        "trackside.trainer.arguments.enums",
    ),
    "callback_classes": ("trackside.callbacks.callback", "trackside.callbacks.state"),
    "builtin": ("trackside.callbacks.builtin.",),
    "integrations": ("trackside.integrations.",),
    "results": ("trackside.trainer.outputs",),
    "helpers": (
        "trackside.trainer.pytorch.data.",
        "trackside.trainer.checkpointing.",
        "trackside.seeding",
    ),
}
"""The sections of the API reference, each with the modules that define its names; a prefix ends with a dot."""

OPTIONS = {
    "trainers": "   :inherited-members:\n",
    "seq2seq": "   :members: evaluate, predict\n",
    "callback_classes": "",
}
"""Options of autoclass; elsewhere the members of a class are not shown."""


KINDS = {
    "N": "Whole number",
    "X": "Number",
    "TEXT": "Text",
    "NAME": "Name",
    "LIST": "List",
    "JSON": "Map",
    "true|false": "True or false",
    "true|TEXT": "True or text",
}
"""What stands for a value in the help of the command line, in words."""


def names_of(section: str) -> list[str]:
    """Return the public names of a section, in the order of the code."""
    homes = SECTIONS[section]
    return [
        name
        for name, home in trackside._HOMES.items()
        if home in homes
        or any(home.startswith(prefix) for prefix in homes if prefix.endswith("."))
    ]


def reference(section: str) -> str:
    """Return the directives for the public names of a section."""
    lines = ["```{eval-rst}", ".. currentmodule:: trackside", ""]
    for name in names_of(section):
        is_function = name[0].islower()
        lines.append(f".. auto{'function' if is_function else 'class'}:: {name}")
        if not is_function:
            lines += OPTIONS.get(section, "   :no-members:\n").splitlines()
    return "\n".join([*lines, "```"])


def arguments_tables() -> str:
    """Return a table for each group of arguments: all fields of both frameworks, with defaults and an anchor each."""
    base, torch, tf = (
        BaseTrainingArguments,
        trackside.TrainingArguments,
        trackside.TFTrainingArguments,
    )
    seq2seq = trackside.Seq2SeqTrainingArguments
    known = {item.name for item in base.fields()}
    groups = {
        title[0].upper() + title[1:]: items for title, items in groups_of(base).items()
    }
    groups["PyTorch only"] = [item for item in torch.fields() if item.name not in known]
    groups["TensorFlow only"] = [item for item in tf.fields() if item.name not in known]
    known |= {item.name for item in torch.fields()}
    groups["Seq2SeqTrainingArguments only"] = [
        item for item in seq2seq.fields() if item.name not in known
    ]
    return "\n\n".join(
        f"### {title}\n\n{_table(items, torch, tf)}" for title, items in groups.items()
    )


def _table(items: list[Any], *classes: Any) -> str:
    rows = ["| field | default | meaning |", "|---|---|---|"]
    classes = (*classes, trackside.Seq2SeqTrainingArguments)
    for name in [item.name for item in items]:
        having = [
            (cls, item) for cls in classes for item in cls.fields() if item.name == name
        ]
        cls, item = having[0]
        default, *others = dict.fromkeys(
            f"`{default_of(item)!r}`" for _, item in having
        )
        default += "".join(f"; TensorFlow: {other}" for other in others)
        choices = ", ".join(f"`{choice}`" for choice in choices_of(item))
        meaning = f"{item.metadata['help']} {choices and f'One of {choices}.'}"
        kind = KINDS[value_of(item, cls)]
        rows.append(
            f"| [`{name}`]{{#{name}}} | {default} | {kind}. {meaning.strip()} |"
        )
    return "\n".join(rows)


def events_table() -> str:
    """Return what each event carries, from the types of the payloads."""
    rows = ["| event | keyword | type |", "|---|---|---|"]
    common = hints_of(types.Context)
    for event in events.EVENTS:
        own = {
            name: hint
            for name, hint in hints_of(types.CONTEXTS.get(event, types.Context)).items()
            if name not in common
        }
        rows += [
            f"| `{event}` | `{name}` | `{_type(hint)}` |" for name, hint in own.items()
        ]
    return "\n".join(rows)


def _type(hint: Any) -> str:
    return (
        inspect.formatannotation(hint)
        .replace("collections.abc.", "")
        .replace("|", "\\|")
    )


def context_list() -> str:
    """Return the keywords that come with every event."""
    return ", ".join(f"`{name}`" for name in types.keywords_of("on_step_end"))


def substitutions() -> dict[str, str]:
    """Return all parts by the names under which the pages have them.

    Raises:
        KeyError: If a public name has no section.
    """
    listed = {name for section in SECTIONS for name in names_of(section)} | {
        "errors",
        "events",
        "TracksideError",
    }
    if missing := sorted(set(trackside._HOMES) - listed):
        raise KeyError(f"no section of the API reference has {', '.join(missing)}")
    parts = {f"api_{section}": reference(section) for section in SECTIONS}
    return {
        **parts,
        "arguments": arguments_tables(),
        "event_keywords": events_table(),
        "event_context": context_list(),
    }
