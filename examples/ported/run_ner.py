"""Train a model that tags words, in the manner of run_ner.py of transformers' examples.

python examples/ported/run_ner.py --output_dir out/ner --do_train --do_eval --do_predict
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from small_data import small_tokenizer, tagged_words
from transformers import (
    BertConfig,
    BertForTokenClassification,
    DataCollatorForTokenClassification,
    HfArgumentParser,
    set_seed,
)

from trackside import Trainer, TrainingArguments

LABELS = ["O", "NUMBER", "B-NAME", "I-NAME"]


@dataclass
class DataTrainingArguments:
    max_seq_length: int = field(default=64, metadata={"help": "Longer sequences are truncated."})
    label_all_tokens: bool = field(default=False, metadata={"help": "Tag every piece of a word, not the first only."})


@dataclass
class ModelArguments:
    hidden_size: int = field(default=32, metadata={"help": "Width of the model."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Depth of the model."})


def main():
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, TrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)

    raw_datasets = tagged_words()
    tokenizer = small_tokenizer([" ".join(words) for words in raw_datasets["train"]["tokens"]])
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=model_args.hidden_size,
        num_hidden_layers=model_args.num_hidden_layers,
        num_attention_heads=2,
        intermediate_size=2 * model_args.hidden_size,
        initializer_range=0.1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    model = BertForTokenClassification(config)

    def tokenize_and_align_labels(examples):
        tokenized_inputs = tokenizer(
            examples["tokens"], truncation=True, max_length=data_args.max_seq_length, is_split_into_words=True
        )
        labels = []
        for index, tags in enumerate(examples["ner_tags"]):
            previous, label_ids = None, []
            for word in tokenized_inputs.word_ids(batch_index=index):
                is_tagged = word is not None and (word != previous or data_args.label_all_tokens)
                label_ids.append(tags[word] if is_tagged else -100)
                previous = word
            labels.append(label_ids)
        tokenized_inputs["labels"] = labels
        return tokenized_inputs

    with training_args.main_process_first(desc="dataset map pre-processing"):
        tokenized = raw_datasets.map(tokenize_and_align_labels, batched=True)
    train_dataset, eval_dataset, predict_dataset = (tokenized[name] for name in ("train", "validation", "test"))

    def compute_metrics(p):
        predictions, labels = p
        predictions = np.argmax(predictions, axis=2)
        true, found = labels[labels != -100], predictions[labels != -100]
        scores = precision_recall_fscore_support(true, found, labels=[1, 2, 3], average="micro", zero_division=0.0)
        return {
            **dict(zip(("precision", "recall", "f1"), scores, strict=False)),
            "accuracy": accuracy_score(true, found),
        }

    data_collator = DataCollatorForTokenClassification(tokenizer, pad_to_multiple_of=8 if training_args.fp16 else None)
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset if training_args.do_train else None,
        eval_dataset=eval_dataset if training_args.do_eval else None,
        processing_class=tokenizer,
        data_collator=data_collator,
        compute_metrics=compute_metrics,
    )

    if training_args.do_train:
        train_result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
        metrics = train_result.metrics
        trainer.save_model()
        metrics["train_samples"] = len(train_dataset)
        trainer.log_metrics("train", metrics)
        trainer.save_metrics("train", metrics)
        trainer.save_state()

    if training_args.do_eval:
        metrics = trainer.evaluate()
        metrics["eval_samples"] = len(eval_dataset)
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    if training_args.do_predict:
        predictions, labels, metrics = trainer.predict(predict_dataset, metric_key_prefix="predict")
        predictions = np.argmax(predictions, axis=2)
        trainer.log_metrics("predict", metrics)
        trainer.save_metrics("predict", metrics)
        if trainer.is_world_process_zero():
            with open(os.path.join(training_args.output_dir, "predictions.txt"), "w") as writer:
                for prediction, label in zip(predictions, labels, strict=True):
                    writer.write(" ".join(LABELS[tag] for tag in prediction[label != -100]) + "\n")

    trainer.create_model_card(tasks="token-classification", dataset="descriptions")


if __name__ == "__main__":
    main()
