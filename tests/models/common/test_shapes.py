"""The shape that tensors broadcast to is torch's own."""

import random

import pytest
import torch

from cai.models.common.shapes import broadcast_shapes


def test_shapes_are_those_of_torch_or_refused_by_both():
    draw, refused = random.Random(0), 0
    for _ in range(500):
        shapes = [[draw.choice((0, 1, 1, 2, 3)) for _ in range(draw.randrange(4))] for _ in range(draw.randrange(4))]
        try:
            want = torch.broadcast_tensors(torch.empty(()), *(torch.empty(shape) for shape in shapes))[0].shape
        except RuntimeError:
            refused += 1
            with pytest.raises(RuntimeError, match="do not broadcast"):
                broadcast_shapes(*shapes)
            continue
        assert broadcast_shapes(*shapes) == want, shapes
    assert 50 < refused < 450
