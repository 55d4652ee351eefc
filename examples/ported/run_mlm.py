"""Train a masked language model on a few texts, in the manner of run_mlm.py of transformers' examples.

python examples/ported/run_mlm.py --output_dir out/mlm --do_train --do_eval
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from small_data import descriptions, small_tokenizer
from transformers import BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling, HfArgumentParser, set_seed

from trackside import Trainer, TrainingArguments


@dataclass
class DataTrainingArguments:
    max_seq_length: int = field(default=64, metadata={"help": "Longer sequences are truncated."})
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the tokens to mask."})


@dataclass
class ModelArguments:
    hidden_size: int = field(default=32, metadata={"help": "Width of the model."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Depth of the model."})


def main():
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, TrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)

    raw_datasets = descriptions()
    tokenizer = small_tokenizer(raw_datasets["train"]["text"])
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
    model = BertForMaskedLM(config)

    def tokenize_function(examples):
        return tokenizer(
            examples["text"],
            truncation=True,
            max_length=data_args.max_seq_length,
            return_special_tokens_mask=True,  # the collator masks none of these
        )

    with training_args.main_process_first(desc="dataset map tokenization"):
        tokenized = raw_datasets.map(tokenize_function, batched=True, remove_columns=["text"])
    train_dataset, eval_dataset = tokenized["train"], tokenized["validation"]

    def preprocess_logits_for_metrics(logits, labels):
        if isinstance(logits, tuple):
            logits = logits[0]
        return logits.argmax(dim=-1)

    def compute_metrics(eval_preds):
        preds, labels = eval_preds
        labels, preds = labels.reshape(-1), preds.reshape(-1)
        mask = labels != -100
        return {"accuracy": float((labels[mask] == preds[mask]).mean())}

    # the collator masks other tokens at each call, from a seed of its own
    data_collator = DataCollatorForLanguageModeling(
        tokenizer=tokenizer, mlm_probability=data_args.mlm_probability, seed=training_args.seed
    )
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset if training_args.do_train else None,
        eval_dataset=eval_dataset if training_args.do_eval else None,
        processing_class=tokenizer,
        data_collator=data_collator,
        compute_metrics=compute_metrics if training_args.do_eval else None,
        preprocess_logits_for_metrics=preprocess_logits_for_metrics if training_args.do_eval else None,
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
        metrics["perplexity"] = math.exp(metrics["eval_loss"])
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    trainer.create_model_card(tasks="fill-mask", dataset="descriptions")


if __name__ == "__main__":
    main()
