"""Markov decision processes, dense or as successor lists, validated once and never changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cai.models.common.checks import float_tensor, start_distribution, state_mask
from cai.models.common.devices import place_tensor, resolve_place
from cai.models.common.facts import fact_table, process_facts
from cai.models.common.labels import by_name
from cai.models.common.memory import require_memory
from cai.models.common.names import KnownNames
from cai.models.common.storage import save, storable
from cai.models.processes.from_actions import AXES, check_axes, read_actions
from cai.models.processes.from_graph import graph_successors, read_initial
from cai.models.processes.from_sparse import refuse_sparse, successors_from_sparse
from cai.models.processes.from_successors import read_successors
from cai.models.processes.layout import GridLayout
from cai.models.processes.parts import Named, check_absorbing, checked_names, complete_rows, region_masks

__all__ = ["MDP"]

_STORED = ("next_states", "probabilities", "initial", "available", "terminal", "state_names", "action_names", "layout")

MENDED = 1.0001e-4  # by how much rows may miss 1 that are to be normalised: numbers printed with four digits


def _parts(mdp: MDP) -> dict[str, Any]:
    """What a file holds of a process: the checked original, and in which dtype it is used."""
    host = mdp.host
    return {name: getattr(host, name) for name in _STORED} | {"regions": dict(host.regions), "dtype": mdp.dtype}


def _of_parts(parts: dict[str, Any]) -> MDP:
    following, weights, dtype = parts.pop("next_states"), parts.pop("probabilities"), parts.pop("dtype")
    mdp = MDP(weights, axes=AXES, **parts) if following is None else MDP.from_successors(following, weights, **parts)
    return mdp.to(dtype=dtype)


@storable("mdp", pack=_parts, unpack=_of_parts)
@dataclass(frozen=True, eq=False)
class MDP(Named, KnownNames):
    """A finite Markov decision process without its reward.

    Every (state, action) has K outcomes: a next state with a probability. Given as `transitions` the outcomes are the
    S next states themselves; given by `MDP.from_successors`, `from_sparse` or `from_graph` they are short lists, and
    nothing of size [S, A, S] is built unless you ask for it (`dense()`).

    Args:
        transitions: [S, A, S], p(s' | s, a); tensor, array or nested lists.
        initial: [S], p(s_1); or the first state, by name or number; or {state: probability}.
        available: bool [S, A], which actions exist in a state (all, unless given). Rows of actions that do not exist
            may be zero; they are stored as "stay".
        terminal: states that end the episode: a mask, indices or names. They are absorbing, and earn nothing; their
            rows may be zero, and they need no available action.
        state_names: S names, for tables and pictures.
        action_names: A names.
        layout: where the states lie, for pictures.
        regions: named sets of states whose visits and endings are reported by `cai.evaluate`.
        normalize: whether rows that miss 1 by up to 1e-4, as numbers printed in a file do, are divided by their sums.
        axes: "state-action-state" where S = A and the order of the axes is meant as it is read; else this is said.

    A process is checked in float64 on the CPU, wherever its arguments come from; `to` makes a copy elsewhere.

    Attributes:
        probabilities: [S, A, K], of each outcome.
        next_states: int64 [S, A, K], or None when dense (then outcome k leads to state k).
        num_states: S.
        num_actions: A.
        num_outcomes: K, the outcomes listed for one (state, action); S when dense.
        is_dense: whether the process was given as [S, A, S].

    Raises:
        ValueError, TypeError: if a row does not sum to 1, an entry is negative or not finite, a shape or dtype does
            not fit, a state has no action, or a terminal state can be left.
    """

    transitions: Any
    initial: Any
    available: Any = None
    terminal: Any = None
    state_names: Sequence[str] | None = None
    action_names: Sequence[str] | None = None
    layout: GridLayout | None = None
    regions: Mapping[str, Any] = field(default_factory=dict)
    _elsewhere: ClassVar[dict[str, str]] = dict.fromkeys(
        ("reward", "rewards", "horizon", "discount", "gamma", "temperature", "action_prior"), "TrajectoryModel"
    )
    normalize: bool = False
    axes: Literal["state-action-state"] | None = None
    probabilities: Tensor = field(init=False, repr=False)
    next_states: Tensor | None = field(init=False, repr=False, default=None)
    num_states: int = field(init=False, repr=False)
    num_actions: int = field(init=False, repr=False)
    num_outcomes: int = field(init=False, repr=False)
    is_dense: bool = field(init=False, repr=False)
    _host: MDP | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        if self.transitions is None:
            raise ValueError("transitions is None; give [S, A, S] probabilities, or use MDP.from_successors")
        if isinstance(self.transitions, Mapping):
            raise TypeError(
                f"transitions is a {type(self.transitions).__name__}, whose keys would be ignored; a table "
                "P[state][action] = [(probability, next state, reward, terminated), ...] is read by "
                "cai.models.gymnasium_model(P, horizon=..., initial=...); "
                "otherwise give an array [S, A, S]"
            )
        if not isinstance(self.transitions, Tensor) or self.transitions.layout is not torch.strided:
            refuse_sparse(self.transitions)
        states, actions = (self.state_names, "state"), (self.action_names, "action")
        probabilities, source = float_tensor(self.transitions, "transitions", [states, actions, states])
        if probabilities.dim() != 3 or probabilities.shape[0] != probabilities.shape[2]:
            first = probabilities.dim() == 3 and probabilities.shape[1] == probabilities.shape[2]
            raise ValueError(
                f"transitions has shape {list(probabilities.shape)}; expected [S, A, S] with p(s' | s, a) at [s, a, s']"
                + ("; where the action comes first, use MDP.from_actions(transitions, initial)" if first else "")
            )
        self._finish(probabilities, None, source, "transitions")

    @classmethod
    def from_successors(
        cls,
        next_states: Any,
        probabilities: Any,
        initial: Any,
        *,
        available: Any = None,
        terminal: Any = None,
        state_names: Sequence[str] | None = None,
        action_names: Sequence[str] | None = None,
        layout: GridLayout | None = None,
        regions: Mapping[str, Any] | None = None,
        normalize: bool = False,
    ) -> MDP:
        """Builds a process from lists of outcomes; [S, A, S] is never formed.

        Args:
            next_states: int [S, A, K], or nested lists whose rows may differ in length.
            probabilities: [S, A, K], of the same lengths. Equal next states of one (s, a) add up.
            initial: as in `MDP`.
            available: as in `MDP`, like everything that follows.
            terminal: see `MDP`.
            state_names: see `MDP`.
            action_names: see `MDP`.
            layout: see `MDP`.
            regions: see `MDP`.
            normalize: see `MDP`.

        Raises:
            ValueError, TypeError: as `MDP`, and if a next state does not exist.
        """
        successors, weights, source = read_successors(next_states, probabilities)
        mdp = object.__new__(cls)
        mdp.__dict__.update(transitions=None, initial=initial, available=available, terminal=terminal)
        mdp.__dict__.update(state_names=state_names, action_names=action_names, layout=layout, regions=regions or {})
        mdp.__dict__.update(normalize=normalize)
        mdp._finish(weights, successors, source, "probabilities")
        return mdp

    @classmethod
    def from_sparse(cls, matrices: Any, initial: Any, **options: Any) -> MDP:
        """Builds a process from sparse matrices; [S, A, S] is never formed.

        Args:
            matrices: one scipy sparse matrix (or torch sparse tensor, COO or CSR) [S * A, S] with p(s' | s, a) in row
                s * A + a, or a list of A of them, [S, S] each. Entries given twice add up; K is the largest number of
                entries in a row that are not 0. Gradients reach torch tensors.
            initial: as in `MDP`.
            **options: `available`, `terminal` and so on, as in `from_successors`. The row of an action that is not
                available may be empty.

        Raises:
            ValueError, TypeError: as `MDP`, and if these are no sparse matrices or their shapes do not fit.
        """
        return cls.from_successors(*successors_from_sparse(matrices), initial, **options)

    @classmethod
    def from_actions(cls, matrices: Any, initial: Any, **options: Any) -> MDP:
        """Builds a process from one matrix for each action, as other libraries hold them: [A, S, S].

        Args:
            matrices: A matrices [S, S] with p(s' | s, a) at [s, s'], dense or scipy or torch sparse, in a list, an
                array, or a dictionary by the names of the actions. The labels of pandas tables are the state names.
            initial: as in `MDP`.
            **options: as in `MDP`.

        Raises:
            ValueError, TypeError: as `MDP`, and if these are not matrices of one size, or differ in their names.
        """
        dense, listed = read_actions(matrices, options)
        if listed is not None:
            return cls.from_successors(*listed, initial, **options)
        return cls(dense, initial, axes=AXES, **options)

    @classmethod
    def from_graph(
        cls,
        graph: Any,
        initial: Any = None,
        *,
        terminal: Any = None,
        probability: str | None = None,
        action: str = "action",
        layout: GridLayout | None = None,
        regions: Mapping[str, Any] | None = None,
    ) -> MDP:
        """Builds a process from a networkx DiGraph or MultiDiGraph: its nodes are the states, named by their str().

        Without `probability`, action i of a node is its i-th edge, and leads where the edge does; A is the largest
        number of edges out of a node. With it, the edges out of a node that share an action are its outcomes. For
        routes to a destination, and for edges as states, see `road_network`; `networkx.line_graph` makes edges nodes.

        Args:
            graph: directed. The order of its nodes is that of the states.
            initial: a node, {node: probability} or [S]; every node that is not terminal alike, unless given.
            terminal: a node or several, which absorb: edges out of them are left out. Other nodes need such edges.
            probability: the edge attribute with the probability of an outcome; every edge is certain unless given.
            action: the edge attribute with the action that an edge belongs to; read with `probability` only.
            layout: see `MDP`.
            regions: see `MDP`.

        Raises:
            TypeError, ValueError: if the graph is not directed or has no edge, a node that is not terminal has no edge
                out of it, an attribute is missing or no number, probabilities do not sum to 1, or two nodes are
                written alike.
        """
        edges, arrays = graph_successors(graph, terminal, probability, action)
        start = read_initial(initial, edges.index, ~arrays["terminal"])
        return cls.from_successors(**arrays, initial=start, layout=layout, regions=regions)

    def _finish(self, probabilities: Tensor, next_states: Tensor | None, source: torch.dtype, name: str) -> None:
        num_states, num_actions, num_outcomes = probabilities.shape
        if 0 in probabilities.shape:
            raise ValueError(f"{name} has shape {list(probabilities.shape)}; a problem has at least one of each")
        given, actions = self.state_names, self.action_names
        state_names = None if given is None else checked_names(given, num_states, "state")
        action_names = None if actions is None else checked_names(actions, num_actions, "action")
        terminal = torch.zeros(num_states, dtype=torch.bool)
        if self.terminal is not None:
            terminal = state_mask(self.terminal, num_states, state_names, "terminal")
        miss = MENDED if self.normalize else None
        initial = start_distribution(self.initial, num_states, state_names, miss)
        axes = [(state_names, "state"), (action_names, "action")]
        available = None if self.available is None else by_name(self.available, axes, "available")
        probabilities, next_states, available = complete_rows(
            probabilities,
            next_states,
            available,
            terminal,
            name,
            source,
            miss,
            lambda state: str(state) if state_names is None else state_names[state],
        )
        dense = None if next_states is not None else probabilities
        self.__dict__.update(
            transitions=dense,
            probabilities=probabilities,
            next_states=next_states,
            initial=initial,
            available=available,
            terminal=terminal,
            state_names=state_names,
            action_names=action_names,
            regions=region_masks(self.regions, num_states, state_names),
            num_states=num_states,
            num_actions=num_actions,
            num_outcomes=num_outcomes,
            is_dense=dense is not None,
        )
        if terminal.any():
            check_absorbing(self)
        if self.axes is not None or num_states == num_actions:
            check_axes(self.axes, dense, terminal)
        if self.layout is not None:
            self.layout.check(num_states, num_actions)

    # ---- where it lives -----------------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """Of probabilities and of everything computed from them: torch.float64, or torch.float32."""
        return self.probabilities.dtype

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.probabilities.device

    @property
    def host(self) -> MDP:
        """The process as it was checked, float64 on the CPU: what rewards are evaluated on. Itself, unless moved."""
        return self if self._host is None else self._host

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> MDP:
        """The same process with its tensors on another device or in another dtype.

        It is converted from the float64 original, which the copy keeps (`host`), so that nothing is lost on the way
        back. Gradients reach the tensors that the original was made of. A probability below 1e-45 is 0 in float32.

        Args:
            device: a `torch.device` or its name, e.g. "cuda"; the present one unless given.
            dtype: torch.float64 or torch.float32; the present one unless given.

        Raises:
            TypeError, ValueError: if there is no such device here, or the dtype is another one.
        """
        place = resolve_place(device, dtype, (self.device, self.dtype))
        for known in (self, self.host):
            if place == (known.device, known.dtype):
                return known
        moved = copy.copy(self.host)
        object.__setattr__(moved, "_host", self.host)
        for name in ("probabilities", "initial", "available", "terminal"):
            object.__setattr__(moved, name, place_tensor(getattr(self.host, name), *place, name))
        following = self.host.next_states
        object.__setattr__(moved, "next_states", None if following is None else following.to(place[0]))
        object.__setattr__(moved, "transitions", moved.probabilities if following is None else None)
        object.__setattr__(moved, "regions", {key: mask.to(place[0]) for key, mask in self.regions.items()})
        return moved

    # ---- what it is ---------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        kind = "dense" if self.is_dense else f"K={self.num_outcomes}"
        return f"MDP(S={self.num_states}, A={self.num_actions}, {kind}, {int(self.terminal.sum())} terminal)"

    def _repr_html_(self) -> str:
        return fact_table("MDP", process_facts(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> MDP:
        return self  # it never changes, and so its gradients go on reaching what it was made of

    def save(self, path: str | Path) -> Path:
        """Writes tables, names and layout to a file that `cai.load` reads, without gradients; returns the path."""
        return save(path, self)

    def states(self, states: Any) -> Tensor:
        """A mask, bool [S], of states given as a mask, indices or names, or as the name of a region."""
        if isinstance(states, str) and states in self.regions and states not in (self.state_names or ()):
            return self.regions[states]
        return state_mask(states, self.num_states, self.state_names, "states", regions=self.regions).to(self.device)

    def successors(self) -> Tensor:
        """int64 [S, A, K], or a broadcasting [1, 1, S] when dense: where each outcome leads."""
        if self.next_states is None:
            return torch.arange(self.num_states, device=self.device)[None, None, :]
        return self.next_states

    def gather(self, values: Tensor) -> Tensor:
        """Reads values [..., S] at each outcome's next state: [..., S, A, K], or [..., 1, 1, S] when dense."""
        return values[..., None, None, :] if self.next_states is None else values[..., self.next_states]

    def scatter(self, weights: Tensor) -> Tensor:
        """Adds weights [S, A, K] up at the outcomes' next states: [S]."""
        if self.next_states is None:
            return weights.sum((0, 1))
        zeros = weights.new_zeros(self.num_states)
        return zeros.index_add(0, self.next_states.reshape(-1), weights.reshape(-1))

    def to_next_states(
        self, weights: Tensor, what: str = "a dense table", instead: str = "keep the outcomes, [S, A, K]"
    ) -> Tensor:
        """Adds outcome weights [S, A, K] up over equal next states: dense [S, A, S]. Asked for, never implied.

        Args:
            weights: of the outcomes.
            what: asks for it, and `instead` what else would do, for the message.
            instead: see `what`.

        Raises:
            TooLarge: naming the bytes, if it does not fit into the memory that there is.
        """
        if self.next_states is None:
            return weights
        self.require_dense(what, instead)
        zeros = weights.new_zeros(self.num_states, self.num_actions, self.num_states)
        return zeros.scatter_add(-1, self.next_states, weights)

    def dense(self) -> Tensor:
        """[S, A, S], p(s' | s, a); built anew from successor lists (8 S A S bytes in float64).

        Raises:
            TooLarge: naming the bytes, if it does not fit into the memory that there is.
        """
        return self.to_next_states(self.probabilities, "dense()", "read next_states and probabilities instead")

    def require_dense(self, what: str, instead: str) -> None:
        """Raises TooLarge if a table [S, A, S] that `what` asks for does not fit into the memory that there is."""
        size, actions = self.num_states, self.num_actions
        shape, needed = f"[{size}, {actions}, {size}]", self.dtype.itemsize * size**2 * actions
        require_memory(needed, f"{what}, a table {shape},", instead, self.device)
