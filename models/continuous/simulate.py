"""One step of N chains through a continuous model, and their starts."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from cai.models.common.memory import require_chains
from cai.models.common.random_draws import OwnDraws
from cai.models.common.simulator import Transition

if TYPE_CHECKING:
    from pyro.distributions import TorchDistribution

    from cai.models.continuous.world import World

__all__ = ["DivergedRollout", "Rollout", "draw_start", "draw_step", "has_overflown", "run_chains"]

BEYOND = 0.25  # power of the largest float: where a coordinate is larger, a reward of -inf is an overflow


class DivergedRollout(ValueError):
    """A simulated chain left the finite numbers.

    Attributes:
        step: the time index, from 0, of the step that did it.
    """

    def __init__(self, what: str, step: int) -> None:
        self.step = step
        super().__init__(
            f"{what} at time index {step} are no finite numbers: the rollout diverged; use a shorter horizon, a "
            "smaller time step, or a policy that keeps the state bounded"
        )


def has_overflown(rewards: Tensor, states: Tensor) -> Tensor:
    """Bool [...], whether a reward [...] is -inf because its state [..., n] is so large."""
    return (rewards == -torch.inf) & (states.abs().amax(-1) > torch.finfo(states.dtype).max ** BEYOND)


class Rollout(NamedTuple):
    """What N chains met over all T steps.

    Attributes:
        states: [N, T + 1, ..., n].
        actions: [N, T, ..., m].
        rewards: [N, T, ...], reward units; the last with the final reward.
        alive: bool [N, T + 1, ...], whether a chain goes on from a state.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    alive: Tensor

    @property
    def returns(self) -> Tensor:
        """[N, ...], reward units."""
        return self.rewards.sum(1)


@torch.no_grad()
def run_chains(
    world: World, policy: Any, n: int, generator: torch.Generator, *, deterministic: bool = False
) -> Rollout:
    """Runs a policy in N chains over all steps of a model of finite horizon; see `World.rollout`."""
    if not world.is_finite:
        raise ValueError("a rollout has finitely many steps, and this model's horizon is infinite; give horizon=N")
    require_chains(n, world.state_dim + world.action_dim, world.steps)
    states = draw_start(world, n, generator)
    ends = world.has_ended(states)
    alive = torch.ones(states.shape[:-1], dtype=torch.bool) if ends is None else ~ends
    seen, taken, paid, living = [states], [], [], [alive]
    for t in range(world.steps):
        actions = policy.act(seen[-1], t, generator=generator, deterministic=deterministic).to(states.dtype)
        actions = torch.where(alive[..., None], actions, torch.zeros_like(actions))
        states, rewards, alive = draw_step(world, states, actions, t, generator)
        seen.append(torch.where(torch.isinf(states), seen[-1], states))
        taken.append(actions)
        paid.append(rewards)
        living.append(alive)
    return Rollout(torch.stack(seen, 1), torch.stack(taken, 1), torch.stack(paid, 1), torch.stack(living, 1))


def _draws(generator: torch.Generator | None) -> Any:
    return contextlib.nullcontext() if generator is None else OwnDraws(generator)


def _sample(distribution: TorchDistribution, shape: tuple[int, ...] = ()) -> Tensor:
    """A draw, through which gradients pass where they can."""
    with_gradient = distribution.has_rsample and torch.is_grad_enabled()
    drawn: Tensor = distribution.rsample(shape) if with_gradient else distribution.sample(shape)
    return drawn


def draw_start(world: World, n: int, generator: torch.Generator | None) -> Tensor:
    """[N, ..., n], states drawn from p(s_1), the batch axes of the model behind N."""
    require_chains(n, world.state_dim + world.action_dim)
    with _draws(generator):
        return _sample(world.start_distribution(), (n,))


def draw_step(
    world: World, states: Tensor, actions: Tensor, t: int, generator: torch.Generator | None, *, falls: bool = True
) -> Transition:
    """Moves N chains by one step.

    Args:
        world: the model.
        states: [N, ..., n]; inf throughout, the absorbing state of the discount, once it has ended a chain.
        actions: [N, ..., m]; of chains that have ended they are not looked at.
        t: the time index, from 0.
        generator: of the draws; torch's global one unless given.
        falls: whether the discount ends chains; False leaves it to the weights of the caller.

    Raises:
        ValueError: if an action has another shape.
        DivergedRollout: if a chain that goes on has a next state or a reward that is NaN or infinite (a reward of -inf,
            which is forbidden, is a number here).
    """
    if actions.shape[-1:] != (world.action_dim,) or actions.shape[:-1] != states.shape[:-1]:
        raise ValueError(
            f"actions have shape {list(actions.shape)}; expected {[*states.shape[:-1], world.action_dim]}, one for "
            f"each of the states {list(states.shape)}"
        )
    lost = torch.isinf(states).all(-1)
    inside = torch.where(lost[..., None], torch.zeros_like(states), states)
    ended = lost
    ends = world.has_ended(inside)
    if ends is not None:
        ended = ended | ends
    chosen = torch.where(ended[..., None], torch.zeros_like(actions), actions)
    with _draws(generator):
        following = _sample(world.transition(inside, chosen, t))
        following = torch.where(ended[..., None], inside, following)
        rewards = world.paid(inside, chosen, following, t)
        rewards = torch.where(ended, torch.zeros_like(rewards), rewards)
        if not bool(torch.isfinite(following.detach()).all()):
            raise DivergedRollout("the states reached", t)
        if bool((torch.isnan(rewards.detach()) | (rewards.detach() == torch.inf)).any()):
            raise DivergedRollout("the rewards", t)
        if falls and world.discount < 1:
            lost = lost | (~ended & (torch.rand(rewards.shape, dtype=states.dtype) >= world.discount))
    ends = world.has_ended(following)
    alive = ~lost if ends is None else ~(lost | ends)
    return Transition(following.masked_fill(lost[..., None], torch.inf), rewards, alive)
