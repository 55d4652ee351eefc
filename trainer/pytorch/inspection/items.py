"""The number of items in a mean loss: given, read from the operations of the loss, or counted from the labels."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trackside.callbacks.errors import TracksideTypeError

from .._compat import saved
from ..batches.label_rule import IGNORED, LabelRule
from .graph import Reading, Term, ignored_label, is_cross_entropy, picks_elements, read_loss
from .mixing import comparison_in
from .probe import probe_rule, tensors_in, with_order
from .several import ratios_of

logger: logging.Logger = logging.getLogger("trackside.trainer")


@dataclass
class Findings:
    """What was found about a loss, in words.

    Attributes:
        items: The number of items in the mean, and how it is known.
        doubt: Why the number may be wrong; empty if it is known.
        mixing: How the loss compares the examples of a batch with each other; empty if it is not known to.
        is_sum: Whether the loss is a sum, which is not divided.
        factor: The constant that the loss was multiplied by last; NaN if it is unknown.
        per_example: Items in each example, of the first micro-batch.
        is_fixed: Whether they follow from shapes alone.
    """

    items: str
    doubt: str = ""
    mixing: str = ""
    is_sum: bool = False
    factor: float = math.nan
    per_example: float = 1.0
    is_fixed: bool = False


class ItemCounter:
    """Counts the items of each micro-batch's mean loss.

    Args:
        trainer: Has the model, ``loss_fn`` and ``loss_items_fn``.
        model_io: Finds labels; has the rule by which labels count, which is corrected here.
        loss_of: Returns the loss of a batch, for probes; None if it must not be called once more.

    Attributes:
        findings: What was found about the loss of the first micro-batch; None before it.
        is_sum: Whether the loss is a sum.
        is_counted: Whether the items depend on the values in a batch.
        is_read_only: Whether no rule gives their number in an evaluation, but only the operations of each loss.
        doubt: What the operations of the first loss say against the number; empty if nothing.
    """

    def __init__(self, trainer: Any, model_io: Any, loss_of: Callable[[Any], Any] | None) -> None:
        self._trainer = trainer
        self._loss_of = loss_of
        self._model_io = model_io
        self._given: Callable[[Any], Any] | None = trainer.loss_items_fn
        self._can_read = True
        self._ratios: list[float] = []
        self._tells: Callable[[str], None] | None = None
        self.findings: Findings | None = None
        self.is_sum: bool = False
        self.is_counted: bool = False
        self.is_read_only: bool = False
        self.doubt: str = ""

    def count(self, loss: Tensor, inputs: Any) -> Any:
        """Return the number of items of a mean ``loss``, as a number or a tensor; 1 for a sum."""
        if self._given is not None:
            return given_items(self._given, inputs)
        if self.is_sum and loss.grad_fn is not None:
            return 1
        if is_constant(loss):
            return 0
        if self._can_read and loss.grad_fn is not None:
            terms = read_loss(loss).terms
            if terms and terms[0].items is not None:
                self._compare(terms)
                return terms[0].items
        return self._model_io.count_items(inputs)

    def common_weight(self, losses: Sequence[Tensor], weights: Sequence[Any], inputs: Any) -> Any:
        """Return the weight of a micro-batch with a loss for each of several optimizers; None if no loss has its own.

        It is the weight of the first. If the others are in another ratio to it than at first, that is told, once.

        Args:
            weights: What compute_loss returned with each loss, or None.
        """
        if all(weight is None for weight in weights):
            return None
        numbers = [self._own_weight(*pair, inputs) for pair in zip(losses, weights, strict=True)]
        ratios = ratios_of(numbers)
        self._ratios = self._ratios or ratios
        if self._tells is not None and not all(map(math.isclose, ratios, self._ratios)):
            self._tells("the losses of the optimizers have weights of their own, which do not grow together")
            self._tells = None
        return numbers[0]

    def _own_weight(self, loss: Tensor, weight: Any, inputs: Any) -> Any:
        """Return the weight that came with a loss, or the number of its items; NaN for a sum, which has none."""
        if weight is not None:
            return weight
        return math.nan if any(term.kind == "sum" for term in read_loss(loss).terms) else self.count(loss, inputs)

    def find(self, loss: Tensor, inputs: Any, items: Any = None) -> Findings:
        """Find out about the loss of the first micro-batch, before its backward pass. Waits for the device.

        Args:
            items: The weight that compute_loss returned with the loss.
        """
        reading = read_loss(loss, with_factor=True)
        is_parallel = isinstance(self._trainer.model_wrapped, nn.DataParallel)
        if is_parallel:  # the operations are those that join the devices
            reading = Reading(unknown=["nn.DataParallel"])
        findings = self._findings(reading, inputs, items)
        findings.factor = reading.factor
        examples, labels = self._model_io.examples_in(inputs), self._model_io.labels_of(inputs)
        findings.mixing = comparison_in(loss, examples, labels)
        self.is_sum = findings.is_sum and items is None
        self._can_read = bool(reading.terms) and not self.is_sum
        self.is_counted = any(term.is_counted for term in reading.terms)
        number = self.count(loss, inputs) if items is None else items
        findings.per_example = float(number) / max(examples, 1)
        findings.is_fixed = items is None and self._can_read and not self.is_counted
        self.findings, self.doubt = findings, findings.doubt if reading.terms else ""
        return findings

    def tell_with(self, tell: Callable[[str], None] | None) -> None:
        """Set the function that is told, once, when the numbers turn out to be wrong."""
        self._tells = tell

    def _findings(self, reading: Reading, inputs: Any, items: Any) -> Findings:
        if self._given is not None:
            return Findings(f"{_text(given_items(self._given, inputs))}, by loss_items_fn")
        if items is not None:
            return Findings(f"{_text(items)}, the weight beside the loss")
        if not reading.terms:
            return self._of_labels(reading, inputs)
        terms, examples = reading.terms, self._model_io.examples_in(inputs)
        sums = [term for term in terms if term.kind == "sum"]
        if len(sums) == len(terms):
            return Findings("a sum, which is not divided", is_sum=True)
        if sums:
            return Findings(_text(_first_mean(terms).items), "it adds sums to means")
        self._correct_rule(terms, inputs)
        numbers = [float(term.items) for term in terms]
        self._ratios = [number / numbers[0] if numbers[0] else 1.0 for number in numbers]
        found = Findings(f"{_text(numbers[0])} {self._kind_of(terms[0])}")
        if any(number != numbers[0] for number in numbers) and any(
            number % max(examples, 1) or _leaves_out(term) for number, term in zip(numbers, terms, strict=True)
        ):
            counts = ", ".join(map(_text, sorted(set(numbers))))
            found.doubt = f"it is a sum of means over different numbers of items ({counts})"
        elif _is_divided_sum(terms[0]) and not self._is_count(numbers[0], inputs):
            found.doubt = f"it is a sum divided by {_text(numbers[0])}, which is not a number of anything in the batch"
        return found

    def _of_labels(self, reading: Reading, inputs: Any) -> Findings:
        """Return what can be said about a loss whose operations are unknown."""
        why = f"it was computed by {', '.join(dict.fromkeys(reading.unknown))}"
        rule = None if self._loss_of is None else probe_rule(self._trainer, self._model_io, inputs, self._loss_of)
        if rule is not None:
            self._model_io.rule, why = rule, ""
        rule, count = self._model_io.rule, _text(self._model_io.count_items(inputs))
        is_by_examples = rule.counted(self._model_io.labels_of(inputs)) is None
        how = "" if why else ", as the losses of parts of the batch show"
        return Findings(f"{count} {'examples' if is_by_examples else _labels(rule)}{how}", why)

    def _correct_rule(self, terms: list[Term], inputs: Any) -> None:
        """Correct the rule by which labels count, for evaluation and for num_items_in_batch."""
        rule, items = rule_in(terms, self._model_io.labels_of(inputs)), float(terms[0].items)
        self.is_read_only = rule is None and (terms[0].is_counted or picks_elements(terms[0]))
        is_ambiguous = terms[0].is_counted and items == float(self._model_io.count_items(inputs))
        if rule is None and items == self._model_io.examples_in(inputs) and not is_ambiguous:
            rule = LabelRule(is_causal=self._model_io.rule.is_causal, by_examples=True)
        if rule is not None:
            self._model_io.rule = rule

    def _kind_of(self, term: Term) -> str:
        if is_cross_entropy(term.node):
            ignored = ignored_label(term.node)
            weighed = "" if saved(term.node, "weight") is None else ", by class weights"
            shifted = ", from the second on" if self._model_io.rule.is_causal else ""
            return f"labels that are not {ignored}{shifted}{weighed}"
        return "by which a sum was divided" if _is_divided_sum(term) else "elements"

    def _is_count(self, number: float, inputs: Any) -> bool:
        """Return whether a divisor is the number of something in the batch."""
        known = {float(self._model_io.examples_in(inputs)), float(self._model_io.count_items(inputs))}
        for part in tensors_in(inputs):
            tensor = with_order(part)
            known |= {float(tensor.numel()), *map(float, tensor.shape[:1])}
            if not tensor.is_complex() and tensor.numel():
                known |= {float(tensor.sum()), float(torch.count_nonzero(tensor))}
                known |= {float((tensor != value).sum()) for value in (IGNORED, -1)}
                known |= {float((tensor[..., 1:] != IGNORED).sum())} if tensor.ndim > 1 else set()
        return any(math.isclose(number, each, rel_tol=1e-5) for each in known)

    def _compare(self, terms: list[Term]) -> None:
        """Tell, once, if the numbers of items of several terms are in another ratio than at first."""
        if len(terms) == 1 or self._tells is None or any(isinstance(term.items, Tensor) for term in terms):
            return
        first = terms[0].items
        ratios = [term.items / first if first and term.items is not None else 1.0 for term in terms]
        if ratios != self._ratios and first:
            self._tells("it is a sum of means over different numbers of items")
            self._tells = None


def given_items(function: Callable[[Any], Any], inputs: Any) -> Any:
    """Return the number of items by a function of the user.

    Raises:
        TracksideTypeError: If it is not a number.
    """
    items = function(inputs)
    if isinstance(items, Tensor) and items.numel() == 1 and not items.is_complex():
        return items.item() if items.is_cpu else items.reshape(())
    if not isinstance(items, (int, float)) or isinstance(items, bool) or not 0 <= items < math.inf:
        raise TracksideTypeError(f"loss_items_fn returned {items!r}; it returns the number of items in the mean loss")
    return items


def is_constant(loss: Tensor) -> bool:
    """Return whether a loss is a constant that says it has a gradient, which stands for the loss of nothing."""
    return loss.grad_fn is None and loss.requires_grad


def rule_in(terms: list[Term], labels: Any) -> LabelRule | None:
    """Return the rule by which ``labels`` count in a cross entropy; None if there is none, or its targets are others.

    The targets are compared with the labels, and with those from the second on.
    """
    nodes = [term.node for term in terms if is_cross_entropy(term.node)]
    label = LabelRule().counted(labels)
    if not nodes or label is None:
        return None
    target, ignored, weights = saved(nodes[0], "target"), ignored_label(nodes[0]), saved(nodes[0], "weight")
    rules = [
        LabelRule(is_causal, ignored, None if weights is None else weights.detach()) for is_causal in (False, True)
    ]
    label = label.to(target)  # as int64, since an unsigned type does not hold the ignored label
    if label.ndim == 1:
        return rules[0] if _are_equal(label, target) else None
    shifted = nn.functional.pad(label, (0, 1), value=ignored)[..., 1:]
    fits = [_are_equal(label, target), _are_equal(label[..., 1:], target) or _are_equal(shifted, target)]
    if not any(fits):
        used = target[target != ignored]
        fits = [_are_equal(part[part != ignored], used) for part in (label, label[..., 1:])]
    return rules[fits.index(True)] if sum(fits) == 1 else None


def _are_equal(labels: Tensor, target: Tensor) -> bool:
    return labels.numel() == target.numel() and bool((labels.flatten() == target.flatten()).all())


def _first_mean(terms: list[Term]) -> Term:
    return next(term for term in terms if term.kind == "mean")


def _is_divided_sum(term: Term) -> bool:
    return term.is_counted and not (is_cross_entropy(term.node) and saved(term.node, "reduction") == 1)


def _leaves_out(term: Term) -> bool:
    """Return whether some of the items of a term do not count."""
    return term.is_counted and (not is_cross_entropy(term.node) or term.items != saved(term.node, "target").numel())


def _labels(rule: LabelRule) -> str:
    return f"labels that are not {rule.ignored}" + (", from the second on" if rule.is_causal else "")


def _text(number: Any) -> str:
    return f"{float(number):g}"
