"""Models, tokenizers, collators and datasets of transformers and datasets, with tiny random configurations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.arrays import accuracy
from support.torch_models import weights_of

from trackside.callbacks.errors import CheckpointError

transformers = pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")
tokenizers = pytest.importorskip("tokenizers")

SMALL = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.enable_progress_bar()


def bert(cls: str) -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL, intermediate_size=16, max_position_embeddings=16)
    return getattr(transformers, cls)(config)


def gpt2(**options: Any) -> Any:
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=16, **options)
    )


def t5() -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = transformers.T5Config(**sizes, decoder_start_token_id=0, pad_token_id=0, dropout_rate=0.0)
    return transformers.T5ForConditionalGeneration(config)


def tokenizer() -> Any:
    words = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "a": 3}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, **special)


def ragged(**columns: Any) -> Any:
    """Twenty examples of three to eight tokens, with two columns that no model takes."""
    random = np.random.RandomState(0)
    ids = [random.randint(3, 30, random.randint(3, 9)).tolist() for _ in range(20)]
    more = {"text": ["a"] * 20, "number": list(range(20)), **columns}
    return datasets.Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids], **more})


@pytest.fixture
def make(make_trainer) -> Any:
    def made(model: Any, data: Any, **options: Any) -> Any:
        given = {"max_steps": 3, "loss_fn": None, "train_dataset": data, "eval_dataset": data, **options}
        return make_trainer(model=model, **given)

    return made


def test_sequences_are_padded_columns_dropped_and_the_dataset_left_as_it_is(make):
    data = ragged(label=[0, 1] * 10)
    trainer = make(bert("BertForSequenceClassification"), data, processing_class=tokenizer(), compute_metrics=accuracy)

    trainer.train()

    assert "eval_accuracy" in trainer.evaluate()
    assert trainer.predict(data.remove_columns("label")).predictions.shape == (20, 2)
    assert {"text", "number"} < set(data.column_names)


def test_a_stream_of_datasets_is_trained_on(make):
    data = ragged(label=[0, 1] * 10).to_iterable_dataset()
    trainer = make(bert("BertForSequenceClassification"), data, processing_class=tokenizer(), compute_metrics=accuracy)

    assert trainer.train().global_step == 3
    assert trainer.predict(data).predictions.shape == (20, 2)


def test_question_answering_has_two_predictions_and_two_labels(make):
    data = ragged(start_positions=[1] * 20, end_positions=[2] * 20)
    trainer = make(bert("BertForQuestionAnswering"), data, processing_class=tokenizer())

    trainer.train()
    output = trainer.predict(data)

    assert [part.shape for part in output.predictions] == [(20, 8), (20, 8)]
    assert [part.shape for part in output.label_ids] == [(20,), (20,)]
    assert output.metrics["test_loss"] > 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_causal_language_model_is_evaluated_as_a_mean_over_its_tokens(make, smoothing):
    collator = transformers.DataCollatorForLanguageModeling(tokenizer(), mlm=False)
    seen = []
    options = {"data_collator": collator, "label_smoothing_factor": smoothing, "include_for_metrics": ["inputs"]}
    trainer = make(gpt2(), ragged(), **options, compute_metrics=lambda p: seen.append(p) or {})

    trainer.train()
    by_eight = trainer.evaluate()["eval_loss"]
    trainer.args.per_device_eval_batch_size = 3

    assert trainer.evaluate()["eval_loss"] == pytest.approx(by_eight, rel=1e-5)
    assert seen[-1].predictions.shape == (20, 8, 32)
    assert seen[-1].inputs.shape == (20, 8)


def test_gradient_checkpointing_changes_no_number(make):
    collator = transformers.DataCollatorForLanguageModeling(tokenizer(), mlm=False)
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    options = {"gradient_checkpointing_kwargs": {"use_reentrant": False}, "data_collator": collator}

    losses = [
        make(gpt2(**dropout), ragged(), gradient_checkpointing=chosen, **options).train().training_loss
        for chosen in (False, True)
    ]

    assert losses[0] == pytest.approx(losses[1])


def test_smoothing_leaves_an_encoder_decoder_the_labels_that_it_makes_its_inputs_of(make):
    random = np.random.RandomState(1)
    data = ragged(labels=[random.randint(3, 30, random.randint(2, 12)).tolist() for _ in range(20)])

    def trainer(**collator: Any) -> Any:
        collate = transformers.DataCollatorForSeq2Seq(tokenizer(), **collator)
        return make(t5(), data, data_collator=collate, label_smoothing_factor=0.1)

    plain, with_inputs = trainer(), trainer(model=t5())

    losses = [trainer.train().training_loss for trainer in (plain, with_inputs)]
    output = plain.predict(data)

    assert losses[0] == pytest.approx(losses[1])
    assert output.predictions[0].shape == (20, 11, 32)
    assert output.label_ids.shape == (20, 11)


@pytest.mark.parametrize("kind", ["bert", "tied"])
def test_a_checkpoint_is_resumed_to_the_bit_and_read_by_from_pretrained(make, kind):
    def trainer() -> Any:
        if kind == "bert":
            model, collate = bert("BertForSequenceClassification"), None
        else:
            model, collate = gpt2(), transformers.DataCollatorForLanguageModeling(tokenizer(), mlm=False)
        data = ragged(label=[0, 1] * 10) if kind == "bert" else ragged()
        options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "learning_rate": 1e-2}
        return make(model, data, data_collator=collate, processing_class=tokenizer(), **options)

    whole, resumed = trainer(), trainer()

    whole.train()
    resumed.train(f"{whole.args.output_dir}/checkpoint-2")
    loaded = type(whole.model).from_pretrained(f"{whole.args.output_dir}/checkpoint-4")

    assert torch.equal(weights_of(resumed.model), weights_of(whole.model))
    assert torch.equal(weights_of(loaded), weights_of(whole.model))
    assert transformers.AutoTokenizer.from_pretrained(f"{whole.args.output_dir}/checkpoint-4").pad_token == "[PAD]"


def test_weights_that_transformers_cut_into_several_files_are_read(make, tmp_path):
    trainer, cut = make(gpt2(), ragged()), gpt2()
    with torch.no_grad():
        for parameter in cut.parameters():
            parameter.add_(1.0)
    cut.save_pretrained(tmp_path / "cut", max_shard_size="5KB")
    save_file({"x": torch.zeros(1)}, tmp_path / "cut" / "model-00009-of-00009.safetensors")  # not in the index

    trainer.load_weights(tmp_path / "cut")

    parts = sorted((tmp_path / "cut").glob("model-*-of-*.safetensors"))
    assert len(parts) > 3
    assert all(torch.equal(own, other) for own, other in zip(trainer.model.parameters(), cut.parameters(), strict=True))

    parts[0].unlink()
    with pytest.raises(CheckpointError, match=r"lacks model-00001-of-.*, which model\.safetensors\.index\.json names"):
        trainer.load_weights(tmp_path / "cut")


@pytest.mark.parametrize("index", ["", "[]", '{"weight_map": {"x": "../model.safetensors"}}'])
def test_an_index_of_weights_that_does_not_serve_is_described(make, tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)

    with pytest.raises(CheckpointError, match=r"index\.json"):
        make(gpt2(), ragged()).load_weights(tmp_path)
