"""Learn to write like the Zen of Python, letter by letter.

    python examples/gallery/zen.py

The text is that of ``import this``. PyTorch, with a recurrent network and a callback that writes a sample.
"""

from __future__ import annotations

import codecs
import contextlib
import io

import torch
from picture import run
from torch import nn

from trackside import Trainer, TrainerCallback, TrainingArguments

with contextlib.redirect_stdout(io.StringIO()):
    import this

TEXT = codecs.decode(this.s, "rot13")
LETTERS = sorted(set(TEXT))
LENGTH = 32
codes = torch.tensor([LETTERS.index(letter) for letter in TEXT])
data = [{"letters": codes[i : i + LENGTH], "labels": codes[i + 1 : i + 1 + LENGTH]} for i in range(len(codes) - LENGTH)]


class Writer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(len(LETTERS), 24)
        self.memory = nn.GRU(24, 96, batch_first=True)
        self.head = nn.Linear(96, len(LETTERS))

    def forward(self, letters, labels=None):
        logits = self.head(self.memory(self.embed(letters))[0])
        loss = None if labels is None else nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": logits}

    @torch.no_grad()
    def write(self, begin, length):
        for _ in range(length):
            seen = torch.tensor([[LETTERS.index(letter) for letter in begin[-LENGTH:]]])
            begin += LETTERS[int(self(seen)["logits"][0, -1].argmax())]
        return begin


class ShowSample(TrainerCallback):
    """Write a line after each epoch."""

    role = "observer"

    def on_epoch_end(self, args, state, control, model, **kwargs):
        print(repr(model.write("Beautiful", 40)))


def train(folder, max_steps=-1):
    torch.manual_seed(0)
    args = TrainingArguments(
        folder,
        max_steps=max_steps,
        num_train_epochs=6,
        learning_rate=5e-3,
        per_device_train_batch_size=16,
        logging_steps=10,
        save_strategy="no",
        overwrite_output_dir=True,
    )
    trainer = Trainer(Writer(), args, train_dataset=data, eval_dataset=data[:64], callbacks=[ShowSample()])
    trainer.train()
    return trainer


def draw(trainer, figure):
    upper, lower = figure.subplots(2, 1)
    records = [record for record in trainer.state.log_history if "loss" in record]
    upper.plot([record["step"] for record in records], [record["loss"] for record in records])
    upper.set(xlabel="step", ylabel="loss")
    lower.axis("off")
    lower.text(0, 0.9, trainer.model.write("Beautiful", 120), va="top", fontsize=7, family="monospace")


if __name__ == "__main__":
    run("zen", train, draw)
