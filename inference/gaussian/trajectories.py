"""Whole trajectories of a linear-Gaussian q: drawn, and scored by their density."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cai.inference.gaussian.moments import Belief
from cai.inference.gaussian.problem import GaussianPrior, times
from cai.inference.gaussian.spectrum import root_of
from cai.models.common.random_draws import seeded

__all__ = ["draw_trajectories", "gaussian_log_density", "score_trajectories"]


@torch.no_grad()
def draw_trajectories(belief: Belief, policy: GaussianPrior, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """States [N, T + 1, ..., n] and actions [N, T, ..., m], the batch axes behind time.

    Args:
        belief: q's start and dynamics.
        policy: q(a_t | s_t).
        number: N.
        seed: of the generator; the global random state is left alone.
    """
    generator = seeded(seed)

    def draw(mean: Tensor, root: Tensor) -> Tensor:
        shape = (number, *root.shape[:-1])
        return mean + times(root, torch.randn(shape, dtype=root.dtype, generator=generator))

    spread, noise = root_of(policy.covariance), root_of(belief.noise)
    state = draw(belief.mean, root_of(belief.covariance))
    states, actions = [state], []
    for t in range(policy.gain.shape[-3]):
        mean = times(policy.gain[..., t, :, :], state) + policy.offset[..., t, :]
        action = draw(mean, spread[..., t, :, :])
        mean = times(belief.A[..., t, :, :], state) + times(belief.B[..., t, :, :], action) + belief.offset[..., t, :]
        state = draw(mean, noise[..., t, :, :])
        states.append(state)
        actions.append(action)
    return torch.stack(states, 1), torch.stack(actions, 1)


def score_trajectories(belief: Belief, policy: GaussianPrior, states: Tensor, actions: Tensor) -> Tensor:
    """[N, ...], log q of trajectories as `draw_trajectories` returns them, nats; no covariance may be singular."""
    before, after = states[:, :-1].movedim(1, -2), states[:, 1:].movedim(1, -2)
    chosen = actions.movedim(1, -2)
    policy_mean = times(policy.gain, before) + policy.offset
    mean = times(belief.A, before) + times(belief.B, chosen) + belief.offset
    steps = gaussian_log_density(chosen - policy_mean, policy.covariance)
    steps = steps + gaussian_log_density(after - mean, belief.noise)
    return steps.sum(-1) + gaussian_log_density(states[:, 0] - belief.mean, belief.covariance)


def gaussian_log_density(apart: Tensor, covariance: Tensor) -> Tensor:
    """[...], log N(apart; 0, covariance) of [..., n], nats; the covariance [..., n, n] may not be singular."""
    root = torch.linalg.cholesky(covariance)
    scaled = torch.linalg.solve_triangular(root, apart[..., None], upper=False)[..., 0]
    width = root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + apart.shape[-1] / 2 * math.log(2 * math.pi)
    return -scaled.square().sum(-1) / 2 - width
