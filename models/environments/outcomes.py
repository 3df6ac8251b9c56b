"""The outcomes of a tabular model in a form in which N copies draw theirs by a few lookups."""

from __future__ import annotations

import numpy as np
import torch

from cai.models.rewards.base import Step, evaluate_factor
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Outcomes"]

REWARD_ENTRIES = 4_000_000  # of all times together, up to which rewards are looked up and not evaluated at each step


class Outcomes:
    """p(s' | s, a) and the rewards of a model, of which one outcome for each of N pairs (s, a) is drawn at once.

    What has probability 0 is left out, so a dense process whose moves lead to few states is as quick as one that was
    given by successor lists. An outcome is found by bisection of the cumulative probabilities of its row.

    Args:
        model: the trajectory model; the original in float64 on the CPU is read.

    Attributes:
        num_states: S.
        num_actions: A.
        available: int8 [S, A], 1 where an action exists.
        nonterminal: bool [S], the states in which a decision is made.
    """

    def __init__(self, model: TrajectoryModel) -> None:
        model = model.host
        self.model, mdp = model, model.mdp
        self.num_states, self.num_actions = mdp.num_states, mdp.num_actions
        self.available = mdp.available.numpy().astype(np.int8)
        self.nonterminal = model.nonterminal.numpy().copy()
        rows = mdp.probabilities.detach().numpy().reshape(self.num_states * self.num_actions, -1)
        possible = rows > 0
        self.width = int(possible.sum(-1).max())
        # The columns of each row that are possible, in their order, and behind them others that are never drawn.
        columns = np.argsort(~possible, axis=-1, kind="stable")[:, : self.width]
        kept = np.take_along_axis(possible, columns, -1)
        cumulative = np.where(kept, np.take_along_axis(rows, columns, -1), 0.0).cumsum(-1)
        cumulative /= cumulative[:, -1:]
        last = np.arange(self.width) >= kept.sum(-1, keepdims=True) - 1
        cumulative[last] = np.inf  # no rounding of the sum lets a number pass the last possible outcome
        self._cumulative = np.ascontiguousarray(cumulative).reshape(-1)
        following = mdp.next_states
        targets = (
            columns if following is None else np.take_along_axis(following.numpy().reshape(rows.shape), columns, -1)
        )
        self._targets = np.ascontiguousarray(targets, dtype=np.int64).reshape(-1)
        self._columns = np.ascontiguousarray(columns, dtype=np.int64)
        start = mdp.initial.detach().numpy()
        self._starts = np.flatnonzero(start > 0)
        self._start = start[self._starts].cumsum()
        self._start /= self._start[-1]
        self._start[-1] = np.inf
        self._rewards = self._reward_tables()

    def _reward_tables(self) -> np.ndarray | None:
        """[times, S A width], the rewards of all outcomes; None where there are too many of them."""
        times = self.model.reward_times
        if len(times) * self._columns.size > REWARD_ENTRIES:
            return None
        tables = []
        for t in times:
            table = self.model.reward_table(t).detach().numpy().reshape(len(self._columns), -1)
            single = table.shape[-1] == 1
            chosen = (
                np.broadcast_to(table, self._columns.shape) if single else np.take_along_axis(table, self._columns, -1)
            )
            tables.append(np.ascontiguousarray(chosen).reshape(-1))
        return np.stack(tables)

    def starts(self, uniform: np.ndarray) -> np.ndarray:
        """int64 [N], first states, one for each number in [0, 1)."""
        return self._starts[np.searchsorted(self._start, uniform, side="right")]

    def draw(
        self, states: np.ndarray, actions: np.ndarray, times: np.ndarray, uniform: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """One step of N copies: next states int64 [N] and rewards float64 [N] in reward units.

        Args:
            states: int64 [N], not terminal where the result counts.
            actions: int64 [N], available.
            times: int64 [N], time indices from 0; not looked at where the reward does not read time.
            uniform: float64 [N], in [0, 1).
        """
        pairs = states * self.num_actions + actions
        first = pairs * self.width
        low = np.zeros_like(first)
        if self.width > 1:
            # The number of cumulative probabilities that are at most the uniform number, by its bits.
            bit = 1 << (self.width - 1).bit_length() - 1
            while bit:
                probe = np.minimum(low + bit, self.width)
                low = np.where(self._cumulative[first + probe - 1] <= uniform, probe, low)
                bit >>= 1
        chosen = first + low
        following = self._targets[chosen]
        if self._rewards is None:
            return following, self._evaluated(states, actions, self._columns[pairs, low], following, times)
        if len(self._rewards) == 1:
            return following, self._rewards[0][chosen]
        return following, self._rewards[times, chosen]

    def _evaluated(self, *drawn: np.ndarray) -> np.ndarray:
        """float64 [N], rewards evaluated at the steps that were drawn."""
        states, actions, outcomes, following, times = drawn
        result = np.zeros(len(states))
        model = self.model
        for t in np.unique(times) if model.reward.reads_time else (0,):
            rows = times == t if model.reward.reads_time else np.ones(len(states), dtype=bool)
            here, taken, which, there = (torch.as_tensor(part[rows]) for part in (states, actions, outcomes, following))
            if not model.reward.reads_outcome:
                which = there = torch.zeros_like(here)
            paid = evaluate_factor(model.reward, model.mdp, Step(here, taken, which, there, int(t)))
            result[rows] = paid.detach().expand(here.shape).numpy()
        return result
