"""Seq2SeqTrainer: what it generates in evaluation is what that of transformers generates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trackside import EvalPrediction, Seq2SeqTrainer, Seq2SeqTrainingArguments

transformers = pytest.importorskip("transformers")

SIZES = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}


def t5():
    torch.manual_seed(0)
    config = transformers.T5Config(**SIZES, decoder_start_token_id=0, pad_token_id=0, dropout_rate=0.0)
    return transformers.T5ForConditionalGeneration(config)


def options(tmp_path, **more):
    defaults = {"max_steps": 4, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    return {"output_dir": str(tmp_path), "logging_steps": 1, "learning_rate": 1e-2, **defaults, **more}


def seq2seq_examples():
    random = np.random.RandomState(1)
    return [
        {"input_ids": torch.tensor(random.randint(3, 30, 6)), "labels": torch.tensor(random.randint(3, 30, 3 + i % 2))}
        for i in range(6)
    ]


@pytest.mark.parametrize("generation", [{"max_length": 9, "num_beams": 2}, {"max_new_tokens": 4}, {}])
def test_generated_predictions_are_those_of_transformers(generation, tmp_path):
    found = []
    for library, trainer_class, args_class in (
        ("ours", Seq2SeqTrainer, Seq2SeqTrainingArguments),
        ("theirs", transformers.Seq2SeqTrainer, transformers.Seq2SeqTrainingArguments),
    ):
        args = args_class(
            **options(tmp_path / library, per_device_eval_batch_size=1, predict_with_generate=True),
            generation_max_length=12,
        )
        trainer = trainer_class(model=t5(), args=args)
        found.append(trainer.predict(seq2seq_examples(), **generation))

    ours, theirs = found
    width = ours.predictions.shape[1]
    assert np.array_equal(ours.predictions, theirs.predictions[:, :width])
    assert (theirs.predictions[:, width:] <= 0).all()
    assert np.array_equal(ours.label_ids[:, :4], np.where(theirs.label_ids == -100, 0, theirs.label_ids)[:, :4])
    assert ours.metrics["test_loss"] == pytest.approx(theirs.metrics["test_loss"], abs=0.05)


def test_generation_is_asked_for_and_its_metrics_decide_the_best_model(tmp_path):
    def exact(prediction: EvalPrediction):
        return {"length": float((prediction.predictions > 0).sum())}

    args = Seq2SeqTrainingArguments(
        **options(tmp_path, eval_strategy="steps", eval_steps=2) | {"save_strategy": "steps", "save_steps": 2},
        predict_with_generate=True,
        generation_num_beams=2,
        load_best_model_at_end=True,
        metric_for_best_model="length",
        per_device_train_batch_size=1,
    )
    trainer = Seq2SeqTrainer(
        t5(), args, train_dataset=seq2seq_examples(), eval_dataset=seq2seq_examples()[::2], compute_metrics=exact
    )

    trainer.train()

    assert trainer.state.best_metric is not None


def test_a_generation_config_is_taken_from_an_object_a_folder_and_a_file(tmp_path):
    config = transformers.GenerationConfig(max_length=7, num_beams=3)
    config.save_pretrained(tmp_path / "kept")

    for given in (config, tmp_path / "kept", str(tmp_path / "kept" / "generation_config.json")):
        args = Seq2SeqTrainingArguments(**options(tmp_path), generation_config=given)
        trainer = Seq2SeqTrainer(t5(), args)
        assert (trainer.model.generation_config.max_length, trainer.model.generation_config.num_beams) == (7, 3)
        args.to_json_string()
