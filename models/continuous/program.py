"""A continuous model as a Pyro program: what runs when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyro
import torch
from pyro.distributions import Bernoulli

from cai.models.continuous.distributions import Staying

if TYPE_CHECKING:
    from cai.models.continuous.world import World

__all__ = ["check_program_exists", "run_program"]


def check_program_exists(world: World, *, draws: bool = True) -> None:
    """Refuses a model that is no Pyro program.

    Args:
        world: the model.
        draws: whether it is to be run, and not only to be drawn as a graph.

    Raises:
        ValueError: if its horizon is infinite, its prior flat, or it is a batch of models; says what to do.
    """
    if not world.is_finite:
        raise ValueError("a program has finitely many steps, and this model's horizon is infinite; give horizon=N")
    if world.batch_shape:
        raise ValueError(
            f"a program is one problem, and this model is a batch of shape {list(world.batch_shape)}; take one of "
            f"them: model.member({', '.join('0' for _ in world.batch_shape)})"
        )
    if draws and world.is_flat:
        raise ValueError(
            "the action prior is Flat(), Lebesgue measure, from which no action can be drawn; give a proper one, e.g. "
            "model.replace(action_prior=LinearNormal(L=100 * torch.eye(m))), or ask a backend that needs no draws: "
            "'exact' or 'variational' on a LinearGaussianModel, 'ilqr', 'mppi', or discretize(model, ...)"
        )


def run_program(world: World) -> None:
    """Draws a trajectory and scores it by its optimality, at the sites `s_1, a_1, O_1, s_2, ..., s_{T+1}`.

    Optimality O_t is the factor exp(r_t / alpha), the final reward being part of r_T. With a discount there is a
    further latent `alive_t` for t = 2..T, 1 with probability `discount`: once it is 0 the chain has ended, stays where
    it is and earns nothing, as after a terminal state.

    Raises:
        ValueError: as `check_program_exists`.
    """
    check_program_exists(world)
    state = pyro.sample("s_1", world.start_distribution())
    ended, fallen = world.has_ended(state), None
    for t in range(world.steps):
        action = pyro.sample(f"a_{t + 1}", world.prior(state, t))
        moves = world.transition(state, action, t)
        following = pyro.sample(f"s_{t + 2}", moves if ended is None else Staying(moves, state, ended))
        reward = world.paid(state, action, following, t)
        if ended is not None:
            reward = torch.where(ended, torch.zeros_like(reward), reward)
        pyro.factor(f"O_{t + 1}", reward / world.temperature)
        state = following
        if world.discount < 1 and t + 1 < world.steps:
            chance = torch.tensor(world.discount, dtype=reward.dtype, device=reward.device)  # made from no variable
            alive = pyro.sample(f"alive_{t + 2}", Bernoulli(chance))
            fallen = alive == 0 if fallen is None else fallen | (alive == 0)
        ended = world.has_ended(state)  # of a chain that stays where it ended, its state still says so
        if fallen is not None:
            ended = fallen if ended is None else ended | fallen
