"""Training arguments of a Seq2SeqTrainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...arguments.fields import at_least, option, with_types
from ..arguments import TrainingArguments


@with_types
@dataclass(kw_only=True)
class Seq2SeqTrainingArguments(TrainingArguments):
    """Every field of `TrainingArguments`, and how evaluation generates.

    Raises:
        ArgumentError: If a value is not allowed; the message has the field, the value and the allowed values.
    """

    counted_within_run = TrainingArguments.counted_within_run | {
        *("generation_config", "generation_max_length", "generation_num_beams", "predict_with_generate"),
    }

    sortish_sampler: bool = option(False, "Former name of group_by_length.")
    predict_with_generate: bool = option(False, "Evaluate and predict with model.generate().")
    generation_max_length: int | None = option(
        None, "max_length of generate(); that of the model's configuration if not given.", at_least(1)
    )
    generation_num_beams: int | None = option(
        None, "num_beams of generate(); that of the model's configuration if not given.", at_least(1)
    )
    generation_config: Any = option(None, "A GenerationConfig, or the folder or file of one.")  # noqa: RUF009

    def _infer(self) -> None:
        super()._infer()
        self._set("group_by_length", self.group_by_length or self.sortish_sampler)
