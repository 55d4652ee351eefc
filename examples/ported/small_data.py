"""Data and tokenizers of the scripts in this folder, made of what installed packages ship: nothing is downloaded.

Texts are docstrings of the standard library and the descriptions of scikit-learn's datasets; questions are asked about
the flowers of its iris dataset, and images are its digits.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from datasets import Dataset, DatasetDict
from sklearn import datasets as sklearn_datasets
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

MODULES = ("argparse", "ast", "calendar", "inspect", "os", "random", "shutil", "socket", "statistics", "zipfile")
DESCRIBED = ("iris", "wine", "digits", "diabetes", "breast_cancer")
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def small_tokenizer(texts: list[str], vocab_size: int = 500) -> Any:
    """Return a byte-pair tokenizer that is trained on ``texts`` and frames them as BERT does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    template = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), template])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def cut(rows: list[dict[str, Any]], **sizes: int) -> DatasetDict:
    """Return splits of these sizes, dealt like cards so that each has rows of every kind."""
    order = [*rows[::3], *rows[1::3], *rows[2::3]]
    ends = list(accumulate(sizes.values()))
    parts = zip(sizes, [0, *ends], ends, strict=False)
    return DatasetDict({name: Dataset.from_list(order[start:end]) for name, start, end in parts})


def docstrings() -> Iterator[tuple[str, str, str]]:
    """Yield name, first sentence and the rest of the docstrings of functions of the standard library."""
    for module in MODULES:
        for node in ast.walk(ast.parse(inspect.getsource(importlib.import_module(module)))):
            text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
            if text:
                first, _, rest = text.partition("\n\n")
                yield node.name, " ".join(first.split()), " ".join(rest.split())


def matching_sentences() -> DatasetDict:
    """Return pairs of a function's name and a sentence, with the label whether the sentence is about the function."""
    found = [(name, first) for name, first, _ in docstrings() if len(first) < 120]
    rows = []
    for number, (name, first) in enumerate(found):
        other = found[(number + 7) % len(found)][1]
        label = number % 2
        rows.append({"sentence1": name.replace("_", " "), "sentence2": first if label else other, "label": label})
    return cut(rows, train=128, validation=30, test=20)


def descriptions() -> DatasetDict:
    """Return the paragraphs of the descriptions of scikit-learn's datasets."""
    whole = "\n\n".join(getattr(sklearn_datasets, f"load_{name}")().DESCR for name in DESCRIBED)
    return cut(
        [{"text": " ".join(part.split())} for part in whole.split("\n\n") if part.strip()], train=54, validation=18
    )


def tagged_words() -> DatasetDict:
    """Return words with tags: 1 for a number, 2 for the first word of a name, 3 for its other words, 0 for the rest."""
    rows = []
    for text in (row["text"] for part in descriptions().values() for row in part):
        words = re.findall(r"\w+|[^\w\s]", text)[:40]
        kinds = ["number" if word.isdigit() else "name" if word[0].isupper() else "" for word in words]
        tags = [
            1 if kind == "number" else 0 if not kind else 3 if before == "name" else 2
            for before, kind in zip(["", *kinds], kinds, strict=False)
        ]
        rows.append({"tokens": words, "ner_tags": tags})
    return cut(rows, train=48, validation=16, test=8)


def questions() -> DatasetDict:
    """Return questions about the measures of flowers, with the text that holds the answer and where it begins there."""
    iris = sklearn_datasets.load_iris()
    names = [name.removesuffix(" (cm)") for name in iris.feature_names]
    rows = []
    for number, (measures, species) in enumerate(zip(iris.data, iris.target_names[iris.target], strict=True)):
        facts = {name: f"{value:.1f} cm" for name, value in zip(names, measures, strict=True)} | {"species": species}
        context = ". ".join(f"The {name} is {value}" for name, value in facts.items()) + "."
        asked = list(facts)[number % len(facts)]
        start = context.index(f"The {asked} is ") + len(f"The {asked} is ")
        answers = {"text": [facts[asked]], "answer_start": [start]}
        rows.append({"id": str(number), "question": f"What is the {asked}?", "context": context, "answers": answers})
    return cut(rows, train=96, validation=30, test=20)


def summaries() -> DatasetDict:
    """Return longer docstrings without their first sentence, which is the summary."""
    rows = [{"document": rest, "summary": first} for _, first, rest in docstrings() if len(rest) > 80]
    return cut(rows, train=48, validation=16, test=10)


def digit_images() -> DatasetDict:
    """Return images of digits, 8 x 8 pixels from 0 to 16, and which digit it is."""
    images, labels = sklearn_datasets.load_digits(return_X_y=True)
    rows = [
        {"image": image.reshape(8, 8).tolist(), "label": int(label)}
        for image, label in zip(images[:360], labels[:360], strict=True)
    ]
    return cut(rows, train=256, validation=60, test=40)
