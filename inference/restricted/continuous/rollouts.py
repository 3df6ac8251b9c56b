"""Trajectories of a policy in a continuous model, with what each says of the bound and of its gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cai.inference.restricted.continuous.box import score_of_prior
from cai.inference.restricted.continuous.guides import Guide, Network
from cai.inference.restricted.parameters import Leaves, flat
from cai.models.common.random_draws import OwnDraws
from cai.models.continuous.simulate import DivergedRollout, draw_start, draw_step
from cai.models.continuous.world import World

__all__ = ["Critic", "GuideParameters", "WorldDraws", "WorldProblem", "draw_starts", "draw_world", "world_gradient"]


class GuideParameters(Leaves):
    """A guide, and the baseline that is fitted beside it, as parameters that move together.

    Args:
        guide: the policy.
        critic: the baseline; None where there is none.
    """

    def __init__(self, guide: Guide, critic: Critic | None = None) -> None:
        self.guide, self.critic = guide, critic

    def parameters(self) -> list[Tensor]:
        """The leaves that move."""
        own: list[Tensor] = [part for part in self.guide.parameters() if part.requires_grad]
        return own if self.critic is None else [*own, *self.critic.parameters()]


class Critic(nn.Module):
    """A baseline: what is still to come from a state, as a network sees it.

    Args:
        guide: whose view of states it shares.
        hidden: the widths of its layers.
        stationary: whether it does not see the time.

    Attributes:
        middle, spread: by which what it says is brought to the size of returns.
    """

    middle: Tensor
    spread: Tensor

    def __init__(self, guide: Guide, hidden: tuple[int, ...] = (64, 64)) -> None:
        super().__init__()
        self.network = Network(guide.sizes, 1, hidden, False)
        for name, value in (("middle", 0.0), ("spread", 1.0)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))

    def forward(self, states: Tensor, times: Tensor) -> Tensor:
        """[N], in units of `spread` beyond `middle`, of states of size 1."""
        found: Tensor = self.network(states, times)[..., 0]
        return found


@dataclass(frozen=True, eq=False)
class WorldProblem:
    """What a fit in a continuous model works on.

    Attributes:
        model: the continuous model, without gradients of its own.
        policy: the parameters, set to those of whatever state is looked at.
        pathwise: whether gradients go along trajectories, instead of by the score function.
        starts: where chains of the fit start: states [K, n], a distribution, or None for the model's own start.
        values: soft values of what follows, (states [N, n], t) -> [N]; None where trajectories tell.
        blocked: None: what is forbidden shows only when it is drawn.
        why: nothing.
    """

    model: World
    policy: GuideParameters
    pathwise: bool
    starts: Any = None
    values: Any = None
    blocked: None = None
    why: str = ""


@dataclass(frozen=True, eq=False)
class WorldDraws:
    """N trajectories of q in nats, T steps, or fewer if all chains have ended; weighted by what the discount leaves.

    Attributes:
        rewards: [T, N], r / alpha, the last with the final reward; 0 once a chain has ended.
        ratios: [T, N], log q(a_t|s_t) - log p(a_t|s_t), log q alone where the prior is flat.
        entropies: [T, N], -log q(a_t|s_t).
        states: [T + 1, N, n].
        raw: [T, N, m], u of the actions.
        alive: bool [T, N], whether a chain goes on at a step.
        diverged: the time index at which chains left the finite numbers; None where none did.
    """

    rewards: Tensor
    ratios: Tensor
    entropies: Tensor
    states: Tensor
    raw: Tensor
    alive: Tensor
    diverged: int | None = None

    @property
    def totals(self) -> Tensor:
        """[N], what each trajectory says of the bound."""
        return (self.rewards - self.ratios).sum(0)


def draw_world(
    problem: WorldProblem, num_samples: int, generator: torch.Generator, *, trains: bool = False
) -> WorldDraws:
    """N trajectories of the problem's policy; everything random comes from the generator.

    Args:
        problem: what is fitted.
        num_samples: N.
        generator: of all draws.
        trains: whether they start where the fit starts its chains, and keep gradients where they go along trajectories.
    """
    model, guide = problem.model, problem.policy.guide
    with torch.set_grad_enabled(trains and problem.pathwise):
        state = draw_starts(problem.starts if trains else None, model, num_samples, generator)
        ended = model.has_ended(state)
        going = torch.ones(num_samples, dtype=torch.bool) if ended is None else ~ended
        states, raw, alive, weight = [state], [], [], 1.0
        columns: list[tuple[Tensor, Tensor, Tensor]] = []
        for t in range(model.steps):
            law = guide.law(state, t)
            with OwnDraws(generator):
                u = law.rsample_u() if torch.is_grad_enabled() else law.sample_u()
            action, log_q = law.to_action(u), law.log_prob_u(u)
            log_p = torch.zeros_like(log_q) if model.is_flat else score_of_prior(model, state, action, t)
            try:
                moved = draw_step(model, state, action, t, generator, falls=False)
            except DivergedRollout as error:
                return _lost(error.step, num_samples)
            zero = torch.zeros_like(log_q)
            reward = moved.rewards / model.temperature
            parts = (reward, torch.where(going, log_q - log_p, zero), torch.where(going, -log_q, zero))
            columns.append((weight * parts[0], weight * parts[1], weight * parts[2]))
            raw.append(u)
            alive.append(going)
            state, weight = moved.next_states, weight * model.discount
            going = going & moved.alive
            states.append(state)
            if not bool(going.any()):
                break
        rewards, ratios, entropies = (torch.stack(part) for part in zip(*columns, strict=True))
    return WorldDraws(rewards, ratios, entropies, torch.stack(states), torch.stack(raw), torch.stack(alive))


def world_gradient(problem: WorldProblem, options: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """An unbiased estimate of the bound's gradient in all parameters, one vector, and the N totals it rests on.

    Along trajectories it is the derivative of the mean total. By the score function it is that of
    mean sum_t log q(a_t|s_t) (G_t - b_t), G_t the rest of the total from t on and b_t the baseline: the mean over the
    other trajectories, or a network of state and time, whose squared error is then lowered by the same step.
    """
    policy = problem.policy
    draws = draw_world(problem, options.num_samples, generator, trains=True)
    totals = draws.totals.detach()
    if not bool(totals.isfinite().all()):
        return torch.zeros_like(policy.vector()), totals
    with torch.enable_grad():
        gain = draws.totals.mean() if problem.pathwise else _by_score(problem, draws, options.baseline)
        parts = torch.autograd.grad(gain, policy.parameters(), allow_unused=True, materialize_grads=True)
    gradient = flat(parts)
    if not bool(gradient.isfinite().all()):
        return torch.zeros_like(gradient), torch.full_like(totals, torch.nan)
    return gradient, totals


def _by_score(problem: WorldProblem, draws: WorldDraws, baseline: str) -> Tensor:
    steps, num_samples = draws.alive.shape
    guide, critic = problem.policy.guide, problem.policy.critic
    to_go = (draws.rewards - draws.ratios).flip(0).cumsum(0).flip(0)
    log_q, fit = _log_densities(guide, draws), torch.zeros((), dtype=torch.float64)
    if critic is not None:
        times = torch.arange(steps).repeat_interleave(num_samples)
        inside = ((draws.states[:-1] - guide.shift) / guide.scale).flatten(0, 1)
        said = critic(inside, times).reshape(steps, num_samples)
        missed = (to_go - critic.middle) / critic.spread - said
        fit = torch.where(draws.alive, missed, torch.zeros_like(missed)).square().mean()
        to_go = critic.spread * missed.detach()
    elif baseline == "leave-one-out":
        to_go = to_go - (to_go.sum(-1, keepdim=True) - to_go) / (num_samples - 1)
    scores = torch.where(draws.alive, log_q, torch.zeros_like(log_q))
    return (scores * to_go).sum(0).mean() - fit


def _log_densities(guide: Guide, draws: WorldDraws) -> Tensor:
    """[T, N], log q of the actions that were drawn, with gradients in the parameters."""
    steps, num_samples = draws.alive.shape
    if not guide.at_many_times:
        return torch.stack([guide.law(draws.states[t], t).log_prob_u(draws.raw[t]) for t in range(steps)])
    times = torch.arange(steps).repeat_interleave(num_samples)
    law = guide.law(draws.states[:-1].flatten(0, 1), times)
    return law.log_prob_u(draws.raw.flatten(0, 1)).reshape(steps, num_samples)


def draw_starts(given: Any, model: World, number: int, generator: torch.Generator) -> Tensor:
    """[N, n], states from those given, from a distribution, or from the model's own start."""
    if given is None:
        return draw_start(model, number, generator).detach()
    if isinstance(given, Tensor):
        return given[torch.randint(len(given), (number,), generator=generator)]
    with OwnDraws(generator), torch.no_grad():
        drawn: Tensor = given.sample((number,))
        return drawn.double()


def _lost(step: int, number: int) -> WorldDraws:
    nothing = torch.full((1, number), math.nan, dtype=torch.float64)
    going = torch.zeros(1, number, dtype=torch.bool)
    return WorldDraws(nothing, nothing, nothing, nothing, nothing, going, diverged=step)
