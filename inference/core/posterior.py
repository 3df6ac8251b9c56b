"""The answer to a model: a distribution over trajectories in three parts, start, policy and dynamics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cai.inference.core.lazy import deferrable, stored_fields
from cai.inference.core.status import Status, Target
from cai.inference.programs.scoring import score_trajectories
from cai.models.processes.mdp import MDP
from cai.models.trajectory.model import TrajectoryModel
from cai.models.trajectory.simulate import sample_chain

if TYPE_CHECKING:
    import xarray

__all__ = ["Posterior"]


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
        mdp = self.mdp
        listed = mdp is not None and self.step_outcomes is not None
        return sample_chain(
            self.initial,
            self.action_probs.__getitem__,
            self._moves,
            mdp.next_states if listed and mdp is not None else None,
            self.steps,
            num_samples,
            generator,
        )

    def _moves(self, t: int) -> tuple[Tensor, Tensor]:
        """At time index t: weights [S, A, K] of the outcomes as they are listed, and [S, A] of a fall."""
        if self.step_outcomes is not None and self.mdp is not None:
            alive, fallen = self.step_outcomes(t)
            return alive, fallen.sum(-1)
        rows = self.dynamics(t)
        return rows, (1 - rows.sum(-1)).clamp(min=0) if self._falls else torch.zeros_like(rows[..., 0])

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
