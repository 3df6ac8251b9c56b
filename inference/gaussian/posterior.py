"""The answer whose every part is Gaussian: a linear-Gaussian policy, linear-Gaussian dynamics, quadratic messages."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from cai.inference.core.lazy import lazy, without_gradient
from cai.inference.core.policy import policy_classes
from cai.inference.core.posterior import TABLES, Posterior
from cai.inference.core.storage import storable
from cai.inference.gaussian.messages import Messages
from cai.inference.gaussian.moments import Account, Belief, Moments, account, believe, forward, luck_by_step
from cai.inference.gaussian.policy import GaussianPolicy
from cai.inference.gaussian.problem import GaussianPrior, GaussianProblem, Quadratic, times
from cai.inference.gaussian.trajectories import draw_trajectories, score_trajectories
from cai.models.common.shapes import broadcast_shapes
from cai.models.continuous.linear_gaussian import Gaussian

if TYPE_CHECKING:
    import xarray

__all__ = ["Gains", "GaussianPosterior", "LinearDynamics"]

KINDS = ("stochastic", "greedy", "plan")


class LinearDynamics(NamedTuple):
    """s_{t+1} = A s_t + B a_t + offset + N(0, covariance).

    Attributes:
        A: [..., n, n].
        B: [..., n, m].
        offset: [..., n].
        covariance: [..., n, n].
    """

    A: Tensor
    B: Tensor
    offset: Tensor
    covariance: Tensor


class Gains:
    """K of each step, by calling: gains(t) [..., m, n].

    Where the criterion is the average, it is also the number that every answer calls its gain, reward units a step:
    float(gains).

    Attributes:
        per_step: that number, 0-dim or of the batch's shape; None where the criterion is another.
    """

    def __init__(self, answer: GaussianPosterior) -> None:
        self._answer = answer

    @property
    def per_step(self) -> Tensor | None:
        return self._answer.average_reward

    def __call__(self, t: int) -> Tensor:
        return self._answer.conduct.gain[..., self._answer._index(t), :, :]

    def __float__(self) -> float:
        if self.per_step is None:
            raise TypeError("the criterion is the total, so no step has a gain of its own; gain(t) is the matrix K")
        return float(self.per_step.detach())

    def __repr__(self) -> str:
        return f"Gains of {self._answer.conduct.gain.shape[-3]} steps; gain(t) is [..., m, n]"


class GaussianPosterior(Posterior):
    """A Gaussian distribution q over trajectories: its start, its policy and its dynamics are linear-Gaussian.

    n coordinates of a state, m of an action; t = 0 .. T - 1, for `value` also T. Batch axes lead everywhere, numbers
    included, which are 0-dim without a batch. Over an infinite horizon one step stands for all, at any t.

    Attributes:
        problem: what was asked, as tensors.
        messages: the quadratic messages; None for an answer that has none.
        conduct: q(a_t | s_t) = N(K s + k, Sigma): gain [..., T, m, n], offset [..., T, m], covariance [..., T, m, m].
        belief: q's start and dynamics.
        moments: means and covariances of states and actions along q.
        average_reward: [...], reward units a step, where the criterion is the average; else None.
    """

    problem: GaussianProblem
    messages: Messages | None = None
    average_reward: Tensor | None = None
    kind = "Gaussian"
    policy_on_estimates = False  # whether the policy acts on a filter's means instead of states

    # ---- numbers ------------------------------------------------------------------------------------------------

    @lazy
    def conduct(self) -> GaussianPrior:
        """q(a_t | s_t): gain, offset and covariance."""
        messages = self._messages("a policy")
        return GaussianPrior(messages.gain, messages.offset, messages.covariance)

    @lazy
    def belief(self) -> Belief:
        """Q's start and dynamics."""
        return believe(self.problem, self._messages("believed dynamics"))

    @lazy
    def moments(self) -> Moments:
        """Means and covariances along q."""
        if self.horizon == math.inf:
            raise ValueError("over an infinite horizon states have no marginals at a time; infer with horizon=N")
        return forward(self.belief, self.conduct)

    @lazy
    def account(self) -> Account:
        """What q earns and pays."""
        return account(self.problem, self.messages, self.belief, self.conduct, self.moments)

    @lazy
    def lucks(self) -> Tensor:
        """[..., T + 1], the luck of the start and of each step, nats."""
        if self.messages is None or not bool((self.messages.theta != 0).any()):
            return self.problem.mean.new_zeros(*self.problem.batch, self.steps + 1)
        return luck_by_step(self.problem, self.messages, self.belief, self.moments)

    @lazy
    def believed_return(self) -> Tensor | None:
        """Expected sum of rewards under q, reward units, [...]."""
        return self.account.believed_return

    @lazy
    def luck(self) -> Tensor | None:
        """KL of q's dynamics and start from the true ones, nats, [...]."""
        return self.account.luck

    @lazy
    def policy_divergence(self) -> Tensor | None:
        """KL of q's policy from the action prior along q, nats, [...]; minus its entropy where the prior is flat."""
        return self.account.policy_divergence

    @lazy
    def policy_entropy(self) -> Tensor | None:
        """Expected sum of the differential entropies of q(. | s_t), nats, [...]."""
        return self.account.policy_entropy

    @property
    def gain(self) -> Gains:  # type: ignore[override]  # K of each step; and the number
        """The gains K [..., m, n] of the policy N(K s + k, Sigma): posterior.gain(t) at time index t."""
        return Gains(self)

    def number(self, name: str) -> Tensor | None:
        return self.average_reward if name == "gain" else super().number(name)

    # ---- policy, values and dynamics ----------------------------------------------------------------------------

    def offset(self, t: int) -> Tensor:
        """[..., m], k of the policy N(K s + k, Sigma) at time index t."""
        return self.conduct.offset[..., self._index(t), :]

    def covariance(self, t: int) -> Tensor:
        """[..., m, m], Sigma of the policy N(K s + k, Sigma) at time index t."""
        return self.conduct.covariance[..., self._index(t), :, :]

    def message(self, t: int) -> Quadratic:
        """(P [..., n, n], p [..., n], rho [...]) of V_t(s) = -1/2 s'P s - p's - rho, reward units; t = 0 .. T."""
        P, p, rho = self._messages("messages").cost_to_go
        t = self._index(t, last=self.steps)
        return Quadratic(P[..., t, :, :], p[..., t, :], rho[..., t])

    def value(self, s: Any, t: int) -> Tensor:
        """[...], V_t(s) in reward units, of states [..., n] whose leading axes broadcast with the batch; t = 0 .. T."""
        return -self.message(t)(self._vector(s, self.problem.num_states, "s"))

    def q_value(self, s: Any, a: Any, t: int) -> Tensor:
        """[...], Q_t(s, a) in reward units, without the action prior: V = alpha log integral p(a|s) e^{Q/alpha} da.

        Args:
            s: states [..., n].
            a: actions [..., m].
            t: the time index, 0 .. T - 1.
        """
        problem, t = self.problem, self._index(t)
        states = self._vector(s, problem.num_states, "s")
        actions = self._vector(a, problem.num_actions, "a")
        tilted, kept = self._messages("q-values").ahead(problem)
        states, actions = _side_by_side(states, actions)
        z = torch.cat([states, actions], -1)
        cost = Quadratic(_at(problem.cost, 2, t), _at(problem.linear, 1, t), _at(problem.constant, 0, t))
        following = times(_at(problem.A, 2, t), states) + times(_at(problem.B, 2, t), actions)
        following = following + _at(problem.offset, 1, t)
        later = Quadratic(tilted.P[..., t, :, :], tilted.p[..., t, :], tilted.rho[..., t])
        return -cost(z) - kept[t] * later(following)

    def dynamics(self, t: int) -> LinearDynamics:
        """(A, B, offset, covariance) of q(s_{t+1} | s_t, a_t) at time index t, batch axes leading."""
        belief, t = self.belief, self._index(t)
        return LinearDynamics(
            belief.A[..., t, :, :], belief.B[..., t, :, :], belief.offset[..., t, :], belief.noise[..., t, :, :]
        )

    @property
    def initial(self) -> Gaussian:
        """The belief q(s_1) of the answer about where it starts."""
        return Gaussian(self.belief.mean, self.belief.covariance)

    def luck_by_step(self) -> Tensor:
        """[..., T + 1], the luck of the start and of each step, nats; their sum is `luck`.

        Raises:
            ValueError: if the horizon is infinite, or there is no answer.
        """
        self._refuse_failure("look into")
        if self.horizon == math.inf:
            raise ValueError("over an infinite horizon luck has no step of its own; infer with horizon=N")
        return self.lucks

    def policy(self, kind: str = "stochastic") -> GaussianPolicy:
        """What the answer says to do, ready to act.

        Args:
            kind: "stochastic", q(a_t | s_t) itself; "greedy", its mean with certainty; "plan", the mean actions of q's
                trajectories, whatever happens (open loop).

        Raises:
            ValueError: if there is no such kind, or no answer.
        """
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
        self._refuse_failure("act by")
        gain, offset, covariance = self.conduct
        if kind == "plan":
            gain, offset = torch.zeros_like(gain), self.moments.action_means
        if kind != "stochastic":
            covariance = torch.zeros_like(covariance)
        made: type[GaussianPolicy] = policy_classes["gaussian"]
        return made(
            gain,
            offset,
            covariance,
            stationary=self.horizon == math.inf,
            source=self.backend,
            on_estimates=self.policy_on_estimates,
        )

    # ---- what the base asks for ---------------------------------------------------------------------------------

    def _marginal(self, kind: str, t: int) -> Any:
        if self.horizon == math.inf:
            return self.initial
        moments, t = self.moments, t - 1
        if kind == "s":
            return Gaussian(moments.state_means[..., t, :], moments.state_covariances[..., t, :, :])
        return Gaussian(moments.action_means[..., t, :], moments.action_covariances[..., t, :, :])

    def _draw(self, num_samples: int, seed: int, latents: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        if self.horizon == math.inf:
            raise ValueError("trajectories of an infinite horizon have no end; infer with horizon=N to draw them")
        # torch folds products of tensors that ask for gradients, which gives other last digits than in a copy
        return *draw_trajectories(detached(self.belief), detached(self.conduct), num_samples, seed), {}

    def _score(self, states: Any, actions: Any) -> Tensor:
        problem = self.problem
        states = self._vector(states, problem.num_states, "states")
        actions = self._vector(actions, problem.num_actions, "actions")
        covariances = (self.belief.covariance, self.belief.noise, self.conduct.covariance)
        if not all(bool((torch.linalg.cholesky_ex(part)[1] == 0).all()) for part in covariances):
            why = "part of it is certain: a covariance of its start, its dynamics or its policy is singular"
            raise self._unknown("densities of trajectories", "ask marginal(site)", why)
        return score_trajectories(self.belief, self.conduct, states, actions)

    def _refuse_failure(self, what: str) -> None:
        if not self.status.ok and self.messages is None and "conduct" not in self.__dict__:
            raise ValueError(f"there is no posterior to {what}: {self.status}")

    def _index(self, t: int, last: int | None = None) -> int:
        self._refuse_failure("look into")
        if self.horizon == math.inf and t >= 0:
            return 0
        last = self.steps - 1 if last is None else last
        if not 0 <= t <= last:
            raise IndexError(f"time index {t} is outside the answer, which knows 0 to {last}")
        return t

    def _vector(self, value: Any, size: int, name: str) -> Tensor:
        found = torch.as_tensor(value, dtype=self.problem.mean.dtype, device=self.problem.mean.device)
        if found.dim() == 0 or found.shape[-1] != size:
            raise ValueError(f"{name} has shape {list(found.shape)}; expected [..., {size}]")
        return found

    def _messages(self, what: str) -> Messages:
        self._refuse_failure("look into")
        if self.messages is None:
            raise self._unknown(what, "ask 'exact' or 'variational'", "it holds no messages")
        return self.messages

    def __getattr__(self, name: str) -> Any:
        if name in TABLES:
            instead = "ask value(s, t), q_value(s, a, t), marginal('s_1') or gain(t), or make tables by discretize"
            raise self._unknown(f"{name}, a table over numbered states", instead)
        return super().__getattr__(name)

    def to_xarray(self) -> xarray.Dataset:
        """Policy, messages and moments with named axes: (batch axes, time, state or action coordinates)."""
        from cai.inference.gaussian.frames import as_dataset

        self._refuse_failure("lay out")
        moments = self.moments if self.horizon < math.inf else None
        return as_dataset(self.conduct, moments, self.messages, self.problem.batch, self._xarray_attributes())

    def _state(self) -> dict[str, Any]:
        state = super()._state()
        return state | {name: detached(part) for name, part in state.items() if name != "model"}


def detached(part: Any) -> Any:
    """Tensors, also in tuples, in dataclasses and in what these keep of themselves, without gradients."""
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        made = copy.copy(part)
        vars(made).update({name: detached(value) for name, value in vars(part).items()})
        return made
    if isinstance(part, tuple) and hasattr(part, "_fields"):
        return type(part)(*(detached(item) for item in part))
    return without_gradient(part)


def _at(part: Tensor, own: int, t: int) -> Tensor:
    """The part [..., T or 1, own axes] at time index t."""
    axis = part.dim() - own - 1
    return part.select(axis, t if part.shape[axis] > 1 else 0)


def _side_by_side(states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    try:
        shape = broadcast_shapes(states.shape[:-1], actions.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"s has shape {list(states.shape)} and a {list(actions.shape)}; their leading axes do not broadcast: give "
            "an action for each state, or axes of length 1, s[:, None] and a[None], for each pair"
        ) from None
    return states.expand(*shape, states.shape[-1]), actions.expand(*shape, actions.shape[-1])


storable("gaussian-posterior", pack=GaussianPosterior._stored, unpack=GaussianPosterior._from_stored)(GaussianPosterior)
