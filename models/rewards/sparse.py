"""Rewards given as sparse matrices, as transition probabilities are; a table [S, A, S] is never formed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cai.models.common.storage import storable
from cai.models.processes.from_sparse import is_sparse, sparse_entries
from cai.models.processes.mdp import MDP
from cai.models.rewards.base import RewardFactor, Step

__all__ = ["SparseReward", "given_sparse"]


def given_sparse(reward: Any) -> bool:
    """Whether this is a sparse matrix, or a list of them."""
    listed = isinstance(reward, Sequence) and not isinstance(reward, (str, bytes))
    return any(map(is_sparse, reward)) if listed else is_sparse(reward)


def _parts(reward: SparseReward) -> dict[str, Any]:
    return {"keys": reward.keys, "values": reward.values, "shapes": reward.shapes}


def _of_parts(parts: dict[str, Any]) -> SparseReward:
    made = object.__new__(SparseReward)
    made.__dict__.update(parts, matrices=None, reads_time=False, reads_outcome=True)
    return made


@storable("reward-sparse", pack=_parts, unpack=_of_parts)
@dataclass(frozen=True, eq=False)
class SparseReward(RewardFactor):
    """The reward of (s_t, a_t, s_{t+1}), 0 where the matrices have no entry.

    Args:
        matrices: one scipy sparse matrix (or torch sparse tensor) [S * A, S] with r(s, a, s') in row s * A + a, or a
            list of A of them, [S, S] each, as in `MDP.from_sparse`. Entries given twice add up. Gradients reach torch
            tensors.

    Raises:
        TypeError, ValueError: if these are no sparse matrices of real numbers.
    """

    matrices: Any
    keys: Tensor = field(init=False, repr=False)
    values: Tensor = field(init=False, repr=False)
    shapes: list[list[int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        single = is_sparse(self.matrices)
        listed = [self.matrices] if single else list(self.matrices)
        for place, matrix in enumerate(listed):
            if not is_sparse(matrix):
                raise TypeError(
                    f"reward[{place}] is a {type(matrix).__name__}, and others are sparse; give one sparse matrix "
                    "[S, S] for each action"
                )
        parts = [sparse_entries(matrix, f"reward[{place}]") for place, matrix in enumerate(listed)]
        shapes = [list(part[3]) for part in parts]
        if not single and (len({tuple(shape) for shape in shapes}) > 1 or shapes[0][0] != shapes[0][1]):
            raise ValueError(f"the sparse rewards have shapes {shapes[:4]}; expected one matrix [S, S] for each action")
        width = shapes[0][1]
        rows = torch.cat([rows * len(parts) + action for action, (rows, _, _, _) in enumerate(parts)])
        keys = rows * width + torch.cat([part[1] for part in parts])
        values = torch.cat([part[2] for part in parts]).double()
        order = torch.argsort(keys)
        final = {"keys": keys[order], "values": values[order], "shapes": shapes}
        self.__dict__.update(final, reads_time=False, reads_outcome=True)

    def check(self, mdp: MDP) -> None:
        size, actions = mdp.num_states, mdp.num_actions
        want = [[size, size]] * actions if len(self.shapes) > 1 else [[size * actions, size]]
        if self.shapes != want:
            got = self.shapes[0] if len(self.shapes) == 1 else f"{len(self.shapes)} x {self.shapes[0]}"
            raise ValueError(
                f"the sparse reward has shape {got}; this process has S = {size}, A = {actions}: expected one matrix "
                f"[S * A, S] = [{size * actions}, {size}] with r(s, a, s') in row s * A + a, or A of them, [S, S]; a "
                "table [S, A] is given as reward.toarray()"
            )

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        wanted = (step.state * mdp.num_actions + step.action) * mdp.num_states + step.next_state
        if not len(self.keys):
            return torch.zeros(wanted.shape, dtype=torch.float64)
        place = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)
        return torch.where(self.keys[place] == wanted, self.values[place], 0.0)
