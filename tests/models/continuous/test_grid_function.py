"""Functions on a grid: interpolated, at its edges, over time, in files."""

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator

import cai
from cai.models import GridFunction

AXES = [torch.linspace(-1, 2, 5), torch.tensor([0.0, 0.5, 3.0])]


def test_between_nodes_it_is_what_scipy_interpolates():
    table = torch.randn(4, 15, generator=torch.Generator().manual_seed(0)).double()
    found = GridFunction(AXES, table)
    points = torch.rand(50, 2, generator=torch.Generator().manual_seed(1)).double() * 3 - torch.tensor([1.0, 0.0])
    for t in range(4):
        want = RegularGridInterpolator([axis.double().numpy() for axis in AXES], table[t].reshape(5, 3).numpy())
        assert np.allclose(found(points, t), want(points.numpy()), atol=1e-12)
    assert torch.allclose(GridFunction(AXES, table[2])(points, 7), found(points, 2))
    assert found(points[0], 1).shape == ()
    assert float(found(torch.tensor([-9.0, 9.0]), 0)) == pytest.approx(float(table[0, 2]))


def test_minus_infinity_stays_at_its_node():
    table = torch.zeros(15)
    table[0] = -torch.inf
    found = GridFunction(AXES, table)
    assert float(found([-0.25, 0.0])) == 0
    assert float(found([-0.9, 0.1])) == -torch.inf


def test_it_is_read_back_from_a_file(tmp_path):
    before = GridFunction(AXES, torch.arange(15.0))
    cai.models.common.storage.save(tmp_path / "function", before)
    after = cai.load(tmp_path / "function")
    assert float(after([0.3, 0.7])) == float(before([0.3, 0.7]))
    assert repr(after) == "GridFunction(5 x 3 nodes, table=[15])"


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (
            lambda: GridFunction(AXES, torch.zeros(14)),
            r"table has shape \[14\]; expected \[T, S\] or \[S\] with S = 15",
        ),
        (lambda: GridFunction([AXES[0], AXES[1].flip(0)], torch.zeros(15)), "does not increase"),
        (lambda: GridFunction(AXES, torch.zeros(2, 15))(torch.zeros(1, 2), 2), "time index 2 is outside the table"),
        (lambda: GridFunction(AXES, torch.zeros(15))(torch.zeros(1, 3)), r"expected \[..., 2\]"),
        (lambda: GridFunction(AXES, torch.zeros(15))([0.0, torch.nan]), "a state is NaN or infinite"),
    ],
)
def test_what_is_refused(ask, text):
    with pytest.raises(ValueError, match=text):
        ask()
