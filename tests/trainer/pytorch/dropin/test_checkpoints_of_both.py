"""A run that one library began goes on in the other, with the weights, the optimizer and the history of the first."""

from __future__ import annotations

import shutil

import pytest
import torch
from support.tiny_bert import tiny_bert

import trackside

transformers = pytest.importorskip("transformers")

LIBRARIES = {
    "trackside": (trackside.Trainer, trackside.TrainingArguments),
    "transformers": (transformers.Trainer, transformers.TrainingArguments),
}


def trainer_of(library, folder):
    trainer_class, args_class = LIBRARIES[library]
    args = args_class(
        output_dir=str(folder),
        max_steps=6,
        save_steps=3,
        logging_steps=1,
        learning_rate=1e-2,
        per_device_train_batch_size=4,
        train_sampling_strategy="sequential",
        optim="adamw_torch",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    generator = torch.Generator().manual_seed(1)
    data = [
        {
            "input_ids": torch.randint(3, 30, (6,), generator=generator),
            "labels": torch.randint(0, 5, (6,), generator=generator),
        }
        for _ in range(32)
    ]
    return trainer_class(model=tiny_bert(), args=args, train_dataset=data)


@pytest.mark.parametrize(("first", "second"), [("trackside", "transformers"), ("transformers", "trackside")])
def test_a_run_of_one_library_goes_on_in_the_other(first, second, tmp_path):
    whole = trainer_of(first, tmp_path)
    whole.train()
    shutil.rmtree(tmp_path / "checkpoint-6")
    resumed = trainer_of(second, tmp_path)

    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))

    losses = [[record["loss"] for record in each.state.log_history if "loss" in record] for each in (whole, resumed)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)  # transformers rounds what it logs
    for name, weight in whole.model.state_dict().items():
        assert torch.allclose(weight, resumed.model.state_dict()[name], atol=1e-5), name
