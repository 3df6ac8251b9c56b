"""What a reward says: how probable optimality is, which factor the evidence comes from, and what each entry moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from cai.inference.core.backend import Backend
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Target
from cai.inference.registry import infer
from cai.inference.tabular.forward_messages import forward_messages
from cai.models.common.numerics import categorical_divergence, plain_number, safe_log, safe_logsumexp, weighted
from cai.models.common.storage import Saved, storable
from cai.models.continuous.world import World
from cai.models.processes.mdp import MDP
from cai.models.rewards.base import RewardFactor, Step, raw_table
from cai.models.trajectory.model import TrajectoryModel
from cai.studies.explain_continuous import ContinuousExplanation, explain_continuous

if TYPE_CHECKING:
    import pandas as pd
    import xarray
    from matplotlib.figure import Figure

__all__ = ["RewardExplanation", "explain_reward"]

ENTRY_LIMIT = 20_000_000  # entries of a gradient over [T, S, A, K]
COSTS = ("policy KL", "dynamics KL", "start KL", "r_max")


@storable("reward-explanation")
@dataclass(frozen=True, eq=False, repr=False)
class RewardExplanation(Saved):
    """What a reward says along an answer q. T steps, index t from 0; all but `rewards` in nats or per reward unit.

    A step is optimal with probability exp((r - r_max) / alpha) (Levine 2018, section 2.2): what optimality="bernoulli"
    writes down, and what "factor" means up to a constant for rewards of any sign. r_max is `model.r_max`, so that no
    probability exceeds 1; with terminal states or a discount it is at least 0, and an ended chain is optimal with
    exp(-r_max / alpha).

    Attributes:
        model: what was asked.
        posterior: q, the answer.
        prior_optimality: [T], p(O_t = 1) for trajectories of the action prior, conditioned on nothing.
        sequential_optimality: [T], p(O_t = 1 | O_1 = ... = O_{t-1} = 1). Their product is p(O_{1:T}) of the
            Bernoulli form.
        posterior_optimality: [T], E_q[exp((r_t - r_max) / alpha)]: how sure q's own steps are of being optimal.
        terms: the additive factors of the reward by name, as `RewardFactor.terms` splits them.
        rewards: [T, N], what q expects of each term at each step, reward units.
        costs: [T, 4], minus KL of the policy, of the dynamics and of the start, and minus r_max / alpha where the model
            counts it ("bernoulli").
        total: the bound, which for the exact target is log p(O): the sum over `rewards` / alpha and over `costs`.
        evidence_gradient: [T, S, A, 1 or K], d total / d r_t(s, a[, outcome]): q(s_t, a_t[, outcome]) / alpha.
        visit_gradient: the same of `visits`; None unless states were chosen.
        visits: what the chosen states get of q: see `explain_reward`.
        chosen: bool [S], those states.
    """

    model: TrajectoryModel
    posterior: Posterior
    prior_optimality: Tensor
    sequential_optimality: Tensor
    posterior_optimality: Tensor
    terms: tuple[str, ...]
    rewards: Tensor
    costs: Tensor
    total: float
    evidence_gradient: Tensor
    visit_gradient: Tensor | None
    visits: float | None
    chosen: Tensor | None

    def __repr__(self) -> str:
        return (
            f"RewardExplanation of {self.model.name!r} by {self.posterior.backend!r}: {self.total:.6g} nats over "
            f"{self.model.steps} steps and {len(self.terms)} terms; see to_frame()"
        )

    @property
    def shares(self) -> Tensor:
        """[T, N + 4], what each term and each cost adds to `total` at each step, in nats."""
        return torch.cat([self.rewards / plain_number(self.model.temperature), self.costs], -1)

    def to_frame(self) -> pd.DataFrame:
        """A row for each term and each cost, and their total: nats, reward units, and the part of all rewards."""
        import pandas as pd

        nats = self.shares.sum(0)
        units: list[float | None] = [*self.rewards.sum(0).tolist(), *[None] * len(COSTS)]
        rows = [
            {"share": name, "kind": "reward" if i < len(self.terms) else "cost", "nats": value, "reward": unit}
            for i, (name, value, unit) in enumerate(zip((*self.terms, *COSTS), nats.tolist(), units, strict=True))
        ]
        total = {"share": "total", "kind": "total", "nats": float(nats.sum()), "reward": float(self.rewards.sum())}
        return pd.DataFrame([*rows, total]).set_index("share")

    def to_xarray(self) -> xarray.Dataset:
        """Everything with named axes: time, state, action, outcome, and share (the terms and the costs)."""
        import xarray

        mdp = self.model.mdp
        coordinates = {
            "time": list(range(1, self.model.steps + 1)),
            "state": [mdp.state_name(s) for s in range(mdp.num_states)],
            "action": [mdp.action_name(a) for a in range(mdp.num_actions)],
            "share": [*self.terms, *COSTS],
        }
        entry = ("time", "state", "action", "outcome")
        tables: dict[str, tuple[Any, Any]] = {
            "prior_optimality": ("time", self.prior_optimality.numpy()),
            "sequential_optimality": ("time", self.sequential_optimality.numpy()),
            "posterior_optimality": ("time", self.posterior_optimality.numpy()),
            "shares": (("time", "share"), self.shares.numpy()),
            "evidence_gradient": (entry, self.evidence_gradient.numpy()),
        }
        if self.visit_gradient is not None:
            tables["visit_gradient"] = (entry, self.visit_gradient.numpy())
        attributes = {"backend": self.posterior.backend, "target": str(self.posterior.target), "total": self.total}
        return xarray.Dataset(tables, coords=coordinates, attrs=attributes)

    def state_map(self, gradient: Tensor | None = None) -> Tensor:
        """[S], a gradient added up over time, actions and outcomes: what one more reward unit in a state moves.

        Args:
            gradient: `evidence_gradient`, unless given.
        """
        return (self.evidence_gradient if gradient is None else gradient).sum((0, 2, 3))

    def plot(self, **options: Any) -> Figure:
        """Optimality over time, the shares of the evidence, and the gradients as maps; see `plot_explanation`."""
        from cai.studies.explain_plots import plot_explanation

        return plot_explanation(self, **options)


@dataclass(frozen=True, eq=False)
class _Nudge(RewardFactor):
    """Zeros by outcome that gradients are taken of."""

    table: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads_outcome", self.table.shape[-1] > 1)

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        return self.table[step.t][step.state, step.action, step.outcome if self.reads_outcome else 0]


@overload
def explain_reward(
    model: TrajectoryModel,
    backend: str | Backend = "exact",
    *,
    visits: Any = None,
    time: int | None = None,
    terms: None = None,
    num_rollouts: int = 2000,
    seed: int = 0,
) -> RewardExplanation: ...


@overload
def explain_reward(
    model: World,
    backend: str | Backend = "exact",
    *,
    visits: None = None,
    time: None = None,
    terms: Mapping[str, Callable[[Tensor, Tensor, int], Tensor]] | None = None,
    num_rollouts: int = 2000,
    seed: int = 0,
) -> ContinuousExplanation: ...


def explain_reward(
    model: TrajectoryModel | World,
    backend: str | Backend = "exact",
    *,
    visits: Any = None,
    time: int | None = None,
    terms: Mapping[str, Callable[[Tensor, Tensor, int], Tensor]] | None = None,
    num_rollouts: int = 2000,
    seed: int = 0,
) -> RewardExplanation | ContinuousExplanation:
    """Takes a reward apart along the answer to it; a reward as log probability is the idea of Levine 2018.

    Of a continuous model each term of the reward is told as the answer expects it and as its policy gets it in the true
    world: exactly where all is linear-Gaussian, else by trajectories. Of a table the answer's gradients are told, too.

    Args:
        model: with a finite horizon; a `TrajectoryModel`, or a continuous model.
        backend: a closed form of target "exact" (shares add up to the log evidence) or "fixed-dynamics" (to the bound).
        visits: states (mask, indices, names, or a region) whose visits by q are to be explained, too.
        time: the index of the state, 0 (the start) to T, at which they count: then it is the probability of being
            there. Unless given, it is that at the end (T) if they are all terminal, else the expected number of t =
            0..T with s_t among them.
        terms: of a continuous model, functions (s, a, t) -> [...] by name that add up to the reward of a step. Unless
            given: the matrices of a `QuadraticReward`, what the reward's own method `terms` returns, or the reward as
            one. The terms of a `TrajectoryModel` are those of its `RewardFactor`.
        num_rollouts: of a continuous model, how many trajectories are drawn where expectations are not exact.
        seed: for backends that draw, and for rollouts.

    Returns:
        Of a `TrajectoryModel` a `RewardExplanation`, of a continuous model a `ContinuousExplanation`.

    Raises:
        TypeError: if it is neither.
        ValueError: if the horizon is infinite, the backend is of another target or knows no outcomes, a gradient
            would have more than 2e7 entries, or optimality is impossible; or terms do not add up to the reward.
    """
    if isinstance(model, World):
        if visits is not None or time is not None:
            raise ValueError(
                "visits and time are about the numbered states of a TrajectoryModel; leave them out, or ask about "
                "cai.models.discretize(model, ...)"
            )
        return explain_continuous(model, backend, terms=terms, num_rollouts=num_rollouts, seed=seed)
    if not isinstance(model, TrajectoryModel):
        raise TypeError(
            "explain_reward takes a TrajectoryModel or a continuous model, whose reward it knows; got "
            f"{type(model).__name__}"
        )
    if terms is not None:
        raise ValueError("terms are for a continuous model; those of a TrajectoryModel are its reward.terms()")
    return _explain_tables(model, backend, visits, time, seed)


def _explain_tables(
    model: TrajectoryModel, backend: str | Backend, visits: Any, time: int | None, seed: int
) -> RewardExplanation:
    """`explain_reward` of a `TrajectoryModel`: the slopes of the bound in each entry of the reward, and the terms."""
    if not model.is_finite:
        raise ValueError("explain_reward looks at each step in turn, and the horizon is infinite; give horizon=N")
    outcomes = model.mdp.num_outcomes if model.reward.reads_outcome else 1
    entries = model.steps * model.mdp.num_states * model.mdp.num_actions * outcomes
    if entries > ENTRY_LIMIT:
        raise ValueError(
            f"the reward has T S A K = {entries:,} entries over time, and a gradient for each is too many; use a "
            "shorter horizon, or a process of successor lists (MDP.from_successors)"
        )
    nudge = torch.zeros(model.steps, model.mdp.num_states, model.mdp.num_actions, outcomes, dtype=torch.float64)
    nudge.requires_grad_()
    with torch.enable_grad():
        posterior = infer(model.replace(reward=model.reward + _Nudge(nudge)), backend, seed=seed)
        bound = _bound(posterior)
        (slope,) = torch.autograd.grad(bound, nudge, retain_graph=True)
        counted = chosen = visit_slope = None
        if visits is not None:
            chosen = model.mdp.states(visits)
            counted = _visits(model, posterior, chosen, time)
            (visit_slope,) = torch.autograd.grad(counted, nudge, allow_unused=True)
            visit_slope = torch.zeros_like(nudge) if visit_slope is None else visit_slope
    with torch.no_grad():
        posterior = infer(model, backend, seed=seed)  # without the zeros, and without their graph
        factors = model.reward.terms()
        rewards, costs, sure = _along(model, posterior, factors)
        return RewardExplanation(
            model=model,
            posterior=posterior,
            prior_optimality=_prior_optimality(model),
            sequential_optimality=_sequential_optimality(model),
            posterior_optimality=sure,
            terms=_names(factors, model.mdp),
            rewards=rewards,
            costs=costs,
            total=float(bound.detach()),
            evidence_gradient=slope.detach(),
            visit_gradient=None if visit_slope is None else visit_slope.detach(),
            visits=None if counted is None else float(counted.detach()),
            chosen=None if chosen is None else chosen.cpu(),
        )


def _bound(posterior: Posterior) -> Tensor:
    """The log evidence, or the bound of fixed dynamics, with its gradient; refuses answers of another kind."""
    if posterior.target not in (Target.EXACT, Target.FIXED_DYNAMICS):
        raise ValueError(
            f"backend {posterior.backend!r} has target {posterior.target}, whose bound is not made of these shares; "
            "use 'exact' or 'variational'"
        )
    # A policy that was searched for does not say how it would change with the reward.
    follows = posterior.elbo is not None and posterior.elbo.requires_grad and posterior.action_probs.requires_grad
    if not posterior.has_outcomes or not follows:
        raise ValueError(
            f"the answer of {posterior.backend!r} knows no outcomes, or not how its policy follows the reward; use a "
            "closed form: 'exact' or 'variational'"
        )
    bound: Any = posterior.elbo if posterior.log_evidence is None else posterior.log_evidence
    return bound


def _visits(model: TrajectoryModel, posterior: Posterior, chosen: Tensor, time: int | None) -> Tensor:
    """What the chosen states get of q, with its gradient; 0-dim."""
    if not bool(chosen.any()):
        raise ValueError("visits names no state; give at least one")
    if time is not None and not 0 <= time <= model.steps:
        raise ValueError(f"time is {time}; states have the indices 0 (the start) to {model.steps}")
    if time is None and bool(model.mdp.terminal[chosen].all()):
        time = model.steps
    rows = posterior.state_marginals[:, chosen]
    return rows.sum() if time is None else rows[time].sum()


def _names(terms: tuple[RewardFactor, ...], mdp: MDP) -> tuple[str, ...]:
    """The names of the terms, numbered where they are alike."""
    names = [term.describe(mdp) for term in terms]
    return tuple(
        f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name for i, name in enumerate(names)
    )


def _along(model: TrajectoryModel, posterior: Posterior, terms: tuple[RewardFactor, ...]) -> tuple[Tensor, ...]:
    """(expected rewards [T, N], costs [T, 4], expected optimality [T]) along q."""
    mdp, nonterminal = model.mdp, model.nonterminal
    rewards = torch.zeros(model.steps, len(terms), dtype=torch.float64)
    costs = torch.zeros(model.steps, len(COSTS), dtype=torch.float64)
    sure = torch.zeros(model.steps, dtype=torch.float64)
    ended = math.exp(-model.r_max / plain_number(model.temperature))
    for t in range(model.steps):
        here = torch.where(nonterminal, posterior.state_marginals[t], 0.0)
        pairs = here[:, None] * posterior.action_probs[t]
        alive, fallen = posterior.outcomes(t)
        joint = pairs[..., None] * (alive + fallen)
        for i, term in enumerate(terms):
            table = raw_table(term, mdp.host, t).to(joint)
            rewards[t, i] = weighted(joint, table.expand_as(joint)).sum()
        costs[t, 0] = -weighted(here, categorical_divergence(posterior.action_probs[t], model.action_prior)).sum()
        costs[t, 1] = -weighted(pairs, posterior.luck_map(t)).sum()
        chance = (model.log_potential(t) - model.r_max / plain_number(model.temperature)).exp().expand_as(joint)
        sure[t] = (joint * chance).sum() + (1 - here.sum()) * ended
    costs[0, 2] = -categorical_divergence(posterior.initial, mdp.initial)
    costs[:, 3] = plain_number(model.evidence_offset) / model.steps
    return rewards, costs, sure


def _prior_optimality(model: TrajectoryModel) -> Tensor:
    """[T], E[exp((r_t - r_max) / alpha)] for trajectories of the action prior under the true dynamics."""
    mdp, here, rows = model.mdp, model.mdp.initial, []
    shift = model.r_max / plain_number(model.temperature)
    for t in range(model.steps):
        joint = (here[:, None] * model.action_prior)[..., None] * mdp.probabilities
        chance = (model.log_potential(t) - shift).exp().expand_as(joint)
        absorbed = (1 - here.sum()).clamp(min=0)
        rows.append((joint * chance).sum() + absorbed * math.exp(-shift))
        here = mdp.scatter(joint * model.continuation_probability[:, None, None])
    return torch.stack(rows).double().cpu()


def _sequential_optimality(model: TrajectoryModel) -> Tensor:
    """[T], p(O_t = 1 | O_{1:t-1} = 1): ratios of p(O_{1:t}), whose part in the absorbing state is carried along."""
    ahead = forward_messages(model)
    alive = safe_logsumexp(ahead)
    absorbed, reached = alive.new_full((), -torch.inf), [alive[0]]
    falls = safe_log(model.fall)
    weights = safe_log(model.mdp.probabilities) + model.log_action_prior[..., None]
    for t in range(model.steps):
        scores = weights + model.log_potential(t) + (ahead[t] + falls)[:, None, None]
        fell = safe_logsumexp(scores.reshape(-1))
        absorbed = torch.logaddexp(absorbed, fell) if model.discount < 1 else absorbed
        reached.append(torch.logaddexp(alive[t + 1], absorbed))
    logs = torch.stack(reached)
    known = torch.isfinite(logs[1:]) & torch.isfinite(logs[:-1])
    steps = torch.where(known, logs[1:], 0.0) - torch.where(known, logs[:-1], 0.0)
    return (
        torch.where(known, (steps - model.r_max / plain_number(model.temperature)).exp(), torch.zeros_like(steps))
        .double()
        .cpu()
    )
