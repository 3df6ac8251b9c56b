"""A continuous model on a grid: a `TrajectoryModel`, with all that tables can do."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.models.common.memory import require_memory
from cai.models.common.storage import storable
from cai.models.continuous.grid import Grid
from cai.models.continuous.moves import (
    Noise,
    is_certain,
    kind_of_noise,
    misplaced,
    near_nodes,
    spread_over_nodes,
    unresolved,
)
from cai.models.continuous.over_time import refuse_time, reward_reads_time, some_pairs
from cai.models.continuous.world import World
from cai.models.processes.layout import GridLayout
from cai.models.processes.mdp import MDP
from cai.models.rewards.base import RewardFactor, Step
from cai.models.rewards.tables import TableReward, TimeTableReward
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["NextStateReward", "discretize"]

logger = logging.getLogger("cai.models")
CHUNK = 2**21  # numbers in one table that is being made
LOST = 1e-3  # the share of moves that lead out of the box from which on it is said
MISSED = 1e-3  # by how much the mass of a density at the nodes, or its moments, may be off before it is said
INSIDE = 1e-9  # how far towards the middle action nodes are drawn before the prior's density is read there


@storable("reward-of-next-state")
@dataclass(frozen=True, eq=False)
class NextStateReward(RewardFactor):
    """A reward that depends on the next state alone, for each step from a state that is not terminal.

    Args:
        table: [S], reward units.
    """

    table: Any
    reads_time = False

    def check(self, mdp: MDP) -> None:
        if tuple(self.table.shape) != (mdp.num_states,):
            raise ValueError(f"the table has shape {list(self.table.shape)}; expected [S] = [{mdp.num_states}]")

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        paid = self.table[step.next_state]
        return torch.where(mdp.terminal[step.state], torch.zeros_like(paid), paid)


def discretize(model: World, states: Any, actions: Any, noise: Noise = "auto") -> TrajectoryModel:
    """A grid of a continuous model as a `TrajectoryModel`.

    States and actions are the nodes of the product of their axes, numbered row by row, the last axis fastest.

    With `noise="density"` the probability of a node is proportional to the density there times its trapezoid weight.
    For smooth noise whose standard deviations are at least one spacing, and a box whose edges matter to nobody, this
    converges faster than any power of the spacing, under the exact target as with fixed dynamics. That holds for axes
    whose spacing is even, or changes smoothly: where it jumps, as with nodes drawn at random, the error is of second
    order (1e-2 of a nat seen), and noise whose coordinates are correlated is narrower than any of them. Moments of what
    lies on nodes are held against those of the distribution, and a message says where they differ by more than 1e-3.
    How fine actions must be also depends on the posterior, which is narrower than their prior: a message says where
    the rewards of the first step alone are too sharp for their nodes; halve the spacing to see what the rest asks for.

    With `noise="interpolate"` a next state is divided among the corners of its cell by multilinear weights, a Gaussian
    one by Gauss-Hermite points. With fixed dynamics that interpolates the value function, with an error of second order
    in the spacing. **Under the exact target it is biased upwards**: which corner is reached is then noise like any
    other, the posterior believes in the lucky one, and log-mean-exp over corners is never below the interpolated value.
    Where next states are certain, `exact` and `variational` agree on the model itself and differ on its table. Where
    every next state is a node, nothing is interpolated and none of this holds. A next state outside the box is brought
    to its boundary; a message says how often.

    The action prior is its density, read at nodes drawn 1e-9 of their distance towards the middle (the density of a
    uniform at its own end is 0 in torch), times trapezoid weight, normalised. `Flat()` becomes the uniform prior on the
    box of the actions, so that log Z(flat) = log Z(table) + T log(volume of that box). The start is read by density
    where it has one and is no narrower than the spacing, and interpolated else. The final reward is paid with the last
    step, by its outcome.

    Args:
        model: a `LinearGaussianModel` or a `ContinuousModel`.
        states: n axes, increasing 1-D tensors.
        actions: m axes, likewise.
        noise: "density", "interpolate", or "auto": the density where every standard deviation of the noise is at least
            one spacing, else interpolation.

    Returns:
        A model with S = product of the lengths of the state axes, A of those of the action axes. States and actions are
        named by their coordinates, e.g. "0.5, -1". One or two coordinates also have a layout, for pictures.

    Raises:
        TypeError, ValueError: if the axes do not fit the model, dynamics or prior depend on t, the model is a batch,
            the start lies outside the box, noise is to be interpolated that is not Gaussian, or "density" is asked for
            where there is none.
        TooLarge: if the tables do not fit into the memory that there is.
    """
    if not isinstance(model, World):
        raise TypeError(f"expected a LinearGaussianModel or a ContinuousModel, got a {type(model).__name__}")
    if noise not in ("auto", "density", "interpolate"):
        raise ValueError(f"noise is {noise!r}; expected 'auto', 'density' or 'interpolate'")
    if model.batch_shape:
        raise ValueError(
            f"the model is a batch of shape {list(model.batch_shape)}; a grid is made of one: model.member(...)"
        )
    states_grid, actions_grid = Grid(states, "states", model.state_dim), Grid(actions, "actions", model.action_dim)
    pairs = f"{len(states_grid):,} states and {len(actions_grid):,} actions"
    require_memory(48 * len(states_grid) * len(actions_grid), f"a table of {pairs}", "use a coarser grid")
    start = _start(model, states_grid)
    refuse_time(model, states_grid, actions_grid)
    terminal = _terminal(model, states_grid)
    prior = _prior(model, states_grid, actions_grid, terminal)
    mdp = _process(model, states_grid, actions_grid, noise, prior, terminal, start)
    return TrajectoryModel(
        mdp,
        _reward(model, states_grid, actions_grid, prior, terminal),
        model.horizon,
        model.temperature,
        model.discount,
        action_prior=prior,
        name=model.name,
        criterion=model.criterion,  # type: ignore[arg-type]
    )


def _chunks(states: Grid, actions: Grid, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of states [c, A, n] and actions [c, A, m] in the order of the states; c A width numbers are few."""
    count, num_actions = len(states), len(actions)
    size = max(1, CHUNK // (num_actions * width))
    for first in range(0, count, size):
        part = states.nodes[first : first + size]
        lead = (len(part), num_actions)
        yield part[:, None].expand(*lead, -1), actions.nodes.expand(*lead, -1)


def _terminal(model: World, states: Grid) -> Tensor:
    """Bool [S]."""
    ends = model.has_ended(states.nodes)
    return torch.zeros(len(states), dtype=torch.bool) if ends is None else ends


def _process(
    model: World, states: Grid, actions: Grid, noise: Noise, prior: Tensor, terminal: Tensor, start: Tensor
) -> MDP:
    kind = kind_of_noise(model.transition(*some_pairs(states, actions), 0), states, noise, "the noise")
    make = _by_density if kind == "density" else _by_interpolation
    return make(
        model,
        states,
        actions,
        prior,
        terminal,
        {
            "initial": start,
            "terminal": terminal if bool(terminal.any()) else None,
            "state_names": states.names(),
            "action_names": actions.names(),
            "layout": _layout(states),
        },
    )


def _by_density(
    model: World, states: Grid, actions: Grid, prior: Tensor, terminal: Tensor, common: dict[str, Any]
) -> MDP:
    size = 8 * len(states) ** 2 * len(actions)
    advice = "use a coarser grid, or noise='interpolate'"
    require_memory(2 * size, f"a table [{len(states)}, {len(actions)}, {len(states)}] of next states", advice)
    rows, lost, off = [], [], 0.0
    for s, a in _chunks(states, actions, len(states)):
        moves = model.transition(s, a, 0)
        rows.append(spread_over_nodes(moves, states))
        off = max(off, misplaced(moves, rows[-1], states))
        with contextlib.suppress(NotImplementedError, AttributeError):  # not every distribution knows its mean
            lost.append(states.outside(moves.mean.detach()))
    _tell_misplaced(off, "the noise", "states")
    if lost:
        _tell_lost(torch.cat(lost), prior, terminal)
    table = torch.cat(rows)
    if bool(terminal.any()):
        table = torch.where(terminal[:, None, None], torch.eye(len(states), dtype=table.dtype)[:, None], table)
    return MDP(table, axes="state-action-state" if len(states) == len(actions) else None, **common)


def _by_interpolation(
    model: World, states: Grid, actions: Grid, prior: Tensor, terminal: Tensor, common: dict[str, Any]
) -> MDP:
    found = [
        near_nodes(model.transition(s, a, 0), states, "the noise")
        for s, a in _chunks(states, actions, 2 ** len(states.axes))
    ]
    length = max(numbers.shape[-1] for numbers, _, _ in found)
    numbers = torch.cat([_longer(numbers, length, numbers[..., :1]) for numbers, _, _ in found])
    weights = torch.cat([_longer(part, length, part.new_zeros(())) for _, part, _ in found])
    if length > 1:
        logger.warning(
            "next states are interpolated between nodes: with fixed dynamics an error of second order in the spacing, "
            "but under the exact target noise that can be wished away, which biases log p(O) upwards"
        )
    _tell_lost(torch.cat([outside for _, _, outside in found]), prior, terminal)
    own = torch.arange(len(states))[:, None, None]
    certain = torch.zeros(length, dtype=weights.dtype)
    certain[0] = 1.0
    numbers = torch.where(terminal[:, None, None], own, numbers)
    weights = torch.where(terminal[:, None, None], certain, weights)
    return MDP.from_successors(numbers, weights, **common)


def _tell_lost(outside: Tensor, prior: Tensor, terminal: Tensor) -> None:
    """Says how many of the moves that the prior makes lead out of the box, [S, A]."""
    share = float((outside * prior.detach()).sum(-1)[~terminal].mean()) if not bool(terminal.all()) else 0.0
    if share > LOST:
        logger.warning(
            "%.2g %% of the moves that the action prior makes from the nodes lead out of the box of the states and are "
            "held inside; widen the axes if such moves matter",
            100 * share,
        )


def _longer(tensor: Tensor, length: int, fill: Tensor) -> Tensor:
    missing = length - tensor.shape[-1]
    return tensor if not missing else torch.cat([tensor, fill.expand(*tensor.shape[:-1], missing)], -1)


def _start(model: World, states: Grid) -> Tensor:
    """[S], p(s_1) on the nodes."""
    start = model.start_distribution()
    what = "the start"
    kind = kind_of_noise(start, states, "auto", what)
    mean = start.v if is_certain(start) else start.mean
    if bool(states.outside(mean.detach())):
        raise ValueError(
            f"the start, {[round(x, 6) for x in mean.tolist()]}, lies outside the box of the states; widen the axes"
        )
    if kind == "density":
        scores = start.log_prob(states.nodes).detach() + states.weights.log()
        _tell_missing(float(scores.exp().sum()), what, "states")
        found = spread_over_nodes(start, states)
        _tell_misplaced(misplaced(start, found, states), what, "states")
        return found
    numbers, weights, _ = near_nodes(start, states, what)
    return torch.zeros(len(states), dtype=weights.dtype).index_add(0, numbers, weights)


def _prior(model: World, states: Grid, actions: Grid, terminal: Tensor) -> Tensor:
    """[S, A], p(a | s) on the nodes."""
    uniform = actions.weights / actions.volume
    if model.is_flat:
        return uniform
    nodes, rows, masses, off = actions.inside(INSIDE), [], [], 0.0
    for s, _ in _chunks(states, actions, model.action_dim):
        prior = model.prior(s, 0)
        scores = prior.log_prob(nodes.expand(*s.shape[:-1], -1)) + actions.weights.log()
        masses.append(scores.detach().exp().sum(-1))
        none = torch.isinf(scores.detach().amax(-1, keepdim=True))
        rows.append(torch.where(none, torch.nan, torch.softmax(torch.where(none, 0.0, scores), -1)))
        off = max(off, misplaced(prior, rows[-1][..., None, :].detach(), actions))
    table = torch.cat(rows)
    missing = torch.isnan(table.detach()).any(-1) & ~terminal
    if bool(missing.any()):
        where = [round(x, 6) for x in states.nodes[torch.nonzero(missing)[0, 0]].tolist()]
        raise ValueError(
            f"the action prior has no density at any node of the actions in state {where}; widen their axes"
        )
    if not bool(terminal.all()):
        _tell_missing(float(torch.cat(masses).flatten()[~terminal].mean()), "the action prior", "actions")
        _tell_misplaced(off, "the action prior", "actions")
    return torch.where(torch.isnan(table.detach()), uniform, table)


def _tell_missing(mass: float, what: str, where: str) -> None:
    """Says that what the nodes hold of a density, by their trapezoid weights, is far from 1."""
    if abs(mass - 1) > MISSED:
        logger.warning(
            "the nodes of the %s hold %.3g of %s in place of 1, and that is scaled to 1: the box cuts it off, or they "
            "lie too far apart for it; widen the axes, or make them finer",
            where,
            mass,
            what,
        )


def _tell_misplaced(off: float, what: str, where: str) -> None:
    """Says that moments of what lies on nodes are not those of the distribution that was read there."""
    if off > MISSED:
        logger.warning(
            "on the nodes of the %s, %s has a mean that is off by %.2g of its standard deviation, or a variance by "
            "that share of itself: they lie unevenly, or too far apart for its narrowest direction; use even or "
            "finer axes",
            where,
            what,
            off,
        )


def _tell_coarse(first: Tensor, model: World, actions: Grid, prior: Tensor, terminal: Tensor) -> None:
    """Says where the spacing of the actions is too wide for what one step pays, `first` [S, A], at the temperature."""
    if bool(terminal.all()):
        return
    scores = prior.log() - actions.weights.log() + first / model.temperature
    off = float(unresolved(scores[~terminal].detach(), actions).median())
    if off > MISSED:
        logger.warning(
            "the nodes of the actions lie too far apart for their rewards at temperature %.3g: in half of the states "
            "sums over them may be off by %.2g of themselves or more, by what one step pays alone; use finer axes",
            float(model.temperature),
            off,
        )


def _reward(model: World, states: Grid, actions: Grid, prior: Tensor, terminal: Tensor) -> RewardFactor:
    """The rewards of the nodes; that of the last step with the final reward of the next node."""

    def table(t: int) -> Tensor:
        rows = [model.step_reward(s, a, t) for s, a in _chunks(states, actions, 4)]
        found = torch.cat(rows)
        return torch.where(terminal[:, None], torch.zeros_like(found), found)

    reward: RewardFactor
    if reward_reads_time(model, states, actions):
        size = 8 * model.steps * len(states) * len(actions)
        require_memory(2 * size, "a table of rewards for each step", "use a coarser grid or a shorter horizon")
        tables = [table(t) for t in range(model.steps)]
        reward = TimeTableReward(torch.stack(tables))
    else:
        tables = [table(0)]
        reward = TableReward(tables[0])
    _tell_coarse(tables[0], model, actions, prior, terminal)
    final = model.last_reward(states.nodes) if model.is_finite else None
    if final is None:
        return reward
    return reward + NextStateReward(final).at(times=[model.steps - 1])


def _layout(states: Grid) -> GridLayout | None:
    """Where nodes of one or two coordinates lie: the first to the right, the second upwards."""
    sizes = [len(axis) for axis in states.axes]
    if len(sizes) > 2:
        return None
    columns, rows = sizes[0], sizes[1] if len(sizes) == 2 else 1
    cells = tuple((rows - 1 - y, x) for x in range(columns) for y in range(rows))
    return GridLayout(rows, columns, cells, ())
