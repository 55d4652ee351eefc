"""What does not fit together, in words: features and a model, or labels, weights, losses and the outputs of a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from trackside.callbacks.errors import did_you_mean

from .._compat import input_names, input_structure

logger: logging.Logger = logging.getLogger("trackside.trainer")


def in_words(nested: Any) -> str:
    """Return the dtypes and shapes of nested tensors in words.

    Example:
        >>> in_words({"x": tf.zeros((2, 3))})
        "{'x': float32 (2, 3)}"
    """
    if isinstance(nested, Mapping):
        return "{" + ", ".join(f"{name!r}: {in_words(part)}" for name, part in nested.items()) + "}"
    if isinstance(nested, (tuple, list)):
        return "(" + ", ".join(map(in_words, nested)) + ")"
    if not hasattr(nested, "dtype"):
        return type(nested).__name__
    if tf.TensorShape(nested.shape).rank is None:
        return f"{tf.as_dtype(nested.dtype).name} of unknown shape"
    sizes = ["batch" if size is None and place == 0 else str(size or "any") for place, size in enumerate(nested.shape)]
    return f"{tf.as_dtype(nested.dtype).name} ({', '.join(sizes)})"


# -- features ---------------------------------------------------------------------------------------------------------


def misfit_of_features(model: Any, features: Any, sentence: str) -> str:
    """Return why a model cannot be called on features.

    Args:
        sentence: What Keras says.
    """
    taken = input_structure(model)
    takes = "" if taken is None else f"; it takes {in_words(taken)}"
    what = f"Keras says: {sentence}"
    missing = [name for name in input_names(model) if name not in features] if isinstance(features, Mapping) else []
    if missing:
        what = f"The examples have no feature {missing[0]!r}.{did_you_mean(missing[0], features)}"
        if not keras.tree.is_nested(taken):
            what += (
                " A model of one input also takes the tensor itself: (features, labels) with no dict around features"
            )
    elif _seem_batched(features, taken):
        what = "If the dataset gives batches, .unbatch() it"
    elif "unknown rank" in sentence:
        what += ". Name the shapes by output_signature= of from_generator, or by tf.ensure_shape in a map"
    elif not isinstance(features, (tuple, list, Mapping)) and (len(tf.nest.flatten(taken)) > 1 or "Iterat" in sentence):
        what += ". A pair is (features, labels), so nest several inputs: ((a, b), labels), or ((a, b),) without labels"
    name = type(model).__name__
    return f"{name} cannot be called on the features of this dataset, {in_words(features)}{takes}. {what}"


def tell_of_unused(model: Any, features: Any) -> None:
    """Warn of named features that are not inputs of a functional model, which leaves them out."""
    names = input_names(model)
    fits = bool(names) and isinstance(features, Mapping) and all(name in features for name in names)
    unused = [name for name in features if name not in names] if fits else []  # else the step tells what is wrong
    if unused:
        cure = "; weights are the third part of (features, labels, sample_weight)" * ("sample_weight" in unused)
        text = "the features %s of the dataset are left out, since the model takes %s%s"
        logger.warning(text, ", ".join(map(repr, unused)), ", ".join(map(repr, names)), cure)


def _seem_batched(features: Any, taken: Any) -> bool:
    """Return whether features have one dimension more than the model's inputs, if those are known."""
    if taken is None:
        return False
    ranks = [[tf.TensorShape(leaf.shape).rank or 0 for leaf in tf.nest.flatten(nested)] for nested in (features, taken)]
    return len(ranks[0]) == len(ranks[1]) and all(given > wanted for given, wanted in zip(*ranks, strict=True))


# -- outputs ----------------------------------------------------------------------------------------------------------


def misfit_of_outputs(what: str, fields: Mapping[str, Any], outputs: Any, names: Sequence[str], said: str) -> str:
    """Return why something cannot be computed of labels and outputs.

    Args:
        what: What cannot be computed.
        fields: What belongs to the outputs by name or by position, ``labels`` among it; None for what is not given.
        names: The names of the outputs, if they have names.
        said: What Keras or TensorFlow says.
    """
    text = f"{what} cannot be computed of labels {in_words(fields['labels'])} and outputs {in_words(outputs)}: "
    of_outputs = list(outputs) if isinstance(outputs, Mapping) else list(names)
    count, listed = len(keras.tree.flatten(outputs)), ", ".join(map(repr, of_outputs))
    for field, given in fields.items():
        unknown = [name for name in given if name not in {*of_outputs, *names}] if isinstance(given, Mapping) else []
        if unknown and of_outputs:
            near = did_you_mean(str(unknown[0]), of_outputs)
            return f"{text}{field} has {unknown[0]!r}, which is not an output of the model: {listed}.{near}"
        if isinstance(given, Mapping) and not of_outputs and not keras.tree.is_nested(outputs):
            return f"{text}{field} has names, {list(given)}, and the model has one output without a name"
        if isinstance(given, (tuple, list)) and len(given) != count > 1:
            return f"{text}{field} has {len(given)} parts, and the model has {count} outputs: {listed}"
    if count > 1 and not keras.tree.is_nested(fields["labels"]):
        return f"{text}labels is one tensor, and the model has {count} outputs: {listed}"
    for field in ("labels", "sample_weight"):
        given = fields[field]
        missing = [name for name in of_outputs if name not in given] if isinstance(given, Mapping) else []
        if missing:
            return f"{text}{field} has nothing for the output {missing[0]!r}; the outputs are {listed}"
    return text + said
