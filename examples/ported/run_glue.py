"""Fine-tune a model on sentence pairs, in the manner of run_glue.py of transformers' examples.

python examples/ported/run_glue.py --output_dir out/glue --do_train --do_eval --do_predict
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
from sklearn.metrics import accuracy_score, f1_score
from small_data import matching_sentences, small_tokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    HfArgumentParser,
    default_data_collator,
    set_seed,
)

from trackside import EvalPrediction, Trainer, TrainingArguments


@dataclass
class DataTrainingArguments:
    max_seq_length: int = field(default=48, metadata={"help": "Longer sequences are truncated."})
    pad_to_max_length: bool = field(default=False, metadata={"help": "Pad to the maximum, not to the longest."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on so many examples only."})


@dataclass
class ModelArguments:
    hidden_size: int = field(default=32, metadata={"help": "Width of the model."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Depth of the model."})


def main():
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, TrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)

    raw_datasets = matching_sentences()
    texts = [text for row in raw_datasets["train"] for text in (row["sentence1"], row["sentence2"])]
    tokenizer = small_tokenizer(texts)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=model_args.hidden_size,
        num_hidden_layers=model_args.num_hidden_layers,
        num_attention_heads=2,
        intermediate_size=2 * model_args.hidden_size,
        initializer_range=0.1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=2,
    )
    model = BertForSequenceClassification(config)
    padding = "max_length" if data_args.pad_to_max_length else False

    def preprocess_function(examples):
        pairs = (examples["sentence1"], examples["sentence2"])
        return tokenizer(*pairs, padding=padding, max_length=data_args.max_seq_length, truncation=True)

    with training_args.main_process_first(desc="dataset map pre-processing"):
        raw_datasets = raw_datasets.map(preprocess_function, batched=True, desc="Running tokenizer on dataset")
    train_dataset, eval_dataset, predict_dataset = (raw_datasets[name] for name in ("train", "validation", "test"))
    if data_args.max_train_samples is not None:
        train_dataset = train_dataset.select(range(data_args.max_train_samples))

    def compute_metrics(p: EvalPrediction):
        preds = p.predictions[0] if isinstance(p.predictions, tuple) else p.predictions
        preds = np.argmax(preds, axis=1)
        result = {"accuracy": accuracy_score(p.label_ids, preds), "f1": f1_score(p.label_ids, preds)}
        result["combined_score"] = np.mean(list(result.values())).item()
        return result

    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset if training_args.do_train else None,
        eval_dataset=eval_dataset if training_args.do_eval else None,
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
        data_collator=default_data_collator if data_args.pad_to_max_length else DataCollatorWithPadding(tokenizer),
    )

    if training_args.do_train:
        train_result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
        metrics = train_result.metrics
        metrics["train_samples"] = len(train_dataset)
        trainer.save_model()
        trainer.log_metrics("train", metrics)
        trainer.save_metrics("train", metrics)
        trainer.save_state()

    if training_args.do_eval:
        metrics = trainer.evaluate(eval_dataset=eval_dataset)
        metrics["eval_samples"] = len(eval_dataset)
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    if training_args.do_predict:
        unlabelled = predict_dataset.remove_columns("label")
        predictions = trainer.predict(unlabelled, metric_key_prefix="predict").predictions
        predictions = np.argmax(predictions, axis=1)
        if trainer.is_world_process_zero():
            with open(os.path.join(training_args.output_dir, "predict_results.txt"), "w") as writer:
                writer.write("index\tprediction\n")
                writer.writelines(f"{index}\t{item}\n" for index, item in enumerate(predictions))

    kwargs = {"tasks": "text-classification", "dataset": "docstrings", "language": "en"}
    trainer.create_model_card(**kwargs)


if __name__ == "__main__":
    main()
