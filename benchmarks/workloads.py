"""The processes that are timed: one dense table, grids whose moves slip, and batches of rewards; all are seeded.

A    dense, S = 1000, A = 4, T = 50
B    grid 100 x 100, A = 4, K = 4 successors, T = 200
C    grid 1000 x 1000, A = 4, K = 3, T = 20
Cr   C with its successors drawn at random from all states
D    B; the gradient of log evidence with respect to the reward is asked for
E    B with 64 rewards
F    the bridge of the lectures, S = 22, A = 4, K = 3, T = 20: what notebooks and sliders ask, milliseconds at a time
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["WORKLOADS", "Workload", "dense_workload", "grid_workload", "make_workload"]

HEADINGS = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])  # up, down, left, right; rows and columns
BATCH = 64


@dataclass(frozen=True, eq=False)
class Workload:
    """Arrays of one problem; the action prior is uniform, the temperature and the discount are 1.

    Attributes:
        name: its letter.
        title: what it is, in a few words.
        next_states: int64 [S, A, K], or None where the table is dense (K = S).
        probabilities: [S, A, K], rows sum to 1.
        reward: [S, A], in (-1, 0], or [N, S, A] for a batch.
        horizon: T.
        initial: [S], uniform.
        gradient: whether the derivative of log evidence by the reward is asked for, not the values.
        outcome_reward: [S, A, K], what an outcome adds to the reward, or None for nothing.
    """

    name: str
    title: str
    next_states: np.ndarray | None
    probabilities: np.ndarray
    reward: np.ndarray
    horizon: int
    initial: np.ndarray
    gradient: bool = False
    outcome_reward: np.ndarray | None = None

    @property
    def num_states(self) -> int:
        """S."""
        return int(self.probabilities.shape[0])

    @property
    def num_actions(self) -> int:
        """A."""
        return int(self.probabilities.shape[1])

    @property
    def num_outcomes(self) -> int:
        """K; S where the table is dense."""
        return int(self.probabilities.shape[2])

    @property
    def batch(self) -> int:
        """N, the number of rewards."""
        return int(self.reward.shape[0]) if self.reward.ndim == 3 else 1

    @property
    def value_bytes(self) -> int:
        """Of the values of every step: 8 N T S."""
        return 8 * self.batch * self.horizon * self.num_states


def _probabilities(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    weights = generator.random(shape)
    weights += 0.1
    weights /= weights.sum(-1, keepdims=True)
    return weights


def dense_workload(num_states: int, num_actions: int, horizon: int, *, name: str = "A", seed: int = 0) -> Workload:
    """A full table: every next state is possible.

    Args:
        num_states: S.
        num_actions: A.
        horizon: T.
        name: of the workload.
        seed: of probabilities and rewards.
    """
    generator = np.random.default_rng(seed)
    return Workload(
        name=name,
        title=f"dense, S={num_states:,}, A={num_actions}, T={horizon}",
        next_states=None,
        probabilities=_probabilities(generator, (num_states, num_actions, num_states)),
        reward=-generator.random((num_states, num_actions)),
        horizon=horizon,
        initial=np.full(num_states, 1 / num_states),
    )


def grid_workload(
    rows: int,
    columns: int,
    num_outcomes: int,
    horizon: int,
    *,
    name: str = "B",
    at_random: bool = False,
    seed: int = 0,
) -> Workload:
    """A grid with four actions. An action leads to the K nearest cells, those in its own direction first.

    With K = 4 these are the intended neighbour, the two at its sides, and the one behind. A move across the border
    ends at the border.

    Args:
        rows: of the grid.
        columns: of the grid; states are counted along its rows.
        num_outcomes: K.
        horizon: T.
        name: of the workload.
        at_random: whether next states are drawn uniformly from all states instead.
        seed: of probabilities, rewards and random successors.
    """
    generator = np.random.default_rng(seed)
    num_states, num_actions = rows * columns, len(HEADINGS)
    shape = (num_states, num_actions, num_outcomes)
    if at_random:
        next_states = generator.integers(0, num_states, shape)
    else:
        row, column = np.divmod(np.arange(num_states), columns)
        next_states = np.empty(shape, dtype=np.int64)
        for action, heading in enumerate(HEADINGS):
            for outcome, (down, right) in enumerate(_moves(heading, num_outcomes)):
                target = (row + down).clip(0, rows - 1) * columns + (column + right).clip(0, columns - 1)
                next_states[:, action, outcome] = target
    successors = ", successors at random" if at_random else ""
    return Workload(
        name=name,
        title=f"grid {rows} x {columns}, A={num_actions}, K={num_outcomes}, T={horizon}{successors}",
        next_states=next_states,
        probabilities=_probabilities(generator, shape),
        reward=-generator.random((num_states, num_actions)),
        horizon=horizon,
        initial=np.full(num_states, 1 / num_states),
    )


def _moves(heading: np.ndarray, number: int) -> np.ndarray:
    """int [number, 2]: the nearest moves, at equal distance those closest to a heading first."""
    reach = math.isqrt(number) + 1
    steps = np.arange(-reach, reach + 1)
    moves = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    moves = moves[(moves != 0).any(-1)]
    distance = (moves**2).sum(-1)
    along = moves @ heading / np.sqrt(distance)
    return moves[np.lexsort((-along, distance))][:number]


def make_workload(name: str, quick: bool = False) -> Workload:
    """One of the workloads, by its letter.

    Args:
        name: one of `WORKLOADS`.
        quick: whether to make a small one of the same kind, to see that everything runs.

    Raises:
        ValueError: if there is no such workload.
    """
    if name == "A":
        return dense_workload(*((100, 4, 10) if quick else (1000, 4, 50)), name=name)
    if name in ("B", "D", "E"):
        grid = grid_workload(*((20, 20, 4, 20) if quick else (100, 100, 4, 200)), name=name)
        if name == "D":
            return replace(grid, title=f"gradient by the reward, {grid.title}", gradient=True)
        if name == "E":
            number = 8 if quick else BATCH
            rewards = -np.random.default_rng(1).random((number, *grid.reward.shape))
            return replace(grid, title=f"{number} rewards, {grid.title}", reward=rewards)
        return grid
    if name in ("C", "Cr"):
        return grid_workload(*((60, 60, 3, 10) if quick else (1000, 1000, 3, 20)), name=name, at_random=name == "Cr")
    if name == "F":
        return _bridge_workload()
    raise ValueError(f"no workload is called {name!r}; choose from {', '.join(WORKLOADS)}")


def _bridge_workload() -> Workload:
    """The arrays of `cai.models.bridge()`."""
    from cai.models import bridge

    model = bridge()
    next_states, probabilities = model.mdp.next_states.numpy(), model.mdp.probabilities.numpy()
    return Workload(
        name="F",
        title="bridge, S=22, A=4, K=3, T=20",
        next_states=next_states,
        probabilities=probabilities,
        reward=np.zeros(probabilities.shape[:2]),
        horizon=int(model.horizon),
        initial=model.mdp.initial.numpy(),
        outcome_reward=model.reward_table(0).numpy(),
    )


WORKLOADS = ("A", "B", "C", "Cr", "D", "E", "F")
