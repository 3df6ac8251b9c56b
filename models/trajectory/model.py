"""The trajectory model: a decision problem with optimality variables, written as a Pyro program.

    p(tau, O_{1:T}) = p(s_1) prod_t p(a_t | s_t) exp(r_t(s_t, a_t, s_{t+1}) / alpha) p(s_{t+1} | s_t, a_t)

Levine 2018, section 2.2, equations (3) to (5); temperature and factors of any sign as in section 2.5.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from cai.models.common.checks import FORGOTTEN
from cai.models.common.devices import place_tensor, resolve_place
from cai.models.common.facts import fact_table, process_facts
from cai.models.common.names import did_you_mean
from cai.models.common.numerics import held, over_temperature, plain_number, safe_log
from cai.models.common.simulator import Transition
from cai.models.common.storage import can_store, storable
from cai.models.processes.mdp import MDP
from cai.models.rewards.base import raw_table
from cai.models.rewards.checks import check_reward
from cai.models.rewards.tables import EvaluatedReward, TableReward, fitting_reward
from cai.models.trajectory.checks import check_bernoulli, check_horizon, settled, settled_temperature
from cai.models.trajectory.checks import outcomes_disagree as disagree
from cai.models.trajectory.portable import Portable
from cai.models.trajectory.program import ProgramTables, run_program
from cai.models.trajectory.simulate import TabularSimulator

if TYPE_CHECKING:
    from cai.models.trajectory.batch import ModelBatch

__all__ = ["TrajectoryModel"]

BATCHED = ("reward", "temperature", "action_prior", "initial", "horizon")  # what members of a batch may differ in
TABLE_LIMIT = 2_000_000  # entries of reward tables that are kept


def _parts(model: TrajectoryModel) -> dict[str, Any]:
    """What a file holds of a model: the checked original; a reward of Python code as its table."""
    host = model.host
    parts = {entry.name: getattr(host, entry.name) for entry in dataclasses.fields(host) if entry.init}
    reward = host.reward if can_store(host.reward) else host.evaluated_reward()
    return parts | {"mdp": model.mdp, "reward": reward, "temperature": plain_number(host.temperature)}


def _of_parts(parts: dict[str, Any]) -> TrajectoryModel:
    model = TrajectoryModel(**parts)
    if parts["action_prior"].shape == model.host.action_prior.shape:  # not normalised again, to the last bit
        object.__setattr__(model.host, "action_prior", parts["action_prior"])
    return model


@storable("trajectory-model", pack=_parts, unpack=_of_parts)
@dataclass(frozen=True, eq=False)
class TrajectoryModel(Portable):
    """A process, a reward and a horizon: what inference is asked about. Calling it runs the Pyro program.

    Sites are `s_1, a_1, O_1, s_2, ..., s_{T+1}`, with every O_t observed to be 1. With a discount, one more value of
    s_t (index S) is the absorbing state that the chain falls into with probability 1 - discount after each nonterminal
    transition, its reward paid. Where the reward of a step is not settled by (s_t, a_t, s_{t+1}), the program has a
    further latent `k_t`, the outcome: two outcomes that share a next state pay differently, or the reward looks at a
    next state which the discount then takes away.

    Args:
        mdp: the process. The model lives where it does (`MDP.to`), and computes in its dtype.
        reward: [S] (of s_t), [S, A], [S, A, S], [S, A, K] (per outcome), a number for each live step, a function of
            (state, action, next_state, t), or a reward factor; in reward units. -inf forbids.
        horizon: T >= 1, or math.inf for a stationary answer.
        temperature: alpha > 0, in reward units per nat; a 0-dim tensor that requires grad keeps its history.
        discount: in (0, 1]; a change of the dynamics (Levine 2018, section 2.5), never a scale on a factor.
        action_prior: [A] or [S, A], p(a | s); uniform over the available actions unless given. Mass on actions that
            are not available is dropped, and the rest normalised.
        optimality: "factor", an undirected potential exp(r / alpha); or "bernoulli", p(O_t = 1) =
            exp((r - r_max) / alpha), which can be sampled. The posterior is the same, and the evidence of the second
            is lower by T r_max / alpha.
        name: for tables and pictures.
        criterion: "total", sums of rewards; or "average", what a step earns in the long run: over an infinite horizon
            without a discount and without terminal states, all numbers of an answer are then per step.

    Raises:
        ValueError, TypeError: on bad numbers, wrong shapes, NaN or +inf rewards, rewards in terminal states, a
            reward that reads t over an infinite horizon.
    """

    mdp: MDP
    reward: Any
    horizon: int | float = FORGOTTEN
    temperature: Any = 1.0
    discount: float = 1.0
    action_prior: Any = None
    optimality: Literal["factor", "bernoulli"] = "factor"
    name: str = "model"
    criterion: Literal["total", "average"] = "total"
    _tables: dict[int, Tensor] = field(init=False, repr=False, default_factory=dict)
    _host: TrajectoryModel | None = field(init=False, repr=False, default=None)
    _made_anew: ClassVar[tuple[str, ...]] = ("simulator", "_program_tables", "_tables")
    _code: ClassVar[str] = "reward"

    def __post_init__(self) -> None:
        if not isinstance(self.mdp, MDP):
            pair = isinstance(self.mdp, tuple)
            advice = "unpack the pair: mdp, reward = from_gymnasium(...)" if pair else "wrap the array in MDP(...)"
            raise TypeError(f"the process is a {type(self.mdp).__name__}; expected an MDP: {advice}")
        if self.mdp._host is not None:
            self._follow(dataclasses.replace(self, mdp=self.mdp.host))
            return
        self.__dict__.update(settled(self), _tables={})
        self.__dict__["reward"] = factor = fitting_reward(self.reward, self.mdp)
        check_horizon(self)
        check_reward(factor, self, self.mdp, self.reward_times)
        if self.optimality == "bernoulli":
            check_bernoulli(self)

    # ---- where it lives -----------------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """Of its tables and answers: torch.float64, or torch.float32."""
        return self.mdp.probabilities.dtype

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.mdp.probabilities.device

    @property
    def host(self) -> TrajectoryModel:
        """The model as it was checked, float64 on the CPU; itself, unless it was moved."""
        return self if self._host is None else self._host

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> TrajectoryModel:
        """The same model with its tensors on another device or in another dtype, converted from the float64 original.

        Rewards are still evaluated in float64 on the CPU and their tables moved; gradients reach what they reached.

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
        moved = object.__new__(type(self))
        object.__setattr__(moved, "mdp", self.mdp.to(*place))
        moved._follow(self.host)
        return moved

    def _follow(self, host: TrajectoryModel) -> None:
        """Takes everything but the process from a checked model of the process that this one's was moved from."""
        for entry in dataclasses.fields(self):
            if entry.init and entry.name != "mdp":
                self.__dict__[entry.name] = getattr(host, entry.name)
        prior = place_tensor(host.action_prior, self.device, self.dtype, "action_prior")
        self.__dict__.update(action_prior=prior, _tables={}, _host=host)

    # ---- what backends read -------------------------------------------------------------------------------------

    @cached_property
    def is_finite(self) -> bool:
        """Whether the horizon is a number of steps."""
        return self.horizon != math.inf

    @property
    def is_average(self) -> bool:
        """Whether numbers are per step of the long run."""
        return self.criterion == "average"

    @cached_property
    def steps(self) -> int:
        """T, or 1 where the horizon is infinite and one stationary step stands for all."""
        return int(self.horizon) if self.is_finite else 1

    @cached_property
    def reward_times(self) -> range:
        """The time indices whose reward tables differ: all where the reward reads t, else just 0."""
        return range(self.steps) if self.reward.reads_time else range(1)

    @held
    def log_action_prior(self) -> Tensor:
        """[S, A], log p(a | s)."""
        return safe_log(self.action_prior)

    @cached_property
    def nonterminal(self) -> Tensor:
        """Bool [S], the states in which a decision is made."""
        return ~self.mdp.terminal

    @cached_property
    def continuation_probability(self) -> Tensor:
        """[S], the probability that the chain goes on after a transition from a state: the discount, 1 if terminal."""
        ones = torch.ones_like(self.mdp.initial, requires_grad=False)
        return torch.where(self.nonterminal, self.discount * ones, ones)

    @cached_property
    def fall(self) -> Tensor:
        """[S], the probability of falling into the absorbing state instead, as float32 too can hold it."""
        return self.nonterminal.to(self.continuation_probability) * (1 - self.discount)

    def reward_table(self, t: int) -> Tensor:
        """The rewards of step t: [S, A, 1] where outcomes do not matter, else [S, A, K]. Zero in terminal states."""
        key = t if self.reward.reads_time else 0
        if key not in self._tables:
            with torch.enable_grad():  # to see whether there is a gradient to keep, wherever we are called from
                table = self.host._raw_table(key)
                if bool(self.host.mdp.terminal.any()):  # else the user's own numbers serve, uncopied
                    table = torch.where(self.host.nonterminal[:, None, None], table, torch.zeros_like(table))
                if (table.device, table.dtype) != (self.device, self.dtype):
                    table = place_tensor(table, self.device, self.dtype, "reward")
            if table.requires_grad or len(self._tables) * table.numel() > TABLE_LIMIT:
                # A graph must be new for every backward pass, and many tables would fill the memory.
                return table if torch.is_grad_enabled() else table.detach()
            self._tables[key] = table
        return self._tables[key]

    def log_potential(self, t: int) -> Tensor:
        """Log of the potential of O_t, the rewards of step t in nats, -inf where forbidden: [S, A, 1], or [S, A, K]."""
        return self.in_nats(self.reward_table(t))

    def in_nats(self, rewards: Tensor) -> Tensor:
        """Rewards over the temperature; what is forbidden has no gradient, whatever the temperature."""
        return over_temperature(rewards, self.temperature)

    @cached_property
    def reward_size(self) -> float:
        """The largest absolute reward that is finite, in reward units; what no outcome pays does not count."""
        host, possible, largest = self.host, self.host.mdp.probabilities > 0, 0.0
        for t in host.reward_times:
            sizes = host.reward_table(t).detach().abs()
            counts = torch.isfinite(sizes) & (possible if sizes.shape == possible.shape else True)
            largest = max(largest, float(sizes.masked_fill(~counts, 0.0).max()))
        return largest

    @cached_property
    def r_max(self) -> float:
        """The largest reward that some outcome pays, reward units; what optimality='bernoulli' counts as certain."""
        return float(self.host.largest_reward.detach())

    @held
    def largest_reward(self) -> Tensor:
        """`r_max`, 0-dim, with the history of the rewards: they move it, and with it the evidence of a Bernoulli."""
        if self.host is not self:
            return self.host.largest_reward.to(self.device, self.dtype)
        tables = [self._raw_table(t) for t in self.reward_times]
        if self.reward.reads_outcome:  # what no outcome pays does not count, however the process is held
            tables = [torch.where(self.mdp.probabilities > 0, table, -torch.inf) for table in tables]
        largest = torch.stack([table.max() for table in tables]).max()
        absorbs = bool(self.mdp.terminal.any()) or self.discount < 1
        return largest.clamp(min=0.0) if absorbs or largest == -math.inf else largest

    @property
    def evidence_offset(self) -> float | Tensor:
        """What `optimality` adds to the undirected log evidence, nats: 0 or -T r_max / alpha (per step if average).

        A 0-dim tensor where the rewards or the temperature require grad.
        """
        if self.optimality == "factor":
            return 0.0
        largest = self.largest_reward
        if not largest.requires_grad and self.r_max == 0:
            return 0.0
        steps = 1 if self.is_average else self.horizon
        return -steps * (largest if largest.requires_grad else self.r_max) / self.temperature

    @cached_property
    def has_outcome_sites(self) -> bool:
        """Whether the program needs the further latents `k_t`."""
        if not self.reward.reads_outcome:
            return False
        if self.host is not self:
            return self.host.has_outcome_sites
        return self.discount < 1 or any(disagree(self.mdp, self.reward_table(t).detach()) for t in self.reward_times)

    @property
    def program_states(self) -> int:
        """The number of values of s_t in the program: S, and one more with a discount."""
        return self.mdp.num_states + (self.discount < 1)

    @property
    def dense_bytes(self) -> int:
        """Bytes of one dense table over (s_t, a_t, outcome, s_{t+1}), which enumeration needs several of."""
        outcomes = self.mdp.num_outcomes if self.has_outcome_sites else 1
        return self.dtype.itemsize * self.program_states**2 * self.mdp.num_actions * outcomes

    def __repr__(self) -> str:
        return (
            f"TrajectoryModel({self.name!r}, {self.mdp!r}, horizon={self.horizon}, temperature={self.temperature:g}, "
            f"discount={self.discount:g}, optimality={self.optimality!r}"
            + (f", criterion={self.criterion!r})" if self.is_average else ")")
        )

    def _repr_html_(self) -> str:
        names = ("name", "horizon", "criterion", "temperature", "discount", "optimality")
        facts = {name: getattr(self, name) for name in names} | {"reward": self.reward.label}
        facts["temperature"] = f"{plain_number(self.temperature):g}"
        return fact_table("TrajectoryModel", facts | process_facts(self.mdp))

    def evaluated_reward(self) -> EvaluatedReward:
        """The reward as one table [T or 1, S, A, K or 1], without its code and without gradients."""
        tables = [self.host._raw_table(t).detach() for t in self.reward_times]
        return EvaluatedReward(torch.stack(tables), self.reward.label)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_tables": {}})

    def replace(self, **changes: Any) -> TrajectoryModel:
        """A copy with some arguments changed, validated anew, on the device and in the dtype of its process."""
        known = [field.name for field in dataclasses.fields(self) if field.init]
        if unknown := [name for name in changes if name not in known]:
            meant = did_you_mean(unknown[0], known)
            raise TypeError(f"a TrajectoryModel has no argument {unknown[0]!r}{meant}; it has {', '.join(known)}")
        if self._host is None and changes.keys() <= {"temperature", "name"}:  # what was checked does not depend on them
            return self._varied(**changes)
        return dataclasses.replace(self, **{"action_prior": self.host.action_prior, **changes})

    def _varied(self, **changes: Any) -> TrajectoryModel:
        """A copy of another temperature or name, which shares the tables of the rewards."""
        if "temperature" in changes:
            changes["temperature"] = settled_temperature(changes["temperature"], self.discount)
        copied = object.__new__(type(self))
        copied.__dict__.update({entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)} | changes)
        return copied

    def batch(self, **arguments: Any) -> ModelBatch:
        """Variants of this model on the same process, to be asked about in one call: see `ModelBatch`.

        Args:
            **arguments: any of `reward` ([B, S], [B, S, A], ... or a list), `temperature` [B], `action_prior` ([B, A]
                or [B, S, A]), `initial` [B, S] and `horizon` [B], all with a leading axis of the same length B.

        Raises:
            TypeError, ValueError: if an argument is unknown, or no member, or not one for each; naming the member.
        """
        from cai.models.trajectory.batch import ModelBatch  # it is made of models

        if unknown := [name for name in arguments if name not in BATCHED]:
            raise TypeError(f"members of a batch cannot differ in {unknown[0]!r}; they can in {', '.join(BATCHED)}")
        return ModelBatch(self, **arguments)

    def entropy_form(self) -> TrajectoryModel:
        """The same problem in the entropy form, with reward r + alpha log|A(s)| on every live step.

        Its values are those of Levine 2018 (section 2.3), where entropy is added instead of KL to a uniform prior.

        Raises:
            ValueError: if the action prior is not uniform over the available actions.
        """
        available = self.mdp.host.available
        counts = available.sum(-1).double()
        if not torch.allclose(self.host.action_prior, available / counts[:, None], atol=1e-12):
            raise ValueError("the entropy form needs a uniform action prior; fold the prior into the reward first")
        bonus = torch.where(self.host.nonterminal, self.temperature * counts.log(), 0.0)
        return self.replace(reward=self.reward + TableReward(bonus))

    # ---- the Pyro program ---------------------------------------------------------------------------------------

    def __call__(self) -> None:
        """Runs the program once: draws a trajectory and scores it by its optimality."""
        if not self.is_finite:
            raise ValueError("a program has finitely many steps; give horizon=N, or ask a backend that iterates")
        run_program(self, self._program_tables)

    # ---- the simulator ------------------------------------------------------------------------------------------

    @cached_property
    def simulator(self) -> TabularSimulator:
        """The true world: draws steps, rollouts and returns for N chains at once, on any horizon."""
        return TabularSimulator(self)

    def reset(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """The states int64 [n] in which n chains start, drawn from p(s_1)."""
        return self.simulator.reset(n, generator)

    def step(self, states: Tensor, actions: Tensor, t: int, generator: torch.Generator | None = None) -> Transition:
        """Moves N chains by one step: (next states [N], rewards [N], alive bool [N]).

        Args:
            states: int64 [N], 0 to S; S is the absorbing state of the discount.
            actions: int64 [N], available where they are taken.
            t: the time index, from 0.
            generator: of the draws; torch's global one unless given.
        """
        return self.simulator.step(states, actions, t, generator)

    @cached_property
    def _program_tables(self) -> ProgramTables:
        return ProgramTables.of(self)

    def _raw_table(self, t: int) -> Tensor:
        return raw_table(self.reward, self.mdp, t)
