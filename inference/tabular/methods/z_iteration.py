"""z-iteration: a deterministic world is a linear system in the exponentiated values (Todorov 2006, 2009).

Where each action leads surely to one next state s'(s, a), the soft backup of Levine 2018, equations (15) and (16), is
linear (with discount 1) in the desirability z = e^{V / alpha}:

    z(s) = sum_a p(a | s) e^{r(s, a) / alpha} z(s'(s, a))^gamma

Every `LMDP` is such a world (Levine 2018, section 5.1). A step costs S A here, whatever S is, and not S A S.

A first-exit problem (infinite horizon, discount 1) solves (I - G) z = b over the live states, where G(s, s') sums
p e^{r / alpha} over what stays live and b(s) over what exits; z exists iff the spectral radius rho(G) is below 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cai.inference.core.memory import Need, horizon_need
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.kernels.backups import fixed_backup, soft_policy
from cai.inference.tabular.backward import Messages
from cai.inference.tabular.dynamic_programming import (
    check_settling,
    closed_form_posterior,
    messages_posterior,
    require_model,
)
from cai.inference.tabular.recursion import FIXED, Recursion
from cai.inference.tabular.stationary.chains import has_trap, reaches_terminal
from cai.inference.tabular.stationary.desirability import PathSums
from cai.inference.tabular.stationary.iteration import Settling
from cai.inference.tabular.stationary.reachability import edges_of, leads_to
from cai.models.common.numerics import expectation, safe_logsumexp
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["SureSuccessors", "ZIteration", "check_sure"]

SOLVERS = ("auto", "iteration", "linear")
RATE_LIMIT = 500  # live states up to which rho(G) is computed for the record


@dataclass(frozen=True)
class ZIteration:
    """The best policy in a world where every action has one next state, by sums over paths.

    Args:
        solver: "linear", direct solves of the first-exit system (infinite horizon, discount 1), dense or sparse by the
            rule of `cai.inference.tabular.stationary`; "iteration", z <- G z + b over successor lists (T backups over a
            finite horizon); "auto" takes the first for first-exit problems, unless that rule finds that the factors
            would be too full (as for more than 10,000 states with random successors), and else the second, which Newton
            steps may then shorten under a discount. On a road network of 300,000 edges "linear" is about twice as fast
            (`benchmarks/road.py`), and its time does not grow with the length of the paths.
        tolerance: the iteration stops when log z is known to this, in nats, relative to the largest log z once that
            exceeds 1.
        max_iterations: the most steps of the iteration.
    """

    solver: Literal["auto", "iteration", "linear"] = "auto"
    tolerance: float = 1e-10
    max_iterations: int = 1_000_000

    name: ClassVar[str] = "z-iteration"
    target: ClassVar[Target] = Target.FIXED_DYNAMICS
    accepts: ClassVar[str] = "a TrajectoryModel with deterministic dynamics, e.g. LMDP.to_model(), any horizon"
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
        """About what `run` will take."""
        return horizon_need(model, rows=2, tables=4, stepwise=True)

    def run(self, model: TrajectoryModel, *, seed: int = 0) -> Posterior:
        """Answers a model; nothing is drawn, so `seed` does not matter.

        The details are those of the closed form, and "solver"; "steps", iterations or linear solves; "rate", rho(G) up
        to 500 live states over a first-exit problem, gamma under a discount, else None; "log_desirability" [S], log z
        at the first step, nats.
        """
        self.supports(model)
        worlds = SureSuccessors(model)
        if not model.is_finite and model.discount == 1:
            return self._first_exit(model, worlds)
        posterior = closed_form_posterior(
            model,
            Recursion(worlds.backup, eta=0.0),
            backend=self.name,
            target=self.target,
            settling=Settling(self.tolerance, self.max_iterations, accelerate=self.solver == "auto"),
            details={"solver": "iteration", "steps": model.steps, "rate": None},
        )
        desirability = None if posterior.values is None else posterior.values[0].detach() / model.temperature
        return posterior.replace(details=MappingProxyType({**posterior.details, "log_desirability": desirability}))

    def _first_exit(self, model: TrajectoryModel, worlds: SureSuccessors) -> Posterior:
        system = _FirstExit(model, worlds)
        solver = self.solver
        if solver == "auto":
            solver = "iteration" if system.sums.pattern.method == "iterate" else "linear"
        log_z, status = system.answer(solver, self.tolerance, self.max_iterations)
        start = expectation(model.mdp.initial, log_z)
        if status.ok and not math.isfinite(float(start.detach())):
            possible = bool((reaches_terminal(model) & (model.mdp.initial > 0)).any())
            status = Status.UNAVOIDABLE if possible else Status.IMPOSSIBLE
            status = Status.DIVERGED if has_trap(model) else status
        details = {
            "solver": solver,
            "steps": system.sums.steps,
            "rate": system.rate,
            "log_desirability": None if status is Status.DIVERGED else log_z.detach(),
        }
        q_values = worlds.backup(model, log_z, 0)
        policy = soft_policy(model, q_values)[1]
        messages = Messages(
            values=torch.stack([log_z, log_z]), q_values=q_values[None], policy=policy[None], start=start
        )
        return messages_posterior(
            model, FIXED, messages, status, backend=self.name, target=self.target, details=details
        )


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
        self.sure = ~((probabilities > 0) & elsewhere).any(-1) | ~model.live[:, None]
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
        return torch.where(model.live[:, None], q_values, torch.zeros_like(q_values))


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


class _FirstExit:
    """Infinite horizon, discount 1: (I - G) z = b over the live states, z = 0 where no end can be reached.

    States that reach no end (traps) are kept apart, since what goes into one is lost; but what goes on inside them must
    die out too.
    """

    def __init__(self, model: TrajectoryModel, worlds: SureSuccessors) -> None:
        live, following = model.live, worlds.next_states
        rewards = worlds.rewards(model, 0)
        log_weights = model.log_action_prior + rewards
        possible = torch.isfinite(log_weights.detach()) & live[:, None]
        self.reaches = leads_to(*edges_of(possible, following), ~live) & live
        nothing = torch.full_like(log_weights[:1, :1], -torch.inf).detach()
        ends = safe_logsumexp(torch.where(possible & ~live[following], log_weights, nothing))
        inside = possible & self.reaches[:, None] & self.reaches[following]
        self.sums = PathSums(log_weights, following, inside, ends, self.reaches)
        self.live = live
        # The same G on all live states with an end of weight 1 everywhere: its sums are finite iff rho(G) < 1.
        self.all_live = PathSums(log_weights, following, possible & live[following], torch.zeros_like(ends), live)
        taken = (model.action_prior > 0) & live[:, None]
        self.gains = bool((rewards[taken] > 0).any())
        self.leaks = (taken & ((rewards < 0) | ~live[following])).any(-1)

    @property
    def rate(self) -> float | None:
        """rho(G), where it is cheap to know."""
        return self.all_live.spectral_radius() if self.all_live.number <= RATE_LIMIT else None

    def answer(self, solver: str, tolerance: float, max_iterations: int) -> tuple[Tensor, Status]:
        """(log z [S], status); log z is 0 in terminal states, and -inf where no end can be reached."""
        status = self.all_live.dies_out(self.gains, self.leaks, max_iterations)
        if status.ok:
            status = Status.SUCCESS if self.sums.best_paths() else Status.DIVERGED
        height = self.sums.height
        if status.ok and solver == "iteration":
            status = self.sums.iterate(tolerance, max_iterations)
            height = self.sums.height
        if status.ok and (solver == "linear" or (torch.is_grad_enabled() and self.sums.log_weights.requires_grad)):
            height, status = self.sums.solve()
        log_z = torch.where(self.reaches, height, torch.full_like(height, -torch.inf))
        return torch.where(self.live, log_z, torch.zeros_like(log_z)), status
