"""What is learned of a reward: weights of linear rewards, entries of a free table, or parameters of modules."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cai.models.common.fingerprint import fingerprint
from cai.models.common.memory import require_memory
from cai.models.common.storage import StorageError, can_store
from cai.models.rewards.algebra import Wrapper
from cai.models.rewards.base import RewardFactor, raw_table
from cai.models.rewards.goals import LinearReward
from cai.models.rewards.modules import ModuleReward
from cai.models.rewards.tables import TableReward
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["LinearParameters", "ModuleParameters", "RewardParameters", "find_parameters", "learning_again"]


@dataclass(frozen=True, eq=False)
class RewardParameters:
    """The coefficients of a reward, and its tables as functions of them.

    Attributes:
        model: on the CPU in float64.
        terms: the factors that add up to its reward.
        names: F names.
        start: [F], what the coefficients are in the model.
    """

    model: TrajectoryModel
    terms: tuple[RewardFactor, ...]
    names: tuple[str, ...]
    start: Tensor

    def reward(self, coefficients: Tensor) -> RewardFactor:
        """The reward with these coefficients in place of its own."""
        raise NotImplementedError

    def fitted(self, coefficients: Tensor) -> TrajectoryModel:
        """The model with this reward."""
        return self.model.replace(reward=self.reward(coefficients.detach()))

    def digests(self) -> tuple[str, dict[str, str]]:
        """Of the rewards that are not learned, and of what each coefficient weighs."""
        raise NotImplementedError

    @property
    def place_of_table(self) -> int | None:
        """Which of the terms is a table that is learned entry by entry; None where weights are learned."""
        return None

    def storable(self) -> TrajectoryModel:
        """The model as files hold it: terms of Python code that are not learned as their tables."""
        parts = [
            term if can_store(term) or _learned(term) else self.model.replace(reward=term).evaluated_reward()
            for term in self.terms
        ]
        return self.model.replace(reward=_total(parts))


@dataclass(frozen=True, eq=False)
class LinearParameters(RewardParameters):
    """Coefficients that rewards are linear in: r = base + sum_f w_f feature_f.

    Attributes:
        free: the factor whose table is learned entry by entry; None where weights are learned.
    """

    free: RewardFactor | None = None

    @property
    def place_of_table(self) -> int | None:
        return None if self.free is None else [term is self.free for term in self.terms].index(True)

    @cached_property
    def varies(self) -> bool:
        """Whether base or features depend on time."""
        return any(term.reads_time for term in self.terms)

    def base(self, t: int) -> Tensor:
        """[S, A, 1 or K], reward units: what is paid whatever the coefficients; -inf where forbidden."""
        tables = self._held.setdefault("base", {})
        key = t if self.varies else 0
        if key not in tables:
            mdp = self.model.mdp
            total = torch.zeros(mdp.num_states, mdp.num_actions, 1, dtype=torch.float64)
            for term in self.terms:
                if term is not self.free and not _learned(term):
                    total = total + raw_table(term, mdp, key).detach()
            tables[key] = self._in_nonterminal_states(total)
        return tables[key]

    def features(self, t: int) -> Tensor:
        """[S, A, 1 or K, F], in units of the features."""
        tables = self._held.setdefault("features", {})
        key = t if self.varies else 0
        if key not in tables:
            made = self._linear_features(key) if self.free is None else self._free_features()
            tables[key] = self._in_nonterminal_states(made)
        return tables[key]

    def digests(self) -> tuple[str, dict[str, str]]:
        times = range(self.model.steps) if self.varies else range(1)
        weighed = [self.features(t) for t in times]
        named = {name: fingerprint([table[..., f] for table in weighed]) for f, name in enumerate(self.names)}
        return fingerprint([self.base(t) for t in times]), named

    def reward(self, coefficients: Tensor) -> RewardFactor:
        if self.free is not None:
            table = _filled(self.free, self.pairs, coefficients)
            return _total([table if term is self.free else term for term in self.terms])
        parts, begin = [], 0
        for term in self.terms:
            leaf = _leaf(term)
            if isinstance(leaf, LinearReward):
                weights = coefficients[begin : begin + len(leaf.weights)].double()
                begin += len(leaf.weights)
                term = _with_leaf(term, LinearReward(leaf.features, weights, leaf.names))
            parts.append(term)
        return _total(parts)

    @cached_property
    def pairs(self) -> Tensor:
        """[F, 2] (state, action), or [F, 1] (state), of the entries of a free table."""
        assert self.free is not None
        return _free_pairs(self.free, self.model)

    @cached_property
    def _held(self) -> dict[str, dict[int, Tensor]]:
        return {}

    def _linear_features(self, t: int) -> Tensor:
        columns = []
        for term in self.terms:
            leaf = _leaf(term)
            if isinstance(leaf, LinearReward):
                one = torch.ones(1, dtype=torch.float64)
                for f in range(len(leaf.weights)):
                    single = LinearReward(leaf.features[..., f : f + 1], one)
                    columns.append(raw_table(_with_leaf(term, single), self.model.mdp, t).detach())
        width = max(column.shape[-1] for column in columns)
        return torch.stack([column.expand(*column.shape[:2], width) for column in columns], -1)

    def _free_features(self) -> Tensor:
        mdp, number = self.model.mdp, len(self.names)
        require_memory(
            8 * mdp.num_states * mdp.num_actions * number, "a free table of rewards", "learn features instead"
        )
        table = torch.zeros(mdp.num_states, mdp.num_actions, 1, number, dtype=torch.float64)
        order = torch.arange(number)
        if self.pairs.shape[1] == 2:
            table[self.pairs[:, 0], self.pairs[:, 1], 0, order] = 1.0
        else:
            table[self.pairs[:, 0], :, 0, order] = 1.0
        return table

    def _in_nonterminal_states(self, table: Tensor) -> Tensor:
        nonterminal = self.model.nonterminal.reshape(-1, *[1] * (table.dim() - 1))
        return torch.where(nonterminal, table, torch.zeros_like(table))


@dataclass(frozen=True, eq=False)
class ModuleParameters(RewardParameters):
    """Parameters of modules (deep maximum entropy), with the weights of linear rewards beside them.

    Attributes:
        modules: float64 copies of the modules, one a term that is learned, None for linear ones.
    """

    modules: tuple[Any, ...] = ()

    def storable(self) -> TrajectoryModel:
        """Refused: files hold no modules.

        Raises:
            StorageError: always.
        """
        raise StorageError("a reward with modules cannot be saved: files hold nothing that runs")

    def digests(self) -> tuple[str, dict[str, str]]:
        """Of all factors but their parameters; modules are known by their layers and by all of them."""
        zeros = self._built(torch.zeros_like(self.start), fresh=True)[0]
        whole = fingerprint(zeros)
        return whole, dict.fromkeys(self.names, whole)

    def reward(self, coefficients: Tensor) -> RewardFactor:
        return self._built(coefficients.detach(), fresh=True)[0]

    def with_leaves(self, coefficients: Tensor) -> tuple[RewardFactor, list[Tensor]]:
        """The reward, and the tensors that require grad whose entries in a row are the coefficients.

        A later call changes what this one returned.
        """
        return self._built(coefficients.detach(), fresh=False)

    def _built(self, coefficients: Tensor, fresh: bool) -> tuple[RewardFactor, list[Tensor]]:
        parts, leaves, begin = [], list[Tensor](), 0
        for place, term in enumerate(self.terms):
            leaf = _leaf(term)
            if isinstance(leaf, LinearReward):
                weights = coefficients[begin : begin + len(leaf.weights)].clone().requires_grad_(not fresh)
                leaves.append(weights)
                begin += len(weights)
                term = _with_leaf(term, LinearReward(leaf.features, weights, leaf.names))
            elif isinstance(leaf, ModuleReward) and self.modules[place] is not None:
                module = copy.deepcopy(self.modules[place]) if fresh else self.modules[place]
                for parameter in (p for p in module.parameters() if p.requires_grad):
                    size = parameter.numel()
                    with torch.no_grad():
                        parameter.copy_(coefficients[begin : begin + size].reshape(parameter.shape))
                    begin += size
                    leaves.append(parameter)
                term = _with_leaf(term, ModuleReward(module, leaf.features))
            parts.append(term)
        return _total(parts), leaves


def find_parameters(model: TrajectoryModel) -> LinearParameters | ModuleParameters:
    """What is learned of the reward of a model.

    That is the weights of every `LinearReward` among its factors, whether they require grad or not, with the parameters
    that require grad of every `ModuleReward`; or, where there is none of these, the one `TableReward` [S] or [S, A]
    whose table requires grad, entry by entry. Other factors stay as they are.

    Raises:
        TypeError, ValueError: if there is nothing to be learned, two coefficients have one name, or the temperature or
            the process require grad.
    """
    if not isinstance(model, TrajectoryModel):
        raise TypeError(f"the model is a {type(model).__name__}; expected a TrajectoryModel")
    if isinstance(model.temperature, Tensor) or model.mdp.probabilities.requires_grad or model.is_average:
        odd = "rewards of the long run" if model.is_average else "a temperature or dynamics that require grad"
        raise ValueError(
            f"the model has {odd}; a reward is learned of total rewards, with temperature and dynamics fixed: their "
            "scale is the reward's"
        )
    host = model.host
    terms = host.reward.terms()
    learned = [_leaf(term) for term in terms if _learned(term)]
    if any(isinstance(leaf, ModuleReward) for leaf in learned):
        return _module_parameters(host, terms)
    if learned:
        return _linear_parameters(host, terms)
    free = [term for term in terms if _free_table(term)]
    if len(free) == 1:
        return _table_parameters(host, terms, free[0])
    raise ValueError(
        f"there is nothing to learn in {host.reward.label}; give a LinearReward, a ModuleReward with parameters that "
        "require grad, or one TableReward [S] or [S, A] whose table requires grad, alone or in a sum"
    )


def learning_again(model: TrajectoryModel, place: int | None) -> TrajectoryModel:
    """A model from a file, which holds no gradients, with the term of that number learned entry by entry again."""
    if place is None:
        return model
    terms = list(model.reward.terms())
    terms[place] = TableReward(terms[place].table.clone().requires_grad_())
    return model.replace(reward=_total(terms))


def _linear_parameters(model: TrajectoryModel, terms: tuple[RewardFactor, ...]) -> LinearParameters:
    leaves = [leaf for term in terms if isinstance(leaf := _leaf(term), LinearReward)]
    names = list[str]()
    for leaf in leaves:
        names += leaf.names or [f"w{len(names) + i}" for i in range(len(leaf.weights))]
    _refuse_twice(names)
    start = torch.cat([leaf.weights.detach() for leaf in leaves])
    return LinearParameters(model, terms, tuple(names), start)


def _table_parameters(model: TrajectoryModel, terms: tuple[RewardFactor, ...], term: RewardFactor) -> LinearParameters:
    assert isinstance(term, TableReward)
    pairs, mdp = _free_pairs(term, model), model.mdp
    table = term.table.detach()
    if pairs.shape[1] == 2:
        names = [f"r[{mdp.state_name(s)}, {mdp.action_name(a)}]" for s, a in pairs.tolist()]
    else:
        names = [f"r[{mdp.state_name(s)}]" for (s,) in pairs.tolist()]
    start = table[tuple(pairs.T)]
    if not bool(torch.isfinite(start).all()):
        raise ValueError("the free table holds -inf; forbid with another factor: free + TableReward(forbidden)")
    return LinearParameters(model, terms, tuple(names), start, free=term)


def _module_parameters(model: TrajectoryModel, terms: tuple[RewardFactor, ...]) -> ModuleParameters:
    modules, names, start = list[Any](), list[str](), list[Tensor]()
    for number, term in enumerate(terms):
        leaf = _leaf(term)
        modules.append(None)
        if isinstance(leaf, LinearReward):
            names += leaf.names or [f"w{number}.{i}" for i in range(len(leaf.weights))]
            start.append(leaf.weights.detach())
        elif isinstance(leaf, ModuleReward) and _learned(term):
            modules[-1] = copy.deepcopy(leaf.module).cpu().double()
            for label, parameter in modules[-1].named_parameters():
                if parameter.requires_grad:
                    names += [f"{label}[{i}]" for i in range(parameter.numel())]
                    start.append(parameter.detach().reshape(-1).clone())
    counts = Counter(names)
    unique = [name if counts[name] == 1 else f"{name}#{i}" for i, name in enumerate(names)]
    return ModuleParameters(model, terms, tuple(unique), torch.cat(start), modules=tuple(modules))


def _learned(term: RewardFactor) -> bool:
    leaf = _leaf(term)
    if isinstance(leaf, ModuleReward):
        return any(parameter.requires_grad for parameter in leaf.module.parameters())
    return isinstance(leaf, LinearReward)


def _free_table(term: RewardFactor) -> bool:
    return type(term) is TableReward and term.table.requires_grad and term.table.dim() < 3


def _free_pairs(term: Any, model: TrajectoryModel) -> Tensor:
    possible = (model.action_prior > 0) & model.nonterminal[:, None]
    return torch.nonzero(possible if term.table.dim() == 2 else model.nonterminal)


def _filled(term: Any, pairs: Tensor, coefficients: Tensor) -> TableReward:
    table = term.table.detach().clone()
    table[tuple(pairs.T)] = coefficients.double()
    return TableReward(table)


def _leaf(term: RewardFactor) -> RewardFactor:
    while isinstance(term, Wrapper):
        term = term.factor
    return term


def _with_leaf(term: RewardFactor, leaf: RewardFactor) -> RewardFactor:
    return replace(term, factor=_with_leaf(term.factor, leaf)) if isinstance(term, Wrapper) else leaf


def _total(parts: list[RewardFactor]) -> RewardFactor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _refuse_twice(names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"two coefficients are called {twice[0]!r}; give each LinearReward names=[...] of its own, none twice"
        )
