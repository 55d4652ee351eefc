"""Train a model that writes the first sentence of a docstring, in the manner of run_summarization.py of transformers.

python examples/ported/run_summarization.py --output_dir out/sum --do_train --do_eval --predict_with_generate
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
from small_data import small_tokenizer, summaries
from transformers import DataCollatorForSeq2Seq, HfArgumentParser, T5Config, T5ForConditionalGeneration, set_seed

from trackside import Seq2SeqTrainer, Seq2SeqTrainingArguments


@dataclass
class DataTrainingArguments:
    max_source_length: int = field(default=64, metadata={"help": "Longer documents are truncated."})
    max_target_length: int = field(default=16, metadata={"help": "Longer summaries are truncated."})
    source_prefix: str = field(default="summarize: ", metadata={"help": "Written before every document."})
    ignore_pad_token_for_loss: bool = field(default=True, metadata={"help": "Leave padding out of the loss."})


@dataclass
class ModelArguments:
    hidden_size: int = field(default=32, metadata={"help": "Width of the model."})
    num_hidden_layers: int = field(default=1, metadata={"help": "Depth of the model."})


def main():
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, Seq2SeqTrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)

    raw_datasets = summaries()
    tokenizer = small_tokenizer([row["document"] + " " + row["summary"] for row in raw_datasets["train"]])
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=model_args.hidden_size,
        d_kv=16,
        d_ff=2 * model_args.hidden_size,
        num_layers=model_args.num_hidden_layers,
        num_heads=2,
        dropout_rate=0.0,
        decoder_start_token_id=tokenizer.cls_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    model = T5ForConditionalGeneration(config)

    def preprocess_function(examples):
        inputs = [data_args.source_prefix + document for document in examples["document"]]
        model_inputs = tokenizer(inputs, max_length=data_args.max_source_length, truncation=True)
        labels = tokenizer(text_target=examples["summary"], max_length=data_args.max_target_length, truncation=True)
        model_inputs["labels"] = labels["input_ids"]
        return model_inputs

    column_names = raw_datasets["train"].column_names
    with training_args.main_process_first(desc="dataset map pre-processing"):
        tokenized = raw_datasets.map(preprocess_function, batched=True, remove_columns=column_names)
    train_dataset, eval_dataset, predict_dataset = (tokenized[name] for name in ("train", "validation", "test"))

    label_pad_token_id = -100 if data_args.ignore_pad_token_for_loss else tokenizer.pad_token_id
    data_collator = DataCollatorForSeq2Seq(tokenizer, model=model, label_pad_token_id=label_pad_token_id)

    def overlap(prediction, label):
        found, wanted = prediction.split(), label.split()
        common = sum(min(found.count(word), wanted.count(word)) for word in set(wanted))
        return 2 * common / max(len(found) + len(wanted), 1)

    def compute_metrics(eval_preds):
        preds, labels = (np.where(part != -100, part, tokenizer.pad_token_id) for part in eval_preds)
        pairs = zip(*(tokenizer.batch_decode(part, skip_special_tokens=True) for part in (preds, labels)), strict=True)
        lengths = [np.count_nonzero(pred != tokenizer.pad_token_id) for pred in preds]
        return {"rouge1": 100 * float(np.mean([overlap(*pair) for pair in pairs])), "gen_len": float(np.mean(lengths))}

    training_args.generation_max_length = training_args.generation_max_length or data_args.max_target_length
    trainer = Seq2SeqTrainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset if training_args.do_train else None,
        eval_dataset=eval_dataset if training_args.do_eval else None,
        processing_class=tokenizer,
        data_collator=data_collator,
        compute_metrics=compute_metrics if training_args.predict_with_generate else None,
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
        metrics = trainer.evaluate(metric_key_prefix="eval")
        metrics["eval_samples"] = len(eval_dataset)
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    if training_args.do_predict:
        predict_results = trainer.predict(predict_dataset, metric_key_prefix="predict")
        metrics = predict_results.metrics
        metrics["predict_samples"] = len(predict_dataset)
        trainer.log_metrics("predict", metrics)
        trainer.save_metrics("predict", metrics)
        if trainer.is_world_process_zero() and training_args.predict_with_generate:
            predictions = predict_results.predictions
            predictions = np.where(predictions != -100, predictions, tokenizer.pad_token_id)
            texts = tokenizer.batch_decode(predictions, skip_special_tokens=True)
            with open(os.path.join(training_args.output_dir, "generated_predictions.txt"), "w") as writer:
                writer.write("\n".join(text.strip() for text in texts))

    trainer.create_model_card(tasks="summarization", dataset="docstrings")


if __name__ == "__main__":
    main()
