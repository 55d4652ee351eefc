"""What users of the transformers Trainer rely on without a name for it; its own tests hold the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.tiny_bert import tiny_bert
from torch import nn

from trackside import Trainer, TrainerState, TrainingArguments
from trackside.callbacks.errors import ArgumentError

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")


class Line(nn.Module):
    """a x + b, which returns its loss and one or two predictions."""

    def __init__(self, outputs=1):
        super().__init__()
        self.a, self.b, self.outputs = nn.Parameter(torch.zeros(())), nn.Parameter(torch.ones(())), outputs

    def forward(self, input_x, labels=None, **others):
        y = (input_x * self.a + self.b,) * self.outputs
        return y if labels is None else (nn.functional.mse_loss(y[0], labels), *y)


def rows(count=32, size=None, labels=("labels",)):
    """Return examples, whose arrays have as many values as ``size`` says of their number."""
    made = []
    for number in range(count):
        x = np.full(size(number), number, np.float32) if size else np.float32(number / count)
        made.append({"input_x": x, **dict.fromkeys(labels, 2 * x)})
    return made


@pytest.fixture
def make(tmp_path):
    def made(model=None, train=None, evaluate=None, cls=Trainer, more=None, **given):
        defaults = {"max_steps": 4, "save_strategy": "no", "logging_steps": 1, "report_to": "none", "use_cpu": True}
        args = TrainingArguments(str(tmp_path / "out"), **{**defaults, "disable_tqdm": True, **given})
        return cls(
            model if more and "model_init" in more else model or Line(),
            args,
            train_dataset=train or rows(),
            eval_dataset=evaluate,
            **(more or {}),
        )

    return made


def test_one_of_several_datasets_is_evaluated_by_its_name(make):
    trainer = make(evaluate={"first": rows(16), "second": rows(8)})

    assert trainer.evaluate("second")["eval_loss"] == trainer.evaluate()["eval_second_loss"]
    assert sum(len(batch["labels"]) for batch in trainer.get_eval_dataloader("first")) == 16
    with pytest.raises(ArgumentError, match=r"eval_dataset='third' is not allowed: .*: \['first', 'second'\]"):
        trainer.evaluate("third")


def test_the_tokenizer_of_the_collator_is_saved_with_the_model(make, tmp_path):
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    collator = transformers.DataCollatorForTokenClassification(tokenizer)
    data = [{"input_ids": [3, 4], "labels": [1, 2]}] * 8
    trainer = make(tiny_bert(), data, more={"data_collator": collator}, max_steps=1, save_strategy="epoch")

    trainer.train()
    trainer.save_model()

    for folder in (tmp_path / "out", tmp_path / "out" / "checkpoint-1"):
        assert transformers.AutoTokenizer.from_pretrained(folder).pad_token == "[PAD]"


def test_outputs_that_the_model_s_configuration_names_are_left_out_unless_asked_for(make):
    model = tiny_bert()
    model.config.output_hidden_states, model.config.keys_to_ignore_at_inference = True, ["hidden_states"]
    data = [{"input_ids": [3, 4], "labels": [1, 2]}] * 8
    trainer = make(model, data)

    assert trainer.predict(data).predictions.shape == (8, 2, 5)
    assert len(trainer.predict(data, ignore_keys=[]).predictions) == 2
    assert [part.shape for part in trainer.predict(data, ignore_keys=["logits"]).predictions] == [(8, 2, 16)] * 2


def test_the_arguments_are_left_as_they_were_given(make):
    trainer = make(evaluate=rows(8), eval_strategy="epoch", num_train_epochs=2, max_steps=-1, warmup_ratio=0.1)
    before = trainer.args.to_dict()

    trainer.train()

    assert trainer.args.to_dict() == before


def test_loaders_need_a_length_and_no_more(make):
    class Chain:
        def __init__(self, loaders):
            self.loaders = loaders

        def __len__(self):
            return sum(map(len, self.loaders))

        def __iter__(self):
            for loader in self.loaders:
                yield from loader

    class Own(Trainer):
        def get_train_dataloader(self):
            return Chain([super().get_train_dataloader(), super().get_train_dataloader()])

    trainer = make(cls=Own, num_train_epochs=1.5, max_steps=-1)

    assert trainer.train().global_step == 12  # of batches of 8, twice 4 an epoch


@pytest.mark.parametrize("accumulation", [None, 1])
def test_predictions_of_different_length_are_padded(make, accumulation):
    data = rows(24, size=lambda number: 1 + number // 8)
    trainer = make(Line(outputs=2), data, eval_accumulation_steps=accumulation, per_device_eval_batch_size=8)

    output = trainer.predict(data)

    assert [part.shape for part in output.predictions] == [(24, 3)] * 2
    assert output.label_ids[:, 2].tolist() == [-100] * 16 + [2 * number for number in range(16, 24)]


def test_several_labels_by_name_come_as_a_tuple(make):
    found = []
    trainer = make(
        evaluate=rows(8, labels=("labels", "others")),
        label_names=["labels", "others"],
        more={"compute_metrics": lambda prediction: found.append(prediction) or {}},
    )

    trainer.evaluate()

    predictions, labels = found[0]
    assert (predictions.shape, [part.shape for part in labels]) == ((8,), [(8,), (8,)])


def test_a_model_of_model_init_begins_anew_at_each_train(make):
    for init in (lambda: Line(), lambda trial: Line()):
        trainer = make(more={"model_init": init})
        ends = []
        for _ in range(2):
            trainer.train()
            ends.append(trainer.model.a.item())
        assert ends[0] == ends[1] != 0


def test_each_library_reads_the_state_of_a_checkpoint(make, tmp_path):
    trainer = make(evaluate=rows(8), eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=4)
    trainer.train()
    path = str(tmp_path / "out" / "checkpoint-4" / "trainer_state.json")

    theirs, ours = transformers.TrainerState.load_from_json(path), TrainerState.load_from_json(path)

    assert (theirs.global_step, theirs.max_steps, theirs.log_history) == (4, 4, ours.log_history)


def test_a_plateau_schedule_has_its_options(make):
    options = {"factor": 0.2, "patience": 5, "cooldown": 2}
    trainer = make(
        evaluate=rows(8),
        eval_strategy="epoch",
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs=options,
        metric_for_best_model="eval_loss",
    )

    trainer.train()

    assert {name: getattr(trainer.lr_scheduler, name) for name in options} == options
