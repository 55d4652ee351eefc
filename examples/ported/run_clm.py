"""Train a causal language model on a few texts, in the manner of run_clm.py of transformers' examples.

python examples/ported/run_clm.py --output_dir out/clm --do_train --do_eval
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import chain

from small_data import descriptions, small_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, HfArgumentParser, default_data_collator, set_seed

from trackside import Trainer, TrainingArguments


@dataclass
class DataTrainingArguments:
    block_size: int = field(default=32, metadata={"help": "Texts are joined, and cut into blocks of so many tokens."})


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
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=data_args.block_size,
        n_embd=model_args.hidden_size,
        n_layer=model_args.num_hidden_layers,
        n_head=2,
        initializer_range=0.1,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    model = GPT2LMHeadModel(config)
    embedding_size = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > embedding_size:
        model.resize_token_embeddings(len(tokenizer))

    def tokenize_function(examples):
        return tokenizer(examples["text"])

    def group_texts(examples):
        joined = {name: list(chain(*examples[name])) for name in examples}
        total_length = len(joined["input_ids"]) // data_args.block_size * data_args.block_size
        result = {
            name: [
                tokens[start : start + data_args.block_size] for start in range(0, total_length, data_args.block_size)
            ]
            for name, tokens in joined.items()
        }
        # nothing predicts the first token of a block, but the transformers Trainer would count it in the mean
        result["labels"] = [[-100, *block[1:]] for block in result["input_ids"]]
        return result

    with training_args.main_process_first(desc="dataset map tokenization"):
        tokenized = raw_datasets.map(tokenize_function, batched=True, remove_columns=["text"])
    with training_args.main_process_first(desc="grouping texts together"):
        lm_datasets = tokenized.map(group_texts, batched=True)
    train_dataset, eval_dataset = lm_datasets["train"], lm_datasets["validation"]

    def preprocess_logits_for_metrics(logits, labels):
        if isinstance(logits, tuple):
            logits = logits[0]
        return logits.argmax(dim=-1)

    def compute_metrics(eval_preds):
        preds, labels = eval_preds
        # the prediction of a token is that of the place before it
        labels, preds = labels[:, 1:].reshape(-1), preds[:, :-1].reshape(-1)
        return {"accuracy": float((labels == preds).mean())}

    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset if training_args.do_train else None,
        eval_dataset=eval_dataset if training_args.do_eval else None,
        processing_class=tokenizer,
        data_collator=default_data_collator,
        compute_metrics=compute_metrics if training_args.do_eval else None,
        preprocess_logits_for_metrics=preprocess_logits_for_metrics if training_args.do_eval else None,
    )

    if training_args.do_train:
        checkpoint = None
        if training_args.resume_from_checkpoint is not None:
            checkpoint = training_args.resume_from_checkpoint
        train_result = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        metrics = train_result.metrics
        metrics["train_samples"] = len(train_dataset)
        trainer.log_metrics("train", metrics)
        trainer.save_metrics("train", metrics)
        trainer.save_state()

    if training_args.do_eval:
        metrics = trainer.evaluate()
        metrics["eval_samples"] = len(eval_dataset)
        try:
            perplexity = math.exp(metrics["eval_loss"])
        except OverflowError:
            perplexity = float("inf")
        metrics["perplexity"] = perplexity
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    trainer.create_model_card(tasks="text-generation", dataset="descriptions")


if __name__ == "__main__":
    main()
