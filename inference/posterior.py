"""The answer to a model: a distribution over trajectories in three parts, start, policy and dynamics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cai.inference.deferred import Later, deferrable, mapped, resolved, stored_fields
from cai.inference.dynamics import FixedDynamics, OutcomeDynamics
from cai.inference.messages import with_absorbed
from cai.inference.scoring import score_trajectories
from cai.inference.status import Status, Target
from cai.models.mdp import MDP
from cai.models.numerics import categorical_divergence, safe_log, weighted
from cai.models.trajectory import TrajectoryModel

if TYPE_CHECKING:
    import xarray

__all__ = ["Posterior", "QuantitiesOfQ", "measure", "tabular_posterior"]


@dataclass(frozen=True, eq=False)
class Posterior:
    """A distribution q over trajectories, and what it says.

    T steps, S states, A actions; index t is time t + 1 of the formulas. With a discount, the rows of `dynamics` and
    `state_marginals` sum to less than 1, and `absorbed` holds the rest. Over an infinite horizon the time axis has
    length 1 and `state_marginals` [1, S] counts expected visits. Where a backend cannot know a number it is None.

    Attributes:
        backend: the name of the backend.
        target: what the backend approximates.
        status: whether the answer can be used, and what to do if not.
        horizon: T (math.inf if infinite).
        log_evidence: log p(O_{1:T} = 1), nats, 0-dim; exact backends only.
        elbo: the bound on the log evidence that q attains, nats, 0-dim.
        values: [T, S], soft values in reward units; -inf where optimality is impossible.
        q_values: [T, S, A], reward units.
        action_probs: [T, S, A], q(a_t | s_t); the action prior where the row cannot matter.
        action_prior: [S, A], p(a | s); [T, S, A] for a Pyro program, which may change it over time.
        initial: [S], q(s_1).
        state_marginals: [T + 1, S], q(s_t).
        absorbed: [T + 1], the probability of having fallen into the discount's absorbing state.
        believed_return: expected sum of rewards under q, reward units.
        luck: KL of q's dynamics and start from the true ones, nats: what the plan hopes for.
        policy_divergence: KL of q's policy from the action prior along q, nats.
        policy_entropy: expected sum over live steps of H(q(. | s_t)), nats.
        model: the trajectory model or the Pyro program that was asked about.
        sampler: how `sample` draws, where start, policy and dynamics are not all of q.
        scorer: how `log_prob` scores, likewise.
        step_outcomes: q(s_{t+1} | s_t, a_t) over the listed outcomes, as `OutcomeDynamics.outcomes` returns it.
        details: further numbers of the backend, e.g. the history of an iteration.
    """

    backend: str
    target: Target
    status: Status
    horizon: int | float
    log_evidence: Tensor | None
    elbo: Tensor | None
    values: Tensor | None
    q_values: Tensor | None
    action_probs: Tensor
    action_prior: Tensor
    initial: Tensor
    state_marginals: Tensor
    absorbed: Tensor
    believed_return: Tensor | None
    luck: Tensor | None
    policy_divergence: Tensor | None
    policy_entropy: Tensor | None
    model: Any = field(repr=False)
    step_dynamics: Callable[[int], Tensor] = field(repr=False)
    step_luck: Callable[[int], Tensor] | None = field(repr=False, default=None)
    sampler: Callable[[int, int], tuple[Tensor, Tensor]] | None = field(repr=False, default=None)
    scorer: Callable[[Tensor, Tensor], Tensor] | None = field(repr=False, default=None)
    step_outcomes: Callable[[int], tuple[Tensor, Tensor]] | None = field(repr=False, default=None)
    details: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def steps(self) -> int:
        """The length of the time axis: T, or 1 over an infinite horizon."""
        if isinstance(self.model, TrajectoryModel):
            return self.model.steps
        return int(self.action_probs.shape[0])

    @property
    def mdp(self) -> MDP | None:
        """The process, where the question was a `TrajectoryModel`."""
        return self.model.mdp if isinstance(self.model, TrajectoryModel) else None

    @property
    def temperature(self) -> Any:
        """alpha; 1 for a Pyro program, whose factors are in nats."""
        return self.model.temperature if isinstance(self.model, TrajectoryModel) else 1.0

    def dynamics(self, t: int) -> Tensor:
        """[S, A, S], q(s_{t+1} | s_t, a_t) at time index t; dense, and built anew on each call.

        Rows sum to less than 1 with a discount. Rows that q never visits hold the true dynamics where these are known.

        Raises:
            IndexError: if t is not a time index of the answer.
        """
        return self.step_dynamics(self._time(t))

    def luck_map(self, t: int) -> Tensor:
        """[S, A], KL of q(s_{t+1} | s_t, a_t) from the true dynamics at time index t, in nats.

        Raises:
            ValueError: if the backend does not know it.
        """
        if self.step_luck is None:
            raise ValueError(f"backend {self.backend!r} does not know its luck step by step; use 'exact'")
        return self.step_luck(self._time(t))

    def luck_by_state(self) -> Tensor:
        """[S], the luck assumed in each state, summed over time along q, in nats; with that of the start it is `luck`.

        Raises:
            ValueError: if the backend does not know it.
        """
        policy, marginals = self.action_probs, self.state_marginals
        total = torch.zeros_like(policy[0, :, 0])
        for t in range(self.steps):
            total = total + marginals[t] * (policy[t] * self.luck_map(t)).sum(-1)
        return total.detach()

    def __repr__(self) -> str:
        known = {name: getattr(self, name) for name in ("log_evidence", "elbo", "believed_return", "luck")}
        numbers = ", ".join(f"{name}={float(value.detach()):.6g}" for name, value in known.items() if value is not None)
        head = f"{self.backend!r}, target={self.target}, status={self.status.label}, T={self.horizon}"
        return f"Posterior({head}, {numbers})"

    def sample(self, num_samples: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Draws trajectories from q.

        Args:
            num_samples: N.
            seed: of the generator; the global random state is left alone.

        Returns:
            States int64 [N, T + 1] (S is the absorbing state of a discount; [N, T] for a program that draws no
            s_{T+1}), and actions int64 [N, T].

        Raises:
            ValueError: if the horizon is infinite, or there is no q (p(O) = 0, or no particle left).
        """
        if self.status in (Status.IMPOSSIBLE, Status.DEGENERATE):
            raise ValueError(f"there is no posterior to sample: {self.status}")
        if num_samples < 1:
            raise ValueError(f"num_samples is {num_samples}; ask for at least 1")
        if self.sampler is not None:
            return self.sampler(num_samples, seed)
        if self.horizon == float("inf"):
            raise ValueError("trajectories of an infinite horizon have no end; extract the policy and roll it out")
        generator = torch.Generator().manual_seed(seed)
        state = _draw(self.initial.detach().expand(num_samples, -1), generator)
        states, actions = [state], []
        num_states, num_actions = self.action_prior.shape[-2:]
        policy = self.action_probs.detach()
        for t in range(self.steps):
            inside = state.clamp(max=num_states - 1)
            absorbed = state == num_states
            uniform = torch.full((num_samples, num_actions), 1.0 / num_actions, dtype=torch.float64)
            rows = torch.where(absorbed[:, None], uniform, policy[t][inside])
            action = _draw(rows, generator)
            following = self._draw_next(t, inside, action, generator)
            state = torch.where(absorbed, state, following)
            actions.append(action)
            states.append(state)
        return torch.stack(states, -1), torch.stack(actions, -1)

    def _draw_next(self, t: int, state: Tensor, action: Tensor, generator: torch.Generator) -> Tensor:
        """Next states [N] out of states 0..S-1, S for a fall; never dense where the outcomes are listed."""
        num_states = self.action_prior.shape[-2]
        if self.step_outcomes is not None and self.mdp is not None:
            alive, fallen = (part.detach()[state, action] for part in self.step_outcomes(t))
            outcome = _draw(torch.cat([alive, fallen.sum(-1, keepdim=True)], -1), generator)
            following = self.mdp.successors().expand_as(self.mdp.probabilities)[state, action]
            following = torch.cat([following, torch.full_like(following[:, :1], num_states)], -1)
            return following.gather(-1, outcome[:, None])[:, 0]
        rows = self.dynamics(t).detach()[state, action]
        missing = (1 - rows.sum(-1, keepdim=True)).clamp(min=0) if self._falls else torch.zeros_like(rows[:, :1])
        return _draw(torch.cat([rows, missing], -1), generator)

    def log_prob(self, states: Any, actions: Any) -> Tensor:
        """The log probability of whole trajectories under q, as `sample` returns them.

        Args:
            states: int [N, T + 1], S being the absorbing state of a discount ([N, T] for a program that draws no
                s_{T+1}).
            actions: int [N, T]; in the absorbing state they are uniform, as `sample` draws them.

        Returns:
            [N], log q(tau) in nats; -inf where q cannot go. For a program with further latents they are summed out.

        Raises:
            ValueError: if shapes or indices do not fit, the horizon is infinite, there is no q (p(O) = 0, or no
                particle left), or q has no probabilities of whole trajectories.
            TypeError: if states or actions are no whole numbers.
        """
        return score_trajectories(self, states, actions)

    @property
    def _falls(self) -> bool:
        return isinstance(self.model, TrajectoryModel) and self.model.discount < 1

    def _time(self, t: int) -> int:
        steps = self.steps
        if not -steps <= t < steps:
            raise IndexError(f"time index {t} is outside the answer; it has indices 0 to {steps - 1}")
        return t % steps

    def to_xarray(self) -> xarray.Dataset:
        """The tables with named axes: dims time, state, action; numbers as attributes.

        `state_marginals` and `absorbed` have the longer axis `time_of_state`, which ends at T + 1.
        """
        import xarray

        mdp = self.mdp
        num_states, num_actions = self.action_prior.shape[-2:]
        steps, longer = self.steps, self.state_marginals.shape[0]
        coordinates = {
            "time": list(range(1, steps + 1)),
            "time_of_state": list(range(1, longer + 1)),
            "state": [mdp.state_name(s) if mdp else str(s) for s in range(num_states)],
            "action": [mdp.action_name(a) if mdp else str(a) for a in range(num_actions)],
        }
        axes = {
            "values": ("time", "state"),
            "q_values": ("time", "state", "action"),
            "action_probs": ("time", "state", "action"),
            "action_prior": ("time", "state", "action")[-self.action_prior.dim() :],
            "initial": ("state",),
            "state_marginals": ("time_of_state", "state"),
            "absorbed": ("time_of_state",),
        }
        tables = {
            name: (dims, table.detach().cpu().numpy())
            for name, dims in axes.items()
            if (table := getattr(self, name)) is not None
        }
        scalars = ("log_evidence", "elbo", "believed_return", "luck", "policy_divergence", "policy_entropy")
        attributes: dict[str, Any] = {"backend": self.backend, "target": str(self.target), "status": self.status.label}
        attributes |= {name: float(getattr(self, name).detach()) for name in scalars if getattr(self, name) is not None}
        return xarray.Dataset(tables, coords=coordinates, attrs=attributes)

    def replace(self, **changes: Any) -> Posterior:
        """A copy with some attributes changed."""
        unknown = [name for name in changes if name not in self.__dataclass_fields__]
        if unknown:
            raise TypeError(f"a Posterior has no attribute {unknown[0]!r}")
        return Posterior(**stored_fields(self) | changes)


deferrable(
    Posterior,
    "initial",
    "elbo",
    "values",
    "q_values",
    "action_probs",
    "state_marginals",
    "absorbed",
    "believed_return",
    "luck",
    "policy_divergence",
    "policy_entropy",
)


def _draw(rows: Tensor, generator: torch.Generator) -> Tensor:
    """One index for each row of probabilities [N, K]; what has probability 0 is never drawn."""
    return torch.multinomial(rows, 1, generator=generator).squeeze(-1)


@dataclass(frozen=True)
class QuantitiesOfQ:
    """Expectations along q: see the attributes of `Posterior`."""

    state_marginals: Tensor
    absorbed: Tensor
    believed_return: Tensor
    luck: Tensor
    policy_divergence: Tensor
    policy_entropy: Tensor


def measure(
    model: TrajectoryModel,
    initial: Tensor,
    policy: Tensor,
    dynamics: OutcomeDynamics,
    visits: tuple[Tensor, Tensor] | None = None,
) -> QuantitiesOfQ:
    """Walks along q once and adds up what it believes, hopes for and pays.

    Args:
        model: the trajectory model.
        initial: [S], q(s_1).
        policy: [T, S, A].
        dynamics: of q.
        visits: marginals [T + 1, S] and absorbed [T + 1] where they are known already.
    """
    live, rows = model.live, [initial]
    returns = luck = divergence = entropy = initial.new_zeros(())
    for t in range(model.steps):
        rewards = model.reward_table(t)
        step = None
        if visits is None or rewards.shape[-1] > 1:
            step = dynamics.step(t)
        here = rows[-1] if visits is None else visits[0][t]
        joint = here[:, None] * policy[t]
        if visits is None and step is not None:
            rows.append(model.mdp.scatter(joint[..., None] * step.alive))
        here = torch.where(live, here, torch.zeros_like(here))
        joint = torch.where(live[:, None], joint, torch.zeros_like(joint))
        if step is None or rewards.shape[-1] == 1:
            returns = returns + weighted(joint, rewards[..., 0]).sum()
        else:
            chances = step.alive if step.fallen is None else step.alive + step.fallen
            returns = returns + weighted(joint[..., None] * chances, rewards).sum()
        if not isinstance(dynamics, FixedDynamics):
            paid = dynamics.divergence(t) if step is None or step.divergence is None else step.divergence
            luck = luck + weighted(joint, paid).sum()
        divergence = divergence + weighted(here, categorical_divergence(policy[t], model.action_prior)).sum()
        entropy = entropy - weighted(joint, safe_log(policy[t])).sum()
    luck = luck + categorical_divergence(initial, model.mdp.initial)
    marginals, absorbed = with_absorbed(model, torch.stack(rows)) if visits is None else visits
    return QuantitiesOfQ(marginals, absorbed, returns, luck, divergence, entropy)


def tabular_posterior(
    model: TrajectoryModel,
    *,
    backend: str,
    target: Target,
    status: Status,
    log_evidence: Tensor | None,
    elbo: Tensor | None,
    values: Tensor | Later,
    q_values: Tensor | Later,
    policy: Tensor | Later,
    initial: Tensor | Later,
    dynamics: OutcomeDynamics | Later | None = None,
    visits: tuple[Tensor, Tensor] | Later | None = None,
    sampler: Callable[[int, int], tuple[Tensor, Tensor]] | None = None,
    details: Mapping[str, Any] | None = None,
) -> Posterior:
    """Builds the posterior of a tabular backend; `values` [T, S] and `q_values` [T, S, A] in nats.

    What is expected along q is worked out when it is first asked for. Where `elbo` is None it is measured: what q
    earns, less what its policy and its luck cost.
    """
    dynamics = dynamics or FixedDynamics(model)
    temperature = model.temperature

    def measured() -> QuantitiesOfQ:
        return measure(model, resolved(initial), resolved(policy), resolved(dynamics), resolved(visits))

    def number(name: str) -> Any:
        return Later(lambda: getattr(found(), name))

    def bound() -> Tensor:
        of_q = found()
        paid = of_q.policy_divergence + of_q.luck
        return of_q.believed_return / temperature - paid + model.evidence_offset

    found = Later(measured)
    if isinstance(visits, Later) and not visits.held:  # numbers stay, tables do not
        gone: Any = None
        found = Later(lambda: replace(measured(), state_marginals=gone, absorbed=gone))
    attained: Any = Later(bound) if elbo is None else elbo
    chosen: Any = policy
    start: Any = initial
    marginals: Any = number("state_marginals") if visits is None else mapped(visits, lambda pair: pair[0])
    absorbed: Any = number("absorbed") if visits is None else mapped(visits, lambda pair: pair[1])
    return Posterior(
        backend=backend,
        target=target,
        status=status,
        horizon=model.horizon,
        log_evidence=log_evidence,
        elbo=attained,
        values=_in_reward_units(values, temperature),
        q_values=_in_reward_units(q_values, temperature),
        action_probs=chosen,
        action_prior=model.action_prior,
        initial=start,
        state_marginals=marginals,
        absorbed=absorbed,
        believed_return=number("believed_return"),
        luck=number("luck"),
        policy_divergence=number("policy_divergence"),
        policy_entropy=number("policy_entropy"),
        model=model,
        step_dynamics=lambda t: model.mdp.to_next_states(resolved(dynamics).outcomes(t)[0]),
        step_luck=lambda t: resolved(dynamics).divergence(t),
        sampler=sampler,
        step_outcomes=lambda t: resolved(dynamics).outcomes(t),
        details=MappingProxyType(dict(details or {})),
    )


def _in_reward_units(table: Tensor | Later, temperature: float | Tensor) -> Any:
    """Alpha times a table in nats, made when it is looked at; the table itself where alpha is 1."""
    if not isinstance(temperature, Tensor) and temperature == 1:
        return table
    if isinstance(table, Later):
        return mapped(table, lambda found: _scaled(found, temperature))
    return Later(lambda: _scaled(table, temperature), held=False)


def _scaled(table: Tensor, temperature: float | Tensor) -> Tensor:
    if not isinstance(temperature, Tensor):
        return temperature * table
    hopeless = torch.isinf(table)  # 0 * inf would make its gradient NaN
    return torch.where(hopeless, table.detach(), temperature * torch.where(hopeless, torch.zeros_like(table), table))
