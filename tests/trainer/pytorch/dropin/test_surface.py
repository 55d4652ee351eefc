"""Names of the transformers Trainer, used as scripts use them, and compared with that Trainer where it runs too."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_bert import tiny_bert
from torch import nn

from trackside import (
    EvalLoopOutput,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trackside.callbacks.errors import ArgumentError
from trackside.trainer.pytorch.dropin.accelerator import part_of

transformers = pytest.importorskip("transformers")


def examples(count: int = 10, labels: int = 5):
    random = np.random.RandomState(0)
    made = []
    for number in range(count):
        ids = random.randint(3, 30, 6)
        wanted = random.randint(0, labels, 6)
        wanted[: number % 4] = -100
        made.append({"input_ids": ids.tolist(), "labels": wanted.tolist()})
    return made


def options(tmp_path, **more):
    defaults = {"max_steps": 4, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    return {"output_dir": str(tmp_path), "logging_steps": 1, "learning_rate": 1e-2, **defaults, **more}


@pytest.fixture
def trainer(tmp_path):
    args = TrainingArguments(**options(tmp_path))
    return Trainer(tiny_bert(), args, train_dataset=examples(), eval_dataset=examples(7))


# -- evaluation loops --------------------------------------------------------------------------------------------------


class QuestionAnsweringTrainer(Trainer):
    """As in the examples of transformers: an evaluate() of its own around evaluation_loop."""

    def evaluate(self, eval_dataset=None, eval_examples=None, ignore_keys=None, metric_key_prefix="eval"):
        dataloader = self.get_eval_dataloader(self.eval_dataset if eval_dataset is None else eval_dataset)
        compute_metrics, self.compute_metrics = self.compute_metrics, None
        eval_loop = self.prediction_loop if self.args.use_legacy_prediction_loop else self.evaluation_loop
        start_time = time.time()
        try:
            output = eval_loop(
                dataloader,
                description="Evaluation",
                prediction_loss_only=True if compute_metrics is None else None,
                ignore_keys=ignore_keys,
                metric_key_prefix=metric_key_prefix,
            )
        finally:
            self.compute_metrics = compute_metrics
        total = self.args.eval_batch_size * self.args.world_size
        speed = {f"{metric_key_prefix}_steps": math.ceil(output.num_samples / total), "took": time.time() - start_time}
        output.metrics.update(speed)
        metrics = {f"{metric_key_prefix}_{key}": value for key, value in self.compute_metrics(output).items()}
        metrics.update(output.metrics)
        if self.args.should_log:
            self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def test_an_evaluate_of_ones_own_around_evaluation_loop_works_within_training(tmp_path):
    heard = []

    class Heard(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            heard.append((state.global_step, sorted(metrics)))

    args = TrainingArguments(**options(tmp_path, eval_strategy="steps", eval_steps=2, per_device_eval_batch_size=4))
    trainer = QuestionAnsweringTrainer(
        tiny_bert(),
        args,
        train_dataset=examples(),
        eval_dataset=examples(7),
        compute_metrics=lambda output: {"rows": len(output.predictions)},
        callbacks=[Heard()],
    )

    trainer.train()
    metrics = trainer.evaluate()

    assert (metrics["eval_rows"], metrics["eval_steps"]) == (7, 2)
    assert [step for step, _ in heard] == [2, 4, 4]
    assert heard[0][1] == ["epoch", "eval_loss", "eval_rows", "eval_steps", "took"]


def test_an_evaluation_loop_of_ones_own_is_called_by_evaluate_and_predict(tmp_path):
    class Own(Trainer):
        def evaluation_loop(self, dataloader, description, *args, metric_key_prefix="eval", **kwargs):
            found = super().evaluation_loop(dataloader, description, *args, **kwargs)
            return EvalLoopOutput(found.predictions, found.label_ids, {"own": description}, found.num_samples)

    trainer = Own(tiny_bert(), TrainingArguments(**options(tmp_path)), eval_dataset=examples(7))

    assert trainer.evaluate()["own"] == "Evaluation"
    predicted = trainer.predict(examples(3))
    assert (predicted.metrics["own"], len(predicted.predictions)) == ("Prediction", 3)


# -- losses and optimizers ---------------------------------------------------------------------------------------------


def counted_loss(outputs, labels, num_items_in_batch=None):
    total = nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return total / num_items_in_batch


@pytest.mark.parametrize("accumulation", [1, 3])
def test_compute_loss_func_trains_as_in_transformers(accumulation, tmp_path):
    given = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": accumulation, "max_grad_norm": 0.0}
    given |= {"lr_scheduler_type": "constant", "optim": "adamw_torch"}
    losses = []
    for library, trainer_class, args_class in (
        ("ours", Trainer, TrainingArguments),
        ("theirs", transformers.Trainer, transformers.TrainingArguments),
    ):
        args = args_class(**options(tmp_path / library, **given, train_sampling_strategy="sequential"))
        trainer = trainer_class(
            model=tiny_bert(),
            args=args,
            train_dataset=examples(12),
            compute_loss_func=counted_loss,
            eval_dataset=examples(5),
        )
        trainer.train()
        weights = torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
        losses.append((weights, trainer.evaluate()["eval_loss"]))

    assert torch.allclose(losses[0][0], losses[1][0], atol=1e-5)


def test_compute_loss_func_and_loss_fn_are_one_of_the_two(tmp_path):
    with pytest.raises(ArgumentError, match="None together with loss_fn"):
        Trainer(tiny_bert(), TrainingArguments(str(tmp_path)), loss_fn=nn.MSELoss(), compute_loss_func=counted_loss)


def test_overridden_choices_of_the_optimizer_are_honoured(tmp_path):
    class Own(Trainer):
        def get_decay_parameter_names(self, model):
            return ["classifier.weight"]

        @staticmethod
        def get_optimizer_cls_and_kwargs(args, model=None):
            return torch.optim.SGD, {"lr": 0.5}

    trainer = Own(tiny_bert(), TrainingArguments(**options(tmp_path, weight_decay=0.1)), train_dataset=examples())
    trainer.create_optimizer()

    assert type(trainer.optimizer) is torch.optim.SGD
    decayed = next(group for group in trainer.optimizer.param_groups if group["weight_decay"])
    assert [id(item) for item in decayed["params"]] == [id(trainer.model.classifier.weight)]


# -- names -------------------------------------------------------------------------------------------------------------


def test_names_of_the_trainer(trainer):
    with pytest.raises(ValueError, match="the optimizer is None"):
        trainer.get_learning_rates()
    output = trainer.train()

    theirs = transformers.Trainer(
        model=trainer.model, args=transformers.TrainingArguments(**options(trainer.args.output_dir))
    )
    assert trainer.get_num_trainable_parameters() == theirs.get_num_trainable_parameters()
    assert trainer.get_learning_rates() == [group["lr"] for group in trainer.optimizer.param_groups]
    assert trainer.get_optimizer_group(trainer.model.classifier.bias) is trainer.optimizer.param_groups[1]
    assert len(trainer.get_optimizer_group()) == 2
    assert trainer.get_total_train_batch_size(trainer.args) == 8
    assert output.metrics["epoch"] == trainer.state.epoch == 2.0
    assert (trainer.is_in_train, trainer.is_model_parallel) == (False, False)
    batches, items = trainer.get_batch_samples(iter(trainer.get_eval_dataloader()), 3, trainer.args.device)
    assert (len(batches), int(items)) == (1, sum(label != -100 for item in examples(7) for label in item["labels"]))
    assert trainer.num_tokens(trainer.get_eval_dataloader()) == 42
    assert trainer.num_tokens(trainer.get_train_dataloader(), max_steps=3) == 3 * 48


def test_metrics_are_formatted_as_in_transformers(trainer):
    from transformers.trainer_pt_utils import metrics_format

    metrics = {"eval_loss": 1.23456, "eval_runtime": 65.4321, "total_flos": 5e10, "init_mem_cpu_alloc_delta": 5 << 20}

    assert trainer.metrics_format(metrics) == metrics_format(metrics)


def test_the_accelerator_of_one_process(trainer, capsys):
    accelerator = trainer.accelerator

    assert accelerator.unwrap_model(nn.DataParallel(trainer.model)) is trainer.model
    assert accelerator.gather_for_metrics((torch.ones(2), {"a": torch.tensor(3)}))[1]["a"].tolist() == [3]
    assert accelerator.gather(torch.ones(2, 3)).shape == (2, 3)
    assert (accelerator.num_processes, accelerator.process_index, accelerator.is_local_main_process) == (1, 0, True)
    accelerator.wait_for_everyone()
    accelerator.print("said")
    assert capsys.readouterr().out == "said\n"


def test_the_accelerator_divides_and_reduces(trainer):
    accelerator = trainer.accelerator

    assert accelerator.reduce({"a": torch.tensor([2.0])}, "mean")["a"].tolist() == [2.0]
    assert (accelerator.is_last_process, accelerator.state.deepspeed_plugin) == (True, None)
    with accelerator.split_between_processes(["a", "b"]) as own, accelerator.main_process_first():
        assert own == ["a", "b"]
    with pytest.raises(AttributeError, match=r"no 'free_memory'; it has autocast, .*, wait_for_everyone"):
        accelerator.free_memory(trainer.model)


@pytest.mark.parametrize("pad", [False, True])
def test_the_parts_of_processes_are_those_of_accelerate(pad):
    from accelerate import PartialState

    for given in (list("abcdefg"), {"x": tuple(range(7))}, torch.arange(7), list("ab")):
        for index in range(3):
            theirs = object.__new__(PartialState)
            theirs.__dict__ = {"num_processes": 3, "process_index": index, "device": torch.device("cpu")}
            if pad and isinstance(given, (torch.Tensor, dict)):
                continue  # it communicates, or cannot pad a tuple
            with PartialState.split_between_processes(theirs, copy.copy(given), pad) as wanted:
                own = part_of(given, index, 3, pad)
            same = torch.equal(own, wanted) if isinstance(given, torch.Tensor) else own == wanted
            assert same, (given, index, own, wanted)


def test_a_training_step_by_the_accelerator_is_that_of_the_trainer(tmp_path):
    class Own(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            model.train()
            inputs = self._prepare_inputs(inputs)
            with self.accelerator.autocast():
                loss = self.compute_loss(model, inputs)
            self.accelerator.backward(loss)
            return loss.detach()

    weights = []
    for cls in (Own, Trainer):
        trainer = cls(tiny_bert(), TrainingArguments(**options(tmp_path)), train_dataset=examples())
        trainer.train()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]))

    assert torch.equal(*weights)


def test_the_callback_handler_lists_and_sends(trainer):
    class Noted(TrainerCallback):
        heard = ()

        def on_log(self, args, state, control, logs, **kwargs):
            self.heard = (*self.heard, logs)
            control.should_save = True

    noted = Noted()
    trainer.callback_handler.add_callback(noted)

    control = trainer.callback_handler.on_log(trainer.args, trainer.state, trainer.control, {"loss": 1.0})

    assert (noted.heard, control.should_save, control) == (({"loss": 1.0},), True, trainer.control)
    assert noted in trainer.callback_handler.callbacks
    assert "Noted" in trainer.callback_handler.callback_list
    assert trainer.callback_handler.model is trainer.model
    assert trainer.callback_handler.pop_callback(Noted) is noted
    with pytest.raises(AttributeError, match="on_everything"):
        trainer.callback_handler.on_everything  # noqa: B018


def test_the_model_card_is_markdown_with_a_front_matter_that_is_read(trainer):
    from huggingface_hub import ModelCard

    trainer.train()
    trainer.evaluate()

    trainer.create_model_card(
        language="en", tags="ner", model_name="tiny", finetuned_from="bert", dataset="conll", dataset_tags=["conll2003"]
    )

    path = Path(trainer.args.output_dir) / "README.md"
    card = ModelCard(path.read_text())
    assert card.data.tags == ["ner", "generated_from_trainer", "trackside"]
    assert (card.data.language, card.data.base_model, card.data.datasets) == (["en"], "bert", ["conll2003"])
    assert "# tiny" in card.text
    assert f"- learning_rate: {trainer.args.learning_rate}" in card.text
    assert f"| 4 | 2.0 | {trainer.state.log_history[-1]['eval_loss']} |" in card.text


def test_the_model_card_is_written_by_the_first_process_of_all_also_where_each_machine_saves(trainer):
    trainer.args.save_on_each_node = True
    trainer.args.place = replace(trainer.args.place, rank=8, local_rank=0)  # the first process of the second machine

    trainer.create_model_card()

    assert (trainer.args.should_save, Path(trainer.args.output_dir, "README.md").exists()) == (True, False)


def test_what_is_not_there_says_what_to_do(trainer):
    with pytest.raises(AttributeError, match="upload_folder"):
        trainer.push_to_hub()
