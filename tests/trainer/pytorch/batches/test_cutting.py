"""A batch is cut where it has a row for each example, or the run says why it cannot be."""

import pytest
import torch

from trackside.callbacks.errors import TracksideValueError
from trackside.trainer.pytorch.batches.cutting import Cutter

ANCHORS = torch.arange(4.0)


def batch_of(count, **more):
    rows = torch.arange(float(count))
    return {"x": rows, "targets": [{"boxes": torch.ones(n + 1, 4)} for n in range(count)], "anchors": ANCHORS, **more}


def test_samples_show_which_parts_have_rows_even_where_lengths_agree():
    cutter = Cutter(batch_of(4), 4, (batch_of(1), batch_of(2)))

    part = cutter.rows(batch_of(4), 4, 1, 3)

    assert part["x"].tolist() == [1.0, 2.0]
    assert [len(target["boxes"]) for target in part["targets"]] == [2, 3]
    assert part["anchors"] is ANCHORS


def test_without_samples_the_leading_size_decides():
    batch = {"x": torch.arange(3.0), "labels": [torch.ones(1), torch.ones(2), torch.ones(3)], "scale": torch.ones(())}

    part = Cutter(batch, 3, None).rows(batch, 3, 2, 3)

    assert (part["x"].tolist(), len(part["labels"]), part["scale"]) == ([2.0], 1, batch["scale"])


@pytest.mark.parametrize("with_samples", [True, False])
def test_what_cannot_be_cut_is_named(with_samples):
    graphs = [{"x": torch.ones(n), "edge_index": torch.full((2, 3 * n), n)} for n in (4, 1, 2)]

    with pytest.raises(TracksideValueError, match=r"batch\['edge_index'\] has neither a row for each example"):
        Cutter(graphs[0], 4, tuple(graphs[1:]) if with_samples else None)
