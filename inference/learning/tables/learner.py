"""The learner of tables: copies of the world are stepped side by side, and a rule learns from what they meet."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cai.inference.core.learner import Info, State, generator_at
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status
from cai.inference.learning.history import as_dataset
from cai.inference.learning.tables.rules import Array, Rule, Tables
from cai.inference.learning.tables.world import Met, TableWorld, draw_columns
from cai.inference.tabular.policy_posterior import policy_posterior
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["TableLearner", "TableState", "answered_model", "steps_since"]

RECORD = (
    4096  # transitions between two records of the history, about: the exact bound of the policy is worked out there
)
BUDGET_USED = (
    "the budget of {:,} transitions was used and every number is finite; of how far the policy is from the best this "
    "says nothing"
)
RISE = 0.05  # nats in the last quarter of a run, above which its answer says so
COUNTED = 5  # sums since the last record: episodes, their returns and lengths, and both losses


class Question(NamedTuple):
    """What stays the same over a run: the model as it was given, and its tables."""

    model: TrajectoryModel
    world: TableWorld


@dataclass(frozen=True, eq=False, kw_only=True)
class TableState(State):
    """Where a run is. `steps` counts transitions, over all copies.

    Attributes:
        tables: of the rule, by name.
        states: int64 [N], where the copies are.
        ages: int64 [N], steps since their episodes began.
        returns: [N], plain sums of the rewards of these episodes, reward units.
        pending: steps [l, N] that the rule has not learned from yet, by name, l < L.
        sums: [5], since the last record: episodes that ended, their returns, their lengths, critic and actor losses.
        learned: how many losses these sums hold.
        history: [R, 8], see `cai.inference.learning.history`.
        random: the state of the generator of all draws.
    """

    tables: dict[str, Tensor]
    states: Tensor
    ages: Tensor
    returns: Tensor
    pending: dict[str, Tensor]
    sums: Tensor
    learned: int = 0
    history: Tensor
    random: Tensor


def answered_model(model: TrajectoryModel, temperature: float, entropy_form: bool) -> TrajectoryModel:
    """The problem that the learned policy answers: at the last temperature, in the form that was asked for."""
    changed = temperature != model.temperature
    asked = model.replace(temperature=temperature) if changed and not isinstance(model.temperature, Tensor) else model
    return asked.entropy_form() if entropy_form else asked


@dataclass(frozen=True, eq=False)
class TableLearner:
    """Runs a rule on a `TrajectoryModel`.

    Args:
        backend: whose answer it is; its name, target, `entropy_form` and `checkpoint_every` are read.
        rule: makes the rule of a world.
        limit: the budget, transitions over all copies; a multiple of `num_envs`.
        num_envs: N.
    """

    backend: Any
    rule: Callable[[TableWorld], Rule]
    limit: int
    num_envs: int
    label: str = "learning tables"
    keeps_policy: ClassVar[bool] = True

    @property
    def stride(self) -> int:
        """Transitions between two records; a multiple of N."""
        return max(1, RECORD // self.num_envs) * self.num_envs

    @property
    def checkpoint_every(self) -> int:
        """Transitions between two checkpoints, unless the caller says so."""
        return int(self.backend.checkpoint_every)

    def init(self, model: TrajectoryModel, *, seed: int) -> TableState:
        world = TableWorld(model, entropy_form=self.backend.entropy_form)
        generator = torch.Generator().manual_seed(seed)
        states = world.begin(torch.rand(self.num_envs, dtype=torch.float64, generator=generator).numpy())
        tables = self.rule(world).start(world)
        return TableState(
            problem=Question(model, world),
            tables={name: torch.from_numpy(table) for name, table in tables.items()},
            states=torch.from_numpy(states),
            ages=torch.zeros(self.num_envs, dtype=torch.int64),
            returns=torch.zeros(self.num_envs, dtype=torch.float64),
            pending={},
            sums=torch.zeros(COUNTED, dtype=torch.float64),
            history=torch.zeros(0, 8, dtype=torch.float64),
            random=generator.get_state(),
        )

    def step(self, state: TableState) -> tuple[TableState, Info]:
        """All transitions up to the next record, or to the end of the budget."""
        question: Question = state.problem
        world, rule = question.world, self.rule(question.world)
        end = min((state.steps // self.stride + 1) * self.stride, self.limit)
        rounds = (end - state.steps) // self.num_envs
        if not world.nonterminal.any():  # nothing is ever decided
            return dataclasses.replace(state, steps=end), Info({})
        generator = generator_at(state.random)
        draws = torch.rand(rounds, 4, self.num_envs, dtype=torch.float64, generator=generator).numpy()
        run = _Run(world, rule, state)
        for round_ in draws:
            run.once(round_)
        moved = run.state(state, steps=end, random=generator.get_state())
        if not run.finite() or rule.at_bound(world, run.tables):
            moved = dataclasses.replace(moved, status=Status.UNSTABLE)
        if end % self.stride == 0 and moved.status is None:
            moved = self._recorded(moved, rule)
        told = moved.history[-1].tolist() if len(moved.history) else [math.nan] * 8
        metrics = {"bound": told[7], "return": told[1], "entropy": told[3]}
        return moved, Info({name: value for name, value in metrics.items() if math.isfinite(value)})

    def _recorded(self, state: TableState, rule: Rule) -> TableState:
        """The state with one more record, and sums that begin anew."""
        world, tables = state.problem.world, _arrays(state.tables)
        elbo = self._answer(state, Status.SUCCESS, {}).elbo
        ages, states = state.ages.numpy(), state.states.numpy()
        rows = rule.log_answer(world, tables, world.times(ages), states)
        entropy = -(np.exp(rows) * np.where(np.isfinite(rows), rows, 0.0)).sum(1).mean()
        episodes, total, length, critic, actor = state.sums.tolist()
        mean = [part / episodes if episodes else math.nan for part in (total, length)]
        losses = [part / state.learned if state.learned else math.nan for part in (critic, actor)]
        record = [state.steps, *mean, entropy, rule.temperature(world, tables), *losses]
        record.append(math.nan if elbo is None else float(elbo))
        history = torch.cat([state.history, torch.tensor([record], dtype=torch.float64)])
        return dataclasses.replace(state, history=history, sums=torch.zeros_like(state.sums), learned=0)

    def posterior(self, state: TableState) -> Posterior:
        status = state.status
        if status is None:
            status = Status.SUCCESS if state.steps >= self.limit else Status.NOT_CONVERGED
        world, tables = state.problem.world, _arrays(state.tables)
        rule = self.rule(world)
        late = world.nonterminal.any() and status is not Status.UNSTABLE and steps_since(state.history, state.steps)
        told = (self._recorded(state, rule) if late else state).history
        details: dict[str, Any] = {
            "steps": state.steps,
            "form": "entropy" if self.backend.entropy_form else "KL",
            "critic": {name: torch.from_numpy(table) for name, table in rule.critic(world, tables).items()},
            "history": as_dataset(told, ("elbo",)),
        }
        if status is Status.SUCCESS:
            details["note"] = BUDGET_USED.format(self.limit) + still_rising(told)
        details["temperature"] = rule.temperature(world, tables)
        if status is Status.NOT_CONVERGED:
            details["why"] = f"{state.steps:,} of {self.limit:,} transitions were learned from"
        if status is Status.UNSTABLE:
            bound = rule.at_bound(world, tables)
            details["why"] = "the learned temperature is at its bound" if bound else "a learned value left the floats"
        return self._answer(state, status, details)

    def _answer(self, state: TableState, status: Status, details: dict[str, Any]) -> Posterior:
        """What the learned policy amounts to, exactly."""
        model, world = state.problem
        rule, tables = self.rule(world), _arrays(state.tables)
        times, states = np.divmod(np.arange(world.steps * world.num_states), world.num_states)
        rows = np.exp(rule.log_answer(world, tables, times, states))
        learned = torch.from_numpy(rows).reshape(world.steps, world.num_states, world.num_actions)
        learned = learned.to(model.action_prior)
        decided = torch.from_numpy(world.nonterminal).to(model.device)[:, None] & torch.isfinite(learned).all(
            -1, keepdim=True
        )
        policy = torch.where(decided, learned, model.action_prior)
        asked = answered_model(model, rule.temperature(world, tables), self.backend.entropy_form)
        return policy_posterior(self.backend, asked, policy, status, details, gradients="none")


def still_rising(history: Tensor) -> str:
    """What is added to the note where the bound rose by more than RISE nats over the last quarter of the run."""
    steps, bounds = history[:, 0], history[:, 7]
    if len(history) < 4:
        return ""
    begin = int((steps <= 0.75 * steps[-1]).sum()) - 1
    rise = float(bounds[-1] - bounds[begin])
    if not RISE < rise < math.inf:
        return ""
    return f"; the bound still rose by {rise:.2g} nats over the last {steps[-1] - steps[begin]:,.0f}: give more steps"


def steps_since(history: Tensor, steps: int) -> int:
    """Transitions since the last record, which an answer adds to its history; the run's own goes on without."""
    return steps - (int(history[-1, 0]) if len(history) else 0)


def _arrays(tables: dict[str, Tensor]) -> Tables:
    return {name: table.numpy() for name, table in tables.items()}


class _Run:
    """A block of steps: copies of what a state holds, which are changed in place."""

    def __init__(self, world: TableWorld, rule: Rule, state: TableState) -> None:
        self.world, self.rule = world, rule
        self.tables: Tables = {name: table.numpy().copy() for name, table in state.tables.items()}
        self.states: Array = state.states.numpy()
        self.ages: Array = state.ages.numpy()
        self.returns: Array = state.returns.numpy()
        self.sums: Array = state.sums.numpy().copy()
        self.learned = state.learned
        pending = [part.numpy() for part in state.pending.values()]
        self.rows = [Met(*row) for row in zip(*pending, strict=True)]

    def once(self, draws: Array) -> None:
        """Steps every copy once, with [4, N] uniform numbers."""
        world = self.world
        chances = self.rule.chances(world, self.tables, world.times(self.ages), self.states)
        actions = draw_columns(chances, draws[0])
        met = world.move(self.states, actions, self.ages, draws[1], draws[2])
        self.rows.append(met)
        if len(self.rows) == self.rule.length:
            losses = self.rule.learn(world, self.tables, Met(*map(np.stack, zip(*self.rows, strict=True))))
            self.rows = []
            self.sums[3:] += losses
            self.learned += 1
        ends = met.terminated | met.cut
        self.returns = self.returns + met.rewards
        self.ages = self.ages + 1
        self.states = met.next_states
        if ends.any():
            self.sums[:3] += ends.sum(), self.returns[ends].sum(), self.ages[ends].sum()
            self.states = np.where(ends, world.begin(draws[3]), met.next_states)
            self.returns, self.ages = np.where(ends, 0.0, self.returns), np.where(ends, 0, self.ages)

    def finite(self) -> bool:
        """Whether every number of the tables is."""
        return all(np.isfinite(table).all() for table in self.tables.values())

    def state(self, before: TableState, **changes: Any) -> TableState:
        """The state after the block."""
        held = Met(*map(np.stack, zip(*self.rows, strict=True)))._asdict() if self.rows else {}
        return dataclasses.replace(
            before,
            tables={name: torch.from_numpy(table) for name, table in self.tables.items()},
            states=torch.from_numpy(self.states),
            ages=torch.from_numpy(self.ages),
            returns=torch.from_numpy(self.returns),
            pending={name: torch.from_numpy(part) for name, part in held.items()},
            sums=torch.from_numpy(self.sums),
            learned=self.learned,
            **changes,
        )
