"""z-iteration: a deterministic world is a linear system in the exponentiated values (Todorov 2006, 2009).

Where each action leads surely to one next state s'(s, a), the soft backup of Levine 2018, equations (15) and (16), is
linear (with discount 1) in the desirability z = e^{V / alpha}:

    z(s) = sum_a p(a | s) e^{r(s, a) / alpha} z(s'(s, a))^gamma

Every `LMDP` is such a world (Levine 2018, section 5.1). A step costs S A here, whatever S is, and not S A S.

A first-exit problem (infinite horizon, discount 1) solves (I - G) z = b over the nonterminal states, where G(s, s')
sums p e^{r / alpha} over nonterminal s' and b(s) over what exits; z exists iff the spectral radius rho(G) is below 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cai.inference.core.memory import Need, horizon_need
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Target
from cai.inference.kernels.backups import fixed_backup
from cai.inference.tabular.dynamic_programming import (
    check_settling,
    closed_form_posterior,
    require_model,
)
from cai.inference.tabular.recursion import FIXED, Recursion
from cai.inference.tabular.stationary.iteration import ConvergenceCriterion
from cai.models.common.numerics import expectation
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["SureSuccessors", "ZIteration", "check_sure"]

SOLVERS = ("auto", "iteration", "linear")
RATE_LIMIT = 500  # nonterminal states up to which rho(G) is computed for the record


@dataclass(frozen=True)
class ZIteration:
    """The best policy in a world where every action has one next state, by sums over paths.

    Args:
        solver: "linear", direct solves of linear systems (infinite horizon, discount 1); "iteration", backups over
            successor lists (T of them over a finite horizon); "auto" takes the second over a finite horizon, and else
            solves.
        tolerance: over an infinite horizon, the largest error of log z, by a bound that holds, relative to the largest
            log z or reward that the start leads to; where rewards have one sign, relative to each log z itself.
        max_iterations: over an infinite horizon, the most backups and linear systems.
    """

    solver: Literal["auto", "iteration", "linear"] = "auto"
    tolerance: float = 1e-10
    max_iterations: int = 1_000_000

    name: ClassVar[str] = "z-iteration"
    target: ClassVar[Target] = Target.FIXED_DYNAMICS
    accepts: ClassVar[str] = "a TrajectoryModel with deterministic dynamics, e.g. LMDP.to_model(), any horizon"
    averages: ClassVar[bool] = True
    divides_return: ClassVar[bool] = True  # into a bound, a divergence and luck, however small it is
    cost: ClassVar[str] = "S A time a step (iteration); the fill of a sparse LU, at worst S^3 time (linear)"

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ValueError(f"solver is {self.solver!r}; expected one of {', '.join(SOLVERS)}")
        check_settling(self.tolerance, self.max_iterations)

    def supports(self, model: Any) -> None:
        """Raises ValueError if some action has several next states, or the solver does not fit the horizon."""
        require_model(model, self.name, "'variational'")
        check_sure(model, f"backend {self.name!r}", "'variational', which takes any dynamics")
        if self.solver != "linear":
            return
        if model.is_finite or model.discount < 1:
            raise ValueError(
                "solver='linear' solves first-exit problems, which have horizon=math.inf and discount 1, and this "
                f"model has horizon {model.horizon} and discount {model.discount:g}; use solver='iteration' or 'auto'"
            )

    def memory(self, model: Any) -> Need:
        """The memory that `run` will need for this model, by estimate; `infer` refuses what does not fit."""
        return horizon_need(model, rows=2, tables=4, stepwise=True)

    def run(self, model: TrajectoryModel, *, seed: int = 0) -> Posterior:
        """Answers a model; nothing is drawn, so `seed` does not matter.

        The details are those of the closed form, and "solver"; "rate", rho(G) of a first-exit problem of up to 500
        states, gamma under a discount, else None; "log_desirability" [S], log z at the first step, nats.
        """
        self.supports(model)
        worlds, solver = SureSuccessors(model), "iteration"
        if not model.is_finite and self.solver != "iteration":
            solver = "linear"
        posterior = closed_form_posterior(
            model,
            Recursion(worlds.backup, eta=0.0) if model.is_finite else FIXED,
            backend=self.name,
            target=self.target,
            settling=ConvergenceCriterion(self.tolerance, self.max_iterations, accelerate=solver == "linear"),
            details={"solver": solver, "steps": model.steps},
        )
        desirability = None if posterior.values is None else posterior.values[0].detach() / model.temperature
        found = {**posterior.details, "log_desirability": desirability}
        found["rate"] = _rate(model, worlds, posterior)
        return posterior.replace(details=MappingProxyType(found))


def _rate(model: TrajectoryModel, worlds: SureSuccessors, posterior: Posterior) -> float | None:
    """Rho(G), which is that of the chain of the best policy: G scaled by z."""
    if model.is_finite or not posterior.status.ok:
        return None
    if model.discount < 1:
        return float(model.discount)
    nonterminal, number = model.nonterminal, model.mdp.num_states
    if int(nonterminal.sum()) > RATE_LIMIT:
        return None
    policy = posterior.action_probs[0].detach() * nonterminal[:, None]
    chain = policy.new_zeros(number, number).scatter_add(1, worlds.next_states, policy)[nonterminal][:, nonterminal]
    return float(torch.linalg.eigvals(chain).abs().max()) if len(chain) else 0.0


class SureSuccessors:
    """Where each action surely leads, and the soft backup over that alone.

    Attributes:
        next_states: int64 [S, A]; of actions that are never taken and lead to several states, the likeliest.
        sure: bool [S, A], whether there is no other next state.
    """

    def __init__(self, model: TrajectoryModel) -> None:
        mdp = model.mdp
        probabilities = mdp.probabilities.detach()
        self.outcome = probabilities.argmax(-1)
        self.next_states = mdp.successors().expand_as(probabilities).gather(-1, self.outcome[..., None])[..., 0]
        elsewhere = mdp.successors() != self.next_states[..., None]
        self.sure = ~((probabilities > 0) & elsewhere).any(-1) | ~model.nonterminal[:, None]
        self.all_sure = bool(self.sure.all())

    def rewards(self, model: TrajectoryModel, t: int) -> Tensor:
        """[S, A], expected reward of step t, nats."""
        table = model.log_potential(t)
        if table.shape[-1] == 1:
            return table[..., 0]
        if model.mdp.is_dense:
            return table.gather(-1, self.outcome[..., None])[..., 0]
        return expectation(model.mdp.probabilities, table)

    def backup(self, model: TrajectoryModel, values: Tensor, t: int) -> Tensor:
        """Q [S, A] in nats, that of `fixed_backup`, in S A time."""
        q_values = self.rewards(model, t) + model.discount * values[self.next_states]
        if not self.all_sure:  # what the prior never takes keeps its value too
            q_values = torch.where(self.sure, q_values, fixed_backup(model, values, t))
        return torch.where(model.nonterminal[:, None], q_values, torch.zeros_like(q_values))


def check_sure(model: TrajectoryModel, what: str, instead: str) -> None:
    """Refuses a model in which an action that may be taken leads to several states.

    Raises:
        ValueError: naming the first such state and action, and where it leads.
    """
    mdp = model.mdp
    random = ~SureSuccessors(model).sure & (model.action_prior.detach() > 0)
    if not random.any():
        return
    state, action = torch.nonzero(random)[0].tolist()
    chances = mdp.probabilities.detach()[state, action]
    following = mdp.successors().expand_as(mdp.probabilities)[state, action]
    total = chances.new_zeros(mdp.num_states).index_add(0, following, chances)
    likeliest = total.argsort(descending=True, stable=True)[:2].tolist()
    leads = " and ".join(f"{mdp.state_name(s)} (probability {float(total[s]):.3g})" for s in likeliest)
    raise ValueError(
        f"{what} needs an action to have one next state, and action {mdp.action_name(action)} of state "
        f"{mdp.state_name(state)} leads to {leads}{', among others' if int((total > 0).sum()) > 2 else ''}; "
        f"use {instead}"
    )
