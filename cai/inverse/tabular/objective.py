"""The three objectives on a trajectory model, with exact gradients, scores and Hessians.

    likelihood   sum_t log pi_w(a_t | s_t)                            fixed dynamics
    moments      sum_t gamma^t rho_w - v_w(s_1)                       fixed dynamics
    path         sum_t log[p(a_t|s_t) sum_{k to s'} p_k e^{rho_w}] - v_w(s_1)     exact: log p(tau | s_1, O)

in nats, rho = r / alpha and v the messages of the recursion, so that temperature, discount and action prior are the
model's. The gradient of "moments" is observed minus expected feature counts (Ziebart et al. 2010, maximum causal
entropy), that of "path" the same under the exact posterior (Ziebart et al. 2008, equation 4, made exact). "likelihood"
differs from "moments" by sum_t [v(s_{t+1}) - E v], which is 0 only in expectation unless the dynamics are certain.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cai.inference.kernels.problem import Kind
from cai.inference.tabular.sensitivity import SoftSensitivity
from cai.inverse.search.objective import Data
from cai.inverse.tabular.data import ModelSteps, read_demonstrations
from cai.inverse.tabular.reward_parameters import LinearParameters, ModuleParameters, find_parameters
from cai.models.common.fingerprint import fingerprint
from cai.models.common.numerics import expectation, safe_log, safe_logsumexp
from cai.models.rewards.tables import EvaluatedReward
from cai.models.trajectory.batch import with_initial
from cai.models.trajectory.model import TrajectoryModel

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ["ModelObjective"]


class ModelObjective:
    """A log-likelihood of demonstrations of a `TrajectoryModel` as a function of what is learned of its reward.

    Args:
        model: its reward holds what is learned, see `find_parameters`.
        demonstrations: `Demonstrations`.
        objective: "likelihood", "moments" or "path".

    Attributes:
        names: F names of coefficients.
        start: [F], what they are in the model.
        weights: [N].
        persons: N labels or None.
        kind: "model".
        objective: the name.
        form: "kl", values being relative to the action prior.

    Raises:
        TypeError, ValueError: see `find_parameters` and `read_demonstrations`; also if a demonstration takes a step
            that another factor forbids.
    """

    kind = "model"
    form = "kl"

    def __init__(self, model: TrajectoryModel, demonstrations: Any, objective: str = "likelihood") -> None:
        self.parameters = find_parameters(model)
        self.names, self.start = self.parameters.names, self.parameters.start
        self.base_model = self.parameters.model
        self.steps: ModelSteps = read_demonstrations(self.base_model, demonstrations, objective)
        self.demonstrations, self.objective = demonstrations, objective
        self.weights: Tensor = self.steps.weights
        self.persons: Sequence[Any] | None = demonstrations.persons
        self._answering: Kind = "exact" if objective == "path" else "fixed"
        self._refuse_forbidden()

    # ---- what is counted ----------------------------------------------------------------------------------------

    @property
    def num_demonstrations(self) -> float:
        """The sum of the weights."""
        return float(self.weights.sum())

    @property
    def num_choices(self) -> float:
        """Steps in states with two or more actions of positive prior, weighted."""
        chosen = (self.base_model.action_prior > 0).sum(-1)[self.steps.states] > 1
        return float(self.weights[self.steps.rows[chosen]].sum())

    @property
    def data(self) -> Data:
        """Digests of demonstrations, process, rewards that are not learned, and what each coefficient weighs."""
        steps, model = self.steps, self.base_model
        mdp = model.mdp
        shown = (steps.rows, steps.times, steps.states, steps.actions, steps.outcomes, steps.starts, steps.weights)
        process = (mdp.probabilities, mdp.next_states, model.nonterminal, model.action_prior)
        numbers = (float(model.horizon), float(model.discount), float(model.temperature))
        fixed, features = self.parameters.digests()
        return Data(fingerprint(shown), fingerprint((process, numbers, fixed)), features)

    @property
    def is_linear(self) -> bool:
        """Whether rewards are linear in the coefficients, so that there are scores and Hessians."""
        return isinstance(self.parameters, LinearParameters)

    # ---- values and derivatives ---------------------------------------------------------------------------------

    def evaluate(self, coefficients: Tensor) -> tuple[float, Tensor] | None:
        """The weighted log-likelihood in nats and its gradient [F]; None where it is not finite."""
        answer = self._answer(coefficients)
        values = None if answer is None else self._values(answer)
        if answer is None or values is None:
            return None
        masses = self._adjoint(answer)[1]
        if isinstance(self.parameters, ModuleParameters):
            gradient = self._pulled_back(coefficients, answer, masses)
        else:
            gradient = answer.gradient(self._slopes, masses, alike=not self.parameters.varies)
            if self.objective != "likelihood":
                gradient = gradient + self.weights @ self._observed(answer)
        value = float(self.weights @ values)
        return (value, gradient) if bool(torch.isfinite(gradient).all()) else None

    def log_probs(self, coefficients: Tensor) -> Tensor:
        """[N], nats, of each demonstration, unweighted; -inf throughout where the coefficients are infeasible."""
        answer = self._answer(coefficients)
        values = None if answer is None else self._values(answer)
        return torch.full_like(self.weights, -torch.inf) if values is None else values

    def scores(self, coefficients: Tensor) -> Tensor:
        """[N, F], the gradient of each demonstration's log-likelihood, unweighted.

        Raises:
            ValueError: if rewards are not linear in the coefficients, or these are infeasible.
        """
        answer, (values, pairs) = self._linear("scores", coefficients)
        steps = self.steps
        if self.objective == "likelihood":
            t = steps.times if self.base_model.is_finite else torch.zeros_like(steps.times)
            return steps.summed(pairs[t, steps.states, steps.actions] - values[t, steps.states])
        return self._observed(answer) - values[0][steps.starts]

    def hessian(self, coefficients: Tensor) -> Tensor:
        """[F, F], of the weighted log-likelihood.

        Raises:
            ValueError: see `scores`.
        """
        answer, tangents = self._linear("a Hessian", coefficients)
        # What was seen is linear in them, as outcomes that share a next state share its features.
        return answer.curvature(self._slopes, tangents, self._adjoint(answer))

    def _linear(self, what: str, coefficients: Tensor) -> tuple[SoftSensitivity, tuple[Tensor, Tensor]]:
        if not self.is_linear:
            raise ValueError(f"parameters of modules have no {what} here; standard errors are for linear rewards")
        answer = self._answer(coefficients)
        if answer is None or self._values(answer) is None:
            raise ValueError(f"the coefficients {coefficients.tolist()} are infeasible, where there is no {what}")
        if self._tangents is None:
            self._tangents = answer.tangents(self._slopes)
        return answer, self._tangents

    # ---- the answer at some coefficients ------------------------------------------------------------------------

    _last: tuple[Tensor, SoftSensitivity | None] | None = None
    _tangents: tuple[Tensor, Tensor] | None = None
    _masses: tuple[Tensor, Tensor] | None = None

    def _answer(self, coefficients: Tensor) -> SoftSensitivity | None:
        """The messages at some coefficients, held until others are asked about; None where there are none."""
        given = coefficients.detach().double()
        if self._last is None or not torch.equal(self._last[0], given):
            self._tangents = self._masses = None
            self._last = given.clone(), self._solved(given)
        return self._last[1]

    def _solved(self, coefficients: Tensor) -> SoftSensitivity | None:
        if not bool(torch.isfinite(coefficients).all()):
            return None
        if isinstance(self.parameters, ModuleParameters):
            reward: Any = self.parameters.with_leaves(coefficients)[0]
            made = self._asked.replace(reward=reward)
            rewards = [made.reward_table(t).detach() for t in made.reward_times]
        else:
            times = range(self.base_model.steps) if self.parameters.varies else range(1)
            rewards = [self._rewards(coefficients, t) for t in times]
        if any(bool((torch.isnan(table) | (table == torch.inf)).any()) for table in rewards):
            return None
        self._tables = rewards
        answer = SoftSensitivity(self._asked.replace(reward=EvaluatedReward(torch.stack(rewards))), self._answering)
        return answer if answer.found else None

    @cached_property
    def _asked(self) -> TrajectoryModel:
        """The model with a start in every state that was seen: what an infinite horizon must have an answer for."""
        if self.base_model.is_finite:
            return self.base_model
        seen = torch.zeros(self.base_model.mdp.num_states, dtype=torch.float64)
        seen[torch.cat([self.steps.starts, self.steps.states])] = 1.0
        return self.base_model.replace(mdp=with_initial(self.base_model.mdp, seen / seen.sum()))

    def _rewards(self, coefficients: Tensor, t: int) -> Tensor:
        assert isinstance(self.parameters, LinearParameters)
        return self.parameters.base(t) + self.parameters.features(t) @ coefficients

    def _slopes(self, t: int) -> Tensor:
        """[S, A, 1 or K, F], features in nats; for fixed dynamics expected over outcomes."""
        assert isinstance(self.parameters, LinearParameters)
        key = t if self.parameters.varies else 0
        if key not in self._held:
            features = self.parameters.features(key)
            if self._answering == "fixed" and features.shape[-2] > 1:
                features = self.base_model.mdp.probabilities[..., None, :] @ features
            self._held[key] = features / float(self.base_model.temperature)
        return self._held[key]

    @cached_property
    def _held(self) -> dict[int, Tensor]:
        return {}

    # ---- parts of the objectives --------------------------------------------------------------------------------

    def _values(self, answer: SoftSensitivity) -> Tensor | None:
        """[N], or None where one of them is not finite."""
        steps = self.steps
        if self.objective == "likelihood":
            t = steps.times if self.base_model.is_finite else torch.zeros_like(steps.times)
            values = steps.summed(answer.log_policy[t, steps.states, steps.actions])
        else:
            values = steps.summed(self._paid(answer)) - answer.values[0][steps.starts]
        return values if bool(torch.isfinite(values).all()) else None

    def _paid(self, answer: SoftSensitivity) -> Tensor:
        """[M], what each step adds to moments or path: gamma^t E[rho | s'], or log p(a|s) sum_k p_k e^rho."""
        steps, chances = self.steps, self._chances
        nats = self._read(self._tables) / float(self.base_model.temperature)
        if self.objective == "moments":
            shares = chances / chances.sum(-1, keepdim=True)
            return self._discounts * expectation(shares, nats)
        prior = self.base_model.action_prior[steps.states, steps.actions]
        return prior.log() + safe_logsumexp(safe_log(chances) + nats)

    @cached_property
    def _chances(self) -> Tensor:
        """[M, K], probabilities of the outcomes that may have happened, 0 for others."""
        chances = self.base_model.mdp.probabilities[self.steps.states, self.steps.actions]
        return torch.where(self.steps.outcomes, chances, torch.zeros_like(chances))

    @cached_property
    def _discounts(self) -> Tensor:
        return self.base_model.discount ** self.steps.times.double()

    def _read(self, tables: list[Tensor]) -> Tensor:
        """[M, 1 or K, ...], entries of tables [S, A, 1 or K, ...] of each time at the steps."""
        steps = self.steps
        if len(tables) == 1:
            return tables[0][steps.states, steps.actions]
        found = tables[0].new_zeros(len(steps.rows), *tables[0].shape[2:])
        for t in steps.times.unique().tolist():
            here = steps.times == t
            found[here] = tables[t][steps.states[here], steps.actions[here]]
        return found

    def _shares(self) -> Tensor:
        """[M, K], how likely each outcome was, by what was seen; given optimality for the exact target."""
        chances = self._chances
        if self.objective == "path" and self._tables[0].shape[-1] > 1:
            nats = self._read(self._tables) / float(self.base_model.temperature)
            logs = safe_log(chances) + nats
            return (logs - safe_logsumexp(logs)[:, None]).exp()
        return chances / chances.sum(-1, keepdim=True)

    def _seen(self) -> Tensor:
        """[M, 1 or K, F], features of each step in nats, outcome by outcome."""
        assert isinstance(self.parameters, LinearParameters)
        times = range(self.base_model.steps) if self.parameters.varies else range(1)
        return self._read([self.parameters.features(t) for t in times]) / float(self.base_model.temperature)

    def _observed(self, answer: SoftSensitivity) -> Tensor:
        """[N, F], feature counts of each demonstration in nats; discounted for moments."""
        seen = self._seen()
        counts = seen[:, 0] if seen.shape[1] == 1 else (self._shares()[..., None] * seen).sum(1)
        if self.objective == "moments":
            counts = self._discounts[:, None] * counts
        return self.steps.summed(counts)

    def _observed_counts(self) -> Tensor:
        """[N, F], feature counts of each demonstration in nats before any messages: of possible outcomes the mean."""
        shares = self._chances / self._chances.sum(-1, keepdim=True)
        seen = self._seen()
        counts = seen[:, 0] if seen.shape[1] == 1 else (shares[..., None] * seen).sum(1)
        return self.steps.summed(self._discounts[:, None] * counts)

    def _adjoint(self, answer: SoftSensitivity) -> tuple[Tensor, Tensor]:
        """What the messages weigh in the objective, held as long as they are."""
        if self._masses is None:
            self._masses = self._weighed(answer)
        return self._masses

    def _weighed(self, answer: SoftSensitivity) -> tuple[Tensor, Tensor]:
        mdp, periods = self.base_model.mdp, self.base_model.steps
        start = torch.zeros(mdp.num_states, dtype=torch.float64)
        if self.objective == "likelihood":
            return answer.adjoint(self.steps.counts(periods, mdp.num_states, mdp.num_actions), start)
        start.index_add_(0, self.steps.starts, -self.weights)
        start = torch.where(self.base_model.nonterminal, start, torch.zeros_like(start))
        return answer.adjoint(start.new_zeros(periods, mdp.num_states, mdp.num_actions), start)

    def _pulled_back(self, coefficients: Tensor, answer: SoftSensitivity, masses: Tensor) -> Tensor:
        """[F], the gradient through the tables of modules."""
        assert isinstance(self.parameters, ModuleParameters)
        reward, leaves = self.parameters.with_leaves(coefficients)
        made = self.base_model.replace(reward=reward)
        alpha, tables, slopes = float(made.temperature), [], []
        observed = self._observed_tables()
        for t in made.reward_times:
            with torch.enable_grad():
                table = made.reward_table(t)
            times = [t] if made.reward.reads_time else range(len(masses))
            slope = sum((answer.reward_gradient(masses, u, table.shape[-1]) for u in times), torch.zeros(()))
            tables.append(table)
            slopes.append((slope + observed(t, table.shape[-1])).expand(table.shape) / alpha)
        found = torch.autograd.grad(tables, leaves, slopes, allow_unused=True)
        flat = [torch.zeros_like(leaf) if part is None else part for leaf, part in zip(leaves, found, strict=True)]
        return torch.cat([part.detach().reshape(-1).double() for part in flat])

    def _observed_tables(self) -> Any:
        """(t, 1 or K) -> [S, A, 1 or K], how the observed rewards move with those of time t, in nats."""
        steps, mdp = self.steps, self.base_model.mdp
        shares = self._shares()
        weigh = self.weights[steps.rows] * (self._discounts if self.objective == "moments" else 1.0)

        def table(t: int, width: int) -> Tensor:
            total = torch.zeros(mdp.num_states * mdp.num_actions, width, dtype=torch.float64)
            if self.objective == "likelihood":
                return total.view(mdp.num_states, mdp.num_actions, width)
            here = steps.times == t if len(self._tables) > 1 else torch.ones_like(steps.times, dtype=torch.bool)
            parts = (shares if width > 1 else torch.ones_like(shares[:, :1]))[here] * weigh[here, None]
            total.index_add_(0, (steps.states * mdp.num_actions + steps.actions)[here], parts)
            return total.view(mdp.num_states, mdp.num_actions, width)

        return table

    def _refuse_forbidden(self) -> None:
        if not isinstance(self.parameters, LinearParameters):
            return
        times = range(self.base_model.steps) if self.parameters.varies else range(1)
        base = self._read([self.parameters.base(t) for t in times])
        forbidden = torch.isinf(base) & (self.steps.outcomes if base.shape[1] > 1 else True)
        wrong = forbidden.any(-1) if self._answering == "fixed" else (forbidden | ~self.steps.outcomes).all(-1)
        if bool(wrong.any()):
            place, mdp = int(wrong.nonzero()[0]), self.base_model.mdp
            raise ValueError(
                f"demonstration {int(self.steps.rows[place])} takes action "
                f"{mdp.action_name(int(self.steps.actions[place]))} in state "
                f"{mdp.state_name(int(self.steps.states[place]))} at time index {int(self.steps.times[place])}, a step "
                "that the reward forbids (-inf)"
            )
