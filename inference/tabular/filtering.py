"""Beliefs over hidden states along a run: the exact filter and smoother of the true world, where nothing is optimal.

    filter       b_1(s) ~ p(s_1 = s) p(o_1 | s),      b_{t+1}(s') ~ p(o_{t+1} | a_t, s') sum_s b_t(s) p(s' | s, a_t)
    smoother     p(s_t | o_{1:T}, a_{1:T-1}) ~ b_t(s_t) beta_t(s_t),
                 beta_t(s) = sum_{s'} p(s' | s, a_t) p(o_{t+1} | a_t, s') beta_{t+1}(s')

(Kaelbling, Littman and Cassandra 1998, section 3.3; Rabiner 1989, section III.) Everything stays in log space: what
was believed with probability e^-2000 can be believed with 1/2 once later observations speak for it.

**Actions are given, do(a_t)**, and no policy enters. An agent that sees the observations alone chooses its actions by
them, so p(a_t | o_{1:t}, a_{1:t-1}) does not depend on the state, and cancels. (Where whoever acted knew more than the
observations, as when the state was seen, the actions tell about the states too: that is p(a_t | s_t), and a matter for
`condition` in `cai.models.programs.interventions`.)

**A discount** is the chance that the run stops. That is seen: a run that goes on has not fallen, so each transition out
of a nonterminal state counts with its continuation probability gamma in belief and likelihood. These are the numbers of
the process with the absorbing state written out, where that state shows an observation of its own. Without terminal
states gamma cancels in the beliefs. An `MDP` has no discount.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cai.inference.tabular.filter_passes import FilterTables, filter_many, filter_one, smooth_one
from cai.inference.tabular.observed_runs import ObservedRuns, action_number, named, read_runs
from cai.models.common.numerics import safe_log, safe_logsumexp
from cai.models.processes.mdp import MDP
from cai.models.processes.observation import ObservationModel
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["StateFilter", "filter_states", "observation_log_likelihood", "smooth_states"]

Run = Sequence[Any] | Tensor

NARROW = 600.0  # nats; weights this close together share one shift without loss, e^-745 being 0 in float64


@dataclass(frozen=True, eq=False)
class StateFilter:
    """The filter of one process and one observation model, for N runs side by side.

    Args:
        process: a `TrajectoryModel`, whose discount counts, or an `MDP`.
        observation_model: over the same states and actions; where it has names of states, by these.

    Attributes:
        mdp: the process without its reward.
        log_continuation: [S], log of the chance that the chain goes on after a transition from a state.

    Raises:
        TypeError, ValueError: if the two do not fit.
    """

    process: TrajectoryModel | MDP
    observation_model: ObservationModel
    mdp: MDP = field(init=False, repr=False)
    log_continuation: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.process, (TrajectoryModel, MDP)):
            raise TypeError(
                f"expected a TrajectoryModel or an MDP, whose dynamics are known; got {type(self.process).__name__}"
            )
        if not isinstance(self.observation_model, ObservationModel):
            raise TypeError(
                f"expected an ObservationModel, got {type(self.observation_model).__name__}; "
                "wrap the array in ObservationModel(...)"
            )
        mdp = self.process if isinstance(self.process, MDP) else self.process.mdp
        object.__setattr__(self, "observation_model", self.observation_model.in_order_of(mdp))
        continuation_probability = (
            torch.ones(mdp.num_states) if isinstance(self.process, MDP) else self.process.continuation_probability
        )
        object.__setattr__(self, "mdp", mdp)
        object.__setattr__(self, "log_continuation", safe_log(continuation_probability.double()))

    def start(self, observations: Tensor | None, num_runs: int = 1) -> tuple[Tensor, Tensor]:
        """The beliefs at the first step.

        Args:
            observations: int [N], or None where nothing was observed.
            num_runs: N, where nothing was observed.

        Returns:
            log p(s_1 | o_1), [N, S], and log p(o_1), [N].

        Raises:
            ValueError: if an observation has probability 0.
        """
        prior = safe_log(self.mdp.initial).expand(num_runs if observations is None else len(observations), -1)
        return self._weigh(prior, observations, None, 0)

    def update(
        self, log_beliefs: Tensor, actions: Tensor, observations: Tensor | None, t: int
    ) -> tuple[Tensor, Tensor]:
        """The beliefs one step on.

        Args:
            log_beliefs: [N, S], log p(s_t | o_{1:t}, a_{1:t-1}), t counted from 0.
            actions: int [N], a_t.
            observations: int [N], o_{t+1}; None where nothing was observed.
            t: the time index of the actions, for messages.

        Returns:
            log p(s_{t+1} | ...), [N, S], and log p(o_{t+1}, the run goes on | o_{1:t}, a_{1:t}), [N].

        Raises:
            ValueError: if an action is not available in a state that is believed possible, or an observation has
                probability 0.
        """
        self.check_available(log_beliefs, actions, t)
        leaving = log_beliefs + self.log_continuation
        parts = actions.unique()
        if len(parts) == 1:
            predicted = self._push(leaving, int(parts[0]))
        else:
            predicted = torch.empty_like(leaving)
            for action in parts.tolist():
                rows = actions == action
                predicted[rows] = self._push(leaving[rows], action)
        return self._weigh(predicted, observations, actions, t + 1)

    def pull(self, log_messages: Tensor, action: int, observation: int | None) -> Tensor:
        """Log beta_t [S] from log beta_{t+1} [S]: what was observed after the action, as seen from before it."""
        if observation is not None:
            seen = self.observation_model.likelihoods(torch.tensor([observation]), torch.tensor([action]))
            log_messages = log_messages + safe_log(seen[0])
        following = self.mdp.next_states
        arrived = log_messages[None, :] if following is None else log_messages[following[:, action]]
        return safe_logsumexp(safe_log(self.mdp.probabilities[:, action]) + arrived) + self.log_continuation

    def _push(self, log_weights: Tensor, action: int) -> Tensor:
        """Log sum_s e^w(s) p(s' | s, a), [N, S] -> [N, S]."""
        probabilities, following = self.mdp.probabilities[:, action], self.mdp.next_states
        if following is None:
            return _log_matmul(log_weights, probabilities)
        num_runs, num_states = log_weights.shape
        scores = (log_weights[..., None] + safe_log(probabilities)).reshape(num_runs, -1)
        index = following[:, action].reshape(-1)
        largest = torch.full((num_runs, num_states), -torch.inf, dtype=torch.float64)
        largest = largest.scatter_reduce(1, index.expand_as(scores), scores.detach(), "amax")
        shift = torch.where(torch.isfinite(largest), largest, torch.zeros_like(largest))
        total = torch.zeros_like(largest).index_add(1, index, (scores - shift[:, index]).exp())
        return safe_log(total) + shift

    def _weigh(
        self, predicted: Tensor, observations: Tensor | None, actions: Tensor | None, t: int
    ) -> tuple[Tensor, Tensor]:
        """Bayes' rule: (log beliefs, log probability of what was observed at time index t)."""
        joint = predicted
        if observations is not None:
            joint = predicted + safe_log(self.observation_model.likelihoods(observations, actions))
        total = safe_logsumexp(joint)
        lost = torch.isinf(total.detach())
        if lost.any():
            assert observations is not None
            run = int(torch.nonzero(lost)[0])
            action = None if actions is None else int(actions[run])
            raise ValueError(self.surprise(predicted[run], int(observations[run]), action, t))
        return joint - total[:, None], total

    def surprise(self, predicted: Tensor, observation: int, action: int | None, t: int) -> str:
        """What is said of an observation that has probability 0 in all states of a predicted belief."""
        after = "" if action is None else f" after action {self.mdp.action_name(action)}"
        return (
            f"observation {self.observation_model.name(observation)} at time index {t} has probability 0{after}: "
            f"the states possible then were {self.describe(predicted)}, and none of these shows it; correct the run, "
            "or give the observation model a small probability of an error there (None is for what was not observed)"
        )

    def action_number(self, action: int | str) -> int:
        """The number of an action, by its name or number; refuses what does not exist."""
        return action_number(self.mdp, action)

    @property
    def learns(self) -> bool:
        """Whether a table requires grad, and beliefs keep their history."""
        model = self.observation_model
        tables = (self.mdp.probabilities, self.mdp.initial, model.probabilities, model.first, self.log_continuation)
        return any(table is not None and table.requires_grad for table in tables)

    @property
    def tables(self) -> FilterTables:
        """What the loops over numpy arrays read."""
        return FilterTables(self.mdp, self.observation_model, self.log_continuation.detach().cpu().numpy())

    def describe(self, log_beliefs: Tensor) -> str:
        """The most probable states of a belief [S], in words."""
        beliefs = (log_beliefs - safe_logsumexp(log_beliefs)).detach().exp()
        order = [int(state) for state in beliefs.argsort(descending=True, stable=True) if beliefs[state] > 0]
        listed = ", ".join(f"{self.mdp.state_name(state)} ({float(beliefs[state]):.3g})" for state in order[:4])
        return listed + (f" and {len(order) - 4} more states" if len(order) > 4 else "")

    def check_available(self, log_beliefs: Tensor, actions: Tensor, t: int) -> None:
        """Refuses actions that do not exist in a state that is believed possible; arguments as in `update`."""
        exists = (self.mdp.available | self.mdp.terminal[:, None])[:, actions].T
        missing = torch.isfinite(log_beliefs.detach()) & ~exists
        if missing.any():
            run, state = torch.nonzero(missing)[0].tolist()
            raise ValueError(
                f"action {self.mdp.action_name(int(actions[run]))} at time index {t} is not available in state "
                f"{self.mdp.state_name(state)}, which is believed with probability "
                f"{float(log_beliefs[run, state].detach().exp()):.3g}; what it does there is not known: say it in the "
                "process (available there, with a row of outcomes), or correct the run"
            )


def filter_states(
    process: TrajectoryModel | MDP, observation_model: ObservationModel, observations: Run, actions: Run
) -> Tensor:
    """What an agent believes at each step of a run: p(s_t | o_{1:t}, a_{1:t-1}).

    Args:
        process: a `TrajectoryModel` (reward and optimality play no part), or an `MDP`.
        observation_model: what is seen of its states.
        observations: n + 1 numbers or names, o_1 first; None wherever nothing was observed, as before the first action
            if observations depend on actions. Or N such runs of one length: nested lists, or [N, n + 1].
        actions: n numbers or names, or N such runs. A run may be shorter or longer than the horizon.

    Returns:
        [n + 1, S], rows sum to 1; of N runs [N, n + 1, S].

    Raises:
        ValueError: if the lengths do not fit, an observation has probability 0 given what came before, or an action is
            not available in a state that is believed possible.
        TypeError: if an entry is no observation or action.
    """
    return _forward(StateFilter(process, observation_model), observations, actions).beliefs()


def smooth_states(
    process: TrajectoryModel | MDP, observation_model: ObservationModel, observations: Run, actions: Run
) -> Tensor:
    """What is known of each step in hindsight: p(s_t | o_{1:n+1}, a_{1:n}).

    Args, returns and errors as `filter_states`; the last row is the filter's.
    """
    states = StateFilter(process, observation_model)
    forward = _forward(states, observations, actions)
    if states.learns:
        return forward.shaped(torch.stack([_smooth(states, *run) for run in forward.each()]).exp())
    tables = states.tables
    rows = [smooth_one(tables, logs.numpy(), seen, taken) for logs, seen, taken in forward.each()]
    return forward.shaped(torch.from_numpy(np.stack(rows)).exp())


def observation_log_likelihood(
    process: TrajectoryModel | MDP, observation_model: ObservationModel, observations: Run, actions: Run
) -> Tensor:
    """Log p(o_{1:n+1} | do(a_{1:n})) in nats, 0-dim (of N runs [N]); arguments as `filter_states`.

    With a discount it includes the probability that the run went on for so long. Tables that require grad keep their
    history, so dynamics or observation models can be fitted to runs.
    """
    forward = _forward(StateFilter(process, observation_model), observations, actions)
    return forward.shaped(forward.scores.sum(-1))


class _Forward(NamedTuple):
    """Log beliefs [N, n + 1, S], log likelihoods of the steps [N, n + 1], and the runs that they belong to."""

    log_beliefs: Tensor
    scores: Tensor
    runs: ObservedRuns

    def shaped(self, values: Tensor) -> Tensor:
        return values[0] if self.runs.single else values

    def beliefs(self) -> Tensor:
        return self.shaped(self.log_beliefs.exp())

    def each(self) -> Iterator[tuple[Tensor, np.ndarray, np.ndarray]]:
        return zip(self.log_beliefs, self.runs.seen, self.runs.taken, strict=True)


def _forward(states: StateFilter, observations: Run, actions: Run) -> _Forward:
    runs = read_runs(states.mdp, states.observation_model, observations, actions)
    if states.learns:
        parts = [_with_history(states, seen, taken) for seen, taken in zip(runs.seen, runs.taken, strict=True)]
        return _Forward(torch.stack([logs for logs, _ in parts]), torch.stack([scores for _, scores in parts]), runs)
    tables = states.tables
    if runs.single:
        logs, scores = (part[None] for part in _checked_run(states, tables, runs.seen[0], runs.taken[0]))
    else:
        logs, scores, sound = filter_many(tables, runs.seen, runs.taken)
        sound &= ~_missing(states, logs, runs.taken).any((1, 2))
        for i in np.flatnonzero(~sound).tolist():  # what needs care is done once more, on its own
            with named(f"run {i}"):
                logs[i], scores[i] = _checked_run(states, tables, runs.seen[i], runs.taken[i])
    return _Forward(torch.from_numpy(logs), torch.from_numpy(scores), runs)


def _checked_run(
    states: StateFilter, tables: FilterTables, seen: np.ndarray, taken: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    logs, scores = filter_one(tables, seen, taken)
    lost = scores[-1] == -np.inf
    known = len(logs) - 1
    missing = _missing(states, logs[None], taken[None, :known])[0]
    if missing.any():
        t = int(np.flatnonzero(missing.any(-1))[0])
        states.check_available(torch.from_numpy(logs[t : t + 1]), torch.from_numpy(taken[t : t + 1]), t)
    if lost:
        action = int(taken[known - 1]) if known else None
        raise ValueError(states.surprise(torch.from_numpy(logs[-1]), int(seen[known]), action, known))
    return logs, scores


def _missing(states: StateFilter, logs: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Bool [N, n, S]: states believed possible in which the action that was taken does not exist."""
    exists = (states.mdp.available | states.mdp.terminal[:, None]).cpu().numpy()
    if exists.all():
        return np.zeros((*taken.shape, 1), dtype=bool)
    return np.asarray((logs[:, : taken.shape[1]] > -np.inf) & ~exists.T[taken])


def _with_history(states: StateFilter, seen: np.ndarray, taken: np.ndarray) -> tuple[Tensor, Tensor]:
    """(log beliefs [n + 1, S], log likelihoods [n + 1]) of one run, with their autograd history."""
    log_beliefs, total = states.start(_one(int(seen[0])))
    rows, scores = [log_beliefs[0]], [total[0]]
    for t, action in enumerate(taken.tolist()):
        log_beliefs, total = states.update(log_beliefs, torch.tensor([action]), _one(int(seen[t + 1])), t)
        rows.append(log_beliefs[0])
        scores.append(total[0])
    return torch.stack(rows), torch.stack(scores)


def _smooth(states: StateFilter, log_beliefs: Tensor, seen: np.ndarray, taken: np.ndarray) -> Tensor:
    message = torch.zeros(states.mdp.num_states, dtype=torch.float64)
    rows = [log_beliefs[-1]]
    for t in reversed(range(len(taken))):
        message = states.pull(message, int(taken[t]), int(seen[t + 1]) if seen[t + 1] >= 0 else None)
        message = message - message.detach().max()  # only ratios count, and small numbers keep their digits
        joint = log_beliefs[t] + message
        rows.append(joint - safe_logsumexp(joint))
    return torch.stack(rows[::-1])


def _one(observation: int) -> Tensor | None:
    return None if observation < 0 else torch.tensor([observation])


def _log_matmul(log_weights: Tensor, probabilities: Tensor) -> Tensor:
    """Log of e^log_weights @ probabilities, [N, S] and [S, S'] -> [N, S'], without losing what is small."""
    weights = log_weights.detach()
    largest = weights.amax(-1, keepdim=True)
    smallest = torch.where(torch.isinf(weights), largest, weights).amin(-1)
    rarest = safe_log(probabilities.detach()[probabilities > 0].min())
    wide = largest[:, 0] - smallest - rarest > NARROW
    result = safe_log((log_weights - largest).exp() @ probabilities) + largest
    if wide.any():
        log_rows = safe_log(probabilities)
        exact = {i: safe_logsumexp(log_weights[i, :, None] + log_rows, 0) for i in torch.nonzero(wide)[:, 0].tolist()}
        result = torch.stack([exact.get(i, row) for i, row in enumerate(result)])
    return result
