"""What arguments change about a run: noise on embeddings, layers of liger-kernel, tokens, start methods, memory."""

from __future__ import annotations

import math
import sys
import types

import pytest
import torch
from torch import nn

from trackside import Trainer, TrainingArguments
from trackside.callbacks.errors import ArgumentError
from trackside.trainer.pytorch import availability
from trackside.trainer.pytorch.preparation.embedding_noise import add_noise

IDS = torch.arange(24).reshape(4, 6) % 10


class Tagger(nn.Module):
    def __init__(self, embeddings: int = 1):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(10, 8)
        self.more = nn.ModuleList(nn.Embedding(10, 8) for _ in range(embeddings - 1))
        self.head = nn.Linear(8, 10)
        self.seen: list[torch.Tensor] = []

    def forward(self, input_ids, attention_mask=None, labels=None):
        hidden = self.embed(input_ids)
        self.seen.append(hidden.detach() - self.embed.weight[input_ids].detach())
        logits = self.head(hidden)
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


def data(examples: int = 8):
    mask = torch.tensor([1, 1, 1, 1, 0, 0])
    return [{"input_ids": IDS[i % 4], "attention_mask": mask, "labels": IDS[i % 4]} for i in range(examples)]


def trainer_of(tmp_path, model=None, **options):
    options = {"max_steps": 3, "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1} | options
    args = TrainingArguments(str(tmp_path / "out"), per_device_train_batch_size=4, no_cuda=True, **options)
    return Trainer(model or Tagger(), args, train_dataset=data(), eval_dataset=data())


def test_noise_of_the_documented_size_comes_in_training_only_and_ends_with_the_run(tmp_path):
    trainer = trainer_of(tmp_path, neftune_noise_alpha=5.0)

    trainer.train()
    in_training, trainer.model.seen = trainer.model.seen, []
    trainer.evaluate()

    most = 5.0 / math.sqrt(6 * 8)
    biggest = max(noise.abs().max().item() for noise in in_training[-3:])
    assert 0.8 * most < biggest <= most * (1 + 1e-6)
    assert all(noise.abs().max() == 0 for noise in trainer.model.seen)
    trainer.model.train()
    trainer.model(IDS, labels=IDS)
    assert trainer.model.seen[-1].abs().max() == 0


def test_transformers_own_noise_is_the_same():
    from transformers.integrations.neftune import neftune_post_forward_hook

    ours, theirs = nn.Embedding(10, 8), nn.Embedding(10, 8)
    theirs.load_state_dict(ours.state_dict())
    theirs.neftune_noise_alpha = 7.0
    theirs.register_forward_hook(neftune_post_forward_hook)
    add_noise(nn.Sequential(ours), 7.0)

    torch.manual_seed(3)
    found = ours(IDS)
    torch.manual_seed(3)

    assert torch.equal(found, theirs(IDS))


def test_a_model_that_does_not_tell_its_embeddings_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"neftune_noise_alpha=5.0 .* get_input_embeddings\(\); Tagger has 2"):
        trainer_of(tmp_path, Tagger(embeddings=2), neftune_noise_alpha=5.0).train()


@pytest.mark.parametrize(("how", "each"), [("all", 24), ("non_padding", 16)])
def test_the_number_of_tokens_is_in_every_record_and_goes_on_after_a_resume(how, each, tmp_path):
    options = {"include_num_input_tokens_seen": how, "save_strategy": "steps", "save_steps": 1}
    trainer_of(tmp_path, max_steps=2, **options).train()
    resumed = trainer_of(tmp_path, max_steps=3, **options)

    resumed.train(resume_from_checkpoint=True)

    records = [record for record in resumed.state.log_history if "loss" in record]
    assert [record["num_input_tokens_seen"] for record in records] == [each, 2 * each, 3 * each]


def test_without_it_no_record_has_it(tmp_path):
    trainer = trainer_of(tmp_path)

    trainer.train()

    assert not any("num_input_tokens_seen" in record for record in trainer.state.log_history)
    assert trainer.state.num_input_tokens_seen == 72


def test_the_memory_of_the_device_is_given_back_every_so_often(tmp_path, monkeypatch):
    given_back = []
    monkeypatch.setattr(torch.cpu, "empty_cache", lambda: given_back.append(trainer.state.global_step), raising=False)
    trainer = trainer_of(tmp_path, max_steps=5, torch_empty_cache_steps=2)

    trainer.train()

    assert given_back == [0, 2, 4]


def test_layers_of_liger_kernel_are_asked_for_with_the_options(tmp_path, monkeypatch):
    """Contract test: liger-kernel needs a GPU; its entry point is that which transformers calls."""
    asked = []
    package, entry = types.ModuleType("liger_kernel"), types.ModuleType("liger_kernel.transformers")
    entry._apply_liger_kernel_to_instance = lambda **options: asked.append(options)
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", entry)
    monkeypatch.setattr(availability, "is_installed", lambda name: True)
    trainer = trainer_of(tmp_path, use_liger_kernel=True, liger_kernel_config={"rope": False})

    trainer.train()

    assert asked == [{"model": trainer.model, "rope": False}]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.slow
def test_workers_start_as_asked(method, tmp_path):
    same = trainer_of(tmp_path / "same")
    same.train()
    trainer = trainer_of(tmp_path, dataloader_num_workers=1, dataloader_multiprocessing_context=method)

    trainer.train()

    assert trainer.get_train_dataloader() is not None
    assert [r.get("loss") for r in trainer.state.log_history] == [r.get("loss") for r in same.state.log_history]
