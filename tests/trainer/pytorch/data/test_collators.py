from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from trackside.callbacks.errors import TracksideValueError
from trackside.trainer.pytorch.data.collators import DataCollatorWithPadding, default_data_collator


@dataclass
class Example:
    x: list
    label: int


@dataclass(slots=True)
class SlottedExample:
    x: list
    label: int


class Plain:
    def __init__(self, x, label):
        self.x, self.label = x, label


def same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert one[key].dtype == other[key].dtype, key
        assert torch.equal(one[key], other[key]), key


@pytest.mark.parametrize(
    "features",
    [
        [{"label": 1, "x": [1, 2]}, {"label": 0, "x": [3, 4]}],
        [{"label": 0.5, "x": [1.0]}, {"label": 2, "x": [2.0]}],
        [
            {"label": np.int64(3), "x": np.ones(2, dtype=np.float32)},
            {"label": np.int64(4), "x": np.zeros(2, np.float32)},
        ],
        [{"label": torch.tensor(3), "x": torch.ones(2)}, {"label": torch.tensor(4), "x": torch.zeros(2)}],
        [{"label": True, "text": "a", "none": None, "n": 1}, {"label": False, "text": "b", "none": 3, "n": 2}],
        [{"label_ids": [1, 2, 3]}, {"label_ids": [4, 5, 6]}],
        [{"label_ids": [0.1, 0.2]}, {"label_ids": [0.3, 0.4]}],
        [{"label_ids": torch.tensor([1, 2])}, {"label_ids": torch.tensor([3, 4])}],
        [{"labels": [1, 2], "flag": True}, {"labels": [3, 4], "flag": False}],
        [Plain([1, 2], 3), Plain([4, 5], 6)],
        [Example([1, 2], 3), Example([4, 5], 6)],
    ],
)
def test_dicts_and_objects_are_collated_as_by_transformers(features):
    theirs = pytest.importorskip("transformers").default_data_collator

    same(default_data_collator(features), dict(theirs(features)))


def test_tuples_become_a_tuple():
    inputs, labels = default_data_collator([(torch.ones(2), 1), (torch.zeros(2), 0)])

    assert torch.equal(inputs, torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    assert torch.equal(labels, torch.tensor([1, 0]))
    assert isinstance(default_data_collator([(1, 2), (3, 4)]), tuple)


def test_other_forms_are_left_to_torch():
    Point = namedtuple("Point", "x y")

    assert torch.equal(default_data_collator([np.ones(2), np.zeros(2)])[1], torch.zeros(2))
    assert torch.equal(default_data_collator([1, 2]), torch.tensor([1, 2]))
    assert default_data_collator([Point(1, 2), Point(3, 4)])._fields == ("x", "y")
    assert torch.equal(default_data_collator([{"a": {"b": 1}}, {"a": {"b": 2}}])["a"]["b"], torch.tensor([1, 2]))
    same(default_data_collator([SlottedExample([1], 2)]), {"labels": torch.tensor([2]), "x": torch.tensor([[1]])})


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([(torch.zeros(2), 1), (torch.zeros(3), 1)], r"at place 0: .*equal size.* a data_collator, which pads"),
        ([(1, np.array([1, "a"], dtype=object)), (2, np.array([1, "b"], dtype=object))], r"at place 1: .*object"),
        ([torch.zeros(2), torch.zeros(3)], "of type Tensor: .*equal size"),
    ],
)
def test_tuples_that_cannot_be_stacked_are_refused_with_their_place(examples, message):
    with pytest.raises(TracksideValueError, match=message):
        default_data_collator(examples)


def test_examples_of_different_length_are_refused_with_the_name_of_the_field():
    with pytest.raises(TracksideValueError, match=r"cannot be stacked in 'x'.* DataCollatorWithPadding\(tokenizer\)"):
        default_data_collator([{"x": [1, 2]}, {"x": [1]}])


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([{"x": 1, "y": 2}, {"x": 1}], "different fields: 'y' is in 1 of 2"),
        ([{"x": 1}, {"x": 1, "y": 2}], "different fields: 'y' is in 1 of 2"),
        ([{"x": 1, "label": 2}, {"x": 1}], "different fields: 'label' is in 1 of 2"),
        ([{"label": "a"}, {"label": "b"}], "in 'label': .* Give each class its number"),
        ([{"x": np.array([1, None])}] * 2, "in 'x': .*Make numbers of them in the dataset"),
    ],
)
def test_examples_that_do_not_go_together_are_refused_with_the_cause(examples, message):
    with pytest.raises(TracksideValueError, match=message):
        default_data_collator(examples)


def test_a_text_may_be_in_some_of_the_examples_only():
    assert default_data_collator([{"x": 1}, {"x": 2, "id": "a"}])["x"].tolist() == [1, 2]


@pytest.fixture
def tokenizer():
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[PAD]": 0, "a": 1, "b": 2}, unk_token="[PAD]"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")


def test_padding_gives_a_plain_dict_with_labels(tokenizer):
    features = [{"input_ids": [1, 2, 1], "label": 1}, {"input_ids": [2], "label": 0}]

    batch = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=4)(features)

    assert type(batch) is dict
    assert batch["input_ids"].tolist() == [[1, 2, 1, 0], [2, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert batch["labels"].tolist() == [1, 0]
    assert features == [{"input_ids": [1, 2, 1], "label": 1}, {"input_ids": [2], "label": 0}]
