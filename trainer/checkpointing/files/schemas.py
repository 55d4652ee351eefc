"""Schemas of the JSON files of a checkpoint: types and ranges of the known fields; newer fields are allowed.

Each value has a description, which is what an error says is allowed. `TYPES` defines the types beyond those of JSON
schema, and "integer" excludes 1.0. Long lists have a type of their own, since JSON schema's way through them is slow.
"""

from __future__ import annotations

import math
from typing import Any

from ..names import ARGS_FILE, PROGRESS_FILE, STATE_FILE

LARGEST = 2**63 - 1
"""The largest whole number in a checkpoint."""


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a value is a number that a float can hold; infinite and NaN are."""
    return isinstance(value, float) or (is_whole(value) and abs(value) < 2**1023)


TYPES = {
    "integer": is_whole,
    "number": is_number,
    "finite": lambda value: is_number(value) and math.isfinite(value),
    "records": lambda value: isinstance(value, list) and all(isinstance(item, dict) for item in value),
    "words": lambda value: isinstance(value, list) and all(is_whole(item) and 0 <= item < 2**32 for item in value),
}


def _maybe(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that also allows null."""
    return {"description": f"{schema['description']}, or null", "anyOf": [schema, {"type": "null"}]}


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": "an object",
        "properties": properties,
        "required": list(required),
    }


def _whole(least: int = 0, most: int = LARGEST) -> dict[str, Any]:
    limit = "" if most == LARGEST else f" to {most}"
    return {
        "type": "integer",
        "minimum": least,
        "maximum": most,
        "description": f"a whole number from {least}{limit}",
    }


TEXT = {"type": "string", "description": "a text"}
FLAG = {"type": "boolean", "description": "true or false"}
NUMBER = {"type": "number", "description": "a number"}
FINITE = {"type": "finite", "minimum": 0, "description": "a finite number from 0"}
OBJECT = {"type": "object", "description": "an object"}
RECORDS = {"type": "records", "description": "a list of objects"}
ID = {"type": "string", "minLength": 1, "maxLength": 200, "description": "a text of 1 to 200 characters"}

MANIFEST_SCHEMA: dict[str, Any] = _object(
    {
        "run_id": ID,
        "step": _whole(),
        "committed_at": _whole(),
        "files": {
            "type": "object",
            "description": "an object",
            "additionalProperties": _object(
                {
                    "size": _whole(),
                    "sha256": {"type": "string", "pattern": r"\A[0-9a-f]{64}\Z", "description": "64 hex digits"},
                    "role": ID,
                },
                "size",
                "sha256",
            ),
        },
    },
    *("run_id", "step", "committed_at", "files"),
)

STATE_SCHEMA = _object(
    {
        "epoch": _maybe(FINITE),
        "global_step": _whole(),
        "max_steps": _whole(-1),
        "num_train_epochs": FINITE,
        "logging_steps": FINITE,
        "eval_steps": FINITE,
        "save_steps": FINITE,
        "train_batch_size": _maybe(_whole()),
        "total_flos": FINITE,
        "num_input_tokens_seen": _whole(),
        "log_history": RECORDS,
        "best_metric": _maybe(NUMBER),
        "best_global_step": _maybe(_whole()),
        "best_model_checkpoint": _maybe(TEXT),
        "is_local_process_zero": FLAG,
        "is_world_process_zero": FLAG,
        "is_hyper_param_search": FLAG,
        "trial_name": _maybe(TEXT),
        "trial_params": _maybe(OBJECT),
        "stateful_callbacks": {
            "type": "object",
            "additionalProperties": {"type": ["object", "array"], "description": "the state of a callback"},
            "description": "an object",
        },
        "callback_classes": {"type": "object", "additionalProperties": TEXT, "description": "an object"},
        "stop_reason": _maybe(TEXT),
        "stopped_by": _maybe(TEXT),
        "run_id": _maybe(ID),
    },
    "global_step",
)

GROUP = _object(
    {"params": {"type": "array", "items": _maybe(TEXT), "description": "a list of texts"}, "options": OBJECT},
    *("params", "options"),
)

OPTIMIZER_RECORD = _object(
    {
        "class": TEXT,
        "groups": {"type": "array", "items": GROUP, "description": "a list of objects"},
        "options": OBJECT,
        "trainable": _object({"made": TEXT, "now": TEXT}, "made", "now"),
        "slots": {"type": "object", "additionalProperties": TEXT, "description": "an object"},
        "schedule": _maybe(_object({"class": TEXT, "state": OBJECT}, "class", "state")),
    },
    "class",
)

DIVISION = _object(
    {
        "dataset": _object({"examples": _maybe(_whole())}, "examples"),
        "batches_per_epoch": _maybe(_whole(1)),
        "micro_batch": _whole(1),
        "accumulation_steps": _whole(1),
        "world_size": _whole(1),
        "num_train_epochs": FINITE,
        "max_steps": _whole(-1),
    },
    *("dataset", "batches_per_epoch", "micro_batch"),
)

PROGRESS_SCHEMA = _object(
    {
        "epoch": _whole(),
        "batches_in_epoch": _whole(),
        "examples_in_epoch": _whole(),
        "pending_loss": NUMBER,
        "pending_steps": _whole(),
        "total_loss": NUMBER,
        "empty_steps": _whole(),
        "last_evaluation": _whole(-1),
        "last_save": _whole(-1),
        "optimizer": _maybe(OPTIMIZER_RECORD),
        "division": _maybe(DIVISION),
        "batches_before": _whole(),
        "fraction_before": FINITE,
        "order_seed": _maybe(_whole()),
        "evaluation_is_due": FLAG,
        "epoch_loss": NUMBER,
        "epoch_loss_examples": _whole(),
        "rate_factor": FINITE,
        "is_in_epoch": FLAG,
        "last_record": OBJECT,
        "last_groups": RECORDS,
    },
    *("epoch", "batches_in_epoch", "examples_in_epoch"),
)


def _words(count: int) -> dict[str, Any]:
    return {"type": "words", "minItems": count, "maxItems": count, "description": f"{count} whole numbers of 32 bits"}


RNG_SCHEMA = _object(
    {
        "python": {
            "type": "array",
            "prefixItems": [
                _whole(),
                _words(625),
                _maybe(NUMBER),
            ],
            "minItems": 3,
            "maxItems": 3,
            "description": "a version, 625 whole numbers, and a number or null",
        },
        "numpy": {
            "type": "array",
            "prefixItems": [
                {"const": "MT19937", "description": "'MT19937'"},
                _words(624),
                _whole(most=624),
                _whole(most=1),
                NUMBER,
            ],
            "minItems": 5,
            "maxItems": 5,
            "description": "a name, 624 whole numbers, a position, 0 or 1, and a number",
        },
    },
    *("python", "numpy"),
)

SCHEDULE_SCHEMA = _object(
    {
        "last_epoch": _whole(-1),
        "learning_rate": NUMBER,
        "held": _maybe(NUMBER),
        "factor": FINITE,
        "num_bad_epochs": _whole(),
        "cooldown_counter": _whole(),
        "best": _maybe(NUMBER),
    }
)

SCALER_SCHEMA = _object({"scale": FINITE, "good_steps": _whole()})

PLACE = {
    "type": "array",
    "prefixItems": [TEXT, _whole(), _whole()],
    "minItems": 3,
    "maxItems": 3,
    "description": "a file, an offset and a length",
}
SIZES = {"type": "array", "items": _whole(), "description": "a list of whole numbers"}
SHARDS_SCHEMA = _object(
    {
        "tensors": {
            "type": "object",
            "additionalProperties": {
                "type": "array",
                "prefixItems": [
                    SIZES,
                    {"type": "array", "items": {"type": "array", "prefixItems": [SIZES, SIZES, PLACE], "minItems": 3}},
                ],
                "minItems": 2,
                "maxItems": 2,
                "description": "a size and a list of pieces",
            },
        },
        "values": {"type": "object", "additionalProperties": PLACE},
    },
    *("tensors", "values"),
)

INDEX_SCHEMA = _object({"weight_map": {"type": "object", "additionalProperties": TEXT}}, "weight_map")

SCHEMAS: dict[str, dict[str, Any]] = {
    STATE_FILE: STATE_SCHEMA,
    ARGS_FILE: _object({"output_dir": TEXT}, "output_dir"),
    PROGRESS_FILE: PROGRESS_SCHEMA,
    "scheduler.json": SCHEDULE_SCHEMA,
    "scaler.json": SCALER_SCHEMA,
    "rng_state_*.json": RNG_SCHEMA,
    "shards/index.json": SHARDS_SCHEMA,
    "*.safetensors.index.json": INDEX_SCHEMA,
}
"""Schemas by file name; the first pattern that matches applies."""
