"""What a policy is worth in the true world, which is not conditioned on anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, overload

import torch
from torch import Tensor

from cai.evaluation.batch_results import OutcomeBatch
from cai.evaluation.continuous import ContinuousOutcome, evaluate_continuous
from cai.evaluation.endless_rollouts import endless_returns
from cai.evaluation.episodes import EpisodeOutcome, evaluate_episodes
from cai.evaluation.programs import SampledOutcome, evaluate_program, mean_of_worst
from cai.inference.tabular.believed_dynamics import FixedDynamics
from cai.inference.tabular.markov.chains import EndingChain, long_run, meets_forbidden
from cai.inference.tabular.markov.moments import return_moments
from cai.models.common.numerics import expectation, weighted
from cai.models.common.random_draws import seeded
from cai.models.common.storage import Saved, storable
from cai.models.continuous.world import World
from cai.models.environments.world import EnvironmentModel
from cai.models.trajectory.batch import ModelBatch
from cai.models.trajectory.model import TrajectoryModel
from cai.policies.policy import Policy

__all__ = ["Outcome", "evaluate", "fitting_table"]

TAIL = 0.05
STRETCH = 200  # steps of a rollout where the criterion is the average


@storable("outcome")
@dataclass(frozen=True, eq=False)
class Outcome(Saved):
    """What happens to a policy under the true dynamics. Returns are those of the discounted chain, in reward units.

    Where the criterion is the average, returns, entropy and occupancy are per step of the long run that the start leads
    to, and rollouts are stretches of that.

    Attributes:
        expected_return: exact; -inf if something forbidden can happen.
        standard_error: of the mean of the sampled returns, to hold `expected_return` against.
        std: standard deviation of the return; inf if something forbidden can happen. Exact over an infinite horizon,
            from rollouts over a finite one and where the criterion is the average.
        cvar: mean of the worst `tail` share of the returns, from rollouts.
        tail: that share.
        entropy: expected sum over live steps of the policy's entropy, nats, exact.
        occupancy: [T + 1, S], the probability of each state at each time, exact ([1, S] expected visits if stationary).
        absorbed: the probability that the discount has ended the chain by the horizon, exact.
        ends_in: for each region, the probability that s_{T+1} lies in it, exact (None over an infinite horizon).
        visits: for each region, the probability of entering it at all, exact (None over an infinite horizon).
        returns: [N], the sampled returns.
        cut: over an infinite horizon, how many of the rollouts were cut because they end too late (a warning says so,
            too). What was left of each is drawn from a law of the right mean and deviation, that of a sum over an
            exponential time, so `cvar` is right as far as that law is.
    """

    expected_return: float
    standard_error: float
    std: float
    cvar: float
    tail: float
    entropy: float
    occupancy: Tensor = field(repr=False)
    absorbed: float
    ends_in: Mapping[str, float] | None
    visits: Mapping[str, float] | None
    returns: Tensor = field(repr=False)
    cut: int = 0
    _stored_axes = {"expected_return": "", "cvar": "", "entropy": "", "occupancy": "V S counts", "returns": "N"}
    _stored_axes |= {"standard_error": "counts", "std": "counts", "cut": "counts", "tail": "chances"}
    _stored_axes |= {"absorbed": "chances", "ends_in": "chances", "visits": "chances"}

    def _repr_html_(self) -> str:
        """The numbers as a table."""
        shown = ("expected_return", "standard_error", "std", "cvar", "entropy")
        numbers = {name: getattr(self, name) for name in shown}
        numbers |= {"absorbed": self.absorbed} | ({"rollouts cut": self.cut} if self.cut else {})
        for what in ("ends_in", "visits"):
            numbers |= {f"{what} {region}": chance for region, chance in (getattr(self, what) or {}).items()}
        lines = "".join(f"<tr><th>{escape(name)}</th><td>{value:.6g}</td></tr>" for name, value in numbers.items())
        return f"<table><caption>Outcome in the true world</caption>{lines}</table>"

    def chance(self, what: str, region: str) -> float:
        """The probability "ends_in" or "visits" of a region, or "absorbed", by the name of the attribute."""
        found = getattr(self, what)
        return float(found[region] if region else found)


@overload
def evaluate(
    policy: Policy | Sequence[Policy],
    model: ModelBatch,
    *,
    regions: Mapping[str, Any] | None = None,
    num_rollouts: int | None = None,
    tail: float = TAIL,
    seed: int = 0,
    episodes: None = None,
) -> OutcomeBatch: ...


@overload
def evaluate(
    policy: Policy,
    model: TrajectoryModel,
    *,
    regions: Mapping[str, Any] | None = None,
    num_rollouts: int | None = None,
    tail: float = TAIL,
    seed: int = 0,
    episodes: None = None,
) -> Outcome: ...


@overload
def evaluate(
    policy: Any,
    model: World,
    *,
    regions: None = None,
    num_rollouts: int | None = None,
    tail: float = TAIL,
    seed: int = 0,
    episodes: None = None,
) -> ContinuousOutcome: ...


@overload
def evaluate(policy: Any, model: World, *, seed: int = 0, episodes: int) -> EpisodeOutcome: ...


@overload
def evaluate(
    policy: Any,
    model: EnvironmentModel,
    *,
    seed: int = 0,
    episodes: int | None = None,
) -> EpisodeOutcome: ...


@overload
def evaluate(
    policy: Any,
    model: Callable[[], Any],
    *,
    regions: None = None,
    num_rollouts: int | None = None,
    tail: float = TAIL,
    seed: int = 0,
    episodes: None = None,
) -> SampledOutcome: ...


def evaluate(
    policy: Any,
    model: TrajectoryModel | ModelBatch | World | EnvironmentModel | Callable[[], Any],
    *,
    regions: Mapping[str, Any] | None = None,
    num_rollouts: int | None = None,
    tail: float = TAIL,
    seed: int = 0,
    episodes: int | None = None,
) -> Outcome | OutcomeBatch | ContinuousOutcome | SampledOutcome | EpisodeOutcome:
    """Runs a policy in the true world: expectations exactly, spread and tail by rollouts.

    Args:
        policy: from `extract_policy`, or any `Policy` over the model's states and actions; for a batch one for all
            members, or a list of one for each.
        model: the trajectory model, whose dynamics are the truth here, in float64 on the CPU wherever it was moved; or
            a batch, whose members are tried one by one, each as on its own; or a continuous model, in which rollouts
            tell, and exact moments where model and policy are linear-Gaussian; or an environment
            (`cai.models.environment_model`), in which episodes are played; or a trajectory program, in which rollouts
            alone tell, on any policy with `act`.
        regions: named sets of states (masks, indices or names) whose visits and endings to report, besides those of
            the process.
        num_rollouts: N, simulated at once; 2000 unless given. Not of an environment. 0, where model and policy are
            linear-Gaussian, for the exact moments alone.
        tail: the share of worst returns that `cvar` averages, in (0, 1].
        seed: of the rollouts; the global random state is left alone.
        episodes: how many whole episodes to play, with and without the policy's own draws: 20 in an environment unless
            given; in a continuous model it asks for them in place of rollouts. Elsewhere it is refused.

    Returns:
        What happens; of a batch, an `OutcomeBatch`; of a continuous model, a `ContinuousOutcome`; of a program, a
        `SampledOutcome` in nats of its factors; of episodes an `EpisodeOutcome`.

    Raises:
        TypeError, ValueError: if the policy does not fit the model, or takes actions that are not available.
    """
    if isinstance(model, EnvironmentModel) or (isinstance(model, World) and episodes is not None):
        if regions or num_rollouts is not None:
            raise ValueError("episodes are whole, and know no regions: give episodes=... in place of num_rollouts")
        return evaluate_episodes(policy, model, episodes=20 if episodes is None else episodes, seed=seed)
    if episodes is not None:
        raise ValueError(
            "episodes= counts whole episodes of an environment or a continuous model; in a model with tables "
            "expectations are exact, and num_rollouts=... says how many rollouts measure the spread"
        )
    num_rollouts = 2000 if num_rollouts is None else num_rollouts
    if isinstance(model, ModelBatch):
        options: dict[str, Any] = {"regions": regions, "num_rollouts": num_rollouts, "tail": tail, "seed": seed}
        pairs = zip(_one_each(policy, len(model)), model, strict=True)
        return OutcomeBatch([evaluate(own, member, **options) for own, member in pairs])
    if not callable(model):
        got = type(model).__name__
        turned = "; the policy comes first, evaluate(policy, model)" if isinstance(policy, TrajectoryModel) else ""
        raise TypeError(f"evaluate needs a TrajectoryModel, whose dynamics it knows, or a program; got {got}{turned}")
    if num_rollouts < 2 and not (num_rollouts == 0 and isinstance(model, World)):
        raise ValueError(f"num_rollouts is {num_rollouts}; a spread needs at least 2")
    if not 0 < tail <= 1:
        raise ValueError(f"tail is {tail}; it is a share of the returns: give a number in (0, 1]")
    if not isinstance(model, TrajectoryModel):
        if regions:
            raise ValueError("a program has no regions; leave them out, or evaluate in a TrajectoryModel")
        if isinstance(model, World):
            return evaluate_continuous(policy, model, num_rollouts=num_rollouts, tail=tail, seed=seed)
        return evaluate_program(policy, model, num_rollouts=num_rollouts, tail=tail, seed=seed)
    return _evaluate_tables(policy, model, regions or {}, num_rollouts, tail, seed)


def _evaluate_tables(
    policy: Policy, model: TrajectoryModel, regions: Mapping[str, Any], num_rollouts: int, tail: float, seed: int
) -> Outcome:
    """Expectations from tables, spread and tail by rollouts; arguments as of `evaluate`."""
    table, world = fitting_table(policy, model), model.host
    named = dict(world.mdp.regions) | {key: world.mdp.states(states) for key, states in regions.items()}
    generator = seeded(seed)
    with torch.no_grad():
        endless = not (world.is_finite or world.is_average)
        chain = EndingChain(world, world.mdp.initial, table, FixedDynamics(world)) if endless else None
        found = _expectations(world, table, named, chain)
        if chain is None:
            returns = _rollouts(world, table, found["occupancy"], num_rollouts, generator)
            spread = float(returns.std())
        else:
            moments = return_moments(chain)
            returns, found["cut"] = endless_returns(world, chain, moments, num_rollouts, generator)
            spread = moments.whole
    possible = math.isfinite(found["expected_return"])  # what is forbidden may be too rare for the rollouts
    spread = spread if possible and bool(torch.isfinite(returns).all()) else math.inf
    return Outcome(
        standard_error=spread / math.sqrt(num_rollouts),
        std=spread,
        cvar=mean_of_worst(returns, tail),
        tail=tail,
        returns=returns,
        **found,
    )


def _rollouts(
    model: TrajectoryModel, table: Tensor, occupancy: Tensor, number: int, generator: torch.Generator
) -> Tensor:
    """[N], returns; where the criterion is the average what a step earns over STRETCH steps of the long run."""
    if not model.is_average:
        return model.simulator.returns(table, number, model.steps, generator)
    begun = model.batch(initial=occupancy)[0]
    return begun.simulator.returns(table, number, STRETCH, generator) / STRETCH


def _expectations(
    model: TrajectoryModel, table: Tensor, regions: Mapping[str, Tensor], chain: EndingChain | None
) -> dict[str, Any]:
    """What is known exactly of a policy [T or 1, S, A]: the fields of `Outcome` that need no rollouts.

    Args:
        model: the trajectory model.
        table: the policy.
        regions: bool [S] each.
        chain: of the policy, where sums over an infinite horizon are asked for.
    """
    mdp, nonterminal = model.mdp, model.nonterminal
    size = mdp.num_states * mdp.num_actions
    entropies = torch.special.entr(table).sum(-1)  # [T or 1, S]
    # The first chain counts everything; of the others, one a region, each leaves the count as it enters its region.
    inside = torch.stack([torch.zeros_like(nonterminal), *regions.values()])
    mass = mdp.initial.expand(len(inside), -1)
    entered = torch.zeros(len(inside), dtype=mass.dtype)
    occupancy, taken, entropy = [], torch.zeros_like(table[0]), 0.0  # taken: [S, A], how often in nonterminal states
    expected_return = 0.0
    if model.is_average:
        expected_return = -math.inf if meets_forbidden(model, table[0]) else 0.0
        visits = long_run(model, mdp.initial, table[0], FixedDynamics(model))[None]
        mass, absorbed = visits, visits.new_zeros(1)
    elif chain is not None:
        visits = chain.visits()[None]
        mass, absorbed = visits, (visits[0] * chain.fallen).sum()[None]
    for t in range(model.steps):
        occupancy.append(mass[0])
        entered = entered + torch.where(inside, mass, 0.0).sum(-1)
        mass = torch.where(inside, 0.0, mass)
        step = t if len(table) > 1 else 0
        flow = mass[:, :, None] * table[step]
        here = torch.where(nonterminal[:, None], flow[0], 0.0)
        taken += here
        entropy += float(torch.where(nonterminal, mass[0] * entropies[step], 0.0).sum())
        if len(model.reward_times) > 1 or t == model.steps - 1:  # else all steps pay by one table, once they are added
            expected_return += float(weighted(taken, _mean_rewards(model, t)).sum())
            taken = torch.zeros_like(taken)
        if model.is_finite:
            flow = (flow * model.continuation_probability[:, None]).reshape(len(flow), size)
            if mdp.next_states is None:
                mass = flow @ mdp.probabilities.reshape(size, -1)
            else:
                targets, weights = mdp.next_states.reshape(-1), mdp.probabilities.reshape(size, -1)
                moved = [(row[:, None] * weights).reshape(-1) for row in flow]
                mass = torch.stack([mass.new_zeros(mdp.num_states).index_add(0, targets, row) for row in moved])
    found: dict[str, Any] = {"expected_return": expected_return, "entropy": entropy, "ends_in": None, "visits": None}
    if not model.is_finite:
        return found | {"occupancy": visits, "absorbed": float(absorbed[-1])}
    occupancy.append(mass[0])
    visited = (entered + torch.where(inside, mass, 0.0).sum(-1)).clamp(max=1.0).tolist()
    found["ends_in"] = {key: float(mass[0][region].sum()) for key, region in regions.items()}
    found["visits"] = dict(zip(regions, visited[1:], strict=True))
    lost = max(0.0, 1 - float(mass[0].sum())) if model.discount < 1 else 0.0
    return found | {"occupancy": torch.stack(occupancy), "absorbed": lost}


def _mean_rewards(model: TrajectoryModel, t: int) -> Tensor:
    """[S, A], the expected reward of each action at time index t; -inf where something forbidden can happen."""
    rewards = model.reward_table(t)
    return rewards[..., 0] if rewards.shape[-1] == 1 else expectation(model.mdp.probabilities, rewards)


def _one_each(policy: Policy | Sequence[Policy], number: int) -> list[Policy]:
    """A policy for each member of a batch."""
    if not isinstance(policy, (list, tuple)):
        return [policy] * number  # type: ignore[list-item]  # what is no policy is refused member by member
    if len(policy) != number:
        raise ValueError(
            f"there are {len(policy)} policies for {number} members of the batch; give one for each, or one for all"
        )
    return list(policy)


def fitting_table(policy: Policy, model: TrajectoryModel, in_order: bool = True) -> Tensor:
    """The policy's [T, S, A] for this model, [1, S, A] if it is stationary.

    Args:
        policy: with names or without.
        model: whose states and actions it is for.
        in_order: whether a table of the same names in another order is put in order; else it is refused.
    """
    if hasattr(policy, "belief"):
        raise TypeError(
            f"a {type(policy).__name__} acts on what it observes; use "
            "cai.evaluation.evaluate_belief_policy(policy, model)"
        )
    if not isinstance(policy, Policy):
        raise TypeError(
            f"expected a Policy, got {type(policy).__name__}; use extract_policy(posterior) or Policy(table)"
        )
    mdp, table = model.mdp, policy.action_probs
    if tuple(table.shape[1:]) != (mdp.num_states, mdp.num_actions):
        raise ValueError(
            f"the policy is for {table.shape[1]} states and {table.shape[2]} actions; "
            f"the model has {mdp.num_states} and {mdp.num_actions}"
        )
    for what, axis in (("state_names", 1), ("action_names", 2)):
        own, other = getattr(policy, what), getattr(mdp, what)
        if own is None or other is None or tuple(own) == tuple(other):
            continue
        if set(own) == set(other) and in_order:
            rank = {name: place for place, name in enumerate(own)}
            table = table[(slice(None),) * axis + ([rank[name] for name in other],)]
            continue
        place = next(i for i, pair in enumerate(zip(own, other, strict=True)) if pair[0] != pair[1])
        why = "they are in another order" if set(own) == set(other) else "it was made for another model"
        raise ValueError(
            f"the policy's {what} differ from the model's: number {place} is {own[place]!r} there and "
            f"{other[place]!r} here; {why}"
        )
    forbidden = (table > 0) & ~mdp.host.available
    if forbidden.any():
        t, state, action = torch.nonzero(forbidden)[0].tolist()
        raise ValueError(
            f"the policy takes action {mdp.action_name(action)} in state {mdp.state_name(state)} at time index {t}, "
            "which is not available there"
        )
    if policy.stationary:
        return table
    if not model.is_finite:
        what = "the horizon is infinite and the policy knows finitely many steps"
        raise ValueError(f"{what}; give a stationary one, as Policy(table, stationary=True) is")
    if table.shape[0] < model.steps:
        raise ValueError(
            f"the policy knows {table.shape[0]} steps, the model has {model.steps}; infer with a longer horizon"
        )
    return table[: model.steps]
