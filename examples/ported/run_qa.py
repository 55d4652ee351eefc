"""Train a model that finds answers in a text, in the manner of run_qa.py of transformers' examples.

python examples/ported/run_qa.py --output_dir out/qa --do_train --do_eval
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np
from small_data import questions, small_tokenizer
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    DataCollatorWithPadding,
    HfArgumentParser,
    default_data_collator,
    set_seed,
)
from transformers.trainer_utils import speed_metrics

from trackside import EvalPrediction, Trainer, TrainingArguments


@dataclass
class DataTrainingArguments:
    max_seq_length: int = field(default=96, metadata={"help": "Longer sequences are truncated."})
    pad_to_max_length: bool = field(default=True, metadata={"help": "Pad to the maximum, not to the longest."})
    max_answer_length: int = field(default=6, metadata={"help": "Most tokens of an answer."})


@dataclass
class ModelArguments:
    hidden_size: int = field(default=32, metadata={"help": "Width of the model."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Depth of the model."})


class QuestionAnsweringTrainer(Trainer):
    """A trainer whose metrics are computed on answers as texts, which the examples are needed for."""

    def __init__(self, *args, eval_examples=None, post_process_function=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval_examples = eval_examples
        self.post_process_function = post_process_function

    def evaluate(self, eval_dataset=None, eval_examples=None, ignore_keys=None, metric_key_prefix: str = "eval"):
        eval_dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        eval_dataloader = self.get_eval_dataloader(eval_dataset)
        eval_examples = self.eval_examples if eval_examples is None else eval_examples

        # metrics are computed below, not within the loop
        compute_metrics = self.compute_metrics
        self.compute_metrics = None
        start_time = time.time()
        try:
            output = self.evaluation_loop(
                eval_dataloader,
                description="Evaluation",
                prediction_loss_only=True if compute_metrics is None else None,
                ignore_keys=ignore_keys,
                metric_key_prefix=metric_key_prefix,
            )
        finally:
            self.compute_metrics = compute_metrics
        total_batch_size = self.args.eval_batch_size * self.args.world_size
        output.metrics.update(
            speed_metrics(
                metric_key_prefix,
                start_time,
                num_samples=output.num_samples,
                num_steps=math.ceil(output.num_samples / total_batch_size),
            )
        )
        if self.post_process_function is not None and self.compute_metrics is not None and self.args.should_save:
            eval_preds = self.post_process_function(eval_examples, eval_dataset, output.predictions)
            metrics = self.compute_metrics(eval_preds)
            metrics = {f"{metric_key_prefix}_{key}": value for key, value in metrics.items()}
            metrics.update(output.metrics)
        else:
            metrics = output.metrics
        if self.args.should_log:
            self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def main():
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, TrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)

    raw_datasets = questions()
    tokenizer = small_tokenizer([row["question"] + " " + row["context"] for row in raw_datasets["train"]])
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=model_args.hidden_size,
        num_hidden_layers=model_args.num_hidden_layers,
        num_attention_heads=2,
        intermediate_size=2 * model_args.hidden_size,
        initializer_range=0.1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForQuestionAnswering(config)

    def tokenize(examples):
        return tokenizer(
            examples["question"],
            examples["context"],
            truncation="only_second",
            max_length=data_args.max_seq_length,
            return_offsets_mapping=True,
            padding="max_length" if data_args.pad_to_max_length else False,
        )

    def prepare_train_features(examples):
        tokenized_examples = tokenize(examples)
        starts, ends = [], []
        for index, offsets in enumerate(tokenized_examples.pop("offset_mapping")):
            answers = examples["answers"][index]
            first = answers["answer_start"][0]
            last = first + len(answers["text"][0])
            within = [
                token
                for token, (low, high) in enumerate(offsets)
                if tokenized_examples.sequence_ids(index)[token] == 1 and first <= low < high <= last
            ]
            starts.append(within[0] if within else 0)
            ends.append(within[-1] if within else 0)
        return {**tokenized_examples, "start_positions": starts, "end_positions": ends}

    def prepare_validation_features(examples):
        tokenized_examples = tokenize(examples)
        for index, offsets in enumerate(tokenized_examples["offset_mapping"]):
            # places outside of the context are not answers
            kinds = tokenized_examples.sequence_ids(index)
            tokenized_examples["offset_mapping"][index] = [
                offset if kind == 1 else None for offset, kind in zip(offsets, kinds, strict=True)
            ]
        return {**tokenized_examples, "example_id": examples["id"]}

    column_names = raw_datasets["train"].column_names
    with training_args.main_process_first(desc="train dataset map pre-processing"):
        train_dataset = raw_datasets["train"].map(prepare_train_features, batched=True, remove_columns=column_names)
    eval_examples = raw_datasets["validation"]
    with training_args.main_process_first(desc="validation dataset map pre-processing"):
        eval_dataset = eval_examples.map(prepare_validation_features, batched=True, remove_columns=column_names)

    def post_processing_function(examples, features, predictions):
        start_logits, end_logits = predictions
        answers = []
        for example, feature, starts, ends in zip(examples, features, start_logits, end_logits, strict=True):
            offsets = feature["offset_mapping"]
            spans = [
                (starts[first] + ends[last], first, last)
                for first in range(len(offsets))
                for last in range(first, min(first + data_args.max_answer_length, len(offsets)))
                if offsets[first] is not None and offsets[last] is not None
            ]
            _, first, last = max(spans)
            answers.append(example["context"][offsets[first][0] : offsets[last][1]])
        return EvalPrediction(predictions=answers, label_ids=[example["answers"]["text"][0] for example in examples])

    def f1(answer, right):
        found, wanted = answer.split(), right.split()
        common = sum(min(found.count(word), wanted.count(word)) for word in set(wanted))
        return 2 * common / (len(found) + len(wanted))

    def compute_metrics(p: EvalPrediction):
        pairs = list(zip(p.predictions, p.label_ids, strict=True))
        exact = np.mean([answer == right for answer, right in pairs])
        return {"exact_match": 100 * float(exact), "f1": 100 * float(np.mean([f1(*pair) for pair in pairs]))}

    trainer = QuestionAnsweringTrainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset if training_args.do_train else None,
        eval_dataset=eval_dataset if training_args.do_eval else None,
        eval_examples=eval_examples if training_args.do_eval else None,
        processing_class=tokenizer,
        data_collator=default_data_collator if data_args.pad_to_max_length else DataCollatorWithPadding(tokenizer),
        post_process_function=post_processing_function,
        compute_metrics=compute_metrics,
    )

    if training_args.do_train:
        train_result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
        trainer.save_model()
        metrics = train_result.metrics
        metrics["train_samples"] = len(train_dataset)
        trainer.log_metrics("train", metrics)
        trainer.save_metrics("train", metrics)
        trainer.save_state()

    if training_args.do_eval:
        metrics = trainer.evaluate()
        metrics["eval_samples"] = len(eval_dataset)
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    trainer.create_model_card(tasks="question-answering", dataset="iris")


if __name__ == "__main__":
    main()
