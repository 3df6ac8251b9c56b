"""Gradients of the bound from sampled trajectories, for what is too large to enumerate or is not discrete.

    grad = E_q[sum_t grad log q(a_t | s_t) (G_t - b_t)],  G_t = sum_{u >= t} r_u / alpha - log q(a_u|s_u) / p(a_u|s_u)

The score-function gradient (Williams 1992) of Levine 2018, section 4.1. The baseline b_t of a trajectory is the mean
of G_t over all others, which leaves the gradient unbiased. A discount weights the terms of a trajectory by the chance
that the chain still goes on, instead of ending trajectories at random: the same mean with less noise.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from cai.inference.core.progress import progress
from cai.inference.core.status import Status
from cai.inference.programs.exact_sites import ExactSites, redistribute, support_logits
from cai.inference.programs.guide import drawn_sites
from cai.inference.restricted.parameters import PolicyParameters
from cai.models.programs.inspect import Program, ProgramInfo, explain, private_store, site_time
from cai.models.rewards.tables import Step, evaluate_factor
from cai.models.trajectory.model import TrajectoryModel

__all__ = [
    "Draws",
    "ProgramSampler",
    "SampledFit",
    "Sampler",
    "SamplingOptions",
    "TableSampler",
    "fit_by_samples",
    "sampled_gradient",
]

logger = logging.getLogger("cai.inference")

Baseline = Literal["leave-one-out", "none"]
WINDOW = 50  # steps whose mean bound is compared with that of the steps before
HALVINGS = 4  # of the learning rate, before the fit counts as settled


@dataclass(frozen=True, eq=False)
class Draws:
    """N trajectories of q, T steps.

    Attributes:
        log_probs: [T, N], log q(a_t | s_t), differentiable; 0 where no decision is made.
        rewards: [T, N], log factors from a_t on to a_{t+1} in nats, weighted by the chance that the chain goes on.
        before: [N], log factors that come before a_1.
        ratios: [T, N], log q(a_t | s_t) - log p(a_t | s_t), weighted in the same way.
        entropies: [T, N], H(q(. | s_t)), weighted too.
        states: int64 [N, T + 1], or [N, T] without s_{T+1}.
        actions: int64 [N, T].
        priors: T tensors [N, A], log p(a | s_t).
    """

    log_probs: Tensor
    rewards: Tensor
    before: Tensor
    ratios: Tensor
    entropies: Tensor
    states: Tensor
    actions: Tensor
    priors: list[Tensor]

    @property
    def totals(self) -> Tensor:
        """[N], what each trajectory says of the bound."""
        return self.before + (self.rewards - self.ratios).sum(0)


class Sampler(Protocol):
    """Draws trajectories under a policy."""

    def draw(self, policy: PolicyParameters, num_samples: int) -> Draws:
        """N trajectories."""


class TableSampler:
    """Trajectories of a `TrajectoryModel` with a finite horizon; O(N (T A + K)) time, no table is made.

    Args:
        model: the trajectory model.
        log_prior: [T, S, A] or [1, S, A], -inf also for what must not be done.
        seed: of the draws.
    """

    def __init__(self, model: TrajectoryModel, log_prior: Tensor, seed: int) -> None:
        self.model = model
        self.log_prior = log_prior
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, policy: PolicyParameters, num_samples: int) -> Draws:
        model, mdp = self.model, self.model.mdp
        initial = mdp.initial.detach()
        state = torch.multinomial(initial, num_samples, replacement=True, generator=self.generator)
        goes_on = torch.ones(num_samples, dtype=torch.float64)
        states, actions, priors, columns = [state], [], [], []
        true_prior = model.log_action_prior.detach()
        for t in range(model.steps):
            log_q = policy.log_probs(t, state, self.log_prior[t if len(self.log_prior) > 1 else 0][state])
            action = self._choose(log_q.detach().exp())
            outcome = self._choose(mdp.probabilities.detach()[state, action])
            following = outcome if mdp.next_states is None else mdp.next_states[state, action, outcome]
            live = model.live[state]
            reward = self._reward(state, action, outcome, following, t)
            chosen = log_q.gather(-1, action[:, None])[:, 0]
            ratio = chosen.detach() - true_prior[state, action]
            weight = goes_on * live
            earned, noise = weight * reward / model.temperature, weight * _entropy(log_q.detach())
            columns.append((chosen * live, earned, weight * ratio, noise))
            priors.append(true_prior[state])
            goes_on = goes_on * model.survival[state]
            state = following
            states.append(state)
            actions.append(action)
        log_probs, rewards, ratios, entropies = (torch.stack(part) for part in zip(*columns, strict=True))
        before = torch.full((num_samples,), model.evidence_offset, dtype=torch.float64)
        draws = torch.stack(states, -1), torch.stack(actions, -1)
        return Draws(log_probs, rewards, before, ratios, entropies, *draws, priors)

    def _choose(self, rows: Tensor) -> Tensor:
        return torch.multinomial(rows, 1, generator=self.generator)[:, 0]

    def _reward(self, state: Tensor, action: Tensor, outcome: Tensor, following: Tensor, t: int) -> Tensor:
        """[N], 0 where the state is terminal."""
        factor = self.model.reward
        zero = torch.zeros((), dtype=torch.int64)
        step = (
            Step(state, action, outcome, following, t) if factor.reads_outcome else Step(state, action, zero, zero, t)
        )
        values = evaluate_factor(factor, self.model.mdp, step).detach().expand(state.shape)
        return torch.where(self.model.live[state], values, torch.zeros_like(values))


class _PolicySites(Messenger):
    """Lets a policy choose at the action sites of a program that runs under a plate of N samples."""

    def __init__(self, policy: PolicyParameters, allowed: Tensor | None, num_samples: int) -> None:
        super().__init__()
        self.policy = policy
        self.allowed = allowed
        self.num_samples = num_samples
        self.log_q: dict[str, Tensor] = {}
        self.priors: dict[str, Tensor] = {}
        self._states: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        site = site_time(msg["name"])
        if site is None or site[0] != "a":
            return
        states, own = self._states[f"s_{site[1]}"], support_logits(msg["fn"])
        own = own.reshape(-1, own.shape[-1]).expand(self.num_samples, -1).detach()
        log_prior = own
        if self.allowed is not None:
            log_prior = torch.where(self.allowed[site[1] - 1][states], own, -torch.inf)
        log_q = self.policy.log_probs(site[1] - 1, states, log_prior)
        self.log_q[msg["name"]], self.priors[msg["name"]] = log_q, own
        msg["fn"] = redistribute(msg["fn"], log_q.detach())

    def _pyro_post_sample(self, msg: Any) -> None:
        site = site_time(msg["name"])
        if site is not None and site[0] == "s":
            self._states[msg["name"]] = torch.as_tensor(msg["value"]).long().reshape(-1).expand(self.num_samples)


class ProgramSampler:
    """Trajectories of a Pyro program, by running it under a plate with its action sites re-distributed.

    Every factor counts for the actions drawn before it. Latents besides s_t and a_t may be continuous.

    Args:
        program: any trajectory program.
        info: its outside.
        allowed: bool [T, S, A], what keeps clear of -inf, if that is known.
        seed: of the draws; the global random state is left alone.
    """

    def __init__(self, program: Program, info: ProgramInfo, allowed: Tensor | None, seed: int) -> None:
        self.program = program
        self.info = info
        self.allowed = allowed
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, policy: PolicyParameters, num_samples: int) -> Draws:
        sites = _PolicySites(policy, self.allowed, num_samples)
        with private_store(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=self.generator)))
            try:
                with poutine.trace() as tracer, pyro.plate("_samples", num_samples, dim=-1), sites, ExactSites():
                    self.program()
                tracer.trace.compute_log_prob(lambda name, node: node["is_observed"])
            except (RuntimeError, ValueError, IndexError) as error:
                raise ValueError(f"the program failed when many trajectories ran at once: {explain(error)}") from error
        nodes, horizon = tracer.trace.nodes, self.info.horizon
        before = torch.zeros(num_samples, dtype=torch.float64)
        rewards = torch.zeros(horizon, num_samples, dtype=torch.float64)
        t = -1
        for name, node in nodes.items():
            site = site_time(name)
            if site is not None and site[0] == "a":
                t = site[1] - 1
            elif name in self.info.factors:
                score = node["log_prob"].detach().double().reshape(-1).expand(num_samples)
                if t < 0:
                    before = before + score
                else:
                    rewards[t] = rewards[t] + score
        states = drawn_sites(nodes, "s", horizon + self.info.has_last_state, num_samples)
        actions = drawn_sites(nodes, "a", horizon, num_samples)
        log_q = [sites.log_q[f"a_{t + 1}"] for t in range(horizon)]
        priors = [sites.priors[f"a_{t + 1}"] for t in range(horizon)]
        log_probs = torch.stack([rows.gather(-1, actions[:, [t]])[:, 0] for t, rows in enumerate(log_q)])
        own = torch.stack([rows.gather(-1, actions[:, [t]])[:, 0] for t, rows in enumerate(priors)])
        entropies = torch.stack([_entropy(rows.detach()) for rows in log_q])
        return Draws(log_probs, rewards, before, log_probs.detach() - own, entropies, states, actions, priors)


def _entropy(log_q: Tensor) -> Tensor:
    """[N], of rows of log probabilities [N, A]."""
    possible = torch.isfinite(log_q)
    return -torch.where(possible, log_q.exp() * torch.where(possible, log_q, 0.0), 0.0).sum(-1)


def sampled_gradient(
    sampler: Sampler, policy: PolicyParameters, num_samples: int, baseline: Baseline
) -> tuple[Tensor, Tensor]:
    """An unbiased estimate of the bound's gradient in all parameters, one vector, and the N totals it rests on.

    Args:
        sampler: draws trajectories.
        policy: the parameters.
        num_samples: N trajectories.
        baseline: "leave-one-out" or "none".
    """
    with torch.enable_grad():
        draws = sampler.draw(policy, num_samples)
        if not bool(torch.isfinite(draws.totals).all()):
            return torch.zeros(sum(part.numel() for part in policy.parameters()), dtype=torch.float64), draws.totals
        to_go = (draws.rewards - draws.ratios).flip(0).cumsum(0).flip(0)
        if baseline == "leave-one-out":
            to_go = to_go - (to_go.sum(-1, keepdim=True) - to_go) / (num_samples - 1)
        surrogate = (draws.log_probs * to_go).sum(0).mean()
        parts = torch.autograd.grad(surrogate, policy.parameters(), allow_unused=True, materialize_grads=True)
    return torch.cat([part.reshape(-1) for part in parts]), draws.totals


@dataclass(frozen=True)
class SamplingOptions:
    """Hyper-parameters.

    Attributes:
        max_steps: the most steps of Adam.
        learning_rate: of Adam, in nats of the logits a step.
        num_samples: N trajectories a step.
        num_eval_samples: trajectories that measure the final policy.
        baseline: "leave-one-out" or "none".
    """

    max_steps: int
    learning_rate: float
    num_samples: int
    num_eval_samples: int
    baseline: Baseline


@dataclass(frozen=True, eq=False)
class SampledFit:
    """A fitted policy; its parameters were moved.

    Attributes:
        status: SUCCESS, NOT_CONVERGED, or UNAVOIDABLE where -inf was met.
        draws: fresh trajectories of the final policy.
        estimate: the mean of what they say of the bound, nats, 0-dim.
        standard_error: of the estimate, nats.
        history: the mean bound of every step's trajectories.
    """

    status: Status
    draws: Draws
    estimate: Tensor
    standard_error: float
    history: tuple[float, ...]


def fit_by_samples(sampler: Sampler, policy: PolicyParameters, options: SamplingOptions) -> SampledFit:
    """Maximises the bound with Adam on sampled gradients, then measures it with fresh samples.

    Every 50 steps the mean bound of these steps is compared with that of the 50 before. Unless it has grown by more
    than twice its standard error the learning rate is halved, and the fourth time the fit has settled. The answer is
    the mean of the parameters over the last 50 steps, whose noise is smaller. Interrupted, it is the mean so far.
    """
    history: list[float] = []
    status, halvings = Status.NOT_CONVERGED, 0
    leaves = policy.parameters()
    optimiser = torch.optim.Adam(leaves, lr=options.learning_rate, maximize=True)
    recent: list[Tensor] = []
    try:
        for step in progress(options.max_steps, "fitting the policy"):
            gradient, totals = sampled_gradient(sampler, policy, options.num_samples, options.baseline)
            history.append(float(totals.mean()))
            if not math.isfinite(history[-1]):
                break
            for leaf, part in zip(leaves, gradient.split([leaf.numel() for leaf in leaves]), strict=True):
                leaf.grad = part.reshape(leaf.shape)
            optimiser.step()
            recent = [*recent[-WINDOW + 1 :], torch.cat([leaf.detach().reshape(-1) for leaf in leaves])]
            if (step + 1) % WINDOW == 0 and step + 1 >= 2 * WINDOW and not _grows(history):
                halvings += 1
                if halvings == HALVINGS:
                    status = Status.SUCCESS
                    break
                for group in optimiser.param_groups:
                    group["lr"] /= 2
    except KeyboardInterrupt:
        logger.warning("the fit was interrupted after %d steps; the policy so far is kept", len(history))
    with torch.no_grad():
        if recent:
            mean = torch.stack(recent).mean(0)
            for leaf, part in zip(leaves, mean.split([leaf.numel() for leaf in leaves]), strict=True):
                leaf.copy_(part.reshape(leaf.shape))
        draws = sampler.draw(policy, options.num_eval_samples)
    totals = draws.totals
    if not bool(torch.isfinite(totals).all()):
        nothing = torch.full((), -torch.inf, dtype=torch.float64)
        return SampledFit(Status.UNAVOIDABLE, draws, nothing, 0.0, tuple(history))
    error = float(totals.std()) / math.sqrt(len(totals))
    return SampledFit(status, draws, totals.mean(), error, tuple(history))


def _grows(history: list[float]) -> bool:
    """Whether the mean of the last window is above that of the one before by more than two standard errors."""
    last = torch.tensor(history[-WINDOW:], dtype=torch.float64)
    before = torch.tensor(history[-2 * WINDOW : -WINDOW], dtype=torch.float64)
    error = math.sqrt(float(last.var() + before.var()) / WINDOW)
    return float(last.mean() - before.mean()) > 2 * error
