"""The filter and the smoother as plain loops over numpy arrays: what a step takes is a product with a small matrix.

Beliefs are carried as probabilities while all of them lie well inside what floats hold, and as logarithms where one of
them does not: what was believed with probability e^-2000 can be believed with 1/2 once later observations speak for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cai.models.processes.mdp import MDP
from cai.models.processes.observation import ObservationModel

__all__ = ["FilterTables", "filter_many", "filter_one", "smooth_one"]

TINY = 1e-140  # a product of two numbers above it is no denormal number
SMALL = 64  # states up to which each pair of action and observation has a matrix of its own
PAIRS = 2_000  # of them
LOWEST = -1e300  # in place of -inf where it is subtracted
SHORTEST_BLOCK, LONGEST_BLOCK = 32, 4096  # steps that are taken between two looks at how small the beliefs have become


def _log(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(values))


@dataclass(frozen=True, eq=False)
class FilterTables:
    """Transitions with the chance to go on, and likelihoods, as arrays; made for each action when it is first taken.

    Args:
        mdp: the process.
        model: what is seen of its states.
        log_continuation: [S], log of the chance that a run goes on after a transition.
    """

    mdp: MDP
    model: ObservationModel
    log_continuation: np.ndarray
    _kept: dict[Any, Any] = field(init=False, repr=False, default_factory=dict)

    def start(self, observation: int) -> np.ndarray:
        """[S], p(s_1) p(o_1 | s_1)."""
        prior = self.mdp.initial.detach().cpu().double().numpy()
        if observation < 0:
            return np.asarray(prior)
        assert self.model.first is not None
        return np.asarray(prior * self.model.first.detach().numpy()[:, observation])

    def likelihood(self, action: int, observation: int) -> np.ndarray:
        """[S], p(o | a, s')."""
        table = self.model.probabilities.detach().numpy()
        return np.asarray((table[action] if self.model.reads_action else table)[:, observation])

    def entries(self, action: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(s, s', p(s' | s, a) and the run goes on) of what is not 0."""
        if ("entries", action) not in self._kept:
            chances = self.mdp.probabilities.detach()[:, action].cpu().double().numpy()
            sources, outcomes = np.nonzero(chances)
            following = self.mdp.next_states
            targets = outcomes if following is None else following[:, action].cpu().numpy()[sources, outcomes]
            values = chances[sources, outcomes] * np.exp(self.log_continuation)[sources]
            self._kept["entries", action] = (sources, targets, values)
        return self._kept["entries", action]

    def matrix(self, action: int) -> Any:
        """[S, S], or the same as a sparse matrix where most of it is 0; `weights @ matrix` moves weights on."""
        if ("matrix", action) not in self._kept:
            sources, targets, values = self.entries(action)
            size = self.mdp.num_states
            if size > SMALL and len(values) < size * size // 8:
                import scipy.sparse  # takes a while to import

                table: Any = scipy.sparse.csr_array((values, (sources, targets)), shape=(size, size))
            else:
                table = np.zeros((size, size))
                np.add.at(table, (sources, targets), values)
            self._kept["matrix", action] = table
        return self._kept["matrix", action]

    def step(self, action: int, observation: int) -> tuple[Any, np.ndarray | None, bool]:
        """(a matrix, likelihoods that are still to be multiplied with, whether no entry is too small for a product)."""
        if (action, observation) not in self._kept:
            matrix: Any = self.matrix(action)
            seen = None if observation < 0 else self.likelihood(action, observation)
            if seen is not None and self.mdp.num_states <= SMALL and len(self._kept) < PAIRS:
                matrix, seen = matrix * seen, None
            held = matrix.data if hasattr(matrix, "tocsr") else matrix
            parts = [held[held > 0], *([] if seen is None else [seen[seen > 0]])]
            self._kept[action, observation] = (matrix, seen, all(bool((part >= TINY).all()) for part in parts))
        return self._kept[action, observation]

    def log_likelihood(self, action: int, observation: int) -> np.ndarray | None:
        """[S], log p(o | a, s'); None where nothing was observed."""
        if observation < 0:
            return None
        key = ("seen", action, observation)
        if key not in self._kept:
            self._kept[key] = _log(self.likelihood(action, observation))
        return self._kept[key]

    def grouped(self, action: int, forward: bool) -> tuple[Any, ...]:
        """(ends, logs of entries, first entry of each group, group of each entry, the state of each group).

        Groups are entries with one target, and ends their sources; backwards the other way round. The states are None
        where each has a group.
        """
        key = ("forward" if forward else "backward", action)
        if key not in self._kept:
            sources, targets, values = self.entries(action)
            ends, states = (sources, targets) if forward else (targets, sources)
            order = np.argsort(states, kind="stable")
            found, first, count = np.unique(states[order], return_index=True, return_counts=True)
            group = np.repeat(np.arange(len(found)), count)
            rest = found if len(found) < self.mdp.num_states else None
            self._kept[key] = (ends[order], _log(values[order]), first, group, rest)
        return self._kept[key]

    def move_logs(self, logs: np.ndarray, action: int, forward: bool) -> np.ndarray:
        """[S], the log of what weights e^logs become along the transitions, forwards or backwards."""
        ends, chances, first, group, found = self.grouped(action, forward)
        scores = logs[ends] + chances
        largest = np.maximum(np.maximum.reduceat(scores, first), LOWEST)
        moved = np.log(np.add.reduceat(np.exp(scores - largest[group]), first)) + largest
        if found is None:
            return np.asarray(moved)
        result = np.full(len(logs), -np.inf)
        result[found] = moved
        return result


def _normalised(logs: np.ndarray) -> tuple[np.ndarray, float]:
    """(logs less the log of their sum, that log); -inf where all are."""
    largest = np.maximum.reduce(logs)
    if largest == -np.inf:
        return logs, -np.inf
    total = largest + np.log(np.add.reduce(np.exp(logs - largest)))
    return logs - total, total


def filter_one(tables: FilterTables, seen: np.ndarray, taken: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One run.

    Args:
        tables: of the process.
        seen: int [n + 1], -1 where nothing was observed.
        taken: int [n].

    Returns:
        Log beliefs [m, S] and log p(o_t | what came before) [m]; m = n + 1, or less, where the last score is -inf: what
        was observed then had probability 0, and the last row holds the logs of what was predicted.
    """
    logs = np.empty((len(seen), tables.mdp.num_states))
    scores = np.empty(len(seen))
    weights = tables.start(int(seen[0]))
    total = weights.sum()
    scores[0] = _log(total)
    logs[0] = _log(weights / total) if total > 0 else _log(tables.start(-1))
    done, length = 0, SHORTEST_BLOCK
    pairs = list(zip(taken.tolist(), seen[1:].tolist(), strict=True))
    while done < len(pairs) and scores[done] > -np.inf:
        upto = min(done + length, len(pairs))
        held = logs[done][logs[done] > -np.inf]
        end = done
        if held.min() >= np.log(TINY):
            end = _by_products(tables, pairs, logs, scores, done, upto)
        if end == upto:
            length = min(2 * length, LONGEST_BLOCK)
        else:  # some belief is too small, or 0 was observed: the next steps go by logarithms
            length = SHORTEST_BLOCK
            end = _by_logs(tables, pairs, logs, scores, end, min(end + length, len(pairs)))
        done = end
    return logs[: done + 1], scores[: done + 1]


def _by_products(tables: FilterTables, pairs: list[Any], logs: Any, scores: Any, done: int, upto: int) -> int:
    """Steps from `done` to `upto` on probabilities; how far all digits are there."""
    belief = np.exp(logs[done])
    beliefs = np.empty((upto - done, len(belief)))
    totals = []
    step, add = tables.step, np.add.reduce
    with np.errstate(all="ignore"):
        for row, pair in enumerate(pairs[done:upto]):
            matrix, seen, safe = step(*pair)
            if not safe:
                break
            belief = belief @ matrix
            if seen is not None:
                belief = belief * seen
            total = add(belief)
            belief = belief / total
            beliefs[row] = belief
            totals.append(total)
        count = len(totals)
        beliefs = beliefs[:count]
        small = ~((beliefs >= TINY) | (beliefs == 0)).all(1) | ~(np.array(totals) >= TINY)
        bad = np.flatnonzero(small)
        count = int(bad[0]) if len(bad) else count
        logs[done + 1 : done + 1 + count] = np.log(beliefs[:count])
        scores[done + 1 : done + 1 + count] = np.log(totals[:count])
    return done + count


def _by_logs(tables: FilterTables, pairs: list[Any], logs: Any, scores: Any, done: int, upto: int) -> int:
    """Steps from `done` to `upto` on logarithms; how far it went before something had probability 0."""
    row = logs[done]
    with np.errstate(divide="ignore"):
        for t in range(done, upto):
            action, observation = pairs[t]
            predicted = tables.move_logs(row, action, True)
            seen = tables.log_likelihood(action, observation)
            row, total = _normalised(predicted if seen is None else predicted + seen)
            logs[t + 1], scores[t + 1] = row, total
            if total == -np.inf:
                logs[t + 1] = predicted
                return t + 1
    return upto


def filter_many(tables: FilterTables, seen: np.ndarray, taken: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """N runs side by side, on probabilities.

    Args:
        tables: of the process.
        seen: int [N, n + 1], -1 where nothing was observed.
        taken: int [N, n].

    Returns:
        Log beliefs [N, n + 1, S], scores [N, n + 1] as in `filter_one`, and which runs have all their digits, bool [N].
    """
    num_runs, steps = taken.shape
    size = tables.mdp.num_states
    logs = np.empty((num_runs, steps + 1, size))
    scores = np.empty((num_runs, steps + 1))
    sound = np.ones(num_runs, dtype=bool)
    starts = {observation: tables.start(observation) for observation in set(seen[:, 0].tolist())}
    joint = np.stack([starts[observation] for observation in seen[:, 0].tolist()])
    with np.errstate(all="ignore"):
        for t in range(steps + 1):
            if t:
                moved = np.empty_like(joint)
                pairs = taken[:, t - 1] * (tables.model.num_observations + 1) + seen[:, t] + 1
                for pair in np.unique(pairs).tolist():
                    rows = pairs == pair
                    action, observation = divmod(pair, tables.model.num_observations + 1)
                    matrix, likelihood, safe = tables.step(action, observation - 1)
                    part = joint[rows] @ matrix
                    moved[rows] = part if likelihood is None else part * likelihood
                    sound[rows] &= safe
                joint = moved
            total = joint.sum(1)
            joint = joint / total[:, None]
            sound &= (total >= TINY) & ((joint >= TINY) | (joint == 0)).all(1)
            logs[:, t], scores[:, t] = np.log(joint), np.log(total)
    return logs, scores, sound


def smooth_one(tables: FilterTables, logs: np.ndarray, seen: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Log p(s_t | all of a run), [n + 1, S], from the filter's log beliefs."""
    messages = np.zeros(logs.shape)
    message = messages[-1]
    pairs = list(zip(taken.tolist(), seen[1:].tolist(), strict=True))
    with np.errstate(divide="ignore"):
        for t in reversed(range(len(pairs))):
            likelihood = tables.log_likelihood(*pairs[t])
            message = tables.move_logs(message if likelihood is None else message + likelihood, pairs[t][0], False)
            message -= np.maximum.reduce(message)  # only ratios count, and small numbers keep their digits
            messages[t] = message
        joint = logs + messages
        joint -= joint.max(1, keepdims=True)
        return np.asarray(joint - np.log(np.exp(joint).sum(1, keepdims=True)))
