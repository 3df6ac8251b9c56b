"""Amortised Stein variational gradient descent: a network that draws actions from exp(Q / alpha) on a box.

Liu and Wang 2016 ("Stein variational gradient descent"), theorem 3.1; amortised by Feng, Wang and Liu 2017, and for
soft Q-learning by Haarnoja et al. 2017, equations (13) and (14). Particles live in u-space, a = tanh(u), and their
target is exp(Q(a) / alpha) |da / du|: at the edges of the box the density of a has no gradient that would keep
particles inside, and in action space their variance comes out too small.

A particle's direction is a mean over the others, without itself: but for the bandwidth, which a set chooses, its
expectation is then the direction of infinitely many particles, and vanishes where the network draws from its target.
With itself, each particle is drawn to the mode by 1 / K more than it should be: at K = 32 the variance of uniform
actions came out as .25, without as .32; it is 1/3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cai.inference.core.squashed import log_tanh_slope
from cai.models.common.checks import as_count
from cai.models.common.random_draws import OwnDraws, seeded

__all__ = ["amortized_svgd", "stein_direction"]

Draw = Callable[..., Tensor]


def stein_direction(particles: Tensor, scores: Tensor) -> Tensor:
    """Where particles are to move: the mean over j != i of k(x_j, x_i) grad log p(x_j) + grad_{x_j} k(x_j, x_i).

    The kernel is exp(-|x - y|^2 / h), h the median of the squared distances of a set over log K.

    Args:
        particles: [..., K, d], sets of K >= 2.
        scores: [..., K, d], gradients of the log density at the particles.

    Returns:
        [..., K, d].
    """
    number = particles.shape[-2]
    apart = particles[..., :, None, :] - particles[..., None, :, :]  # [..., j, i, d]
    squared = apart.square().sum(-1)
    others = ~torch.eye(number, dtype=torch.bool)
    width = squared[..., others].median(-1).values / math.log(max(number, 3))
    width = width.clamp(min=torch.finfo(squared.dtype).tiny)[..., None, None]
    kernel = torch.exp(-squared / width) * others
    attraction = torch.einsum("...ji,...jd->...id", kernel, scores)
    repulsion = -2 / width * torch.einsum("...ji,...jid->...id", kernel, apart)
    return (attraction + repulsion) / (number - 1)


def amortized_svgd(
    q_function: Callable[[Tensor], Tensor],
    action_dim: int,
    *,
    temperature: float = 1.0,
    steps: int = 2500,
    num_particles: int = 32,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    hidden_sizes: tuple[int, ...] = (64, 64),
    seed: int = 0,
) -> Draw:
    """Trains a network that turns Gaussian noise into actions of density exp(Q(a) / alpha) / Z on [-1, 1]^d.

    Args:
        q_function: actions [N, d] in [-1, 1] -> [N], in reward units, differentiable.
        action_dim: d.
        temperature: alpha > 0.
        steps: of Adam.
        num_particles: K, the particles of a set, which repel each other.
        batch_size: sets a step.
        learning_rate: of Adam.
        hidden_sizes: of the network's layers.
        seed: of its start and of the noise; the global random state is left alone.

    Returns:
        draw(n, *, generator) -> actions [n, d] in [-1, 1].

    Raises:
        TypeError, ValueError: if a number is out of range, or the Q-function returns another shape or numbers that are
            not finite.
    """
    dim, count = as_count(action_dim, "action_dim"), as_count(steps, "steps")
    number, sets = as_count(num_particles, "num_particles", 2), as_count(batch_size, "batch_size")
    for name, value in (("temperature", temperature), ("learning_rate", learning_rate)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; give a finite number above 0")
    generator = seeded(seed)
    with OwnDraws(generator):
        network = _network(dim, tuple(as_count(size, "hidden_sizes") for size in hidden_sizes))
    with torch.enable_grad():
        optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
        for _ in range(count):
            noise = torch.randn(sets * number, dim, generator=generator, dtype=torch.float64)
            particles = network(noise)
            at = particles.detach().requires_grad_()
            actions = torch.tanh(at)
            worth = _checked(q_function(actions), len(at))
            (scores,) = torch.autograd.grad((worth / temperature + log_tanh_slope(at)).sum(), at)
            shape = (sets, number, dim)
            direction = stein_direction(at.detach().reshape(shape), scores.reshape(shape)).reshape(-1, dim)
            optimizer.zero_grad()
            (-(particles * direction).sum(-1).mean()).backward()
            optimizer.step()
    network.requires_grad_(False)

    def draw(n: int, *, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(as_count(n, "n"), dim, generator=generator, dtype=torch.float64)
        return torch.tanh(network(noise))

    return draw


def _network(dim: int, sizes: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, size in zip((dim, *sizes), sizes, strict=False):
        layers += [nn.Linear(before, size, dtype=torch.float64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear((dim, *sizes)[-1], dim, dtype=torch.float64))


def _checked(worth: Any, number: int) -> Tensor:
    if not isinstance(worth, Tensor) or tuple(worth.shape) != (number,):
        got = list(worth.shape) if isinstance(worth, Tensor) else type(worth).__name__
        raise ValueError(f"q_function returned {got} for actions [{number}, d]; expected [{number}], one for each")
    if not bool(torch.isfinite(worth.detach()).all()):
        raise ValueError("q_function returned NaN or inf; it must be finite on the whole box")
    if not worth.requires_grad:  # a constant has the gradient 0
        return worth.detach()
    return worth
