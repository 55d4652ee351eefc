"""Train a small vision transformer on digits, in the manner of run_image_classification.py of transformers' examples.

python examples/ported/run_image_classification.py --output_dir out/digits --do_train --do_eval
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.metrics import accuracy_score
from small_data import digit_images
from transformers import HfArgumentParser, ViTConfig, ViTForImageClassification, set_seed

from trackside import Trainer, TrainingArguments


@dataclass
class DataTrainingArguments:
    image_column_name: str = field(default="image", metadata={"help": "Name of the column with the images."})
    label_column_name: str = field(default="label", metadata={"help": "Name of the column with the labels."})


@dataclass
class ModelArguments:
    hidden_size: int = field(default=32, metadata={"help": "Width of the model."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Depth of the model."})


def main():
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, TrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)

    dataset = digit_images()
    labels = sorted(set(dataset["train"][data_args.label_column_name]))
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=model_args.hidden_size,
        num_hidden_layers=model_args.num_hidden_layers,
        num_attention_heads=2,
        intermediate_size=2 * model_args.hidden_size,
        initializer_range=0.1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label={label: str(label) for label in labels},
        label2id={str(label): label for label in labels},
    )
    model = ViTForImageClassification(config)

    def transforms(example_batch):
        images = example_batch[data_args.image_column_name]
        example_batch["pixel_values"] = [torch.tensor(image)[None] / 16.0 for image in images]
        return example_batch

    def collate_fn(examples):
        pixel_values = torch.stack([example["pixel_values"] for example in examples])
        labels = torch.tensor([example[data_args.label_column_name] for example in examples])
        return {"pixel_values": pixel_values, "labels": labels}

    def compute_metrics(p):
        return {"accuracy": accuracy_score(p.label_ids, np.argmax(p.predictions, axis=1))}

    dataset["train"].set_transform(transforms)
    dataset["validation"].set_transform(transforms)
    training_args.remove_unused_columns = False  # the transform reads the column that the model does not take
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=dataset["train"] if training_args.do_train else None,
        eval_dataset=dataset["validation"] if training_args.do_eval else None,
        compute_metrics=compute_metrics,
        data_collator=collate_fn,
    )

    if training_args.do_train:
        train_result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
        trainer.save_model()
        trainer.log_metrics("train", train_result.metrics)
        trainer.save_metrics("train", train_result.metrics)
        trainer.save_state()

    if training_args.do_eval:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    trainer.create_model_card(tasks="image-classification", dataset="digits")


if __name__ == "__main__":
    main()
