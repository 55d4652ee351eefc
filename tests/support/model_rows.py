"""Examples for models of many kinds, by their number; labels, boxes and nodes vary in number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

WIDTH = 8


def generator(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def drawn(number: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(number))


def text(number: int) -> dict[str, Tensor]:
    """Tokens of which the first few have a label."""
    ids = torch.randint(1, 31, (WIDTH,), generator=generator(number))
    labels = ids.clone()
    labels[2 + number % 6 :] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def classed(number: int) -> dict[str, Tensor]:
    return {**text(number), "labels": torch.tensor(number % 2)}


def scored(number: int) -> dict[str, Tensor]:
    return {**text(number), "labels": torch.tensor(number / 10)}


def spanned(number: int) -> dict[str, Tensor]:
    row = {name: value for name, value in text(number).items() if name != "labels"}
    return {**row, "start_positions": torch.tensor(number % 4), "end_positions": torch.tensor(number % 4 + 2)}


def pretraining(number: int) -> dict[str, Tensor]:
    return {**text(number), "next_sentence_label": torch.tensor(number % 2)}


def choices(number: int) -> dict[str, Tensor]:
    row = {name: torch.stack([value, value.roll(1)]) for name, value in text(number).items() if name != "labels"}
    return {**row, "labels": torch.tensor(number % 2)}


def image(number: int) -> dict[str, Tensor]:
    return {"pixel_values": drawn(number, 3, 8, 8), "labels": torch.tensor(number % 2)}


def map_of(number: int) -> dict[str, Tensor]:
    labels = torch.randint(0, 2, (8, 8), generator=generator(number))
    labels[: number % 4] = 255
    return {"pixel_values": drawn(number, 3, 8, 8), "labels": labels}


def pictured(number: int) -> dict[str, Tensor]:
    """Returns a picture with a text, of which one is the answer to the other."""
    return {"pixel_values": drawn(number, 3, 8, 8), **{k: v for k, v in text(number).items() if k != "labels"}}


def captioned(number: int) -> dict[str, Tensor]:
    return {"pixel_values": drawn(number, 3, 8, 8), "labels": text(number)["labels"]}


def boxes(number: int) -> dict[str, Any]:
    """A picture with one to three boxes."""
    count = 1 + number % 3
    found = torch.rand(count, 4, generator=generator(number)) * 0.4 + 0.3
    label = {"class_labels": torch.arange(count) % 3, "boxes": found}
    return {"pixel_values": drawn(number, 3, 32, 32), "labels": label}


def segments(number: int) -> dict[str, Any]:
    """A picture with one to three masks."""
    count = 1 + number % 3
    masks = (torch.rand(count, 64, 64, generator=generator(number)) > 0.5).float()
    classes = torch.arange(count) % 3
    return {"pixel_values": drawn(number, 3, 64, 64), "mask_labels": masks, "class_labels": classes}


def lists_of(*names: str) -> Callable[[list[Any]], Any]:
    """Return a collator that leaves some columns lists of one value for each example."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        stacked = default_collate([{k: v for k, v in row.items() if k not in names} for row in rows])
        return {**stacked, **{name: [row[name] for row in rows] for name in names}}

    return collate


def speech(number: int) -> dict[str, Tensor]:
    labels = torch.randint(1, 12, (4,), generator=generator(number))
    labels[1 + number % 4 :] = -100
    return {"input_values": drawn(number, 400), "labels": labels}


def spoken(number: int) -> dict[str, Tensor]:
    return {"input_features": drawn(number, 80, 16), "labels": text(number)["labels"]}


def asked(number: int) -> dict[str, Tensor]:
    """A picture, a question about it, and the answer."""
    ids = torch.cat([torch.full((5,), 31), text(number)["input_ids"][:4]])
    return {**captioned(number), "input_ids": ids}


def series(number: int) -> dict[str, Tensor]:
    past = {"past_values": drawn(number, 10), "past_time_features": drawn(number, 10, 1)}
    future = {"future_values": drawn(number + 1, 4), "future_time_features": drawn(number, 4, 1)}
    return {**past, **future, "past_observed_mask": torch.ones(10)}


class Graphs:
    """Graphs as one, the batch of a graph library: nodes, edges, the graph of each node, and a label for each graph."""

    def __init__(self, graphs: list[dict[str, Tensor]]) -> None:
        sizes = [len(graph["x"]) for graph in graphs]
        starts = torch.tensor([0, *sizes]).cumsum(0)
        self.x = torch.cat([graph["x"] for graph in graphs])
        self.edges = torch.cat([graph["edges"] + start for graph, start in zip(graphs, starts, strict=False)], dim=1)
        self.batch = torch.arange(len(graphs)).repeat_interleave(torch.tensor(sizes))
        self.y = torch.stack([graph["y"] for graph in graphs])
        self.num_graphs = len(graphs)

    def to(self, device: Any) -> Graphs:
        for name in ("x", "edges", "batch", "y"):
            setattr(self, name, getattr(self, name).to(device))
        return self


def graph(number: int) -> dict[str, Tensor]:
    nodes = 2 + number % 4
    edges = torch.stack([torch.arange(nodes), torch.arange(nodes).roll(1)])
    return {"x": drawn(number, nodes, 4), "edges": edges, "y": torch.tensor(number % 2)}
