"""Grids that are too large, and boxes that do not hold what they should."""

import logging
import time

import pytest
import torch

from cai.models import LinearGaussianModel, LinearNormal, QuadraticReward, cart_pole, discretize
from cai.models.common.memory import TooLarge

AXIS = torch.linspace(-4.0, 4.0, 41, dtype=torch.float64)


def walk(start=0.0, spread=0.3, prior=1.0):
    return LinearGaussianModel(
        [[0.5]],
        [[0.5]],
        noise=[[0.1]],
        initial=([start], [[spread]]),
        horizon=2,
        reward=QuadraticReward(Q=[[1.0]]),
        action_prior=LinearNormal(L=[[prior]]),
    )


@pytest.mark.parametrize("nodes", [101, 1001])
def test_a_grid_beyond_memory_is_refused_before_it_is_made(nodes):
    """10^8 states and 101 actions; 10^12 states."""
    before = time.process_time()
    with pytest.raises(TooLarge, match=r"[GT]B .*(fewer nodes|coarser)"):
        discretize(cart_pole(), [torch.linspace(-4, 4, nodes)] * 4, [torch.linspace(-6, 6, 101)])
    assert time.process_time() - before < 5


def test_a_start_outside_the_box_is_refused_whether_certain_or_not():
    for spread in (0.0, 0.3):
        with pytest.raises(ValueError, match=r"start, \[6.0\], lies outside the box of the states"):
            discretize(walk(start=6.0, spread=spread), [AXIS], [AXIS])


@pytest.mark.parametrize(
    ("changes", "actions", "said"),
    [
        ({"start": 3.9}, AXIS, "the nodes of the states hold 0.57"),
        ({}, AXIS / 4, "the nodes of the actions hold 0.683 of the action prior in place of 1"),
        ({}, AXIS + 40, "of the action prior in place of 1"),
        ({"prior": 1e-4}, AXIS, "the nodes of the actions hold 7.98 of the action prior in place of 1"),
        ({}, AXIS, ""),
    ],
)
def test_a_box_that_cuts_off_a_density_says_how_much(changes, actions, said, caplog):
    with caplog.at_level(logging.WARNING, "cai.models"):
        discretize(walk(**changes), [AXIS], [actions])
    assert said in caplog.text if said else "in place of 1" not in caplog.text
