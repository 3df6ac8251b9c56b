"""Linearly solvable MDPs: the controller picks the next state, and pays the KL from what would happen by itself.

    v(s) = min_u { q(s) + alpha KL(u(. | s) || p(. | s)) + sum_s' u(s' | s) v(s') }

With z = e^{-v / alpha} the minimum is linear in z: z(s) = e^{-q(s) / alpha} sum_s' p(s' | s) z(s'), and the optimal
control is u(s' | s) proportional to p(s' | s) z(s') (Todorov 2006, 2009; Levine 2018, section 5.1). As control by
inference it is a deterministic world: action k leads to the k-th successor of s, the action prior is p(s' | s) and
the reward is -q(s). `LMDP.to_model` embeds it so, and every backend answers it.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from cai.models.common.checks import (
    check_distribution,
    check_shape,
    first_index,
    float_tensor,
    index_tensor,
    state_mask,
    whole_horizon,
)
from cai.models.common.numerics import safe_log, safe_logsumexp
from cai.models.processes.layout import GridLayout
from cai.models.processes.mdp import MDP
from cai.models.rewards.tables import RewardFactor, TableReward
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["LMDP", "compose_lmdps", "composition_weights", "process_difference"]


@dataclass(frozen=True, eq=False)
class LMDP:
    """A linearly solvable MDP: passive dynamics, what states cost, and what it costs to end in them.

    Costs are in reward units, of any sign, and +inf forbids. Each live step pays `state_cost` of the state it leaves.
    `final_cost` is paid once, with the transition that ends the trajectory, of the state it ends in: on the entry of
    a terminal state and, over a finite horizon, by the last transition into whatever nonterminal state s_{T+1} is.
    (So it is no part of what a discount takes away from later steps, an infinite horizon never pays that of a
    nonterminal state, and a trajectory which starts in a terminal state pays nothing.)

    Args:
        passive: [S, S], p(s' | s), what happens without control; tensor, array or nested lists. For large sparse
            dynamics use `LMDP.from_successors`.
        state_cost: [S], or one number for every nonterminal state; 0 in terminal states.
        initial: [S], p(s_1).
        terminal: states that end the trajectory: a mask, indices or names. They must lead to themselves.
        final_cost: [S], or one number for every state.
        state_names: S names, for tables and pictures.
        layout: where the states lie, for pictures. Its arrows are dropped, because action k of a state means no more
            than its k-th successor; `from_successors` keeps them.
        regions: named sets of states, as in `MDP`.

    Attributes:
        next_states: int64 [S, K], the successors of each state.
        probabilities: [S, K], p of each; 0 marks padding.
        process: the deterministic MDP in which action k leads to successor k.

    Raises:
        ValueError, TypeError: as `MDP`, and on costs that are NaN or -inf, and a state cost in a terminal state.
    """

    passive: Any
    state_cost: Any
    initial: Any
    terminal: Any = None
    final_cost: Any = 0.0
    state_names: Sequence[str] | None = None
    layout: GridLayout | None = None
    regions: Mapping[str, Any] = field(default_factory=dict)
    next_states: Tensor = field(init=False, repr=False)
    probabilities: Tensor = field(init=False, repr=False)
    process: MDP = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.passive is None:
            raise ValueError("passive is None; give [S, S] probabilities, or use LMDP.from_successors")
        passive, source = float_tensor(self.passive, "passive")
        if passive.dim() != 2 or passive.shape[0] != passive.shape[1] or passive.shape[0] == 0:
            raise ValueError(f"passive has shape {list(passive.shape)}; expected [S, S] with p(s' | s) at [s, s']")
        passive = check_distribution(passive, "passive", source)
        object.__setattr__(self, "passive", passive)
        if self.layout is not None:
            object.__setattr__(self, "layout", dataclasses.replace(self.layout, arrows=()))
        possible = passive.detach() > 0
        width = int(possible.sum(-1).max())
        following = torch.argsort((~possible).to(torch.uint8), dim=-1, stable=True)[:, :width]
        self._finish(following, passive.gather(-1, following))

    @classmethod
    def from_successors(
        cls,
        next_states: Any,
        probabilities: Any,
        state_cost: Any,
        initial: Any,
        *,
        terminal: Any = None,
        final_cost: Any = 0.0,
        state_names: Sequence[str] | None = None,
        layout: GridLayout | None = None,
        regions: Mapping[str, Any] | None = None,
    ) -> LMDP:
        """Builds a problem from lists of successors; [S, S] is never formed.

        Args:
            next_states: int [S, K], or nested lists whose rows may differ in length.
            probabilities: [S, K], of the same lengths. A next state listed twice stays two actions.
            state_cost: as in `LMDP`, like everything that follows.
            initial: see `LMDP`.
            terminal: see `LMDP`.
            final_cost: see `LMDP`.
            state_names: see `LMDP`.
            layout: see `LMDP`; it keeps its arrows, one for each of the K successors.
            regions: see `LMDP`.

        Raises:
            ValueError, TypeError: as `LMDP`, and if a next state does not exist or the two do not fit together.
        """
        next_states, probabilities = _pad(next_states, probabilities)
        following = index_tensor(next_states, "next_states")
        weights, source = float_tensor(probabilities, "probabilities")
        if following.dim() != 2 or 0 in following.shape:
            raise ValueError(f"next_states has shape {list(following.shape)}; expected [S, K], at least one of each")
        check_shape(weights, tuple(following.shape), "probabilities", "[S, K], as next_states,")
        outside = (following < 0) | (following >= following.shape[0])
        if outside.any():
            raise ValueError(
                f"next_states{first_index(outside)} is {int(following[outside][0])}; states are 0 to "
                f"{following.shape[0] - 1} (pad short lists with the state itself and probability 0)"
            )
        lmdp = object.__new__(cls)
        given = {
            "passive": None,
            "state_cost": state_cost,
            "initial": initial,
            "terminal": terminal,
            "final_cost": final_cost,
            "state_names": state_names,
            "layout": layout,
            "regions": regions or {},
        }
        for name, value in given.items():
            object.__setattr__(lmdp, name, value)
        lmdp._finish(following, check_distribution(weights, "probabilities", source))
        return lmdp

    def _finish(self, next_states: Tensor, probabilities: Tensor) -> None:
        num_states = next_states.shape[0]
        here = torch.arange(num_states)[:, None].expand_as(next_states)
        possible = probabilities.detach() > 0
        next_states = torch.where(possible, next_states, here)
        terminal = state_mask([] if self.terminal is None else self.terminal, num_states, self.state_names, "terminal")
        leaves = torch.where(next_states != here, probabilities.detach(), torch.zeros(())).sum(-1)
        if (terminal & (leaves > 0)).any():
            state = int(torch.nonzero(terminal & (leaves > 0))[0])
            name = state if self.state_names is None else list(self.state_names)[state]
            raise ValueError(
                f"terminal state {name} is left with probability {float(leaves[state]):.3g}; the passive dynamics of a "
                "terminal state must stay: give p(s | s) = 1 there, or take it out of terminal"
            )
        process = MDP.from_successors(
            next_states[..., None],
            torch.ones_like(probabilities)[..., None],
            self.initial,
            available=possible,
            terminal=terminal,
            state_names=self.state_names,
            layout=self.layout,
            regions=self.regions,
        )
        state_cost = _costs(self.state_cost, "state_cost", num_states, where=~terminal)
        charged = terminal & (state_cost.detach() != 0)
        if charged.any():
            state = int(torch.nonzero(charged)[0])
            raise ValueError(
                f"state_cost[{state}] is {float(state_cost[state]):g} in terminal state {process.state_name(state)}, "
                "which is never left; give 0 there, and what it costs to end in it as final_cost"
            )
        final = {
            "next_states": next_states,
            "probabilities": probabilities,
            "process": process,
            "state_cost": state_cost,
            "final_cost": _costs(self.final_cost, "final_cost", num_states),
            "initial": process.initial,
            "terminal": process.terminal,
            "state_names": process.state_names,
            "regions": process.regions,
        }
        for key, value in final.items():
            object.__setattr__(self, key, value)

    @property
    def num_states(self) -> int:
        """How many states there are, S."""
        return int(self.next_states.shape[0])

    @property
    def num_successors(self) -> int:
        """K, the longest list of successors."""
        return int(self.next_states.shape[1])

    def __repr__(self) -> str:
        return f"LMDP(S={self.num_states}, K={self.num_successors}, {int(self.terminal.sum())} terminal)"

    def replace(self, **changes: Any) -> LMDP:
        """A copy with some arguments changed, validated anew.

        Args:
            **changes: arguments of the constructor that the problem was made with.

        Raises:
            TypeError: if there is no such argument.
        """
        names = [entry.name for entry in dataclasses.fields(self) if entry.init]
        arguments = {name: getattr(self, name) for name in names}
        if self.passive is None:
            del arguments["passive"]
            arguments |= {"next_states": self.next_states, "probabilities": self.probabilities}
        unknown = [name for name in changes if name not in arguments]
        if unknown:
            raise TypeError(f"this LMDP has no argument {unknown[0]!r}; it has {', '.join(arguments)}")
        return (LMDP.from_successors if self.passive is None else LMDP)(**{**arguments, **changes})

    def dense(self, action_probs: Tensor | None = None) -> Tensor:
        """Dynamics over next states, equal successors added up.

        Args:
            action_probs: [..., S, K], a policy of the embedding, such as `posterior.action_probs`; the passive
                dynamics unless given.

        Returns:
            [..., S, S], u(s' | s) or p(s' | s).
        """
        weights = self.probabilities if action_probs is None else action_probs
        shape = tuple(self.next_states.shape)
        check_shape(weights, (None,) * (weights.dim() - 2) + shape, "action_probs", "[..., S, K]")
        zeros = torch.zeros(*weights.shape[:-1], self.num_states, dtype=weights.dtype)
        return zeros.scatter_add(-1, self.next_states.expand(weights.shape), weights)

    def to_model(
        self,
        *,
        horizon: int | float = 20,
        temperature: float = 1.0,
        discount: float = 1.0,
        optimality: Literal["factor", "bernoulli"] = "factor",
        name: str = "lmdp",
    ) -> TrajectoryModel:
        """The same problem as a trajectory model, whose soft values are -v(s): action k leads to successor k.

        The fixed-dynamics backup is V(s) = alpha log sum_s' p(s' | s) e^{(-q(s) + gamma V(s')) / alpha}, that is
        z = e^{-q / alpha} P z^gamma (Todorov 2009). Nothing of size [S, A, S] is made.

        Args:
            horizon: T >= 1, or math.inf: first exit with discount 1, else discounted.
            temperature: alpha > 0, cost units per nat; Todorov's problems have 1.
            discount: gamma in (0, 1].
            optimality: as in `TrajectoryModel`.
            name: for tables and pictures.

        Returns:
            The model, with A = K actions, the action prior p(s' | s) and rewards that are minus the costs.
        """
        horizon = whole_horizon(horizon)
        ends, nonterminal = self.terminal[self.next_states], ~self.terminal[:, None]
        zero = torch.zeros((), dtype=torch.float64)
        final = self.final_cost[self.next_states]
        paid = self.state_cost[:, None] + torch.where(ends, final, zero)
        reward: RewardFactor = TableReward(torch.where(nonterminal, -paid, zero))
        if horizon != math.inf:
            stops = torch.where(nonterminal & ~ends, -final, zero)
            if stops.requires_grad or bool((stops != 0).any()):
                reward = reward + TableReward(stops).at(times=[int(horizon) - 1])
        return TrajectoryModel(
            self.process, reward, horizon, temperature, discount, self.probabilities, optimality=optimality, name=name
        )


def compose_lmdps(lmdps: Sequence[LMDP], weights: Any, *, temperature: float = 1.0) -> LMDP:
    """The problem with e^{-f / alpha} = sum_i w_i e^{-f_i / alpha}, f being the final costs (Todorov 2009).

    Its desirability is z = sum_i w_i z_i without being solved: see `cai.inference.compose_posteriors`.

    Args:
        lmdps: N problems that differ in nothing but their final costs.
        weights: [N], w_i >= 0, not all 0. They need not sum to 1: a common factor c moves every final cost by
            -alpha log c, and no control.
        temperature: alpha, that of the models to be made.

    Returns:
        The composed problem, named and drawn as the first one.

    Raises:
        ValueError, TypeError: if the problems differ in anything else, or the weights are no weights.
    """
    lmdps = list(lmdps)
    strange = [part for part in lmdps if not isinstance(part, LMDP)]
    if strange:
        raise TypeError(f"a {type(strange[0]).__name__} cannot be composed; expected LMDPs")
    log_weights = safe_log(composition_weights(weights, len(lmdps)))
    if not isinstance(temperature, numbers.Real) or not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature!r}; expected a finite number above 0")
    first = lmdps[0]
    for i, other in enumerate(lmdps[1:], start=1):
        what = process_difference(first.process, other.process)
        for name in ("probabilities", "state_cost"):
            what = what or (None if torch.equal(getattr(first, name), getattr(other, name)) else name)
        if what:
            raise ValueError(
                f"lmdps[0] and lmdps[{i}] differ in {what}; only problems that share all but final_cost compose: "
                "make them from one another with lmdp.replace(final_cost=...)"
            )
    scores = torch.stack([-part.final_cost / temperature for part in lmdps]) + log_weights[:, None]
    return first.replace(final_cost=-temperature * safe_logsumexp(scores, 0))


def composition_weights(weights: Any, number: int) -> Tensor:
    """[N], the weights of a composition, checked.

    Raises:
        ValueError, TypeError: if there are not N of them, one is negative or not finite, or all are 0.
    """
    if number == 0:
        raise ValueError("there is nothing to compose; give at least one component")
    tensor, _ = float_tensor(weights, "weights")
    check_shape(tensor, (number,), "weights", "[N], one for each component,")
    bad = ~torch.isfinite(tensor.detach()) | (tensor.detach() < 0)
    if bad.any():
        raise ValueError(
            f"weights{first_index(bad)} is {float(tensor.detach()[bad][0]):g}; a composition adds desirabilities "
            "up, so its weights are finite numbers >= 0"
        )
    if not (tensor.detach() > 0).any():
        raise ValueError("weights are all 0, and nothing is desired; give at least one component a positive weight")
    return tensor


def process_difference(left: MDP, right: MDP) -> str | None:
    """In what two processes differ: the name of an attribute, or None if they are the same but for their names."""
    if left is right:
        return None
    if left.is_dense is not right.is_dense:
        return "successors (one is dense, the other made of lists)"
    names = ["probabilities", "initial", "terminal", "available"]
    for name in names if left.is_dense else ["next_states", *names]:
        one, other = getattr(left, name), getattr(right, name)
        if one.shape != other.shape:
            return f"the shape of {name} ({list(one.shape)} and {list(other.shape)})"
        if not torch.equal(one, other):
            return name
    return None


def _costs(costs: Any, name: str, num_states: int, where: Tensor | None = None) -> Tensor:
    """[S], checked; one number stands for every state `where`."""
    if isinstance(costs, (str, bytes)) or costs is None:
        raise TypeError(f"{name} is {costs!r}; expected [S] costs or one number")
    tensor, _ = float_tensor(costs, name)
    if tensor.dim() == 0:
        everywhere = torch.ones(num_states, dtype=torch.bool) if where is None else where
        tensor = torch.where(everywhere, tensor, torch.zeros((), dtype=torch.float64))
    check_shape(tensor, (num_states,), name, "[S]")
    bad = torch.isnan(tensor) | (tensor == -math.inf)
    if bad.any():
        what = "NaN" if bool(torch.isnan(tensor[bad][0])) else "-inf"
        raise ValueError(
            f"{name}{first_index(bad)} is {what}; costs are finite numbers (negative ones are rewards), or +inf for "
            "what is forbidden"
        )
    return tensor


def _pad(next_states: Any, probabilities: Any) -> tuple[Any, Any]:
    """Makes ragged nested lists rectangular: short rows get the state itself with probability 0."""
    if hasattr(next_states, "shape") or hasattr(probabilities, "shape"):
        return next_states, probabilities
    for name, rows in (("next_states", next_states), ("probabilities", probabilities)):
        if not isinstance(rows, Sequence) or not all(hasattr(row, "__len__") for row in rows):
            raise ValueError(f"{name} must be nested as [S, K]: for each state a list of successors")
    if [len(row) for row in next_states] != [len(row) for row in probabilities]:
        raise ValueError(
            "next_states and probabilities do not have rows of the same lengths; give each next state its probability"
        )
    width = max((len(row) for row in next_states), default=0)
    padded = [list(row) + [state] * (width - len(row)) for state, row in enumerate(next_states)]
    return padded, [list(row) + [0.0] * (width - len(row)) for row in probabilities]
