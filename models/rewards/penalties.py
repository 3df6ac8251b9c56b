"""Penalties: distance from where one should be, visits where there are many already, and a wall that is felt ahead."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from cai.models.common.checks import first_index
from cai.models.common.storage import storable
from cai.models.processes.mdp import MDP
from cai.models.rewards.base import Setting, Step, one_number
from cai.models.rewards.tables import Labelled, axis_names

__all__ = ["DistancePenalty", "LogBarrier", "VisitationPenalty", "steps_to"]

METRICS = ("steps", "manhattan", "euclidean")


@storable("reward-distance")
@dataclass(frozen=True, eq=False)
class DistancePenalty(Labelled):
    """Charges `price` for every unit of distance between s_t and the nearest target, on each live step.

    Args:
        targets: mask, indices or names of states, or the name of a region.
        price: in reward units per unit of distance, usually positive.
        metric: "steps", the fewest steps in which the target can be reached at all, whatever their probability;
            "manhattan" or "euclidean", between cells of the process's layout; or a table [S] of distances.
        labels: of such a table, as for `TableReward`.
    """

    targets: Any
    price: float | Tensor = 1.0
    metric: Any = "steps"
    labels: Any = None
    held, called = "metric", "the distance table"
    reads_outcome = False
    reads_time = False
    _known: WeakKeyDictionary[MDP, Tensor] = field(init=False, repr=False, default_factory=WeakKeyDictionary)

    def __post_init__(self) -> None:
        object.__setattr__(self, "price", one_number(self.price, "the price of DistancePenalty"))
        if isinstance(self.metric, str):
            if self.metric not in METRICS:
                raise ValueError(f"metric is {self.metric!r}; expected one of {', '.join(METRICS)}, or a table [S]")
            return
        table = self._read()
        if not bool((table >= 0).all()) or not bool(torch.isfinite(table).all()):
            raise ValueError("the distance table holds negative, infinite or NaN entries; distances are >= 0")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.targets, self.price, self.metric, self.labels)  # distances are measured again

    def check(self, mdp: MDP) -> None:
        self.distances(mdp)

    def distances(self, mdp: MDP) -> Tensor:
        """[S], the distance of each state; 0 in terminal states, where nothing is paid.

        Raises:
            ValueError: if there is no target, a nonterminal state has no way or cell, or the table has another length.
        """
        if self.labels is not None:
            return cast(DistancePenalty, self.in_order_of(mdp)).distances(mdp)
        if mdp not in self._known:
            self._known[mdp] = self._measured(mdp)
        return self._known[mdp]

    def _measured(self, mdp: MDP) -> Tensor:
        targets = mdp.states(self.targets)
        if not targets.any():
            raise ValueError("DistancePenalty has no target; name at least one state")
        if isinstance(self.metric, Tensor):
            if tuple(self.metric.shape) != (mdp.num_states,):
                raise ValueError(
                    f"the distance table has shape {list(self.metric.shape)}; expected [S] = [{mdp.num_states}]"
                )
            far = self.metric
        else:
            far = steps_to(mdp, targets) if self.metric == "steps" else self._by_cells(mdp, targets)
        lost = ~torch.isfinite(far) & ~mdp.terminal
        if lost.any():
            state = mdp.state_name(int(torch.nonzero(lost)[0]))
            raise ValueError(
                f"state {state} has no {self.metric} distance to a target (no way, or no cell); give metric=[S]"
            )
        return torch.where(mdp.terminal, torch.zeros_like(far), far)

    def _by_cells(self, mdp: MDP, targets: Tensor) -> Tensor:
        if mdp.layout is None:
            raise ValueError(f"metric {self.metric!r} needs a process with a layout; use metric='steps' or a table [S]")
        order = 1.0 if self.metric == "manhattan" else 2.0
        nowhere = (math.inf, math.inf)
        cells = torch.tensor([nowhere if cell is None else cell for cell in mdp.layout.cells], dtype=torch.float64)
        placed = torch.isfinite(cells).all(-1)
        if not (placed & targets).any():
            raise ValueError(f"metric {self.metric!r}: no target has a cell in the layout; use metric='steps'")
        far = torch.full((mdp.num_states,), math.inf, dtype=torch.float64)
        far[placed] = torch.cdist(cells[placed], cells[placed & targets], p=order).amin(-1)
        return far

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        return -torch.as_tensor(self.price) * self.distances(mdp)[step.state]


def steps_to(mdp: MDP, targets: Tensor) -> Tensor:
    """[S], the fewest steps in which available actions can lead to a target; inf where none can.

    Args:
        mdp: the process.
        targets: bool [S].
    """
    possible = (mdp.probabilities.detach() > 0) & mdp.available[..., None]
    far = torch.where(targets, 0.0, torch.full((mdp.num_states,), math.inf, dtype=torch.float64))
    while True:
        through = torch.where(possible, mdp.gather(far), torch.inf).amin((1, 2)) + 1
        nearer = torch.minimum(far, through)
        if torch.equal(nearer, far):
            return far
        far = nearer


@storable("reward-visitation")
@dataclass(frozen=True, eq=False)
class VisitationPenalty(Labelled):
    """Charges `price` times a known density of visits in s_t, on each live step: keep away from where many are.

    The density is given beforehand: of other people, or of an earlier plan (`posterior.state_marginals`). With its
    own visits d_k as the density it is the linearisation at d_k of the cost (price / 2) sum_{t, s} d_t(s)^2 of
    congestion: plan, average the visits, and plan again (fictitious play) until they settle. One plan alone does
    not see itself.

    Args:
        visits: [S], or [T, S] over time (further rows, as the last of `state_marginals`, are not read); >= 0.
        price: in reward units per expected visit, usually positive.
        labels: as for `TableReward`; those of a time axis are time indices.
    """

    visits: Any
    price: float | Tensor = 1.0
    labels: Any = None
    held, called = "visits", "visits"
    reads_outcome = False

    def __post_init__(self) -> None:
        visits = self._read()
        if visits.dim() not in (1, 2):
            raise ValueError(f"visits has shape {list(visits.shape)}; expected [S], or [T, S] over time")
        bad = ~(visits.detach() >= 0) | torch.isinf(visits.detach())
        if bad.any():
            where = first_index(bad)
            raise ValueError(f"visits{where} is {visits.detach()[bad][0].item()}; expected numbers >= 0")
        object.__setattr__(self, "price", one_number(self.price, "the price of VisitationPenalty"))
        object.__setattr__(self, "reads_time", visits.dim() == 2)

    def _axes(self, mdp: MDP) -> list[Any]:
        return [(None, "time index"), *axis_names(mdp)][2 - self.visits.dim() :]

    def check(self, mdp: MDP) -> None:
        self.in_order_of(mdp)
        if self.visits.shape[-1] != mdp.num_states:
            raise ValueError(
                f"visits has shape {list(self.visits.shape)}; this process has S = {mdp.num_states}: expected [S] or "
                "[T, S]"
            )

    def check_model(self, model: Setting) -> None:
        if self.visits.dim() == 2 and len(self.visits) < model.steps:
            raise ValueError(f"visits has {len(self.visits)} rows over time; the horizon is {model.horizon}")

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        if self.labels is not None:
            return self.in_order_of(mdp).evaluate(mdp, step)
        visits = self.visits if self.visits.dim() == 1 else self.visits[step.t]
        charged = torch.where(mdp.terminal, torch.zeros_like(visits), visits)
        return -torch.as_tensor(self.price) * charged[step.state]


@storable("reward-barrier")
@dataclass(frozen=True, eq=False)
class LogBarrier(Labelled):
    """Weight log slack(s_{t+1}) on each live step: -inf where there is no slack left, and felt before that.

    As a probability, a step is optimal with slack^(weight / alpha). As the weight falls towards 0 the soft wall
    becomes the hard one (Boyd and Vandenberghe 2004, section 11.2). It bars states for sure; for "at most with
    probability p" see `cai.studies.limit_entries`.

    Args:
        slack: [S], how far each state is from what is forbidden, in any unit; <= 0 forbids the state. A slack of 1 is
            neutral.
        weight: in reward units per nat, above 0.
        labels: as for `TableReward`.
    """

    slack: Any
    weight: float | Tensor = 1.0
    labels: Any = None
    held, called = "slack", "slack"
    reads_time = False

    def __post_init__(self) -> None:
        slack = self._read()
        if slack.dim() != 1 or not bool(torch.isfinite(slack.detach()).all()):
            raise ValueError(f"slack has shape {list(slack.shape)}; expected finite numbers [S]")
        weight = one_number(self.weight, "the weight of LogBarrier")
        if not bool(weight > 0):
            raise ValueError(f"the weight of LogBarrier is {weight.item():g}; it must be > 0")
        object.__setattr__(self, "weight", weight)

    def check(self, mdp: MDP) -> None:
        self.in_order_of(mdp)
        if len(self.slack) != mdp.num_states:
            raise ValueError(f"slack has shape {list(self.slack.shape)}; expected [S] = [{mdp.num_states}]")

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        if self.labels is not None:
            return self.in_order_of(mdp).evaluate(mdp, step)
        free = self.slack > 0
        logs = torch.log(torch.where(free, self.slack, torch.ones_like(self.slack)))
        table = torch.where(free, self.weight * logs, torch.full_like(logs, -torch.inf))[step.next_state]
        return torch.where(mdp.terminal[step.state], torch.zeros_like(table), table)
