"""The model of the GPU benchmark: a GPT, what a token costs in it, and random tokens to train it on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset


@dataclass
class Shape:
    """The size of a GPT: by default that of the smallest GPT-2, its vocabulary padded to a multiple of 64."""

    layers: int = 12
    heads: int = 12
    width: int = 768
    vocabulary: int = 50304
    length: int = 1024


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norms = nn.ModuleList([nn.LayerNorm(shape.width) for _ in range(2)])
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.mlp = nn.Sequential(
            nn.Linear(shape.width, 4 * shape.width),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * shape.width, shape.width),
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


class GPT(nn.Module):
    """A decoder with learnt positions and a head that shares the weight of the embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.length, shape.width)
        self.blocks = nn.Sequential(*(Block(shape) for _ in range(shape.layers)))
        self.norm = nn.LayerNorm(shape.width)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        x = self.tokens(input_ids) + self.positions.weight[: input_ids.shape[1]]
        logits = self.norm(self.blocks(x)) @ self.tokens.weight.T
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())}


def flops_per_token(model: GPT) -> float:
    """Return the floating point operations, forward and backward, that a token needs at least.

    6 N for the weights, of which the table of positions is in no product, and 12 L d T for attention, where d is the
    width of the model and T the length of a sequence.

    Source:
        Chowdhery et al. (2022), PaLM, arXiv:2204.02311, appendix B.
    """
    shape = model.shape
    weights = sum(parameter.numel() for parameter in model.parameters()) - model.positions.weight.numel()
    return 6.0 * weights + 12.0 * shape.layers * shape.width * shape.length


class RandomTokens(Dataset[dict[str, Tensor]]):
    def __init__(self, examples: int, shape: Shape) -> None:
        generator = torch.Generator().manual_seed(0)
        self.rows = torch.randint(0, shape.vocabulary, (examples, shape.length + 1), generator=generator)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.rows[index, :-1], "labels": self.rows[index, 1:]}
