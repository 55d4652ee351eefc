"""Callbacks and collators of other projects that need only the surface of a Trainer, attached as they are."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.tiny_bert import tiny_bert

from trackside import Trainer, TrainingArguments

transformers = pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")
tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture
def make_bert(tmp_path):
    """Return a factory of trainers of a model of transformers, for six updates."""

    def make(*callbacks, model=None, data=None, collator=None, tokenizer=None, **more):
        given = {"max_steps": 6, "logging_steps": 1, "save_steps": 3, "eval_strategy": "steps", "eval_steps": 2, **more}
        data = data or [{"input_ids": [3 + i % 5, 4, 5], "labels": [i % 5, 1, 2]} for i in range(16)]
        return Trainer(
            model or tiny_bert(),
            TrainingArguments(str(tmp_path / "out"), report_to="none", disable_tqdm=True, use_cpu=True, **given),
            data_collator=collator,
            train_dataset=data,
            eval_dataset=data,
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )

    return make


def trained(trainer, *callbacks):
    """Train; none of the callbacks may fail."""
    trainer.train()
    reports = [item for item in trainer.callback_report.values() if item.callback in callbacks]
    assert [item.failures for item in reports] == [0] * len(callbacks), [item.last_error for item in reports]
    return trainer


def records_with(trainer, name):
    return [(record["step"], record[name]) for record in trainer.state.log_history if name in record]


# -- TRL --------------------------------------------------------------------------------------------------------------


def test_the_rich_progress_of_trl_shows_the_last_record(make_trainer, capsys):
    callback = pytest.importorskip("trl").RichProgressCallback()

    trainer = trained(make_trainer(callback), callback)

    shown = capsys.readouterr().out
    assert f"Step {trainer.state.global_step}" in shown
    assert f"{trainer.state.log_history[-1]['train_loss']:.3f}" in shown


def test_the_averaged_weights_of_trl_are_written(make_bert):
    callback = pytest.importorskip("trl").BEMACallback(update_freq=2)

    trainer = trained(make_bert(callback), callback)

    written = load_file(Path(trainer.args.output_dir) / "bema" / "model.safetensors")
    weights = dict(trainer.model.named_parameters())
    assert written.keys() <= weights.keys()
    assert not torch.equal(written["classifier.weight"], weights["classifier.weight"])


def test_the_reference_model_of_trl_follows_the_model(make_bert):
    callbacks = pytest.importorskip("trl.trainer.callbacks")
    pytest.importorskip("accelerate").Accelerator(cpu=True)  # whose global state the callback reads
    trainer = make_bert()
    trainer.args.ref_model_sync_steps, trainer.args.ref_model_mixup_alpha = 6, 1.0
    reference = copy.deepcopy(trainer.model)
    callback = callbacks.SyncRefModelCallback(reference, trainer.accelerator)
    trainer.add_callback(callback)

    trained(trainer, callback)

    for name, weight in trainer.model.named_parameters():
        assert torch.equal(weight, reference.get_parameter(name))


def test_the_completions_of_trl_are_generated_during_training(make_bert):
    callbacks = pytest.importorskip("trl.trainer.callbacks")
    pytest.importorskip("accelerate").Accelerator(cpu=True)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 3, "b": 4}, "[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    sizes = {"vocab_size": 32, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=1))
    rows = {"input_ids": [[3, 4, 3]] * 8, "labels": [[3, 4, 3]] * 8, "prompt": ["a b", "b b a"] * 4}
    trainer = make_bert(model=model, data=datasets.Dataset.from_dict(rows), tokenizer=tokenizer, eval_steps=3)
    callback = callbacks.LogCompletionsCallback(trainer, transformers.GenerationConfig(max_new_tokens=3), num_prompts=2)
    trainer.add_callback(callback)

    trained(trainer, callback)

    assert [row[:2] for row in callback.table] == [("3", "a b"), ("3", "b b a"), ("6", "a b"), ("6", "b b a")]


def test_the_collator_of_trl_pads(make_bert):
    collator = pytest.importorskip("trl.trainer.sft_trainer").DataCollatorForLanguageModeling(pad_token_id=0)
    sizes = {"vocab_size": 32, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=1))
    data = [{"input_ids": [3, 4, 5, 6][: 2 + i % 3]} for i in range(16)]

    trainer = trained(make_bert(model=model, data=data, collator=collator))

    assert len(records_with(trainer, "eval_loss")) == 3


# -- sentence-transformers, PEFT --------------------------------------------------------------------------------------


def test_the_evaluator_of_sentence_transformers_reports_to_its_callbacks(make_bert, tmp_path):
    of_fit = pytest.importorskip("sentence_transformers.sentence_transformer.fit_mixin")

    class Steps:
        primary_metric = "steps"

        def __call__(self, model, output_path=None, epoch=-1, steps=-1):
            return {"steps": steps}

    scores, saved = [], []
    evaluated = of_fit.EvaluatorCallback(Steps())
    told = of_fit.OriginalCallback(lambda score, epoch, steps: scores.append((score, epoch, steps)), Steps())
    saving = of_fit.SaveModelCallback(str(tmp_path / "best"), Steps(), save_best_model=True)
    trainer = make_bert(evaluated, told, saving, eval_strategy="no")
    object.__setattr__(trainer.model, "save", saved.append)
    evaluated.trainer = trainer

    trained(trainer, evaluated, told, saving)

    assert scores == [(2, 1.0, 2), (4, 2.0, 4), (6, 3.0, 6)]
    assert saved == [str(tmp_path / "best")] * 3


def test_the_weights_of_splade_rise_with_the_steps(make_bert):
    splade = pytest.importorskip("sentence_transformers.sparse_encoder.callbacks.splade_callbacks")
    losses = pytest.importorskip("sentence_transformers.sparse_encoder.losses")

    class Loss(losses.SpladeLoss):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.document_regularizer_weight, self.query_regularizer_weight = 0.3, 0.2

    loss = Loss()
    callback = splade.SpladeRegularizerWeightSchedulerCallback(loss=loss, scheduler_type="linear", warmup_ratio=0.99)
    seen = []
    trainer = make_bert(callback)
    trainer.on("on_step_end")(lambda trainer, **_: seen.append(loss.document_regularizer_weight))

    trained(trainer, callback)

    assert seen == sorted(set(seen))
    assert seen[-1] == pytest.approx(0.3)


def test_the_callback_of_peft_is_called_after_each_update(make_bert):
    callback = pytest.importorskip("peft.tuners.adamss.asa_callback").AdamssAsaCallback()
    trainer, steps = make_bert(callback), []
    object.__setattr__(trainer.model.base_model, "update_and_allocate", steps.append)

    trained(trainer, callback)

    assert len(steps) == 6


# -- Ray Train, tools with an interface of their own ------------------------------------------------------------------


def test_ray_train_is_told_of_each_checkpoint(make_trainer, monkeypatch):
    ray_train = pytest.importorskip("ray.train")
    callback = pytest.importorskip("ray.train.huggingface.transformers").RayTrainReportCallback()
    told = []

    def report(metrics, checkpoint):
        told.append((metrics["step"], {path.name for path in Path(checkpoint.path, "checkpoint").iterdir()}))

    monkeypatch.setattr(ray_train, "report", report)  # which fails outside of a worker of Ray

    trained(make_trainer(callback), callback)

    assert [step for step, _ in told] == [6, 12]
    assert all("model.safetensors" in names for _, names in told)


def test_methods_of_a_tool_s_own_interface_are_not_taken_for_misspelt_events(make_trainer):
    class OfTheTool:
        """Like swanlab.Callback, which the tool calls."""

        def on_log_flush(self, records):
            raise NotImplementedError

        def on_run_finished(self, state):
            raise NotImplementedError

    class Theirs(OfTheTool, transformers.TrainerCallback):
        def on_run_finished(self, state):
            raise NotImplementedError

        def on_log(self, args, state, control, logs=None, **kwargs):
            self.logs = logs

    callback = Theirs()

    trained(make_trainer(callback), callback)

    assert "train_runtime" in callback.logs
