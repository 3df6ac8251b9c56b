"""Many problems of one process that are asked about together."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NoReturn, overload
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from cai.models.common.checks import check_distribution, check_shape, float_tensor, whole_horizon
from cai.models.common.devices import place_tensor
from cai.models.common.facts import fact_table
from cai.models.common.labels import Axis, by_name
from cai.models.common.storage import can_store, storable
from cai.models.processes.mdp import MDP
from cai.models.rewards.tables import EvaluatedReward, RewardFactor
from cai.models.trajectory.model import TrajectoryModel
from cai.models.trajectory.portable import Portable

__all__ = ["ModelBatch"]

EXPECTED_REWARDS = "[B] (a number each), [B, S], [B, S, A], [B, S, A, S] or [B, S, A, K], or a list of B rewards"


def _parts(batch: ModelBatch) -> dict[str, Any]:
    """What a file holds of a batch: the base, and what its members differ in; rewards of Python code as tables."""
    rewards = batch._rewards
    if rewards is not None and not can_store(list(rewards)):
        pairs = zip(rewards, batch, strict=True)
        rewards = [own if can_store(own) else member.evaluated_reward() for own, member in pairs]
    stacked = {"temperature": batch._temperatures, "action_prior": batch._priors, "initial": batch._starts}
    parts = {name: None if part is None else torch.stack(list(part)) for name, part in stacked.items()}
    horizons = list(batch.horizons) if batch._differing["horizon"] else None
    return parts | {"base": batch.base, "reward": None if rewards is None else list(rewards), "horizon": horizons}


@storable("model-batch", pack=_parts)
class ModelBatch(Portable, Sequence[TrajectoryModel]):
    """B problems that share a process and differ in reward, temperature, action prior, start or horizon.

    Made by `TrajectoryModel.batch`. Each argument that is given has a leading axis of length B, and the rest is that
    of the base. `batch[b]` is the model of a member, made when it is looked at; a slice is a tuple of members.

    Args:
        base: the model of which the members are variants.
        reward: [B] (a number for each live step), [B, S], [B, S, A], [B, S, A, S] or [B, S, A, K], whose first axis is
            always that of the members; or a list of B rewards of any kind.
        temperature: [B].
        action_prior: [B, A] or [B, S, A].
        initial: [B, S].
        horizon: [B], whole numbers or math.inf.

    Attributes:
        base: as given.
        temperatures: [B], or None where the base's is shared.
        action_priors: [B, S, A], or None likewise.
        initials: [B, S], or None likewise.
        horizons: those of the members.

    Raises:
        TypeError, ValueError: as the members would, naming the first that is wrong; if nothing is given, if lengths
            differ, or if B = 0.
    """

    _made_anew: ClassVar[tuple[str, ...]] = ("_made",)
    _code: ClassVar[str] = "_rewards"

    def __init__(
        self,
        base: TrajectoryModel,
        *,
        reward: Any = None,
        temperature: Any = None,
        action_prior: Any = None,
        initial: Any = None,
        horizon: Any = None,
    ) -> None:
        self.base = base
        reward, action_prior, initial = _in_order(base.mdp, reward, action_prior, initial)
        rewards, self._rewards = _rewards(reward)
        priors, prior_source = _stacked(action_prior, "action_prior", "[B, A] or [B, S, A]", (2, 3))
        starts, start_source = _stacked(initial, "initial", "[B, S]", (2,))
        temperatures, _ = _stacked(temperature, "temperature", "[B]", (1,))
        horizons = None if horizon is None else _whole_numbers(horizon)
        given = {
            "reward": self._rewards,
            "temperature": temperatures,
            "action_prior": priors,
            "initial": starts,
            "horizon": horizons,
        }
        self._length = _common_length({name: len(part) for name, part in given.items() if part is not None})
        self._made: WeakValueDictionary[int, TrajectoryModel] = WeakValueDictionary()
        if horizons is not None and base.is_average:
            raise ValueError(
                "the base has criterion='average', so all its members have an infinite horizon; leave out horizon"
            )
        self.horizons: tuple[int | float, ...] = horizons or (base.horizon,) * self._length
        if starts is not None:
            check_shape(starts, (None, base.mdp.num_states), "initial", "[B, S]")
            starts = check_distribution(starts, "initial", start_source)
        if priors is not None:
            priors = check_distribution(self._full_priors(priors), "action_prior", prior_source)
        self._starts, self._priors, self._temperatures = (
            None if part is None else part.unbind(0) for part in (starts, priors, temperatures)
        )
        self._check_members(rewards, temperatures, priors)
        self.initials = self._placed(starts, "initial")
        self.temperatures = self._placed(temperatures, "temperature")
        self.action_priors = None if priors is None else self._placed(self._allowed(priors), "action_prior")
        self._flat_rewards = None if rewards is None or rewards.dim() > 3 else rewards

    # ---- members ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> TrajectoryModel: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[TrajectoryModel, ...]: ...

    def __getitem__(self, index: int | slice) -> TrajectoryModel | tuple[TrajectoryModel, ...]:
        if isinstance(index, slice):
            return tuple(self[member] for member in range(self._length)[index])
        try:
            member = range(self._length)[index]
        except IndexError:
            raise IndexError(f"member {index} is outside the batch; it has members 0 to {self._length - 1}") from None
        model = self._made.get(member)
        if model is None:
            with torch.enable_grad():  # what the batch was given keeps its history, wherever the member is looked at
                self._made[member] = model = self._member(member)
        return model

    def __iter__(self) -> Iterator[TrajectoryModel]:
        return (self[member] for member in range(self._length))

    def __repr__(self) -> str:
        differ = [name for name, part in self._differing.items() if part]
        return f"ModelBatch({self._length} members of {self.base!r}, each with its own {', '.join(differ)})"

    def _repr_html_(self) -> str:
        differ = ", ".join(name for name, part in self._differing.items() if part)
        return fact_table("ModelBatch", {"members": len(self), "differ in": differ, "base": repr(self.base)})

    def evaluated_reward(self) -> list[EvaluatedReward]:
        """The reward of each member as a table, without its code and without gradients."""
        return [member.evaluated_reward() for member in self]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_made": WeakValueDictionary()})

    @property
    def tables(self) -> Tensor | None:
        """[B, S, A], the rewards of the members, 0 in terminal states; None where they are no tables of (s_t, a_t)."""
        rewards, host = self._flat_rewards, self.base.host
        if rewards is None:
            return None
        # Made anew each time, as a graph must be for every backward pass.
        size = (host.mdp.num_states, host.mdp.num_actions)
        full = rewards.reshape(*rewards.shape, *(1,) * (3 - rewards.dim())).expand(-1, *size)
        full = torch.where(host.nonterminal[:, None], full, torch.zeros_like(full))
        return self._placed(full, "reward")

    @property
    def varies_step(self) -> bool:
        """Whether the members differ in what a step of planning is made of: reward, temperature or action prior."""
        return any(self._differing[name] for name in ("reward", "temperature", "action_prior"))

    @property
    def gives_tables(self) -> bool:
        """Whether each member's own reward is a number or a table of s_t or (s_t, a_t)."""
        return self._flat_rewards is not None

    @property
    def gives_rewards(self) -> bool:
        """Whether each member has a reward of its own."""
        return self._rewards is not None

    @property
    def _differing(self) -> dict[str, bool]:
        return {
            "reward": self._rewards is not None,
            "temperature": self._temperatures is not None,
            "action_prior": self._priors is not None,
            "initial": self._starts is not None,
            "horizon": any(horizon != self.base.horizon for horizon in self.horizons),
        }

    def _member(self, member: int) -> TrajectoryModel:
        changes: dict[str, Any] = {}
        if self._rewards is not None:
            changes["reward"] = self._rewards[member]
        if self._temperatures is not None:
            temperature = self._temperatures[member]
            changes["temperature"] = temperature if temperature.requires_grad else float(temperature)
        if self._priors is not None:
            changes["action_prior"] = self._priors[member]
        if self.horizons[member] != self.base.horizon:
            changes["horizon"] = self.horizons[member]
        if self._starts is not None:
            changes["mdp"] = with_initial(self.base.mdp, self._starts[member])
        name = f"{self.base.name}[{member}]"
        try:
            return self.base.replace(**changes, name=name)
        except (TypeError, ValueError) as error:
            raise type(error)(f"member {member} of the batch: {error}") from None

    # ---- what all members share or stack ------------------------------------------------------------------------

    def _placed(self, tensor: Tensor | None, what: str) -> Tensor | None:
        return None if tensor is None else place_tensor(tensor, self.base.device, self.base.dtype, what)

    def _check_members(self, rewards: Tensor | None, temperatures: Tensor | None, priors: Tensor | None) -> None:
        """Makes every member that may be wrong, so that it says itself what is; plain tables are looked through."""
        host = self.base.host
        suspects = {member for member, horizon in enumerate(self.horizons) if not math.isfinite(horizon)}
        if priors is not None:
            suspects |= _where(((priors * host.mdp.available).sum(-1) == 0).any(-1))
        if temperatures is not None:
            suspects |= _where(~((temperatures > 0) & torch.isfinite(temperatures)))
        shape = (host.mdp.num_states, host.mdp.num_actions)
        if rewards is not None and rewards.dim() <= 3 and tuple(rewards.shape[1:]) == shape[: rewards.dim() - 1]:
            suspects |= _where(~(rewards < torch.inf).reshape(self._length, -1).all(-1))
            if rewards.dim() > 1:
                paid = rewards[:, host.mdp.terminal] != 0
                suspects |= _where(paid.reshape(self._length, -1).any(-1))
        elif self._rewards is not None:
            suspects = set(range(self._length))
        for member in sorted(suspects):
            try:
                self[member]
            except ValueError as error:
                self._advise(rewards, error)

    def _advise(self, rewards: Tensor | None, error: ValueError) -> NoReturn:
        """Says of a reward that fits no member that its first axis is the members'."""
        host = self.base.host
        full = (host.mdp.num_states, host.mdp.num_actions)
        if rewards is None or rewards.dim() < 2 or tuple(rewards.shape[1:3]) == full[: rewards.dim() - 1]:
            raise error
        raise ValueError(
            f"{error}; the reward of the batch has shape {list(rewards.shape)}, whose first axis counts the members: "
            f"expected {EXPECTED_REWARDS}; a reward that all share belongs into the model"
        ) from None

    def _full_priors(self, priors: Tensor) -> Tensor:
        """[B, S, A]."""
        size = (self.base.mdp.num_states, self.base.mdp.num_actions)
        if tuple(priors.shape[1:]) not in (size, size[1:]):
            raise ValueError(
                f"action_prior has shape {list(priors.shape)}; expected [B, A] = {[self._length, size[1]]} or "
                f"[B, S, A] = {[self._length, *size]}"
            )
        return priors if priors.dim() == 3 else priors[:, None].expand(-1, *size)

    def _allowed(self, priors: Tensor) -> Tensor:
        """What is left of the mass on actions that are available, normalised, as each member takes its own."""
        allowed = priors * self.base.host.mdp.available
        return allowed / allowed.sum(-1, keepdim=True)


def _in_order(mdp: MDP, reward: Any, action_prior: Any, initial: Any) -> tuple[Any, Any, Any]:
    """What comes in pandas tables, whose rows are members, in the order of the states and actions."""
    states, actions = (mdp.state_names, "state"), (mdp.action_names, "action")

    def placed(given: Any, column: Axis, name: str) -> Any:
        if not isinstance(given, (list, tuple)):
            return by_name(given, [None, column], name)
        axes = [[states, actions] if getattr(part, "ndim", 1) == 2 else [column] for part in given]
        return [by_name(part, axes[member], f"{name}[{member}]") for member, part in enumerate(given)]

    return (
        placed(reward, states, "reward"),
        placed(action_prior, actions, "action_prior"),
        placed(initial, states, "initial"),
    )


def with_initial(mdp: MDP, initial: Tensor) -> MDP:
    """The same process, nothing copied, with another start [S] that has been checked."""
    host = copy.copy(mdp.host)
    object.__setattr__(host, "initial", initial)
    if mdp.host is mdp:
        return host
    moved = copy.copy(mdp)
    object.__setattr__(moved, "initial", place_tensor(initial, mdp.device, mdp.dtype, "initial"))
    object.__setattr__(moved, "_host", host)
    return moved


def _rewards(given: Any) -> tuple[Tensor | None, Sequence[Any] | None]:
    """(the rewards as one tensor [B, ...], None if they are not; the reward of each member, None if none is given)."""
    if given is None:
        return None, None
    if isinstance(given, RewardFactor) or (callable(given) and not isinstance(given, Tensor)):
        raise TypeError(f"reward is one {type(given).__name__}; the rewards of a batch are {EXPECTED_REWARDS}")
    if isinstance(given, (list, tuple)):
        parts = [_plain(part, f"reward[{member}]") for member, part in enumerate(given)]
        tensors = [part for part in parts if isinstance(part, Tensor)]
        alike = len(tensors) == len(parts) > 0 and len({part.shape for part in tensors}) == 1
        if not alike:
            return None, parts
        stacked = torch.stack(tensors)
    else:
        stacked, _ = float_tensor(given, "reward")
    if not 1 <= stacked.dim() <= 4:
        raise ValueError(f"reward has shape {list(stacked.shape)}; the rewards of a batch are {EXPECTED_REWARDS}")
    return stacked, stacked.unbind(0)


def _plain(reward: Any, name: str) -> Any:
    """A tensor, where the reward of a member is a table or a number."""
    is_tensor = isinstance(reward, Tensor)
    if isinstance(reward, (RewardFactor, str, bytes)) or reward is None or (callable(reward) and not is_tensor):
        return reward
    return float_tensor(reward, name)[0]


def _stacked(given: Any, name: str, letters: str, dims: tuple[int, ...]) -> tuple[Tensor | None, torch.dtype]:
    """(what each member has of its own as one tensor, its number of axes checked; the dtype that it came in)."""
    if given is None:
        return None, torch.float64
    if isinstance(given, (list, tuple)) and any(isinstance(part, Tensor) for part in given):
        parts = [float_tensor(part, f"{name}[{member}]") for member, part in enumerate(given)]
        shapes = [list(part.shape) for part, _ in parts]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"{name} holds shapes {shapes}; give all members the same")
        tensor, source = torch.stack([part for part, _ in parts]), parts[0][1]
    else:
        tensor, source = float_tensor(given, name)
    if tensor.dim() not in dims:
        raise ValueError(
            f"{name} has shape {list(tensor.shape)}; expected {letters}, one for each member of the batch; what all "
            f"members share belongs into the model"
        )
    return tensor, source


def _whole_numbers(given: Any) -> tuple[int | float, ...]:
    values = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise ValueError(
            f"horizon is {given!r}; expected [B], one for each member of the batch; what all members "
            "share belongs into the model"
        )
    found = []
    for member, value in enumerate(values):
        try:
            found.append(whole_horizon(value))
        except ValueError as error:
            raise ValueError(f"member {member} of the batch: {error}") from None
    return tuple(found)


def _common_length(lengths: dict[str, int]) -> int:
    if not lengths:
        raise ValueError(
            "a batch needs something that its members differ in; give reward, temperature, action_prior, "
            "initial or horizon, each with a leading axis of length B"
        )
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"the leading axes of a batch differ: {listed}; give each the same length B")
    length = next(iter(lengths.values()))
    if length == 0:
        raise ValueError(f"{next(iter(lengths))} has length 0; a batch has at least one member")
    return length


def _where(members: Tensor) -> set[int]:
    return set(torch.nonzero(members.detach()).flatten().tolist())
