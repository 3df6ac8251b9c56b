"""Networks and draws whose gradients are worked out by hand, beside autograd of plain formulas."""

import math
from itertools import pairwise

import pytest
import torch

from cai.inference.learning.networks.layers.flat import Perceptron
from cai.inference.learning.networks.layers.squash import draw_squashed


@pytest.mark.parametrize(("sizes", "copies"), [((4, 8, 5, 2), 2), ((4, 8, 5, 1), 2), ((4, 8, 2), 1), ((4, 1), 1)])
@pytest.mark.parametrize("each", [False, True])
def test_gradients_by_hand_are_those_of_autograd(sizes, copies, each):
    net, draws = Perceptron(sizes, copies), torch.Generator().manual_seed(0)
    flat = net.start(draws).double().requires_grad_()
    shape = (copies, 7, 4) if each and copies > 1 else (7, 4)
    inputs = torch.randn(shape, generator=draws, dtype=torch.float64).requires_grad_()
    want = inputs
    for i, (before, after) in enumerate(pairwise(sizes)):
        at = copies * sum((a + 1) * b for a, b in pairwise(sizes[: i + 1]))
        ends = at + copies * before * after, at + copies * (before + 1) * after
        weight, bias = flat[at : ends[0]].view(copies, before, after), flat[ends[0] : ends[1]].view(copies, 1, after)
        want = (torch.relu(want) if i else want) @ weight + bias
    want = want if copies > 1 else want[0]
    slopes = torch.randn(want.shape, generator=draws, dtype=torch.float64)
    wanted = torch.autograd.grad(want, [flat, inputs], slopes)
    for which in ([0], [1], [0, 1]):
        taken = [flat, inputs]
        parts = [part if i in which else part.detach() for i, part in enumerate(taken)]
        found = torch.autograd.grad(net(*parts), [taken[i] for i in which], slopes)
        for i, part in zip(which, found, strict=True):
            torch.testing.assert_close(part, wanted[i], rtol=1e-12, atol=1e-12)


def test_the_slopes_of_draws_by_hand_are_those_of_autograd():
    draws = torch.Generator().manual_seed(0)
    head = torch.randn(50, 6, generator=draws, dtype=torch.float64)
    head[:, 3:] *= 4  # also beyond the bounds of deviations
    head.requires_grad_()
    noise = 0.3 * torch.randn(50, 3, generator=draws, dtype=torch.float64)
    mean, log_std = head.chunk(2, -1)
    u = mean + log_std.clamp(-5, 2).exp() * noise
    normal = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
    slope = -2 * (torch.logaddexp(u, -u) - math.log(2))  # log(1 - tanh(u)^2)
    want = u, (normal.log_prob(u) - slope).sum(-1)
    weights = [torch.randn(part.shape, generator=draws, dtype=torch.float64) for part in want]
    found = draw_squashed(head, noise)
    for part, wanted in zip(found, want, strict=True):
        torch.testing.assert_close(part, wanted, rtol=1e-11, atol=1e-11)
    for which in ([0], [1], [0, 1]):
        parts = ([parts[i] for i in which] for parts in (found, want, weights))
        got, wanted, given = parts
        torch.testing.assert_close(
            torch.autograd.grad(got, head, given, retain_graph=True),
            torch.autograd.grad(wanted, head, given, retain_graph=True),
            rtol=1e-11,
            atol=1e-11,
        )
