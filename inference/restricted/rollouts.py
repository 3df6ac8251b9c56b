"""Trajectories under a policy: of a model, or of a program that runs with its action sites re-distributed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from cai.inference.programs.guide import ExactSites, drawn_sites, redistribute, support_logits
from cai.inference.restricted.parameters import PolicyParameters
from cai.models.common.numerics import plain_number
from cai.models.programs.inspect import Program, ProgramInfo, failure, site_time
from cai.models.programs.scores import bad_score, find_bad_site
from cai.models.programs.session import pyro_session
from cai.models.trajectory.model import TrajectoryModel
from cai.models.trajectory.simulate import draw_rows

__all__ = ["Draws", "ProgramSampler", "Sampler", "TableSampler"]


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

    def draw(self, policy: PolicyParameters, num_samples: int, generator: torch.Generator) -> Draws:
        """N trajectories; everything random comes from the generator."""


class TableSampler:
    """Trajectories of a `TrajectoryModel` with a finite horizon; O(N (T A + K)) time, no table is made.

    Args:
        model: the trajectory model.
        log_prior: [T, S, A] or [1, S, A], -inf also for what must not be done.
    """

    def __init__(self, model: TrajectoryModel, log_prior: Tensor) -> None:
        self.model = model
        self.log_prior = log_prior

    def draw(self, policy: PolicyParameters, num_samples: int, generator: torch.Generator) -> Draws:
        model, world = self.model, self.model.simulator
        state = world.reset(num_samples, generator)
        goes_on = torch.ones(num_samples, dtype=torch.float64)
        states, actions, priors, columns = [state], [], [], []
        true_prior = model.log_action_prior.detach()
        for t in range(model.steps):
            log_q = policy.log_probs(t, state, self.log_prior[t if len(self.log_prior) > 1 else 0][state])
            action, nonterminal = draw_rows(log_q.detach().exp(), generator), model.nonterminal[state]
            following, reward, _, _ = world.draw(state, action, t, generator, falls=False)
            chosen = log_q.gather(-1, action[:, None])[:, 0]
            ratio = chosen.detach() - true_prior[state, action]
            weight = goes_on * nonterminal
            earned, noise = weight * reward / model.temperature, weight * _entropy(log_q.detach())
            columns.append((chosen * nonterminal, earned, weight * ratio, noise))
            priors.append(true_prior[state])
            goes_on = goes_on * model.continuation_probability[state]
            state = following
            actions.append(action)
            states.append(state)
        log_probs, rewards, ratios, entropies = (torch.stack(part) for part in zip(*columns, strict=True))
        before = torch.full((num_samples,), plain_number(model.evidence_offset), dtype=torch.float64)
        draws = torch.stack(states, -1), torch.stack(actions, -1)
        return Draws(log_probs, rewards, before, ratios, entropies, *draws, priors)


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
    """

    def __init__(self, program: Program, info: ProgramInfo, allowed: Tensor | None) -> None:
        self.program = program
        self.info = info
        self.allowed = allowed

    def draw(self, policy: PolicyParameters, num_samples: int, generator: torch.Generator) -> Draws:
        sites = _PolicySites(policy, self.allowed, num_samples)
        with pyro_session(generator, self.program):
            try:
                with poutine.trace() as tracer, pyro.plate("_samples", num_samples, dim=-1), sites, ExactSites():
                    self.program()
                tracer.trace.compute_log_prob(lambda name, node: node["is_observed"])
            except (RuntimeError, ValueError, IndexError) as error:
                what = "the program failed when many trajectories ran at once"
                raise ValueError(failure(self.program, what, error)) from error
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
                if found := bad_score(name, score, {}):
                    raise ValueError(find_bad_site(self.program) or found)
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
