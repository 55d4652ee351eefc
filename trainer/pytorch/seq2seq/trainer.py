"""Seq2SeqTrainer: a trainer whose evaluation generates."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trackside.callbacks.errors import ArgumentError

from ...outputs import PredictionOutput
from .._torch_util import unwrap
from ..trainer import Trainer
from .arguments import Seq2SeqTrainingArguments


class Seq2SeqTrainer(Trainer):
    """A `Trainer` whose predictions are what the model generates, if ``args.predict_with_generate``.

    Generated sequences and labels of different lengths are padded to one, so that they can be concatenated.
    """

    args: Seq2SeqTrainingArguments

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._gen_kwargs: dict[str, Any] = {}
        given = getattr(self.args, "generation_config", None)
        if given is not None and self.model is not None:
            self.model.generation_config = generation_config_of(given)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        **gen_kwargs: Any,
    ) -> dict[str, float]:
        """Return the metrics on ``eval_dataset``; see `Trainer.evaluate`.

        Args:
            gen_kwargs: Options of ``model.generate`` for this evaluation.
        """
        self._gen_kwargs = gen_kwargs
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def predict(
        self,
        test_dataset: Any,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
        **gen_kwargs: Any,
    ) -> PredictionOutput:
        """Return predictions, labels and metrics on ``test_dataset``; see `Trainer.predict`.

        Args:
            gen_kwargs: Options of ``model.generate`` for this prediction.
        """
        self._gen_kwargs = gen_kwargs
        return super().predict(test_dataset, ignore_keys, metric_key_prefix)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Any,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs: Any,
    ) -> tuple[Any, Any, Any]:
        """Return (loss, generated ids, labels) of a batch, each None if missing."""
        if not self.args.predict_with_generate or prediction_loss_only:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        loss, _, labels = super().prediction_step(model, inputs, False, ignore_keys)
        inner: Any = unwrap(model)
        options = self._generation_options(gen_kwargs)
        with torch.no_grad():
            generated = inner.generate(**generation_inputs(inputs), **options)
        longest = longest_of(inner.generation_config, options)
        return loss, self._padded(generated, longest), None if labels is None else self._padded(labels, longest)

    def _generation_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        args, options = self.args, dict(given or self._gen_kwargs)
        if options.get("max_length") is None and options.get("max_new_tokens") is None:
            options["max_length"] = args.generation_max_length
        if options.get("num_beams") is None:
            options["num_beams"] = args.generation_num_beams
        return {name: value for name, value in options.items() if value is not None}

    def _padded(self, ids: Tensor, length: int) -> Tensor:
        """Return ids padded at the right to at least ``length``."""
        missing = length - ids.shape[-1]
        return nn.functional.pad(ids, (0, missing), value=self._pad_id()) if missing > 0 else ids

    def _pad_id(self) -> int:
        model: Any = unwrap(self.model)
        for place in (self.processing_class, model.generation_config, model.config):
            for name in ("pad_token_id", "eos_token_id"):
                found = getattr(place, name, None)
                if isinstance(found, int):
                    return found
        raise ArgumentError(
            "predict_with_generate", True, "only if the tokenizer or the model's configuration has pad_token_id"
        )


def generation_inputs(inputs: Any) -> dict[str, Any]:
    """Return what ``generate`` gets of a batch: all but decoder inputs that were made from the labels."""
    kept = {name: value for name, value in inputs.items() if name != "labels"}
    decoder, labels = kept.get("decoder_input_ids"), inputs.get("labels")
    if decoder is not None and labels is not None and decoder.shape == labels.shape:
        kept = {name: value for name, value in kept.items() if not name.startswith("decoder_")}
    return kept


def longest_of(config: Any, options: Mapping[str, Any]) -> int:
    """Return the length to which generated ids are padded, so that all batches have the same; 0 if it is unknown."""
    new = options.get("max_new_tokens") or (None if "max_length" in options else config.max_new_tokens)
    return int(new + 1 if new is not None else options.get("max_length") or config.max_length or 0)


def generation_config_of(given: Any) -> Any:
    """Return a GenerationConfig from one, or from the folder or file that one was saved to.

    Raises:
        ArgumentError: If its values contradict each other.
    """
    GenerationConfig: Any = importlib.import_module("transformers").GenerationConfig  # only with a model of it
    if isinstance(given, GenerationConfig):
        config = copy.deepcopy(given)
    else:
        path = Path(given).expanduser()
        config = (
            GenerationConfig.from_pretrained(str(path.parent), path.name)
            if path.is_file()
            else GenerationConfig.from_pretrained(str(path if path.is_dir() else given))
        )
    try:
        config.validate(strict=True)
    except ValueError as error:
        raise ArgumentError("generation_config", given, f"a configuration that is consistent: {error}") from None
    return config
